"""CreateTransformJob, end to end, and the filters and joins of records by themselves."""

import gzip
import io
import json
import os
import re
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import tiny
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from tiny import wait_until

from localaws.sagemaker.jobs.records import Filter, RecordError, decode, encode, join
from localaws.sagemaker.jobs.transform import DEFAULTS, _Job

GROUP = "/aws/sagemaker/TransformJobs"


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def model(account):
    return account.model()


def request(account, model, data, content_type="text/csv", **fields) -> dict:
    """A CreateTransformJob request: `data` is {key: body} below a prefix of its own, or one body."""
    name = f"batch-{uuid.uuid4().hex[:12]}"
    for key, body in (data if isinstance(data, dict) else {"in.csv": data}).items():
        account.put(f"{name}/{key}", body)
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{account.bucket}/{name}/"}}
    made = {
        "TransformJobName": name,
        "ModelName": model,
        "TransformInput": {"DataSource": source, "ContentType": content_type, "SplitType": "Line"},
        "TransformOutput": {
            "S3OutputPath": f"s3://{account.bucket}/out/{name}",
            "Accept": content_type,
            "AssembleWith": "Line",
        },
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    for key, value in fields.items():
        made[key] = made[key] | value if isinstance(made.get(key), dict) else value
    return made


def run(account, made: dict) -> dict:
    """Run the job to its end; its description."""
    account.sagemaker.create_transform_job(**made)
    return finish(account, made["TransformJobName"])


def finish(account, name: str) -> dict:
    def ended():
        job = account.sagemaker.describe_transform_job(TransformJobName=name)
        return job if job["TransformJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return wait_until(ended)


def output(account, made: dict, key: str = "in.csv") -> bytes:
    return account.get(f"{made['TransformOutput']['S3OutputPath']}/{key}.out")


def test_lines_are_batched_sent_and_assembled(account, model):
    made = request(account, model, b"1,2,3\r\n4,5\n\n6")
    job = run(account, made)
    assert job["TransformJobStatus"] == "Completed", job
    assert output(account, made) == b"3,3\n2,3\n1,3\n"  # three rows in one request
    lines = account.lines(GROUP, made["TransformJobName"])
    settings = "[sagemaker logs]: MaxConcurrentTransforms=1, MaxPayloadInMB=6, BatchStrategy=MULTI_RECORD"
    assert settings in lines
    assert "serving tiny" in lines
    account.sagemaker.get_waiter("transform_job_completed_or_stopped").wait(
        TransformJobName=job["TransformJobName"]
    )


def test_a_record_a_request_and_the_containers_environment(account):
    parameters = json.dumps(
        {"MaxConcurrentTransforms": 3, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 2}
    )
    model = account.model(PARAMETERS=parameters)
    made = request(
        account, model, {"in.csv": b"1,2\n3\n", "deep/two.csv": b"tell"}, Environment={"JOB": "yes"}
    )
    made["TransformOutput"]["AssembleWith"] = "None"
    assert run(account, made)["TransformJobStatus"] == "Completed"
    assert output(account, made) == b"2,1\n1,1\n"
    assert output(account, made, "deep/two.csv") == b"1,1\n"
    lines = account.lines(GROUP, made["TransformJobName"])
    assert (
        "[sagemaker logs]: MaxConcurrentTransforms=3, MaxPayloadInMB=2, BatchStrategy=SINGLE_RECORD" in lines
    )
    # An unsplit file arrives as it is; the request has the last word over what the container offers.
    made = request(
        account, model, {"in.csv": b"tell"}, TransformInput={"SplitType": "None"}, MaxPayloadInMB=1
    )
    assert run(account, made)["TransformJobStatus"] == "Completed"
    env = json.loads(output(account, made))["env"]
    assert env["SAGEMAKER_BATCH"] == "true"
    assert env["SAGEMAKER_MAX_PAYLOAD_IN_MB"] == "1"
    assert {"SAGEMAKER_BATCH_STRATEGY", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"} <= set(env)


def test_filter_join_filter(account, model):
    processing = {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-2]"}
    rows = 'id-1,5.10,3.5\n"id,2",4.9,3.0\n'
    made = request(account, model, rows, DataProcessing=processing)
    assert run(account, made)["TransformJobStatus"] == "Completed"
    assert output(account, made).decode() == 'id-1,2\n"id,2",2\n'
    made = request(account, model, rows, DataProcessing={"JoinSource": "Input"})
    run(account, made)
    assert output(account, made).decode() == 'id-1,5.10,3.5,3,2\n"id,2",4.9,3.0,4,2\n'


def test_json_lines(account, model):
    rows = '{"id": 1, "features": [1, 2]}\n{"id": 2, "features": [3]}\n'
    processing = {
        "InputFilter": "$.features",
        "JoinSource": "Input",
        "OutputFilter": "$['id','SageMakerOutput']",
    }
    made = request(account, model, rows, "application/jsonlines", DataProcessing=processing)
    job = run(account, made)
    assert job["TransformJobStatus"] == "Completed", job
    assert (
        output(account, made).decode()
        == '{"id":1,"SageMakerOutput":{"n":2}}\n{"id":2,"SageMakerOutput":{"n":1}}\n'
    )


def test_gzip_several_instances_and_small_payloads(account, model):
    row = b"x" * 1023
    data = {f"{number}.csv": gzip.compress(b"\n".join([row] * 2000)) for number in range(3)}
    made = request(
        account,
        model,
        data,
        TransformInput={"CompressionType": "Gzip"},
        TransformResources={"InstanceCount": 2},
        MaxPayloadInMB=1,
        MaxConcurrentTransforms=2,
    )
    assert run(account, made)["TransformJobStatus"] == "Completed"
    for key in data:
        # 2,000 rows of 1,024 bytes with their line ends: 1,024 fit into 1 MB
        assert output(account, made, key) == b"1,1024\n" * 1024 + b"1,976\n" * 976
    streams = account.logs.describe_log_streams(
        logGroupName=GROUP, logStreamNamePrefix=made["TransformJobName"]
    )
    assert len(streams["logStreams"]) == 4  # two instances, each with its data-log


class Endless(io.RawIOBase):
    """An S3 whose one object is larger than what may be held of it, and which counts what it is given."""

    def __init__(self, rows: int, row: bytes):
        self.rows, self.row, self.stored = rows, row, 0

    def get_object(self, **_):
        return {"Body": self}

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = min(self.rows, len(buffer) // len(self.row))
        self.rows -= count
        buffer[: count * len(self.row)] = self.row * count
        return count * len(self.row)

    def upload_fileobj(self, file, *_):
        while part := file.read(1 << 20):
            self.stored += len(part)


class Echo:
    """An instance that answers what it is sent."""

    def request(self, method, path, body, *_):
        return SimpleNamespace(status=200, data=body)


def test_an_object_is_streamed_not_held(tmp_path):
    """100 MB through a transform that may take 1 MB at a time, two at once."""
    s3 = Endless(100 * 1024, b"x" * 1023 + b"\n")
    settings = {"MaxPayloadInMB": 1, "MaxConcurrentTransforms": 2, "BatchStrategy": "MULTI_RECORD"}
    asked = {
        "TransformJobName": "streamed",
        "TransformInput": {"SplitType": "Line"},
        "TransformOutput": {"S3OutputPath": "s3://bucket/out", "AssembleWith": "Line"},
        "DataProcessing": DEFAULTS["DataProcessing"],
    }
    job = _Job(SimpleNamespace(s3=s3, home=tmp_path), asked, {}, "role")
    job.folder.mkdir(parents=True)
    tracemalloc.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            job._transform(Echo(), pool, settings, "bucket", "key", "name")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert s3.stored == 100 * 1024 * 1024
    assert most < 16 * 1024 * 1024


def test_a_record_without_an_end_is_too_large_before_it_is_read(account, model):
    made = request(account, model, b"1,2\n" + b"x" * (3 << 20), MaxPayloadInMB=1)
    assert run(account, made)["FailureReason"].startswith("ClientError: See job logs for more information")
    where = (
        f"[sagemaker logs]: {account.bucket}/{made['TransformJobName']}/in.csv: ClientError: RecordTooLarge"
    )
    assert where in account.lines(GROUP, made["TransformJobName"])


def test_a_chunked_body_where_the_payload_is_unbounded(account, model):
    made = request(account, model, b"tell", MaxPayloadInMB=0, TransformInput={"SplitType": "None"})
    assert run(account, made)["TransformJobStatus"] == "Completed"
    headers = json.loads(output(account, made))["headers"]
    assert headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in headers


def test_a_bad_record_fails_its_object_and_the_job_but_not_the_others(account, model):
    made = request(account, model, {"good.csv": "1\n", "poor.csv": "1\nbad\n", "zz.csv": "2\n"})
    made["TransformResources"]["InstanceCount"] = 3
    job = run(account, made)
    assert job["TransformJobStatus"] == "Failed"
    poor = f"{account.bucket}/{made['TransformJobName']}/poor.csv"
    found = re.fullmatch(
        f"ClientError: See job logs for more information: {poor} on instance (i-[0-9a-f]+)",
        job["FailureReason"],
    )
    assert found, job["FailureReason"]
    assert output(account, made, "good.csv") == output(account, made, "zz.csv") == b"1,1\n"
    with pytest.raises(account.s3.exceptions.NoSuchKey):
        output(account, made, "poor.csv")
    lines = account.lines(GROUP, f"{made['TransformJobName']}/{found[1]}/data-log")
    assert f"[sagemaker logs]: {poor}: ClientError: 400" in lines
    assert f"[sagemaker logs]: {poor}: Message: a bad record" in lines


def test_the_files_are_shared_out_among_instances_at_work_at_once(account, model, tmp_path):
    """Each takes one file at a time: what three files wait for together is three instances."""
    whole = {"SplitType": "None"}
    data = {f"{number}.txt": f"hold {tmp_path}" for number in range(3)}
    made = request(account, model, data, TransformInput=whole, TransformResources={"InstanceCount": 3})
    account.sagemaker.create_transform_job(**made)
    wait_until(lambda: tiny.held(tmp_path) == 3)
    (tmp_path / "go").touch()
    assert finish(account, made["TransformJobName"])["TransformJobStatus"] == "Completed"
    assert b"3" in [output(account, made, key).strip() for key in data]


def test_several_instances_answer_what_one_does(account, model):
    data = {f"{number}.csv": "1,2\n" * number for number in range(1, 6)}
    answers = []
    for count in (1, 2, 9):  # 9: more than there are files
        made = request(account, model, data, TransformResources={"InstanceCount": count})
        assert run(account, made)["TransformJobStatus"] == "Completed"
        answers.append({key: output(account, made, key) for key in data})
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["5.csv"] == b"2,5\n" * 5


def test_a_server_error_is_the_algorithms(account, model):
    made = request(account, model, "status 500", ModelClientConfig={"InvocationsMaxRetries": 1})
    assert run(account, made)["FailureReason"].startswith("AlgorithmError: See job logs for more information")


def test_a_container_that_does_not_serve(account):
    job = run(account, request(account, account.model(EXIT="no licence"), "1\n"))
    assert job["TransformJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: ")
    assert "no licence" in job["FailureReason"]


def test_a_join_of_unequal_counts_is_refused(account, model):
    made = request(account, model, "short\n2\n", DataProcessing={"JoinSource": "Input"})
    assert run(account, made)["FailureReason"].startswith("ClientError: See job logs for more information")
    told = "mismatched line count between the input and the output (2 and 1)"
    assert any(told in line for line in account.lines(GROUP, made["TransformJobName"]))


def test_a_job_is_stopped(account, model):
    made = request(account, model, "sleep 600", TransformInput={"SplitType": "None"})
    made["ModelClientConfig"] = {"InvocationsTimeoutInSeconds": 3600}
    account.sagemaker.create_transform_job(**made)
    name = made["TransformJobName"]
    wait_until(
        lambda: "TransformStartTime" in account.sagemaker.describe_transform_job(TransformJobName=name)
    )
    account.sagemaker.stop_transform_job(TransformJobName=name)
    assert finish(account, name)["TransformJobStatus"] == "Stopped"
    with pytest.raises(ClientError, match="transform job is in status Stopped"):
        account.sagemaker.stop_transform_job(TransformJobName=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ModelName": "no-such"}, "Could not find model"),
        ({"MaxPayloadInMB": 60, "MaxConcurrentTransforms": 2}, "must not exceed 100 MB"),
        ({"BatchStrategy": "MultiRecord", "TransformInput": {"SplitType": "None"}}, "needs a SplitType"),
        ({"DataProcessing": {"InputFilter": "$..x"}}, "not a supported JSONPath"),
        (
            {"DataProcessing": {"JoinSource": "Input"}, "TransformOutput": {"AssembleWith": "None"}},
            "set both to Line",
        ),
        (
            {"DataProcessing": {"JoinSource": "Input"}, "TransformOutput": {"Accept": "application/json"}},
            "same format",
        ),
        (
            {"DataProcessing": {"InputFilter": "$[1]"}, "TransformInput": {"ContentType": "image/png"}},
            "cannot read",
        ),
        ({"TransformInput": {"SplitType": "RecordIO"}}, 'does not serve TransformInput.SplitType "RecordIO"'),
    ],
)
def test_what_is_refused(account, model, change, message):
    with pytest.raises(ClientError) as refused:
        account.sagemaker.create_transform_job(**request(account, model, "1\n", **change))
    assert message in refused.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("expression", "value", "selected"),
    [
        ("$", [1, 2], [1, 2]),
        ("$[1:]", [1, 2, 3], [2, 3]),
        ("$[:-1]", [1, 2, 3], [1, 2]),
        ("$[0,5:]", [0, 1, 2, 3, 4, 5, 6], [0, 5, 6]),
        ("$[0,-1]", [1, 2, 3], [1, 3]),
        ("$[-1]", [1, 2, 3], 3),
        ("$[7:]", [1], []),
        ("$.a.b", {"a": {"b": 1}}, 1),
        ("$['a']", {"a": [1]}, [1]),
        ("$['a','c']", {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}),
        ("$.a[0:2]", {"a": [1, 2, 3]}, [1, 2]),
        ("$.*", {"a": 1, "b": 2}, [1, 2]),
        ("$.SageMakerOutput", {"SageMakerOutput": None}, None),
    ],
)
def test_the_documented_jsonpath(expression, value, selected):
    assert Filter(expression)(value) == selected


@pytest.mark.parametrize("expression", ["$[3]", "$[0,3]", "$.x", "$['a','x']"])
def test_a_filter_that_selects_what_is_not_there(expression):
    with pytest.raises(RecordError, match="does not have"):
        Filter(expression)({"a": 1} if "[3]" not in expression and "3]" not in expression else [1])


@pytest.mark.parametrize(
    "expression", ["", "a", "$..a", "$[?(@.a)]", "$[(@.length-1)]", "$[0:4:2]", "$a", "$[]", "$.", "$['a]"]
)
def test_jsonpath_that_aws_does_not_document(expression):
    with pytest.raises(ValueError, match="not a supported JSONPath"):
        Filter(expression)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1))
def test_a_csv_row_comes_back_as_it_was(cells):
    assert decode(encode(cells, "csv"), "csv") == cells


def test_joins():
    assert join(["1"], ["a", "b"], "csv") == ["1", "a", "b"]
    assert join({"id": 1}, [2], "json") == {"id": 1, "SageMakerOutput": [2]}
    assert join([1], [2], "json") == {"SageMakerInput": [1], "SageMakerOutput": [2]}


def test_a_stop_does_not_wait_for_the_request_under_way(account, model, tmp_path):
    whole = {"SplitType": "None"}
    body = b"hold " + os.fsencode(tmp_path)
    made = request(account, model, body, TransformInput=whole, ModelClientConfig=PATIENT)
    account.sagemaker.create_transform_job(**made)
    wait_until(lambda: list(tmp_path.glob("*.held")))
    account.sagemaker.stop_transform_job(TransformJobName=made["TransformJobName"])
    assert finish(account, made["TransformJobName"])["TransformJobStatus"] == "Stopped"


PATIENT = {"InvocationsTimeoutInSeconds": 3600, "InvocationsMaxRetries": 0}
TRICKLE = tiny.SERVE.replace(
    "    def hold(self",
    """    def trickle(self):  # an answer that never comes to its end
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def hold(self""",
).replace(
    'if body == b"tell":',
    'if body.startswith(b"trickle"):\n            self.trickle()\n        if body == b"tell":',
)


def test_an_answer_that_comes_a_byte_at_a_time_is_given_up(account):
    model = account.model(image=account.push("trickle", serve=TRICKLE))
    impatient = {"InvocationsTimeoutInSeconds": 1, "InvocationsMaxRetries": 0}
    made = request(account, model, b"trickle", ModelClientConfig=impatient)
    assert run(account, made)["FailureReason"].startswith("AlgorithmError")
    lines = account.lines("/aws/sagemaker/TransformJobs", made["TransformJobName"])
    assert any("no answer (ReadTimeoutError)" in line for line in lines)
