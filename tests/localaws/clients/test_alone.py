"""localaws as people get it who have nothing of the workshop: installed from its folder, in an environment of its own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from workshop import ROOT

PACKAGE = ROOT / "utils" / "localaws"
OFFLINE = ROOT / "tests" / "offline"
TRAIN = """#!/usr/bin/env python3
import os, pathlib
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
rows = (base / "input/data/training/rows.csv").read_text().splitlines()
print(f"rows={len(rows)};")
(base / "model" / "model.txt").write_text(str(len(rows)))
"""
WALK = """
localaws status && exit 1
localaws build knn 2>&1 | grep "come with the workshop"
localaws up
eval "$(localaws env)"
localaws build ./my_program --target train -t tiny
uri=$(python -c 'import boto3; print(boto3.client("ecr").create_repository(repositoryName="tiny")["repository"]["repositoryUri"])')
localaws push tiny "$uri"
python train.py "$uri"
localaws down
"""
# By a person with boto3 and nothing else.
TRAIN_HERE = """
import io, json, sys, tarfile, time
import boto3

s3, iam, sagemaker = map(boto3.client, ("s3", "iam", "sagemaker"))
s3.create_bucket(Bucket="alone", CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
s3.put_object(Bucket="alone", Key="training/rows.csv", Body="1\\n2\\n3\\n")
allow = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
role = iam.create_role(RoleName="alone", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
every = {"Effect": "Allow", "Action": ["s3:*", "ecr:*", "logs:*"], "Resource": "*"}
policy = json.dumps({"Version": "2012-10-17", "Statement": [every]})
iam.put_role_policy(RoleName="alone", PolicyName="all", PolicyDocument=policy)
data = {"S3DataType": "S3Prefix", "S3Uri": "s3://alone/training"}
sagemaker.create_training_job(
    TrainingJobName="alone",
    RoleArn=role,
    AlgorithmSpecification={"TrainingImage": sys.argv[1], "TrainingInputMode": "File"},
    InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": data}}],
    OutputDataConfig={"S3OutputPath": "s3://alone/output"},
    ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    StoppingCondition={"MaxRuntimeInSeconds": 600},
)
until = time.monotonic() + 60
while (job := sagemaker.describe_training_job(TrainingJobName="alone"))["TrainingJobStatus"] == "InProgress":
    assert time.monotonic() < until, job
    time.sleep(0.2)
assert job["TrainingJobStatus"] == "Completed", job
body = s3.get_object(Bucket="alone", Key="output/alone/output/model.tar.gz")["Body"].read()
print("MODEL", tarfile.open(fileobj=io.BytesIO(body)).extractfile("model.txt").read())
"""
TESTS = """
import os
import boto3

names = []

def test_one(localaws):
    s3 = localaws.client("s3")
    s3.create_bucket(Bucket="one", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    names.append(localaws.endpoint_url)
    assert [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]] == ["one"]

def test_two_is_clean(localaws):
    assert boto3.client("s3").list_buckets()["Buckets"] == []
    assert boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
    assert os.environ["AWS_ENDPOINT_URL"] == localaws.environment["AWS_ENDPOINT_URL"] == localaws.endpoint_url

def test_afterwards_the_environment_is_as_it_was():
    assert "AWS_ENDPOINT_URL" not in os.environ and "LOCALAWS_HOME" not in os.environ

def test_one_for_all(localaws_session):
    localaws_session.client("logs").create_log_group(logGroupName="/all")

def test_has_what_was_left_in_it(localaws_session, localaws):
    groups = localaws_session.client("logs").describe_log_groups()["logGroups"]
    assert [group["logGroupName"] for group in groups] == ["/all"]
    assert localaws.client("logs").describe_log_groups()["logGroups"] == []
"""


@pytest.fixture(scope="module")
def alone(client_python) -> Path:
    """The bin/ of an environment with localaws, as its folder is now, and pytest."""
    needed = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["dependencies"]
    python = client_python(*needed, "pytest")
    install = [sys.executable, ROOT / "utils" / "uv_pip.py", "install", "--quiet", "--python", python]
    done = subprocess.run(
        [*install, "--no-deps", "--reinstall", PACKAGE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return python.parent


def run(alone: Path, folder: Path, *command: str) -> str:
    """Run a command of that environment, offline, in a folder; return what it printed."""
    environment = {
        "PATH": f"{alone}{os.pathsep}{os.defpath}",
        "HOME": str(folder),
        "LOCALAWS_PORT": "0",
        "LOCALAWS_ENGINE": "process",
        "OFFLINE_LOG": str(folder / "left-the-machine.log"),
        "PYTHONPATH": str(OFFLINE),
    }
    done = subprocess.run(
        [sys.executable, OFFLINE / "run.py", *command],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
    )
    if (left := folder / "left-the-machine.log").exists():
        pytest.fail(left.read_text())
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_an_image_of_ones_own_is_trained(alone, tmp_path):
    (tmp_path / "my_program").mkdir()
    (tmp_path / "my_program" / "train").write_text(TRAIN)
    (tmp_path / "train.py").write_text(TRAIN_HERE)
    try:
        said = run(alone, tmp_path, "sh", "-euc", WALK)
    finally:
        down = {"HOME": str(tmp_path), "PATH": os.defpath}
        subprocess.run([alone / "localaws", "down"], env=down, capture_output=True, check=True)
    assert "MODEL b'3'" in said, said
    assert (tmp_path / ".localaws" / "server.log").exists(), "the state lies in the user's own folder"


def test_pytest_has_the_fixture(alone, tmp_path):
    (tmp_path / "test_mine.py").write_text(TESTS)
    said = run(alone, tmp_path, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")
    assert "5 passed" in said, said


def test_nothing_of_the_workshop_is_needed(alone):
    site = subprocess.run(
        [alone / "python", "-c", "import localaws; print(localaws.__path__[0])"],
        env={},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(site.stdout.strip())
    assert alone.parent in folder.parents
    links = {name: (PACKAGE / "images" / name).read_bytes() for name in ("environment", "uv_pip.py")}
    assert {name: (folder / "images" / name).read_bytes() for name in links} == links
    assert not any((folder.parent / name).exists() for name in ("workshop", "bench", "sagemaker"))
