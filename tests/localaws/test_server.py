"""The front: who answers what, what is refused, and what survives a kill -9."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WEST = {"LocationConstraint": "us-west-2"}


def ask(aws, method, path, body=None, headers=None, service=None):
    """Send one request, signed for a service or as it is; return (status, headers, body)."""
    if service:
        headers = aws.signed(method, path, body, headers, service)
    connection = http.client.HTTPConnection(aws.endpoint_url.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return answer


# Who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/_localaws/health", "/_localaws/", "/_localaws/state", "/v2/", "/some-bucket/key"]
)
def test_a_web_page_of_somebody_else_is_refused(localaws, headers, path):
    status, answer_headers, body = ask(localaws, "GET", path, headers=headers)
    assert status == 403
    assert b"<Code>AccessDeniedException</Code>" in body
    assert not [name for name in answer_headers if name.startswith("access-control-")]


def test_a_page_of_its_own_may_ask_and_gets_no_cors_headers(localaws):
    status, headers, _ = ask(localaws, "GET", "/", headers={"Origin": localaws.endpoint_url}, service="s3")
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control-")]


def test_it_listens_on_loopback_only(localaws):
    pid = int(re.search(r"pid +(\d+)", localaws.command("status").stdout)[1])
    listening = [
        c.laddr for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN
    ]
    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_a_client_that_tries_tls_is_not_kept_waiting(localaws):
    host, port = localaws.endpoint_url.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        began = time.monotonic()
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("path", ["/moto-api/reset", "/moto-api/data.json", "/latest/meta-data/"])
def test_motos_own_controls_are_out_of_reach(localaws, path):
    assert ask(localaws, "POST", path)[0] == 404


# What is answered, and how errors look


def sagemaker(aws, operation, body):
    headers = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    status, headers, body = ask(aws, "POST", "/", body, headers, "sagemaker")
    return status, headers, json.loads(body)


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b"\xff", b'"text"'])
def test_a_body_that_is_not_a_json_object_is_a_serialization_exception(localaws, body):
    status, headers, answer = sagemaker(localaws, "ListModels", body)
    assert (status, answer["__type"]) == (400, "SerializationException")
    assert headers["x-amzn-errortype"] == "SerializationException"
    assert headers["x-amzn-requestid"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
@pytest.mark.parametrize(
    ("service", "target"),
    [
        ("logs", "Logs_20140328.PutLogEvents"),
        ("ecr", "AmazonEC2ContainerRegistry_V20150921.DescribeRepositories"),
        ("ecr", "AmazonEC2ContainerRegistry_V20150921.DeleteRepository"),
    ],
)
def test_so_it_is_for_the_other_services(localaws, service, target, body):
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
    status, _, answer = ask(localaws, "POST", "/", body, headers, service)
    assert (status, json.loads(answer)["__type"]) == (400, "SerializationException")


def test_an_unknown_operation_is_refused_by_name(localaws):
    status, _, answer = sagemaker(localaws, "MakeCoffee", b"{}")
    assert status == 400
    assert "MakeCoffee" in answer["message"]


def test_a_service_that_is_not_there_is_refused_by_name(localaws):
    with pytest.raises(ClientError, match="GetDatabases of glue"):
        localaws.client("glue").get_databases()


def test_other_verbs_of_an_endpoint_are_refused_by_name(localaws):
    path = "/endpoints/e/invocations-response-stream"
    status, _, body = ask(localaws, "POST", path, b"{}", service="sagemaker")
    assert status == 501
    assert "InvokeEndpointWithResponseStream" in json.loads(body)["message"]


def test_a_bound_on_calls_and_objects():
    answer = in_process(
        """
        from werkzeug.test import Client
        front = server.Front(home, 1)
        front.signatures.verify = lambda request: ("us-west-2", "s3" if request.method == "PUT" else "sagemaker")
        client = Client(front)
        host = {"Host": "127.0.0.1:1"}
        call = client.post("/", headers={**host, "X-Amz-Target": "SageMaker.ListModels"}, content_length=17 * 2**20)
        put = client.put("/bucket/key", headers=host, content_length=6 * 2**30)
        front.control("us-west-2").handle = lambda *_: 1 / 0
        bug = client.post("/", headers={**host, "X-Amz-Target": "SageMaker.ListModels"}, data="{}")
        print(json.dumps([[r.status_code, r.get_data(as_text=True)] for r in (call, put, bug)]))
        """
    )
    (call, call_body), (put, put_body), (bug, bug_body) = json.loads(answer)
    assert call == 413
    assert "at most 16,777,216" in call_body
    assert put == 400
    assert "<Code>EntityTooLarge</Code>" in put_body
    assert bug == 500
    assert json.loads(bug_body)["__type"] == "InternalFailure"
    assert "ZeroDivision" not in bug_body


def in_process(code, **arguments):
    """Run code against the front in a Python of its own (moto is one for each process); return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        prelude = (
            "import json, sys, pathlib\nfrom localaws.door import server\nhome = pathlib.Path(sys.argv[1])\n"
        )
        command = [sys.executable, "-c", prelude + textwrap.dedent(code), folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_any_key_is_kept_as_it_is(localaws):
    s3 = localaws.client("s3")
    s3.create_bucket(Bucket="keys-as-they-are", CreateBucketConfiguration=WEST)
    keys = ["a b/ü+%2F=&?#.csv", "//slashes", "a/../b", "plus+plus", "日本"]
    for key in keys:
        s3.put_object(Bucket="keys-as-they-are", Key=key, Body=key.encode())
        assert s3.get_object(Bucket="keys-as-they-are", Key=key)["Body"].read() == key.encode()
    listed = [entry["Key"] for entry in s3.list_objects_v2(Bucket="keys-as-they-are")["Contents"]]
    assert sorted(listed) == sorted(keys)


def test_a_presigned_url_works(localaws):
    s3 = localaws.client("s3", config=Config(signature_version="s3v4"))
    s3.create_bucket(Bucket="presigned", CreateBucketConfiguration=WEST)
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "presigned", "Key": "k"})
    assert ask(localaws, "PUT", url.removeprefix(localaws.endpoint_url), b"body")[0] == 200
    assert s3.get_object(Bucket="presigned", Key="k")["Body"].read() == b"body"


# What moto lacks


def test_simulate_principal_policy_reads_the_roles_policies(localaws):
    iam = localaws.client("iam")
    iam.create_role(RoleName="simulated", AssumeRolePolicyDocument="{}")
    iam.attach_role_policy(
        RoleName="simulated", PolicyArn="arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"
    )
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Deny", "Action": "sagemaker:DeleteModel", "Resource": "*"},
            {"Effect": "Allow", "Action": ["EC2:Run*"], "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "iam:*",
                "Resource": "*",
                "Condition": {"Bool": {"aws:Secure": "true"}},
            },
            {"Effect": "Allow", "NotAction": ["s3:*", "iam:*"], "Resource": "arn:aws:logs:::only"},
        ],
    }
    iam.put_role_policy(RoleName="simulated", PolicyName="inline", PolicyDocument=json.dumps(document))

    def decide(action, resource="*"):
        arn = "arn:aws:iam::000000000000:role/simulated"
        answer = iam.simulate_principal_policy(
            PolicySourceArn=arn, ActionNames=[action], ResourceArns=[resource]
        )
        [result] = answer["EvaluationResults"]
        assert result["EvalActionName"] == action
        return result["EvalDecision"], result.get("MissingContextValues", [])

    assert decide("sagemaker:CreateTrainingJob")[0] == "allowed"
    assert decide("s3:PutObject", "arn:aws:s3:::my-sagemaker-bucket/key")[0] == "allowed"
    assert decide("s3:PutObject", "arn:aws:s3:::other/key")[0] == "implicitDeny"
    assert decide("sagemaker:DeleteModel")[0] == "explicitDeny"
    assert decide("ec2:RunInstances")[0] == "allowed"
    assert decide("iam:CreateUser") == ("implicitDeny", ["aws:Secure"])
    assert decide("logs:Anything", "arn:aws:logs:::only")[0] == "allowed"
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.simulate_principal_policy(
            PolicySourceArn="arn:aws:iam::000000000000:role/nobody", ActionNames=["s3:Get"]
        )


# 200 clients, and kill -9


def test_200_clients_at_once(localaws):
    s3 = localaws.client("s3", config=Config(max_pool_connections=200, retries={"total_max_attempts": 1}))
    s3.create_bucket(Bucket="crowd", CreateBucketConfiguration=WEST)
    gate = threading.Barrier(200)

    def client(number):
        gate.wait()
        s3.put_object(Bucket="crowd", Key=str(number), Body=b"x" * 1000)
        return s3.get_object(Bucket="crowd", Key=str(number))["Body"].read() == b"x" * 1000

    with ThreadPoolExecutor(200) as pool:
        assert all(pool.map(client, range(200)))
    assert s3.list_objects_v2(Bucket="crowd")["KeyCount"] == 200


def test_200_clients_at_once_of_every_part(localaws):
    once = Config(max_pool_connections=200, retries={"total_max_attempts": 1})
    sagemaker, ecr, logs = (localaws.client(name, config=once) for name in ("sagemaker", "ecr", "logs"))
    asked = [
        lambda: sagemaker.list_models(),
        lambda: sagemaker.list_training_jobs(),
        lambda: ecr.get_authorization_token(),
        lambda: logs.describe_log_groups(),
        lambda: ask(localaws, "GET", "/_localaws/state", headers=localaws.cookie()),
    ]
    gate = threading.Barrier(200)

    def client(number):
        gate.wait()
        answer = asked[number % len(asked)]()
        return answer[0] if isinstance(answer, tuple) else answer["ResponseMetadata"]["HTTPStatusCode"]

    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(client, range(200))) == {200}


def kill(aws):
    """Kill the server as the kernel's out-of-memory killer would."""
    os.kill(json.loads((aws.home / "server.json").read_text())["pid"], signal.SIGKILL)


def test_all_of_motos_state_survives_kill_9(fresh):
    def clients():
        return [fresh.client(service) for service in ("s3", "iam", "logs", "ecr", "cloudwatch")]

    fresh.up()
    upload, parts = populate(*clients())
    before = state(*clients())
    kill(fresh)
    fresh.up()
    assert state(*clients()) == before
    # An upload that was open before can be completed after.
    s3 = fresh.client("s3")
    s3.complete_multipart_upload(Bucket="one", Key="open", UploadId=upload, MultipartUpload={"Parts": parts})
    before = state(*clients())
    kill(fresh)
    fresh.up()
    assert state(*clients()) == before
    assert before["one", "open"][0] == b"\1" * PART + b"\2" * 10


PART = 5 * 1024 * 1024


def populate(s3, iam, logs, ecr, cloudwatch):
    for bucket in ("one", "two", "versions", "gone"):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=WEST)
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    for number in range(2):
        s3.put_object(Bucket="versions", Key="k", Body=str(number))
    s3.delete_object(Bucket="versions", Key="k")
    s3.put_object(Bucket="gone", Key="k", Body=b"k" * 10000)
    s3.delete_object(Bucket="gone", Key="k")
    s3.delete_bucket(Bucket="gone")
    for number in range(3):
        s3.put_object(Bucket="one", Key="a b/ü+%2F=&?#.csv", Body=b"x" * 20000 + str(number).encode())
    s3.put_object(Bucket="one", Key="tagged", Body=b"t", Metadata={"meta": "data"}, Tagging="old=tag")
    s3.put_object_tagging(Bucket="one", Key="tagged", Tagging={"TagSet": [{"Key": "new", "Value": "tag"}]})
    s3.put_object(Bucket="two", Key="source", Body=b"source")
    s3.copy_object(Bucket="one", Key="copy", CopySource="two/source")
    s3.put_object(Bucket="two", Key="source", Body=b"changed")
    for key, end in (("done", "complete"), ("aborted", "abort"), ("open", None)):
        upload = s3.create_multipart_upload(Bucket="one", Key=key)["UploadId"]
        parts = []
        for number, body in ((1, b"\1" * PART), (2, b"\2" * 10)):
            part = s3.upload_part(Bucket="one", Key=key, UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        if end == "complete":
            s3.complete_multipart_upload(
                Bucket="one", Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        elif end == "abort":
            s3.abort_multipart_upload(Bucket="one", Key=key, UploadId=upload)
    iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    iam.create_user(UserName="user")
    iam.create_access_key(UserName="user")
    ecr.create_repository(repositoryName="sagemaker-kept")
    ecr.create_repository(repositoryName="sagemaker-deleted")
    ecr.delete_repository(repositoryName="sagemaker-deleted")
    for group in ("kept", "deleted"):
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="stream")
        for number in range(20):
            event = {"timestamp": int(time.time() * 1000), "message": f"line {number} ü"}
            logs.put_log_events(logGroupName=group, logStreamName="stream", logEvents=[event])
    logs.delete_log_group(logGroupName="deleted")
    cloudwatch.put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 1.5}])
    return upload, parts


def state(s3, iam, logs, ecr, cloudwatch):
    """Everything that clients can see, identifiers and times included."""
    seen = {"buckets": s3.list_buckets()["Buckets"]}
    for bucket in (entry["Name"] for entry in seen["buckets"]):
        listed = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        seen[bucket] = [{k: entry[k] for k in ("Key", "ETag", "LastModified", "Size")} for entry in listed]
        for entry in listed:
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])
            tags = s3.get_object_tagging(Bucket=bucket, Key=entry["Key"])["TagSet"]
            seen[bucket, entry["Key"]] = (body["Body"].read(), body["Metadata"], tags)
        versions = s3.list_object_versions(Bucket=bucket)
        for kind in ("Versions", "DeleteMarkers"):
            seen[bucket, kind] = [
                (e["Key"], e["VersionId"], e["LastModified"]) for e in versions.get(kind, [])
            ]
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        seen[bucket, "uploads"] = [(entry["Key"], entry["UploadId"]) for entry in uploads]
    seen["roles"] = iam.list_roles()["Roles"]
    seen["keys"] = iam.list_access_keys(UserName="user")["AccessKeyMetadata"]
    seen["repositories"] = [
        (r["repositoryName"], r["createdAt"]) for r in ecr.describe_repositories()["repositories"]
    ]
    seen["groups"] = [(g["logGroupName"], g["creationTime"]) for g in logs.describe_log_groups()["logGroups"]]
    events = logs.get_log_events(logGroupName="kept", logStreamName="stream", startFromHead=True)["events"]
    seen["events"] = [(event["timestamp"], event["message"]) for event in events]
    begin, end = time.time() - 3600, time.time() + 60
    points = cloudwatch.get_metric_statistics(
        Namespace="n", MetricName="m", StartTime=begin, EndTime=end, Period=86400, Statistics=["Sum"]
    )
    seen["points"] = [point["Sum"] for point in points["Datapoints"]]
    return seen


def test_nothing_acknowledged_is_lost_when_killed_in_the_middle(fresh):
    fresh.up()
    fresh.client("s3").create_bucket(Bucket="busy", CreateBucketConfiguration=WEST)
    acknowledged: dict[str, bytes] = {}
    enough = threading.Event()

    def write(writer):
        s3 = fresh.client(
            "s3", config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5)
        )
        for number in range(1000):
            key, body = f"{writer}-{number}", os.urandom(10_000)
            try:
                s3.put_object(Bucket="busy", Key=key, Body=body)
            except (BotoCoreError, ClientError):
                return  # the server is gone: the end of this writer
            acknowledged[key] = body
            if len(acknowledged) > 60:
                enough.set()

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, writer) for writer in range(4)]
        assert enough.wait(30)
        kill(fresh)
        for writer in writers:
            writer.result()
    fresh.up()
    s3 = fresh.client("s3")
    for key, body in acknowledged.items():
        assert s3.get_object(Bucket="busy", Key=key)["Body"].read() == body


# Whatever was done, the database brings back the same state

KEYS = st.sampled_from(["a", "b", "ü/c d"])
BUCKETS = st.sampled_from(["bucket-one", "bucket-two"])
ACTIONS = st.one_of(
    st.tuples(st.just("put"), BUCKETS, KEYS, st.sampled_from(["small", "large"])),
    st.tuples(st.just("put_if"), BUCKETS, KEYS, st.just("other")),
    st.tuples(st.just("delete"), BUCKETS, KEYS),
    st.tuples(st.just("delete_many"), BUCKETS, KEYS, KEYS),
    st.tuples(st.just("copy"), BUCKETS, KEYS, BUCKETS, KEYS),
    st.tuples(st.just("tag"), BUCKETS, KEYS),
    st.tuples(st.just("upload"), BUCKETS, KEYS, st.sampled_from(["complete", "abort", "open"])),
    st.tuples(st.just("delete_bucket"), BUCKETS),
    st.tuples(st.just("create_bucket"), BUCKETS),
    st.tuples(st.just("version"), BUCKETS),
)


@pytest.fixture(scope="module")
def kept_program():
    """Run actions, bring back what was kept twice: state before, state after, number of S3's entries."""
    command = [sys.executable, str(Path(__file__).with_name("kept_program.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(actions):
            process.stdin.write(json.dumps(actions) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


START = [("create_bucket", "bucket-one"), ("create_bucket", "bucket-two")]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=25))
def test_what_was_kept_brings_back_the_same_state(kept_program, actions):
    before, after, _ = kept_program([*START, *actions])
    assert after == before


@pytest.mark.parametrize(
    ("actions", "left"),
    [
        ([("put", "bucket-one", "a", "small")] * 5, 3),
        ([("put", "bucket-one", "a", "small"), ("delete", "bucket-one", "a")], 2),
        ([("put", "bucket-one", "a", "small"), ("delete_many", "bucket-one", "a", "b")], 2),
        ([("put", "bucket-one", "a", "small"), ("tag", "bucket-one", "a"), ("delete", "bucket-one", "a")], 2),
        ([("upload", "bucket-one", "a", "open")], 4),
        ([("upload", "bucket-one", "a", "abort")], 2),
        ([("upload", "bucket-one", "a", "complete")] * 3, 3),
        ([("upload", "bucket-one", "a", "open"), ("delete_bucket", "bucket-one")], 1),
        (
            [
                ("put", "bucket-one", "a", "small"),
                ("delete", "bucket-one", "a"),
                ("delete_bucket", "bucket-one"),
            ],
            1,
        ),
    ],
)
def test_what_was_overwritten_or_deleted_leaves_no_entry(kept_program, actions, left):
    before, after, entries = kept_program([*START, *actions])
    assert after == before
    assert entries == left


def test_an_empty_object_is_an_object(localaws):
    s3 = localaws.client("s3", config=Config(read_timeout=10, retries={"max_attempts": 0}))
    s3.create_bucket(Bucket="empty-things", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="empty-things", Key="folder/", Body=b"")
    assert s3.get_object(Bucket="empty-things", Key="folder/")["Body"].read() == b""
