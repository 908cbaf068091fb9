"""kill -9 at a random moment of the walk, then `up`: what was acknowledged is there, what ran says why it failed."""

import copy
import functools
import json
import os
import random
import threading
from dataclasses import dataclass, field

import psutil
import pytest
import tiny
from botocore.config import Config

LOST = "InternalServerError: localaws was stopped while this job ran. Create it again."
STEPS = 19  # that a whole walk tells of
ENDED = ("Completed", "Failed", "Stopped")


@dataclass
class Walk:
    """One walk through everything; `told` has what the services acknowledged, in order."""

    account: tiny.Account
    number: int
    told: list[tuple] = field(default_factory=list)
    progress: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, kind: str, *what) -> None:
        with self.progress:
            self.told.append((kind, *what))
            self.progress.notify_all()

    def run(self) -> None:
        """Take the steps one after another, each acknowledged before the next begins."""
        account, name = self.account, f"walk-{self.number}"
        account.bucket = f"sagemaker-{name}"
        account.s3.create_bucket(
            Bucket=account.bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        self.tell("bucket", account.bucket)
        for key in range(4):
            body = os.urandom(20_000)  # a file of its own
            account.put(f"data/{key}", body)
            self.tell("object", account.bucket, f"data/{key}", body)
        iam = account.aws.client("iam")
        account.role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=tiny.TRUST)["Role"]["Arn"]
        iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AmazonSageMakerFullAccess")
        self.tell("role", name)
        account.image = account.push(f"sagemaker-{name}")
        self.tell("image", f"sagemaker-{name}")
        uri = account.put("rows/a.csv", "1,2\n" * 40)
        self.tell("object", account.bucket, "rows/a.csv", b"1,2\n" * 40)
        request = account.training_request(name, uri=uri, sleep="0.2")
        account.sagemaker.create_training_job(**request)
        self.tell("training", name)
        self.tell("trained", name, account.finish(name)["ModelArtifacts"]["S3ModelArtifacts"])
        model = account.model(name)
        self.tell("model", model)
        config = account.config(model)
        self.tell("config", config)
        account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        self.tell("endpoint", name)
        account.settled(name, "InService")
        self.tell("in service", name)
        for _ in range(3):
            assert account.invoke(name, "1,2\n", ContentType="text/csv")["Body"] == b"2,1\n"
            self.tell("invoked")
        account.sagemaker.create_transform_job(
            TransformJobName=name,
            ModelName=model,
            TransformInput={
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}},
                "ContentType": "text/csv",
                "SplitType": "Line",
            },
            TransformOutput={"S3OutputPath": f"s3://{account.bucket}/transformed"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        )
        self.tell("transform", name)

        def ended():
            return (
                account.sagemaker.describe_transform_job(TransformJobName=name)["TransformJobStatus"] in ENDED
            )

        tiny.wait_until(ended)
        self.tell("transformed", name)


def walk_until_killed(walk: Walk, steps: int, seconds: float) -> None:
    """Walk; kill the server `seconds` after it has acknowledged `steps` steps."""
    server = server_of(walk.account.aws.home)
    killed, unexpected = threading.Event(), []

    def run():
        try:
            walk.run()
        except Exception as error:
            if not killed.is_set():  # else an answer that was cut short can look like anything
                unexpected.append(error)
        finally:
            with walk.progress:
                walk.progress.notify_all()

    walker = threading.Thread(target=run)
    walker.start()
    with walk.progress:
        assert walk.progress.wait_for(lambda: len(walk.told) >= steps or unexpected, 60), unexpected
    walker.join(seconds)
    killed.set()
    server.kill()
    walker.join(60)
    assert not walker.is_alive()
    assert not unexpected, unexpected


def server_of(home) -> psutil.Process:
    return psutil.Process(json.loads((home / "server.json").read_text())["pid"])


@pytest.mark.parametrize(
    "moment", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 30))]
)
def test_nothing_acknowledged_is_lost(survivor, tmp_path, moment):
    survivor.up()
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    steps, seconds = chance.randrange(STEPS + 1), chance.uniform(0, 0.15)
    print(f"seed {seed}: killed {seconds:.3f} s after {steps} steps were acknowledged")
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
    impatient = copy.copy(survivor)
    impatient.client = functools.partial(survivor.client, config=once)
    walk = Walk(tiny.Account(impatient, "", "", "", tmp_path), moment)
    walk_until_killed(walk, steps, seconds)
    print(f"acknowledged: {[what[0] for what in walk.told]}")

    (survivor.home / "unpacked" / "old").mkdir(parents=True, exist_ok=True)
    survivor.up()
    assert not (survivor.home / "unpacked" / "old").exists(), "the cache of images does not grow for ever"
    server = server_of(survivor.home)
    told = {what[0] for what in walk.told}
    account = tiny.Account(survivor, walk.account.role, walk.account.bucket, walk.account.image, tmp_path)
    for kind, *what in walk.told:
        CHECKS.get(kind, lambda *_: None)(account, told, *what)
    if "image" in told:  # its bytes are there as well
        assert account.train(account.training_request())["TrainingJobStatus"] == "Completed"
    left = [
        process for process in started_for(survivor.home) if process.create_time() < server.create_time() - 1
    ]
    assert not left, "a program of the killed server runs on"


def started_for(home) -> list[psutil.Process]:
    """The processes that run for this localaws, the server itself among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LOCALAWS_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue  # gone, or somebody else's
    return found


def check_training(account, told, name):
    """It ended before the kill, or it says that the kill ended it."""
    job = account.sagemaker.describe_training_job(TrainingJobName=name)
    if job["TrainingJobStatus"] == "Completed":
        assert account.get(job["ModelArtifacts"]["S3ModelArtifacts"])
    else:
        assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", LOST)
        assert "trained" not in told


def check_transform(account, told, name):
    job = account.sagemaker.describe_transform_job(TransformJobName=name)
    if job["TransformJobStatus"] == "Completed":
        assert account.get(f"s3://{account.bucket}/transformed/a.csv.out").count(b"\n") == 40
    else:
        assert (job["TransformJobStatus"], job["FailureReason"]) == ("Failed", LOST)
        assert "transformed" not in told


def check_endpoint(account, told, name):
    """It is in service again, or failed because it was not yet; either way it can be deleted."""
    busy = ("Creating", "Updating", "SystemUpdating")

    def settled():
        endpoint = account.sagemaker.describe_endpoint(EndpointName=name)
        return endpoint if endpoint["EndpointStatus"] not in busy else None

    endpoint = tiny.wait_until(settled)
    if endpoint["EndpointStatus"] == "InService":
        assert account.invoke(name, "1,2\n", ContentType="text/csv")["Body"] == b"2,1\n"
    else:
        assert endpoint["EndpointStatus"] == "Failed"
        assert "localaws was stopped while this endpoint was created" in endpoint["FailureReason"]
        assert "in service" not in told
    account.sagemaker.delete_endpoint(EndpointName=name)


def check_image(account, told, name):
    (image,) = account.aws.client("ecr").describe_images(repositoryName=name)["imageDetails"]
    assert image["imageTags"] == ["latest"]


def check_object(account, told, bucket, key, body):
    assert account.s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body


CHECKS = {
    "bucket": lambda account, told, name: account.s3.head_bucket(Bucket=name),
    "object": check_object,
    "role": lambda account, told, name: account.aws.client("iam").get_role(RoleName=name),
    "image": check_image,
    "training": check_training,
    "trained": lambda account, told, name, artifact: account.get(artifact),
    "model": lambda account, told, name: account.sagemaker.describe_model(ModelName=name),
    "config": lambda account, told, name: account.sagemaker.describe_endpoint_config(EndpointConfigName=name),
    "endpoint": check_endpoint,
    "transform": check_transform,
}
