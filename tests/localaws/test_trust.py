"""The boundary: one secret a home, a signature for every call, and nothing for anybody else on the machine."""

import http.client
import json
import os
import re
import stat
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
import tiny
from botocore.auth import S3SigV4Auth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from localaws.state import locate

WEST = {"LocationConstraint": "us-west-2"}
CALLS = {
    "s3": lambda client: client.list_buckets(),
    "sts": lambda client: client.get_caller_identity(),
    "iam": lambda client: client.list_roles(),
    "logs": lambda client: client.describe_log_groups(),
    "cloudwatch": lambda client: client.list_metrics(),
    "ecr": lambda client: client.get_authorization_token(),
    "sagemaker": lambda client: client.list_models(),
    "sagemaker-runtime": lambda client: client.invoke_endpoint(EndpointName="none", Body=b""),
}


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("images"))


def refused(call) -> tuple[str, int]:
    """Code and status of the error that a call ends with."""
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    assert "python -m localaws env" in answer["Error"]["Message"] or answer["Error"]["Code"] in ("403", "400")
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def ask(aws, method, path, body=None, headers=None) -> tuple[int, str]:
    """Send one request as it is; status and body of the answer."""
    with closing(http.client.HTTPConnection(urlsplit(aws.endpoint_url).netloc, timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


# The secret and its folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_programs_that_begin_at_once_have_one_secret(tmp_path):
    """As in a class on one machine, where the first pushes of all learners run side by side."""
    program = "from localaws.state import locate; input(); print(locate.secret(locate.private_home()))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    seen = set()
    for attempt in range(3):
        environment = {**os.environ, "LOCALAWS_HOME": str(tmp_path / str(attempt) / "home")}
        programs = [
            subprocess.Popen([sys.executable, "-c", program], env=environment, **pipes) for _ in range(6)
        ]
        (secret,) = {one.communicate("\n", timeout=30)[0] for one in programs}
        assert re.fullmatch(r"localaws-[0-9a-f]{48}\n", secret), "it is none of AWS's"
        assert mode(tmp_path / str(attempt) / "home") == 0o700
        assert mode(tmp_path / str(attempt) / "home" / "secret") == 0o600
        seen.add(secret)
    assert len(seen) == 3, "each home has its own"


def test_all_that_a_home_holds_is_its_owners(fresh):
    fresh.home.mkdir(mode=0o755)
    (fresh.home / "secret").touch(0o600)  # as a killed program may have left it
    before = os.umask(0o022)
    try:
        fresh.up()
        account = tiny.account(fresh, fresh.home.parent)
        account.put("an/object", b"x" * 20_000)
        account.train(account.training_request())
        assert mode(fresh.home) == 0o700
    finally:
        os.umask(before)
    files = [path for path in fresh.home.rglob("*") if path.is_file() and "unpacked" not in path.parts]
    assert {path.name for path in files} >= {"secret", "server.json", "server.log"}
    # Locks have no content; client's own.
    open_to_others = {path.name for path in files if mode(path) & 0o077 and path.stat().st_size}
    assert not open_to_others


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_folder_for_everybody_is_no_home(fresh):
    fresh.home.mkdir()
    fresh.home.chmod(0o1777)
    done = fresh.command("up", check=False)
    assert done.returncode == 1
    assert (
        f"LOCALAWS_HOME={fresh.home} is a folder for everybody: name one of your own below it" in done.stderr
    )
    assert mode(fresh.home) == 0o1777
    fresh.home.chmod(0o700)


def test_the_secret_is_in_the_environment_alone(localaws):
    secret = locate.secret(localaws.home)
    assert localaws.env["AWS_SECRET_ACCESS_KEY"] == secret
    for command in ("up", "status", "logs"):
        assert secret not in localaws.command(command).stdout


# Signatures


@pytest.mark.parametrize("service", CALLS)
def test_who_has_not_the_secret_is_refused_as_by_aws(localaws, service):
    call = CALLS[service]

    def codes(**keys):
        return refused(lambda: call(localaws.client(service, **keys)))

    wrong, unknown, token = (
        {"aws_secret_access_key": "localaws-not-a-secret"},
        # The ones that moto's GetSessionToken gives to everybody.
        {
            "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY",
        },
        {"aws_session_token": "AQoDYXdzEJr"},
    )
    if service == "s3":
        assert codes(**wrong) == ("SignatureDoesNotMatch", 403)
        assert codes(**unknown) == ("InvalidAccessKeyId", 403)
        assert codes(**token) == ("InvalidToken", 400)
    elif service in ("iam", "sts"):
        assert codes(**wrong) == ("SignatureDoesNotMatch", 403)
        assert codes(**unknown) == codes(**token) == ("InvalidClientTokenId", 403)
    else:
        status = 403 if service == "sagemaker-runtime" else 400
        assert codes(**wrong) == ("InvalidSignatureException", status)
        assert codes(**unknown) == codes(**token) == ("UnrecognizedClientException", status)


TARGET = {"X-Amz-Target": "SageMaker.ListModels", "Content-Type": "application/x-amz-json-1.1"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/", b"{}", TARGET, 400, "MissingAuthenticationTokenException"),
        ("POST", "/endpoints/e/invocations", b"1", {}, 403, "MissingAuthenticationTokenException"),
        ("POST", "/endpoints/e/async-invocations", b"1", {}, 403, "MissingAuthenticationTokenException"),
        ("POST", "/", b"Action=ListRoles", FORM, 403, "MissingAuthenticationToken"),
        ("GET", "/", None, {}, 403, "AccessDenied"),
        ("GET", "/bucket/key", None, {}, 403, "AccessDenied"),
        ("PUT", "/bucket", None, {}, 403, "AccessDenied"),
        ("DELETE", "/bucket/key", None, {}, 403, "AccessDenied"),
        ("OPTIONS", "/bucket/key", None, {}, 403, "AccessDenied"),
        (
            "POST",
            "/bucket",
            b"--b--",
            {"Content-Type": "multipart/form-data; boundary=b"},
            403,
            "AccessDenied",
        ),
        (
            "POST",
            "/",
            b"{}",
            {**TARGET, "Authorization": "Basic QVdTOng="},
            400,
            "IncompleteSignatureException",
        ),
        (
            "POST",
            "/",
            b"{}",
            {**TARGET, "Authorization": "AWS4-HMAC-SHA256"},
            400,
            "IncompleteSignatureException",
        ),
        (
            "GET",
            "/",
            None,
            {"Authorization": "AWS4-HMAC-SHA256 Credential=k"},
            400,
            "AuthorizationHeaderMalformed",
        ),
        ("GET", "/b/k?X-Amz-Signature=1", None, {}, 400, "AuthorizationHeaderMalformed"),
        (
            "GET",
            "/b/k?AWSAccessKeyId=localaws-not-a-key&Signature=x&Expires=x",
            None,
            {},
            403,
            "AccessDenied",
        ),
        ("GET", "/b/k?AWSAccessKeyId=x&Signature=x&Expires=9999999999", None, {}, 403, "InvalidAccessKeyId"),
        (
            "GET",
            "/b/k?AWSAccessKeyId=localaws-not-a-key&Signature=%C3%BC&Expires=9999999999",
            None,
            {},
            403,
            "SignatureDoesNotMatch",
        ),
    ],
)
def test_without_a_signature_nothing_is_done(localaws, method, path, body, headers, status, code):
    got, answer = ask(localaws, method, path, body, headers)
    assert got == status
    assert f"<Code>{code}</Code>" in answer or json.loads(answer)["__type"] == code


def signed(aws, method, path, body=b"", headers=None, service="sagemaker", at=0.0) -> AWSRequest:
    """A request that was signed `at` seconds from now."""
    then = datetime.now(UTC) + timedelta(seconds=at)
    key = Credentials(aws.env["AWS_ACCESS_KEY_ID"], aws.env["AWS_SECRET_ACCESS_KEY"])
    request = AWSRequest(method, aws.endpoint_url + path, headers, body)
    with patch("botocore.auth.get_current_datetime", lambda: then):
        (S3SigV4Auth if service == "s3" else SigV4Auth)(key, service, "us-west-2").add_auth(request)
    return request


def send(aws, request: AWSRequest, body=b"", **changes) -> tuple[int, str]:
    path = request.url.removeprefix(aws.endpoint_url)
    return ask(aws, request.method, path, body, {**dict(request.headers), **changes})


@pytest.mark.parametrize("late", [-270, 0, 270])
def test_a_clock_may_be_wrong_by_five_minutes(localaws, late):
    assert send(localaws, signed(localaws, "POST", "/", b"{}", TARGET, at=late), b"{}")[0] == 200


@pytest.mark.parametrize("late", [-330, 330, -86_400])
def test_a_signature_of_another_time_is_refused(localaws, late):
    status, answer = send(localaws, signed(localaws, "POST", "/", b"{}", TARGET, at=late), b"{}")
    assert (status, json.loads(answer)["__type"]) == (400, "InvalidSignatureException")
    status, answer = send(localaws, signed(localaws, "POST", "/", b"a=b", FORM, "iam", at=late), b"a=b")
    assert (status, "<Code>SignatureDoesNotMatch</Code>" in answer) == (403, True)
    # S3 has fifteen.
    status, answer = send(localaws, signed(localaws, "GET", "/", service="s3", at=3 * late))
    assert (status, "<Code>RequestTimeTooSkewed</Code>" in answer) == (403, True)


def test_nothing_of_a_signed_request_can_be_changed(localaws):
    request = signed(localaws, "POST", "/", b"{}", TARGET)
    assert send(localaws, request, b"{}")[0] == 200
    changes = [
        ({}, b'{"MaxResults": 1}'),
        ({"X-Amz-Target": "SageMaker.ListEndpoints"}, b"{}"),
        ({"X-Amz-Date": f"{datetime.now(UTC) + timedelta(seconds=9):%Y%m%dT%H%M%SZ}"}, b"{}"),
        ({"X-Amz-Security-Token": "x"}, b"{}"),
        ({"X-Amz-Another": "header"}, b"{}"),
        ({"X-Amz-Content-Sha256": "0" * 64}, b"{}"),
    ]
    for headers, body in changes:
        status, answer = send(localaws, request, body, **headers)
        assert status == 400 and "Exception" in json.loads(answer)["__type"], headers
    request.url = request.url + "?x=y"
    assert send(localaws, request, b"{}")[0] == 400


def test_an_objects_body_is_the_one_that_was_signed(localaws, account):
    body = os.urandom(3 << 20)
    request = signed(localaws, "PUT", f"/{account.bucket}/signed", body, service="s3")
    status, answer = send(localaws, request, body[:-1] + b"?")
    assert (status, "<Code>XAmzContentSHA256Mismatch</Code>" in answer) == (400, True)
    assert account.s3.list_objects_v2(Bucket=account.bucket, Prefix="signed")["KeyCount"] == 0
    assert send(localaws, request, body)[0] == 200
    assert account.get(f"s3://{account.bucket}/signed") == body


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA256"])
@pytest.mark.parametrize("sign_payload", [True, False])
def test_bodies_of_every_kind_that_boto3_sends(localaws, account, tmp_path, algorithm, sign_payload):
    s3 = localaws.client("s3", config=Config(s3={"payload_signing_enabled": sign_payload}))
    (tmp_path / "file").write_bytes(os.urandom(9 << 20))  # in parts
    s3.upload_file(str(tmp_path / "file"), account.bucket, "file", ExtraArgs={"ChecksumAlgorithm": algorithm})
    with (tmp_path / "file").open("rb") as stream:
        s3.put_object(Bucket=account.bucket, Key="stream", Body=stream, ChecksumAlgorithm=algorithm)
    for key in ("file", "stream"):
        assert account.get(f"s3://{account.bucket}/{key}") == (tmp_path / "file").read_bytes()


# Presigned URLs and forms; boto3's default is version 2, on AWS in this region too


@pytest.fixture(params=["s3v4", None])
def presigning(localaws, request):
    return localaws.client("s3", config=Config(signature_version=request.param))


def fetch(url, method="GET", body=None, headers=None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


KEY = "a b/ü+%2F=&?#.csv"
OCTETS = {"Content-Type": "application/octet-stream"}


def test_a_presigned_url_is_good_for_what_it_says(presigning, account):
    def url(operation, key=KEY, seconds=60, **more):
        parameters = {"Bucket": account.bucket, "Key": key, **more}
        return presigning.generate_presigned_url(operation, parameters, seconds)

    assert fetch(url("put_object", ContentType=OCTETS["Content-Type"]), "PUT", b"body", OCTETS)[0] == 200
    assert fetch(url("get_object")) == (200, b"body")
    assert fetch(url("get_object", ResponseContentType="text/x"))[0] == 200
    assert fetch(url("get_object"), "DELETE")[0] == 403
    assert fetch(url("get_object").replace("csv", "txt"))[0] == 403
    status, answer = fetch(url("get_object", seconds=60) + "x")
    assert status in (400, 403)
    past = time.time() - 3600
    with (
        patch("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(past, UTC)),
        patch("botocore.auth.time.time", lambda: past),
    ):
        expired = url("get_object", seconds=1800)
    status, answer = fetch(expired)
    assert (status, b"<Code>AccessDenied</Code><Message>Request has expired" in answer) == (403, True)
    # The rest of what a copy takes is not in the signature.
    copy = {**OCTETS, "x-amz-copy-source": f"/{account.bucket}/{KEY}"}
    assert fetch(url("put_object", ContentType=OCTETS["Content-Type"]), "PUT", b"", copy)[0] == 403


def test_a_url_is_good_for_a_week_at_most(localaws, account):
    s3 = localaws.client("s3", config=Config(signature_version="s3v4"))
    url = s3.generate_presigned_url("get_object", {"Bucket": account.bucket, "Key": "k"}, 700_000)
    status, answer = fetch(url)
    assert (status, b"<Code>AuthorizationQueryParametersError</Code>" in answer) == (400, True)


def test_a_presigned_call_of_another_service(localaws):
    key = Credentials(localaws.env["AWS_ACCESS_KEY_ID"], localaws.env["AWS_SECRET_ACCESS_KEY"])
    request = AWSRequest("GET", f"{localaws.endpoint_url}/?Action=GetCallerIdentity&Version=2011-06-15")
    SigV4QueryAuth(key, "sts", "us-west-2", 60).add_auth(request)
    assert fetch(request.url)[0] != 403  # moto's front takes an action in a form only
    status, answer = fetch(request.url.replace("Action=GetCallerIdentity", "Action=GetSessionToken"))
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in answer) == (403, True)


def post(form: dict, body: bytes, **changes) -> tuple[int, bytes]:
    """Send a form as a browser does."""
    fields = {**form["fields"], **changes}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        for name, text in fields.items()
    ]
    parts.append('--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n')
    content = "".join(parts).encode() + body + b"\r\n--b--\r\n"
    return fetch(form["url"], "POST", content, {"Content-Type": "multipart/form-data; boundary=b"})


def test_a_presigned_form_is_good_for_what_its_policy_says(presigning, account):
    conditions = [["starts-with", "$x-amz-meta-from", "a-"], ["content-length-range", 2, 5]]

    def form(seconds=60):
        made = presigning.generate_presigned_post(
            account.bucket, "form/${filename}", Conditions=conditions, ExpiresIn=seconds
        )
        made["fields"] |= {"key": "form/name", "x-amz-meta-from": "a-form"}
        return made

    good = form()
    assert post(good, b"body")[0] == 204
    assert account.get(f"s3://{account.bucket}/form/name") == b"body"
    policy = "Invalid according to Policy: "
    for body, changes, reason in (
        (b"b", {}, policy + 'Policy Condition failed: ["content-length-range", 2, 5]'),
        (b"bodies", {}, policy + "Policy Condition failed"),
        (b"body", {"key": "elsewhere"}, policy + 'Policy Condition failed: ["starts-with", "$key", "form/"]'),
        (b"body", {"x-amz-meta-from": "b"}, policy + "Policy Condition failed"),
        (b"body", {"acl": "public-read"}, policy + "Extra input fields: acl"),
        (b"body", {"policy": "e30="}, "The request signature we calculated does not match"),
    ):
        status, answer = post(good, body, **changes)
        assert (status, reason in answer.decode()) == (403, True), (changes, answer)
    elsewhere = {**good, "url": good["url"].replace(account.bucket, "another")}
    assert post(elsewhere, b"body")[0] == 403
    assert post({**good, "url": good["url"] + "?delete"}, b"body")[0] == 403
    status, answer = post(form(-1), b"body")
    assert (status, b"Policy expired" in answer) == (403, True)


# Keys that localaws itself gives out


def test_keys_of_iam_and_sts_are_taken_while_they_are_good(localaws, account):
    sts, iam = localaws.client("sts"), localaws.client("iam")
    given = sts.assume_role(RoleArn=account.role, RoleSessionName="test", DurationSeconds=900)["Credentials"]
    keys = {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }
    for service, call in CALLS.items():
        if service != "sagemaker-runtime":
            call(localaws.client(service, **keys))
    stale = keys | {"aws_session_token": "another"}
    assert refused(lambda: CALLS["s3"](localaws.client("s3", **stale))) == ("InvalidToken", 400)
    assert (
        refused(lambda: CALLS["logs"](localaws.client("logs", **stale)))[0] == "UnrecognizedClientException"
    )

    iam.create_user(UserName="somebody")
    made = iam.create_access_key(UserName="somebody")["AccessKey"]
    keys = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
    assert localaws.client("sts", **keys).get_caller_identity()["Arn"].endswith("user/somebody")
    iam.update_access_key(UserName="somebody", AccessKeyId=made["AccessKeyId"], Status="Inactive")
    assert refused(lambda: CALLS["sts"](localaws.client("sts", **keys))) == ("InvalidClientTokenId", 403)
    iam.update_access_key(UserName="somebody", AccessKeyId=made["AccessKeyId"], Status="Active")
    CALLS["sts"](localaws.client("sts", **keys))
    iam.delete_access_key(UserName="somebody", AccessKeyId=made["AccessKeyId"])
    assert refused(lambda: CALLS["s3"](localaws.client("s3", **keys))) == ("InvalidAccessKeyId", 403)


def test_a_session_ends(localaws, account):
    # The service takes 900 seconds or more; moto takes any.
    sts = localaws.client("sts", config=Config(parameter_validation=False))
    given = sts.assume_role(RoleArn=account.role, RoleSessionName="test", DurationSeconds=-1)["Credentials"]
    session = boto3.Session(
        given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], "us-west-2"
    )
    s3, logs = (session.client(name, endpoint_url=localaws.endpoint_url) for name in ("s3", "logs"))
    assert refused(lambda: CALLS["s3"](s3)) == ("ExpiredToken", 403)
    assert refused(lambda: CALLS["logs"](logs)) == ("ExpiredTokenException", 400)


# What listens, and another user of this machine


def test_all_that_listens_does_so_on_loopback(localaws, account):
    """With the project's own image, whose server listens everywhere in a container."""
    ecr = localaws.client("ecr")
    uri = ecr.create_repository(repositoryName="sagemaker-listens")["repository"]["repositoryUri"]
    localaws.command("build", "decision_trees", "-t", "sagemaker-listens")
    localaws.command("push", "sagemaker-listens", uri)
    iris = (locate.ROOT / "data" / "iris.csv").read_bytes()
    request = account.training_request(uri=account.put("iris/iris.csv", iris))
    request["AlgorithmSpecification"]["TrainingImage"] = f"{uri}:latest"
    trained = account.train(request)
    assert trained["TrainingJobStatus"] == "Completed", trained
    account.sagemaker.create_model(
        ModelName="listens",
        ExecutionRoleArn=account.role,
        PrimaryContainer={
            "Image": f"{uri}:latest",
            "ModelDataUrl": trained["ModelArtifacts"]["S3ModelArtifacts"],
            "Environment": {"MODEL_SERVER_ADDRESS": "0.0.0.0"},
        },
    )
    endpoint = account.endpoint(account.config("listens"))
    assert account.invoke(endpoint, b"5.1,3.5,1.4,0.2\n", ContentType="text/csv")["Body"] == b"setosa\n"
    server = psutil.Process(json.loads((localaws.home / "server.json").read_text())["pid"])
    places = {}
    for process in (server, *server.children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                places[connection.laddr] = process.name()
    assert {address.ip for address in places} == {"127.0.0.1"}
    assert "nginx" in places.values() or "gunicorn" in " ".join(places.values()), places
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


STRANGER = """
import base64, hashlib, hmac, json, os, sys, urllib.request
home, url, endpoint = sys.argv[1:]
got = {"uid": os.getuid(), "read": []}
for folder in (home, os.path.join(home, "secret"), os.path.join(home, "server.log"), os.path.join(home, "sagemaker")):
    try:
        got["read"].append(os.listdir(folder) if os.path.isdir(folder) else open(folder).read(1))
    except OSError:
        pass

def ask(name, method, path, body=None, **headers):
    request = urllib.request.Request(url + path, body, headers, method=method)
    try:
        got[name] = urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        got[name] = error.code

login = {"Authorization": "Basic " + base64.b64encode(b"AWS:9999999999." + b"0" * 64).decode()}
# What an earlier version's registry took: who could read its secret knew this.
sign = hmac.new(b"", b"9999999999", "sha256").hexdigest()
empty = {"Authorization": "Basic " + base64.b64encode(f"AWS:9999999999.{sign}".encode()).decode()}
ask("health", "GET", "/_localaws/health")
ask("page", "GET", "/_localaws/", Accept="text/html")
ask("state", "GET", "/_localaws/state")
ask("buckets", "GET", "/")
ask("bucket", "PUT", "/a-strangers-bucket")
ask("run", "POST", "/", b"{}", **{"X-Amz-Target": "SageMaker.ListTrainingJobs"})
ask("login", "POST", "/", b"{}", **{"X-Amz-Target": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"})
ask("invoke", "POST", f"/endpoints/{endpoint}/invocations", b"tell")
ask("pull", "GET", "/v2/")
ask("push", "POST", "/v2/any/blobs/uploads/")
ask("push as AWS", "POST", "/v2/any/blobs/uploads/", **login)
ask("push with an empty secret", "POST", "/v2/any/blobs/uploads/", **empty)
print(json.dumps(got))
"""


@pytest.mark.root("can become another user")
def test_another_user_of_this_machine_reads_nothing_and_calls_nothing(localaws, account):
    endpoint = account.endpoint(account.config(account.model()))
    # A Python that a stranger may run: the project's own may lie in a home of somebody's.
    python = next(filter(os.path.exists, ("/usr/bin/python3", sys.executable)))
    localaws.home.parent.chmod(
        0o755
    )  # pytest's own folders are closed as well: the home must do it by itself
    opened = [folder for folder in localaws.home.parents if mode(folder) & 0o005 != 0o005]
    before = {folder: mode(folder) for folder in opened}
    try:
        for folder in opened:
            folder.chmod(before[folder] | 0o005)
        done = subprocess.run(
            [python, "-I", "-c", STRANGER, str(localaws.home), localaws.endpoint_url, endpoint],
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            env={},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        for folder, was in before.items():
            folder.chmod(was)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got.pop("uid"), got.pop("read"), got.pop("health")) == (65534, [], 200)
    assert {name: status for name, status in got.items() if status not in (400, 401, 403)} == {}
    assert got["run"] == got["login"] == 400  # MissingAuthenticationTokenException
