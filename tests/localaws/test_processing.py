"""CreateProcessingJob, end to end: a real localaws, boto3 as it comes, a program that a job names itself."""

import json
import os
import signal
import uuid

import pytest
import tiny
from botocore.exceptions import ClientError
from tiny import wait_until

GROUP = "/aws/sagemaker/ProcessingJobs"
# Tells what it was given, writes where it is told to, and ends as it is told to.
PROGRAM = """
import json, os, pathlib, signal, sys, time
base = pathlib.Path("/opt/ml")
signal.signal(signal.SIGTERM, lambda *_: (print("got SIGTERM"), sys.exit(0)))
config, resources = (json.loads((base / "config" / name).read_text())
                     for name in ("processingjobconfig.json", "resourceconfig.json"))
host, job = resources["current_host"], base / "processing"
found = {str(p.relative_to(job)): p.read_text() for p in sorted(job.rglob("*")) if p.is_file()}
print("told=" + json.dumps([found, config, resources, sys.argv[1:], os.environ.get("COLOUR")]))
(job / "out" / f"{host}.txt").write_text(host)
if "--message" in sys.argv:
    (base / "output/message").write_bytes(os.fsencode(sys.argv[sys.argv.index("--message") + 1]))
if "--sleep" in sys.argv:
    print("sleeping", flush=True)
    time.sleep(60)
sys.exit(3 if "--fail" in sys.argv else 0)
"""


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    made = tiny.account(localaws, tmp_path_factory.mktemp("account"))
    made.put("in/a.csv", "1,2\n")
    made.put("in/b.csv", "3,4\n")
    made.put("code.py", PROGRAM)
    return made


def request(account, *arguments: str, count: int = 1, mode: str = "EndOfJob", **fields) -> dict:
    """A CreateProcessingJob request with one input and one output."""
    name = f"process-{uuid.uuid4().hex[:12]}"
    return {
        "ProcessingJobName": name,
        "RoleArn": account.role,
        "AppSpecification": {
            "ImageUri": account.image,
            "ContainerEntrypoint": ["python3", "/opt/ml/processing/code/code.py"],
            **({"ContainerArguments": list(arguments)} if arguments else {}),
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": count, "VolumeSizeInGB": 1}
        },
        "ProcessingInputs": [
            source("data", f"s3://{account.bucket}/in/", "/opt/ml/processing/data"),
            source("code", f"s3://{account.bucket}/code.py", "/opt/ml/processing/code"),
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "out",
                    "S3Output": {
                        "S3Uri": f"s3://{account.bucket}/{name}/out",
                        "LocalPath": "/opt/ml/processing/out",
                        "S3UploadMode": mode,
                    },
                }
            ]
        },
        **fields,
    }


def source(name: str, uri: str, path: str, **fields) -> dict:
    asked = {"S3Uri": uri, "LocalPath": path, "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": asked | fields}


def run(account, made: dict) -> dict:
    account.sagemaker.create_processing_job(**made)
    return finish(account, made)


def finish(account, made: dict) -> dict:
    def ended():
        job = account.sagemaker.describe_processing_job(ProcessingJobName=made["ProcessingJobName"])
        return job if job["ProcessingJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return wait_until(ended)


def told(account, made: dict) -> list[list]:
    lines = account.lines(GROUP, made["ProcessingJobName"])
    return [json.loads(line.removeprefix("told=")) for line in lines if line.startswith("told=")]


def outputs(account, made: dict) -> list[str]:
    prefix = f"{made['ProcessingJobName']}/"
    found = account.s3.list_objects_v2(Bucket=account.bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"].removeprefix(prefix) for item in found]


def test_inputs_come_the_program_runs_and_outputs_go(account):
    experiment = {"ExperimentName": "trees"}
    made = request(
        account,
        "--depth",
        "5",
        "--message",
        "all is well",
        Environment={"COLOUR": "blue"},
        ExperimentConfig=experiment,
    )
    job = run(account, made)
    assert (job["ProcessingJobStatus"], job["ExitMessage"]) == ("Completed", "all is well"), job
    assert job["ProcessingStartTime"] <= job["ProcessingEndTime"]
    assert job["ExperimentConfig"] == experiment
    assert job["ProcessingInputs"][0]["S3Input"]["S3CompressionType"] == "None"
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}

    ((found, config, resources, arguments, colour),) = told(account, made)
    assert {name: text for name, text in found.items() if name.startswith("data/")} == {
        "data/a.csv": "1,2\n",
        "data/b.csv": "3,4\n",
    }
    assert config["ProcessingJobArn"] == job["ProcessingJobArn"]
    assert config["ProcessingInputs"][0]["S3Input"]["LocalPath"] == "/opt/ml/processing/data"
    assert config["ProcessingOutputConfig"]["Outputs"][0]["OutputName"] == "out"
    assert resources == {"current_host": "algo-1", "hosts": ["algo-1"]}
    assert (arguments, colour) == (["--depth", "5", "--message", "all is well"], "blue")
    assert outputs(account, made) == ["out/algo-1.txt"]
    assert "[localaws] ExperimentConfig: recorded, not acted on" in account.lines(
        GROUP, made["ProcessingJobName"]
    )


def test_hosts_have_a_shard_each_and_all_outputs_go(account):
    made = request(account, count=2)
    made["ProcessingInputs"][0]["S3Input"]["S3DataDistributionType"] = "ShardedByS3Key"
    assert run(account, made)["ProcessingJobStatus"] == "Completed"
    shards = [[name for name in found if name.startswith("data/")] for found, *_ in told(account, made)]
    assert shards == [["data/a.csv"], ["data/b.csv"]]
    assert outputs(account, made) == ["out/algo-1.txt", "out/algo-2.txt"]


def test_a_failure_says_what_the_program_left_as_its_message(account):
    made = request(account, "--fail", "--message", "no such column: depth")
    job = run(account, made)
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: no such column: depth, exit code: 3"
    assert job["ExitMessage"] == "no such column: depth"
    assert outputs(account, made) == []
    reason = run(account, request(account, "--message", "\udcff"))["FailureReason"]
    assert reason == "ClientError: /opt/ml/output/message is not UTF-8."


def test_a_continuous_output_is_there_while_the_job_runs_and_a_stop_ends_it(account):
    made = request(account, "--sleep", mode="Continuous")
    account.sagemaker.create_processing_job(**made)
    wait_until(lambda: outputs(account, made) == ["out/algo-1.txt"])
    name = made["ProcessingJobName"]
    listed = account.sagemaker.list_processing_jobs(NameContains=name, StatusEquals="InProgress")
    assert [one["ProcessingJobName"] for one in listed["ProcessingJobSummaries"]] == [name]
    with pytest.raises(ClientError, match="is in status InProgress"):
        account.sagemaker.delete_processing_job(ProcessingJobName=name)
    account.sagemaker.stop_processing_job(ProcessingJobName=name)
    account.sagemaker.get_waiter("processing_job_completed_or_stopped").wait(
        ProcessingJobName=name, WaiterConfig={"Delay": 1}
    )
    assert finish(account, made)["ProcessingJobStatus"] == "Stopped"
    assert "got SIGTERM" in account.lines(GROUP, name)
    account.sagemaker.delete_processing_job(ProcessingJobName=name)
    with pytest.raises(ClientError, match="not found"):
        account.sagemaker.describe_processing_job(ProcessingJobName=name)


def test_a_job_that_runs_too_long_is_stopped(account):
    made = request(account, "--sleep", StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert run(account, made)["ProcessingJobStatus"] == "Stopped"


def test_tags_are_kept(account):
    made = request(account, Tags=[{"Key": "team", "Value": "trees"}])
    arn = account.sagemaker.create_processing_job(**made)["ProcessingJobArn"]
    assert arn.endswith(f":processing-job/{made['ProcessingJobName']}")
    assert account.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "trees"}]
    finish(account, made)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            {"ProcessingInputs": [source("a", "s3://b/k", "/opt/elsewhere")]},
            "ValidationException",
            "must begin",
        ),
        (
            {"ProcessingInputs": [source("a", "s3://b/k", "/opt/ml/processing/../x")]},
            "ValidationException",
            "begin",
        ),
        (
            {"ProcessingInputs": [source("a", "s3://no-such-bucket-here/k", "/opt/ml/processing/x")]},
            "ValidationException",
            "No S3 objects found",
        ),
        (
            {"AppSpecification": {"ImageUri": "no-such"}},
            "ValidationException",
            "Cannot find the requested image",
        ),
        (
            {"ProcessingInputs": [source("a", "s3://b/k", "/opt/ml/processing/x", S3InputMode="Pipe")]},
            "NotServedByLocalaws",
            "S3InputMode",
        ),
        ({"NetworkConfig": {"EnableNetworkIsolation": True}}, "NotServedByLocalaws", "isolates nothing"),
    ],
)
def test_what_is_refused(account, change, code, message):
    with pytest.raises(ClientError, match=message) as refused:
        account.sagemaker.create_processing_job(**request(account) | change)
    assert refused.value.response["Error"]["Code"] == code


def test_after_a_kill_a_processing_job_has_failed_and_its_program_ended(fresh, tmp_path):
    fresh.up()
    account = tiny.account(fresh, tmp_path / "account")
    account.put("in/a.csv", "1\n")
    account.put("code.py", PROGRAM)
    made = request(account, "--sleep")
    account.sagemaker.create_processing_job(**made)
    wait_until(lambda: "sleeping" in account.lines(GROUP, made["ProcessingJobName"]))
    pid = int(fresh.command("status").stdout.split("pid")[1].split()[0])
    os.kill(pid, signal.SIGKILL)
    fresh.up()
    account.sagemaker = fresh.client("sagemaker")
    job = finish(account, made)
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: localaws was stopped")
