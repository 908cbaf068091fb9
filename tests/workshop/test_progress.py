"""Waiting for a job: its status, its time and its log lines, in a file and in a terminal."""

import os
import pty
import re
import subprocess
import sys

import boto3
import pytest

from workshop import (
    JobFailed,
    catch_up,
    connect,
    follow_endpoint,
    follow_training_job,
    follow_transform_job,
    latest_training_job,
    progress,
)
from workshop.progress import NotThere

DATA = "5.1,3.5,1.4,0.2"


def create_training_job(target, name: str, rows: str) -> None:
    boto3.client("s3").put_object(Bucket=target.bucket, Key=f"{name}/rows.csv", Body=rows)
    repository = boto3.client("ecr").describe_repositories(repositoryNames=[target.name])["repositories"][0]
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{target.bucket}/{name}/"}
    boto3.client("sagemaker").create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": f"{repository['repositoryUri']}:latest",
            "TrainingInputMode": "File",
        },
        RoleArn=target.role,
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": f"s3://{target.bucket}/output"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )


@pytest.fixture
def pushed(target, environment):
    """The target with a bucket and a pushed image, which the tests share."""
    environment["WORKSHOP_LEARNER"] = "pushed"
    catch_up("04_train")
    return connect(quiet=True)


def test_a_job_is_followed_to_its_end(pushed, capsys):
    name = f"{pushed.walk}-good"
    create_training_job(pushed, name, f"a,{DATA}\nb,{DATA}1\n")
    description = follow_training_job(name)
    shown = capsys.readouterr().out
    assert description["TrainingJobStatus"] == "Completed"
    assert re.search(rf"Training job {name}: Completed, \d+ s", shown)
    assert "    training_accuracy=" in shown, "its log lines"
    assert latest_training_job(pushed)["TrainingJobName"] == name
    with pytest.raises(NotThere, match=f"There is no training job 'nope'. The newest are: {name}(,|$)"):
        follow_training_job("nope")

    # In a terminal the status line is written over itself, and log lines stand above it.
    leader, follower = pty.openpty()
    program = f"from workshop import follow_training_job as f; f({name!r})"
    with subprocess.Popen([sys.executable, "-c", program], stdout=follower, stderr=follower) as process:
        os.close(follower)
        screen = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the program has closed its end
                break
            if not piece:
                break
            screen += piece
    os.close(leader)
    assert process.returncode == 0, screen
    assert f"\r\x1b[KTraining job {name}: Completed".encode() in screen
    assert b"    training_accuracy=" in screen


def test_a_broken_file_fails_with_its_cause_and_what_to_do(pushed, capsys):
    name = f"{pushed.name}-bad"
    create_training_job(pushed, name, f"a,{DATA}\nb,5.1,,1.4,0.2\n")
    with pytest.raises(JobFailed) as failed:
        follow_training_job(name)
    text = str(failed.value)
    assert f"{name} ended Failed: AlgorithmError: training/rows.csv: row 2, column 3" in text
    assert "Mend what the reason names" in text
    assert failed.value._render_traceback_() == [f"JobFailed: {text}"]
    running = boto3.client("sagemaker").list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]
    assert running == []


def test_who_lost_a_job_to_the_end_of_localaws_is_not_told_to_mend_anything(monkeypatch):
    reason = "InternalServerError: localaws was stopped while this job ran. Create it again."
    description = {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason}
    monkeypatch.setattr(progress, "_described", lambda *_: description)
    monkeypatch.setattr(progress._Logs, "new_lines", lambda _: [])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setattr(progress, "_seconds_between_polls", lambda _: 0)
    with pytest.raises(JobFailed) as failed:
        follow_training_job("lost")
    assert reason in str(failed.value)
    assert "Mend" not in str(failed.value)


@pytest.mark.parametrize(
    ("follow", "what"), [(follow_transform_job, "transform job"), (follow_endpoint, "endpoint")]
)
def test_what_is_not_there_is_named_in_one_line(target, follow, what):
    with pytest.raises(NotThere) as missing:
        follow("nope")
    (line,) = missing.value._render_traceback_()
    assert line.startswith(f"NotThere: There is no {what} 'nope'. The") and "\n" not in line
