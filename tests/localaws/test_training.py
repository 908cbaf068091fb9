"""CreateTrainingJob, end to end: a real localaws, boto3 as it comes, a pushed image that runs."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import tiny
from botocore.exceptions import BotoCoreError, ClientError
from tiny import channel, wait_until

from localaws.state import processes

GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


def members(account, uri) -> dict[str, bytes]:
    """The files of a .tar.gz in S3."""
    with tarfile.open(fileobj=io.BytesIO(account.get(uri))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def found(account, job) -> list[dict]:
    """What each host of a job found in its channels."""
    lines = account.lines(GROUP, job["TrainingJobName"])
    return [json.loads(line.removeprefix("found=")) for line in lines if line.startswith("found=")]


def test_a_job_runs_what_was_pushed_and_leaves_a_model(account):
    request = account.training_request(depth="5", model="trained")
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=([0-9.]+);"}]
    request["Environment"] = {"COLOUR": "blue"}
    job = account.train(request)

    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed", job
    assert [entry["Status"] for entry in job["SecondaryStatusTransitions"]] == [
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{account.bucket}/output/{job['TrainingJobName']}/output/model.tar.gz"
    assert members(account, uri)["model.txt"] == b"trained"
    assert [(m["MetricName"], m["Value"]) for m in job["FinalMetricDataList"]] == [("loss", 0.25)]
    assert 1 <= job["BillableTimeInSeconds"] <= 10
    assert job["HyperParameters"] == {"depth": "5", "model": "trained"}

    streams = account.logs.describe_log_streams(
        logGroupName=GROUP, logStreamNamePrefix=job["TrainingJobName"]
    )
    assert [s["logStreamName"].rsplit("-", 1)[0] for s in streams["logStreams"]] == [
        f"{job['TrainingJobName']}/algo-1"
    ]
    lines = account.lines(GROUP, job["TrainingJobName"])
    assert "nothing is isolated" in lines[0]
    assert "host algo-1 of ['algo-1']" in lines
    env = json.loads(next(line for line in lines if line.startswith("env="))[4:])
    assert env["TRAINING_JOB_NAME"] == job["TrainingJobName"]
    assert env["TRAINING_JOB_ARN"] == job["TrainingJobArn"]
    assert env["COLOUR"] == "blue"
    assert env["PYTHONUNBUFFERED"] == "1", "the image's own ENV"
    assert env["AWS_ENDPOINT_URL"] == account.aws.endpoint_url
    assert "PYTEST_CURRENT_TEST" not in env
    assert env["HTTPS_PROXY"] and not {"HTTP_PROXY", "http_proxy"} & env.keys(), (
        "algo-2 is called by no proxy"
    )
    dimension = {"Name": "TrainingJobName", "Value": job["TrainingJobName"]}
    cloudwatch = account.aws.client("cloudwatch")
    (metric,) = cloudwatch.list_metrics(Namespace=GROUP, Dimensions=[dimension])["Metrics"]
    assert metric["MetricName"] == "loss"


def test_what_means_nothing_here_is_recorded_described_and_told_once(account):
    request = account.training_request()
    request["ResourceConfig"]["InstanceCount"] = 2
    recorded = {
        "DebugHookConfig": {"S3OutputPath": f"s3://{account.bucket}/debug"},
        "ExperimentConfig": {"ExperimentName": "trees"},
        "ProfilerConfig": {"S3OutputPath": f"s3://{account.bucket}/profile", "DisableProfiler": False},
    }
    job = account.train(request | recorded)
    assert {name: job[name] for name in recorded} == recorded
    lines = account.lines(GROUP, job["TrainingJobName"])
    told = [line for line in lines if "recorded, not acted on" in line]
    assert told == [f"[localaws] {name}: recorded, not acted on" for name in recorded]


def test_a_description_has_what_the_request_left_to_the_service(account):
    job = account.train(account.training_request())
    assert job["OutputDataConfig"] == {
        "S3OutputPath": f"s3://{account.bucket}/output",
        "KmsKeyId": "",
        "CompressionType": "GZIP",
    }
    assert [job["InputDataConfig"][0][name] for name in ("CompressionType", "RecordWrapperType")] == [
        "None",
        "None",
    ]
    times = [job["CreationTime"], job["LastModifiedTime"], job["TrainingEndTime"]]
    assert [time.microsecond % 1000 for time in times] == [0, 0, 0]
    within = {"CreationTimeAfter": job["CreationTime"], "CreationTimeBefore": job["CreationTime"]}
    listed = account.sagemaker.list_training_jobs(**within)["TrainingJobSummaries"]
    assert job["TrainingJobName"] in [summary["TrainingJobName"] for summary in listed]


def test_a_job_names_its_own_entrypoint_and_arguments(account):
    request = account.training_request()
    program = "import os, sys; print('said', sys.argv[1:], os.listdir('/opt/ml/input/data'))"
    request["AlgorithmSpecification"] |= {
        "ContainerEntrypoint": ["python3", "-c", program],
        "ContainerArguments": ["--depth", "5"],
    }
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job
    assert job["AlgorithmSpecification"]["ContainerArguments"] == ["--depth", "5"]
    assert "said ['--depth', '5'] ['training']" in account.lines(GROUP, job["TrainingJobName"])

    request = account.training_request()
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = ["no-such-program"]
    reason = account.train(request)["FailureReason"]
    assert 'exec: "no-such-program": executable file not found in $PATH' in reason


def test_nothing_is_left_of_a_job_that_has_ended(account):
    account.train(account.training_request())
    assert not list((account.aws.home / "jobs" / "TrainingJob").glob("*"))
    records = [json.loads(path.read_text()) for path in (account.aws.home / "processes").glob("*.json")]
    assert not [
        record for record in records if "training job" in record["what"] and psutil.pid_exists(record["pid"])
    ]


def test_a_program_whose_server_was_killed_before_it_could_record_it_is_ended(tmp_path):
    base = tmp_path / "jobs" / "TrainingJob" / "x" / "algo-1" / "ml"
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours, other = (
        subprocess.Popen(command, env={"SAGEMAKER_BASE_DIR": str(folder)}) for folder in (base, tmp_path)
    )
    try:
        processes.kill_recorded(tmp_path)
        assert ours.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_a_failure_is_told_as_aws_tells_it(account):
    job = account.train(account.training_request(fail="iris.csv, row 3: 'x' is not a number", exit="1"))
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: iris.csv, row 3: 'x' is not a number, exit code: 1"
    long = account.train(account.training_request(fail="é" * 2000, exit="255"))["FailureReason"]
    assert len(long) == 1024
    assert long.endswith("é, exit code: 255")
    assert (
        account.train(account.training_request(exit="7"))["FailureReason"] == "AlgorithmError: , exit code: 7"
    )


def test_lines_arrive_while_the_job_runs_and_a_stop_is_passed_on(account):
    request = account.training_request(sleep="600")
    account.sagemaker.create_training_job(**request)
    name = request["TrainingJobName"]

    wait_until(lambda: "sleeping" in account.lines(GROUP, name))
    assert account.sagemaker.describe_training_job(TrainingJobName=name)["SecondaryStatus"] == "Training"
    account.sagemaker.stop_training_job(TrainingJobName=name)
    job = account.finish(name)
    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Stopped"
    assert "FailureReason" not in job
    assert account.lines(GROUP, name)[-1] == "got SIGTERM"
    assert "stopped" in members(account, job["ModelArtifacts"]["S3ModelArtifacts"])
    with pytest.raises(ClientError, match="training job is in status Stopped"):
        account.sagemaker.stop_training_job(TrainingJobName=name)


def test_a_job_that_runs_too_long_is_stopped(account):
    request = account.training_request(sleep="600")
    request["StoppingCondition"]["MaxRuntimeInSeconds"] = 1
    started = time.monotonic()
    job = account.train(request)
    assert time.monotonic() - started < 15
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_prefixes_manifests_and_several_channels(account):
    account.put("in/a.csv", "a")
    account.put("in/deep/b.csv", "b")
    account.put("in/folder/", "a folder, to a console")
    account.put("inner.csv", "c")
    manifest = [{"prefix": f"s3://{account.bucket}/in/"}, "deep/b.csv"]
    uri = account.put("the.manifest", json.dumps(manifest))
    request = account.training_request()
    request["InputDataConfig"] = [
        channel("folder", f"s3://{account.bucket}/in/"),
        channel("bare", f"s3://{account.bucket}/in/deep"),
        channel("file", f"s3://{account.bucket}/in/a.csv"),
        channel("partial", f"s3://{account.bucket}/inn"),
        channel("listed", uri, "ManifestFile", InputMode="FastFile", ContentType="text/csv"),
    ]
    (hosts,) = found(account, account.train(request))
    assert hosts == {
        "folder": {"a.csv": "a", "deep/b.csv": "b"},
        "bare": {"b.csv": "b"},
        "file": {"a.csv": "a"},
        "partial": {"inner.csv": "c"},
        "listed": {"deep/b.csv": "b"},
    }


def test_shards_and_copies_over_several_hosts(account):
    for number in range(5):
        account.put(f"shards/{number}.csv", str(number))
    uri = f"s3://{account.bucket}/shards/"
    request = account.training_request()
    request["ResourceConfig"]["InstanceCount"] = 2
    request["InputDataConfig"] = [channel("all", uri), channel("part", uri, distribution="ShardedByS3Key")]
    job = account.train(request)
    first, second = found(account, job)
    assert first["all"] == second["all"]
    assert len(first["all"]) == 5
    assert sorted([*first["part"], *second["part"]]) == [f"{number}.csv" for number in range(5)]
    assert len(first["part"]) - len(second["part"]) == 1
    lines = account.lines(GROUP, job["TrainingJobName"])
    assert {"host algo-1 of ['algo-1', 'algo-2']", "host algo-2 of ['algo-1', 'algo-2']"} <= set(lines)
    files = members(account, job["ModelArtifacts"]["S3ModelArtifacts"])
    assert {"algo-1.txt", "algo-2.txt", "model.txt"} == set(files)


def test_pipe_mode_streams_each_epoch_and_inflates(account):
    account.put("pipe/1.csv.gz", gzip.compress(b"one\n"))
    account.put("pipe/2.csv.gz", gzip.compress(b"two\n"))
    request = account.training_request()
    request["InputDataConfig"] = [
        channel("training", f"s3://{account.bucket}/pipe/", InputMode="Pipe", CompressionType="Gzip")
    ]
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job
    assert found(account, job) == [{"training": ["one\ntwo\n", "one\ntwo\n"]}]


def test_output_data_and_an_uncompressed_model(account):
    request = account.training_request(output="a report", model="plain")
    request["OutputDataConfig"]["CompressionType"] = "NONE"
    job = account.train(request)
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri.endswith("/output/model")
    assert account.get(f"{uri}/model.txt") == b"plain"
    output = uri.removesuffix("model") + "output.tar.gz"
    assert members(account, output) == {"report.txt": b"a report"}


@pytest.mark.parametrize(
    "when",
    [{"LOCALAWS_SPOT_INTERRUPTION_SECONDS": "3"}, {"LOCALAWS_SPOT_INTERRUPTION_CHECKPOINTS": "1"}],
    ids=["seconds", "checkpoints"],
)
def test_checkpoints_survive_a_spot_interruption_and_the_job(account, when):
    request = account.training_request(checkpoint="yes", sleep="600")
    request["CheckpointConfig"] = {"S3Uri": f"s3://{account.bucket}/checkpoints/{request['TrainingJobName']}"}
    request["EnableManagedSpotTraining"] = True
    request["StoppingCondition"]["MaxWaitTimeInSeconds"] = 7200
    request["Environment"] = when
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job
    statuses = [entry["Status"] for entry in job["SecondaryStatusTransitions"]]
    assert statuses[2:6] == ["Training", "Interrupted", "Starting", "Downloading"]
    assert statuses[-2:] == ["Uploading", "Completed"]
    assert account.get(request["CheckpointConfig"]["S3Uri"] + "/count") == b"2"
    assert "got SIGTERM" in account.lines(GROUP, job["TrainingJobName"])
    # Another job goes on where this one has ended.
    again = account.training_request(checkpoint="yes") | {"CheckpointConfig": request["CheckpointConfig"]}
    account.train(again)
    assert account.get(request["CheckpointConfig"]["S3Uri"] + "/count") == b"3"


def test_an_object_cannot_be_written_outside_its_folder(account):
    account.put("evil/x", "x")
    uri = account.put("evil.manifest", json.dumps([{"prefix": f"s3://{account.bucket}/evil/"}, "../../../x"]))
    request = account.training_request()
    request["InputDataConfig"] = [channel("training", uri, "ManifestFile")]
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Failed"
    assert "outside its folder" in job["FailureReason"]


def test_a_later_push_changes_nothing_of_a_job_in_its_image(account):
    uri = account.push("by-digest", train="#!/bin/sh\necho first\n")
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = uri
    assert "first" in account.lines(GROUP, account.train(request)["TrainingJobName"])
    account.push("by-digest", train="#!/bin/sh\necho second\n")
    again = request | {"TrainingJobName": request["TrainingJobName"] + "-again"}
    assert "second" in account.lines(GROUP, account.train(again)["TrainingJobName"])


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            {"TrainingJobName": "a_b"},
            "ValidationException",
            "1 validation error detected: Value 'a_b' at 'trainingJobName'",
        ),
        (
            {"RoleArn": "arn:aws:iam::000000000000:role/nobody"},
            "ValidationException",
            "Could not assume role",
        ),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingImage": "127.0.0.1:1/no-such:latest",
                    "TrainingInputMode": "File",
                }
            },
            "ValidationException",
            "Cannot find the requested image: 127.0.0.1:1/no-such:latest",
        ),
        (
            {"InputDataConfig": [channel("training", "s3://no-such-bucket/x")]},
            "ValidationException",
            'No S3 objects found under S3 URL "s3://no-such-bucket/x"',
        ),
        (
            {"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket/x"}},
            "ValidationException",
            "does not exist",
        ),
        (
            {"EnableManagedSpotTraining": True},
            "ValidationException",
            "Invalid MaxWaitTimeInSeconds (None). It must be present and be greater than or equal to",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 21, "VolumeSizeInGB": 1}},
            "ResourceLimitExceeded",
            "The account-level service limit 'ml.m5.large for training job usage' is 20 Instances",
        ),
        (
            {"CheckpointConfig": {"S3Uri": "s3://b/x", "LocalPath": "/tmp/x"}},
            "NotServedByLocalaws",
            'does not serve CheckpointConfig.LocalPath "/tmp/x"',
        ),
        (
            {"Environment": {"LOCALAWS_SPOT_INTERRUPTION_CHECKPOINTS": "1"}},
            "ValidationException",
            "LOCALAWS_SPOT_INTERRUPTION_CHECKPOINTS waits for checkpoints: the job needs a CheckpointConfig",
        ),
        ({"EnableNetworkIsolation": True}, "NotServedByLocalaws", "does not serve EnableNetworkIsolation"),
        (
            {"VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}},
            "NotServedByLocalaws",
            "does not serve VpcConfig",
        ),
    ],
)
def test_what_aws_refuses_is_refused_in_its_words(account, change, code, message):
    with pytest.raises(ClientError) as refused:
        account.sagemaker.create_training_job(**(account.training_request() | change))
    assert refused.value.response["Error"]["Code"] == code
    assert message in refused.value.response["Error"]["Message"]


def test_a_name_is_used_once(account):
    job = account.train(account.training_request())
    with pytest.raises(ClientError) as refused:
        account.sagemaker.create_training_job(**account.training_request(job["TrainingJobName"].upper()))
    assert refused.value.response["Error"]["Code"] == "ResourceInUse"
    with pytest.raises(ClientError, match="Requested resource not found"):
        account.sagemaker.describe_training_job(TrainingJobName="never-was")
    account.sagemaker.delete_training_job(TrainingJobName=job["TrainingJobName"])
    with pytest.raises(ClientError, match="Requested resource not found"):
        account.sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])


def test_a_page_is_cut_before_it_is_filtered_by_status(account):
    """As the service documents it for MaxResults with StatusEquals."""
    prefix = f"page-{uuid.uuid4().hex[:8]}"
    for number, exit_code in enumerate("001"):
        account.train(account.training_request(f"{prefix}-{number}", exit=exit_code))
    asked = {"NameContains": prefix, "StatusEquals": "Failed", "SortBy": "Name"}

    def names(**more):
        listed = account.sagemaker.list_training_jobs(**asked, **more)
        return [job["TrainingJobName"] for job in listed["TrainingJobSummaries"]], "NextToken" in listed

    assert names(MaxResults=2) == ([], True)
    assert names(MaxResults=3) == ([f"{prefix}-2"], False)
    assert names() == ([f"{prefix}-2"], False)


def test_boto3s_own_waiter(account):
    request = account.training_request()
    account.sagemaker.create_training_job(**request)
    waiter = account.sagemaker.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName=request["TrainingJobName"], WaiterConfig={"Delay": 1, "MaxAttempts": 30})


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(fresh, tmp_path):
    fresh.up()
    account = tiny.account(fresh, tmp_path)
    acknowledged, completed = set(), set()

    def create_and_watch():
        """Create jobs and note what the server has said, until it is gone."""
        try:
            while True:
                request = account.training_request(model="kept")
                account.sagemaker.create_training_job(**request)
                acknowledged.add(request["TrainingJobName"])
                listed = account.sagemaker.list_training_jobs(StatusEquals="Completed")
                # botocore takes an answer that the kill has cut off after its head for an empty one.
                completed.update(job["TrainingJobName"] for job in listed.get("TrainingJobSummaries", ()))
        except account.sagemaker.exceptions.ResourceLimitExceeded:
            create_and_watch()  # twenty at once is all that an account may have
        except (BotoCoreError, ClientError):
            return

    for seen in (0, 2, 6):  # completed jobs that the clients have seen when the kill comes
        with ThreadPoolExecutor(3) as pool:
            callers = [pool.submit(create_and_watch) for _ in range(3)]
            wait_until(lambda seen=seen: len(completed) >= seen)
            os.kill(json.loads((fresh.home / "server.json").read_text())["pid"], signal.SIGKILL)
        for caller in callers:
            caller.result()
        fresh.up()
        account.__post_init__()  # the port may be another
        pages = account.sagemaker.get_paginator("list_training_jobs").paginate()
        statuses = {
            job["TrainingJobName"]: job["TrainingJobStatus"]
            for page in pages
            for job in page["TrainingJobSummaries"]
        }
        assert acknowledged <= set(statuses)
        assert {statuses[name] for name in completed} <= {"Completed"}
        assert set(statuses.values()) <= {"Completed", "Failed"}
        for name, status in statuses.items():
            job = account.sagemaker.describe_training_job(TrainingJobName=name)
            if status == "Completed":
                assert members(account, job["ModelArtifacts"]["S3ModelArtifacts"])["model.txt"] == b"kept"
            else:
                assert job["FailureReason"].startswith("InternalServerError: localaws was stopped")
        assert not list((fresh.home / "jobs" / "TrainingJob").glob("*"))
    assert len(completed) >= 6


def test_many_megabytes_come_and_go_whole(account):
    """More than one part, in both directions, by localaws' own clients."""
    train = """#!/bin/sh
cd "$SAGEMAKER_BASE_DIR" && cp input/data/training/* model/ && sha256sum model/large | cut -c 1-64
"""
    body = os.urandom(40 << 20)
    request = account.training_request(uri=account.put(f"large-{uuid.uuid4().hex}/large", body))
    request["AlgorithmSpecification"]["TrainingImage"] = account.push("copies", train=train)
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job["FailureReason"]
    assert members(account, job["ModelArtifacts"]["S3ModelArtifacts"])["large"] == body


# What a program may leave where the host looks: each name is made by an os call of its own.
LEAVES = """
import socket
def leave(folder, outward):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("kept")
    (folder / "folder").mkdir()
    (folder / "folder" / "deep").write_text("deep")
    (folder / "to-file").symlink_to("folder/deep")
    (folder / "to-folder").symlink_to("folder")
    (folder / "folder" / "up").symlink_to("..")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    (folder / "outward").symlink_to(outward)
    (folder / "above").symlink_to("../input")
    os.mkfifo(folder / "fifo")
    os.chdir(folder)
    socket.socket(socket.AF_UNIX).bind("socket")
    open(b"not-utf8-\\xff", "w").write("kept")

for place in ("model", "output/data"):
    leave(base / place, "/etc/passwd")
print("left")
"""
KEPT = {"file": b"kept", "folder/deep": b"deep", "to-file": b"deep", "to-folder/deep": b"deep"}
LEFT_OUT = ("dangling", "itself", "outward", "above", "fifo", "socket", "to-folder/up")


def program(account, name: str, code: str) -> str:
    return account.push(name, train=tiny.TRAIN.replace("sys.exit(int(", f"{code}\nsys.exit(int(", 1))


def test_what_is_no_file_is_left_out_by_name_and_the_model_is_kept(account):
    """Links are read as what they lead to in the folder; none is followed out of it."""
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = program(account, "sagemaker-leaves", LEAVES)
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    lines = account.lines(GROUP, job["TrainingJobName"])
    for where, place in ((uri, "model"), (uri.replace("model.tar.gz", "output.tar.gz"), "output/data")):
        packed = members(account, where)
        # A link to the folder above counts for what is in it.
        assert KEPT.items() <= {name: text for name, text in packed.items() if "up/" not in name}.items()
        assert packed["folder/up/file"] == b"kept"
        assert any("not-utf8-" in name for name in packed)
        assert b"root:" not in b"".join(packed.values())
        for name in LEFT_OUT:
            assert name not in packed
            assert [
                line
                for line in lines
                if line.startswith(f"[localaws] /opt/ml/{place}: {name!r} is left out: ")
            ]


def test_a_model_in_single_objects_leaves_out_the_same(account):
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = program(account, "sagemaker-leaves", LEAVES)
    request["OutputDataConfig"]["CompressionType"] = "NONE"
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    for name, content in KEPT.items():
        assert account.get(f"{uri}/{name}") == content
    prefix = uri.removeprefix(f"s3://{account.bucket}/")
    listed = account.s3.list_objects_v2(Bucket=account.bucket, Prefix=prefix)["Contents"]
    assert not {entry["Key"].removeprefix(f"{prefix}/") for entry in listed} & {*LEFT_OUT}
    lines = account.lines(GROUP, job["TrainingJobName"])
    assert [line for line in lines if "not-utf8-" in line and "is left out: " in line], (
        "S3 takes no such name"
    )


@pytest.mark.parametrize("place", ["model", "output", "output/data"])
def test_a_folder_that_was_replaced_by_a_link_is_not_followed(account, place):
    code = f"import shutil; shutil.rmtree(base / {place!r}); (base / {place!r}).symlink_to('/etc')"
    request = account.training_request(exit="3" if place == "output" else "0")
    request["AlgorithmSpecification"]["TrainingImage"] = program(
        account, f"sagemaker-{place[-4:]}-link", code
    )
    job = account.train(request)
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]
    if place == "output":
        assert job["FailureReason"] == "AlgorithmError: , exit code: 3"
    else:
        assert job["TrainingJobStatus"] == "Completed", job
        assert "passwd" not in members(account, uri)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("(base / 'output/failure').symlink_to('/etc/passwd')", ""),
        ("os.mkfifo(base / 'output/failure')", ""),
        ("(base / 'output/failure').mkdir()", ""),
        (r"(base / 'output/failure').write_bytes(b'caf\xe9: ' + b'\xff' * 2000)", "caf\ufffd: \ufffd\ufffd"),
        ("(base / 'output/failure').write_text('a' * 10_000_000)", "aaaa"),
    ],
)
def test_a_failure_file_of_any_kind_gives_a_reason(account, code, reason):
    request = account.training_request(exit="3")
    name = f"sagemaker-failure-{abs(hash(code)) % 10**8}"
    request["AlgorithmSpecification"]["TrainingImage"] = program(account, name, code)
    job = account.train(request)
    assert job["FailureReason"].startswith(f"AlgorithmError: {reason}")
    assert job["FailureReason"].endswith(", exit code: 3")
    assert reason or job["FailureReason"] == "AlgorithmError: , exit code: 3", "nothing of the host's"
    assert len(job["FailureReason"]) <= 1024


def test_checkpoints_follow_no_link(account):
    code = """
folder = base / "checkpoints"
(folder / "state").write_text("kept")
(folder / "latest").symlink_to("state")
(folder / "outward").symlink_to("/etc/passwd")
os.mkfifo(folder / "fifo")
"""
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = program(account, "sagemaker-checkpoints", code)
    request["CheckpointConfig"] = {"S3Uri": f"s3://{account.bucket}/checkpoints/{request['TrainingJobName']}"}
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed", job
    prefix = request["CheckpointConfig"]["S3Uri"].removeprefix(f"s3://{account.bucket}/")
    listed = account.s3.list_objects_v2(Bucket=account.bucket, Prefix=prefix)["Contents"]
    assert {entry["Key"].rpartition("/")[2]: entry["Size"] for entry in listed} == {"state": 4, "latest": 4}
    lines = account.lines(GROUP, job["TrainingJobName"])
    for name in ("outward", "fifo"):
        assert [line for line in lines if line.startswith(f"[localaws] checkpoint '{name}' is left out: ")]
