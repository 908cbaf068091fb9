"""An account with a role, a bucket and a tiny image whose programs do what a test asks of them."""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from waiting import wait_until

import localaws
from localaws import images

TRAIN = """#!/usr/bin/env python3
import json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
config = {p.stem: json.loads(p.read_text()) for p in (base / "input/config").iterdir()}
asked = config["hyperparameters"]
signal.signal(signal.SIGTERM, lambda *_: (print("got SIGTERM"), (base / "model/stopped").touch(), sys.exit(0)))
print("host", config["resourceconfig"]["current_host"], "of", config["resourceconfig"]["hosts"])
found = {}
for name, channel in sorted(config["inputdataconfig"].items()):
    folder = base / "input/data"
    if channel["TrainingInputMode"] == "Pipe":
        found[name] = [open(f"{folder}/{name}_{epoch}").read() for epoch in range(2)]
    else:
        found[name] = {str(p.relative_to(folder / name)): p.read_text()
                       for p in sorted((folder / name).rglob("*")) if p.is_file()}
print("found=" + json.dumps(found))
print("env=" + json.dumps(dict(os.environ)))
print("loss=0.5;\\nloss=0.25;")
if "output" in asked:
    (base / "output/data/report.txt").write_text(asked["output"])
if "checkpoint" in asked:
    seen = base / "checkpoints" / "count"
    seen.write_text(str(int(seen.read_text()) + 1 if seen.exists() else 1))
if "sleep" in asked and not ("checkpoint" in asked and seen.read_text() != "1"):  # only before the first checkpoint
    print("sleeping")
    time.sleep(float(asked["sleep"]))
if "fail" in asked:
    (base / "output/failure").write_text(asked["fail"])
if "deaf" in asked:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(base / "model" / (config["resourceconfig"]["current_host"] + ".txt")).write_text(json.dumps(found))
(base / "model" / "model.txt").write_text(asked.get("model", "tiny"))
sys.exit(int(asked.get("exit", 0)))
"""

SERVE = """#!/usr/bin/env python3
import http.server, json, os, pathlib, sys, time
model = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "model", "model.txt")
if "EXIT" in os.environ:
    print("cannot serve:", os.environ["EXIT"])
    sys.exit(4)
word = model.read_text() if model.exists() else "none"

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        if self.path == "/execution-parameters" and "PARAMETERS" in os.environ:
            return self.reply(200, os.environ["PARAMETERS"].encode())
        self.reply(200 if self.path == "/ping" else 404, b"")

    def do_POST(self):
        size = self.headers["Content-Length"]
        body = self.rfile.read(int(size)) if size else self.chunks()
        if body.startswith(b"crash"):
            os._exit(9)
        if body.startswith(b"sleep "):
            time.sleep(float(body.split()[1]))
        if body.startswith(b"hold "):
            return self.reply(200, str(self.hold(pathlib.Path(os.fsdecode(body[5:])))).encode())
        if body.startswith(b"status "):
            return self.reply(int(body.split()[1]), b"as you wish: " + body)
        if body == b"tell":
            told = {"word": word, "env": dict(os.environ), "pid": os.getpid(), "headers": dict(self.headers)}
            return self.reply(200, json.dumps(told).encode())
        if body.startswith(b"short"):
            return self.reply(200, b"one line for all\\n")
        if b"bad" in body:
            return self.reply(400, b"a bad record")
        if self.headers["Content-Type"] == "application/jsonlines":
            rows = [json.loads(line) for line in body.splitlines()]
            return self.reply(200, "".join(json.dumps({"n": len(row)}) + "\\n" for row in rows).encode())
        # CSV: as many cells as the row has, and how many rows came in this request
        rows = body.splitlines()
        answer = "".join(f"{len(row.split(b','))},{len(rows)}\\n" for row in rows)
        self.reply(200, answer.encode())

    def hold(self, folder):  # waits, seen by a file of its own, until folder/go is there; answers how many waited
        mine = folder / f"{time.monotonic_ns()}.held"
        mine.touch()
        at_once = len(list(folder.glob("*.held")))
        while not (folder / "go").exists():
            time.sleep(0.01)
        mine.unlink()
        return at_once

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", "from=tiny")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

print("serving", word)
Server(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)


@dataclass
class Account:
    """What a test needs of AWS. `aws` is the LocalAws of conftest.py."""

    aws: object
    role: str
    bucket: str
    image: str
    folder: Path

    def __post_init__(self):
        self.sagemaker, self.s3, self.logs = (self.aws.client(name) for name in ("sagemaker", "s3", "logs"))
        self.runtime = self.aws.client("sagemaker-runtime")

    def push(self, name: str, train: str = TRAIN, serve: str = SERVE) -> str:
        """Build and push an image with these two programs; its URI."""
        stack = self.folder / uuid.uuid4().hex / "container" / "stack"
        stack.mkdir(parents=True)
        (stack.parent / name).mkdir()
        (stack.parent / name / "training.py").write_text("")
        for program, text in (("train", train), ("serve", serve)):
            (stack / program).write_text(text)
            (stack / program).chmod(0o755)
        ecr = self.aws.client("ecr")
        try:
            uri = ecr.create_repository(repositoryName=name)["repository"]["repositoryUri"]
        except ecr.exceptions.RepositoryAlreadyExistsException:
            uri = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]["repositoryUri"]
        with (
            patch.object(localaws.state.locate, "ROOT", stack.parents[1]),
            patch.dict(os.environ, LOCALAWS_HOME=str(self.aws.home)),
        ):
            images.build(name, f"{name}:latest")
            images.push(f"{name}:latest", uri)
        return f"{uri}:latest"

    def put(self, key: str, body: bytes | str) -> str:
        """Store an object; its URI."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return f"s3://{self.bucket}/{key}"

    def get(self, uri: str) -> bytes:
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def training_request(self, name: str | None = None, uri: str | None = None, **hyperparameters) -> dict:
        """A CreateTrainingJob request with one channel, `training`."""
        return {
            "TrainingJobName": name or f"job-{uuid.uuid4().hex[:12]}",
            "AlgorithmSpecification": {"TrainingImage": self.image, "TrainingInputMode": "File"},
            "RoleArn": self.role,
            "HyperParameters": hyperparameters,
            "InputDataConfig": [channel("training", uri or self.put("data/a.csv", "1,2\n"))],
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/output"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        }

    def train(self, request: dict) -> dict:
        """Run a training job to its end; its description."""
        self.sagemaker.create_training_job(**request)
        return self.finish(request["TrainingJobName"])

    def finish(self, name: str) -> dict:
        def ended():
            job = self.sagemaker.describe_training_job(TrainingJobName=name)
            return job if job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

        return wait_until(ended)

    def lines(self, group: str, prefix: str) -> list[str]:
        """All log lines of the streams that begin with `prefix`, stream by stream."""
        try:
            found = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)
        except self.logs.exceptions.ResourceNotFoundException:
            return []  # nothing was logged yet
        streams = found["logStreams"]
        return [
            event["message"]
            for stream in sorted(streams, key=lambda stream: stream["logStreamName"])
            for event in self.logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
        ]

    def model(
        self, name: str | None = None, image: str | None = None, word: str = "tiny", **environment
    ) -> str:
        """Create a model whose answers carry `word`; its name."""
        import io
        import tarfile

        name = name or f"model-{uuid.uuid4().hex[:12]}"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            member = tarfile.TarInfo("model.txt")
            member.size = len(word)
            tar.addfile(member, io.BytesIO(word.encode()))
        self.sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn=self.role,
            PrimaryContainer={
                "Image": image or self.image,
                "ModelDataUrl": self.put(f"models/{name}/model.tar.gz", buffer.getvalue()),
                "Environment": environment,
            },
        )
        return name

    def config(
        self,
        *models: str,
        count: int = 1,
        weights: tuple = (),
        capture: dict | None = None,
        queued: dict | None = None,
        **fields,
    ) -> str:
        """Create an endpoint configuration, a variant a model (`v0`, `v1`, ...); its name.

        `queued` is an AsyncInferenceConfig. With a ServerlessConfig among `fields` there is no instance type or count.
        """
        name = f"config-{uuid.uuid4().hex[:12]}"
        instances = {"InstanceType": "ml.m5.large", "InitialInstanceCount": count}
        variants = [
            {
                "VariantName": f"v{number}",
                "ModelName": model,
                "InitialVariantWeight": weights[number] if weights else 1.0,
                **({} if "ServerlessConfig" in fields else instances),
                **fields,
            }
            for number, model in enumerate(models)
        ]
        extra = {"DataCaptureConfig": capture} if capture else {}
        extra |= {"AsyncInferenceConfig": queued} if queued else {}
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **extra)
        return name

    def endpoint(self, config: str) -> str:
        """Create an endpoint and wait until it serves; its name."""
        name = f"endpoint-{uuid.uuid4().hex[:12]}"
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        self.settled(name, "InService")
        return name

    def settled(self, name: str, status: str) -> dict:
        """Wait until an endpoint is not on its way any more and check where it has come to."""

        def still():
            endpoint = self.sagemaker.describe_endpoint(EndpointName=name)
            busy = ("Creating", "Updating", "SystemUpdating", "RollingBack")
            return endpoint if endpoint["EndpointStatus"] not in busy else None

        endpoint = wait_until(still)
        assert endpoint["EndpointStatus"] == status, endpoint
        return endpoint

    def invoke(self, endpoint: str, body: bytes | str = b"tell", **arguments):
        """The whole answer of InvokeEndpoint, its body read."""
        answer = self.runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **arguments)
        return answer | {"Body": answer["Body"].read()}


def held(folder: Path) -> int:
    """How many requests of the body `hold FOLDER` are being answered now, and are until there is a FOLDER/go."""
    return len(list(folder.glob("*.held")))


def channel(name: str, uri: str, kind: str = "S3Prefix", **fields) -> dict:
    distribution = fields.pop("distribution", "FullyReplicated")
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": distribution}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **fields}


def account(aws, folder: Path) -> Account:
    """An account of a test module's own in a running localaws."""
    suffix = uuid.uuid4().hex[:8]
    iam, s3 = aws.client("iam"), aws.client("s3")
    role = iam.create_role(RoleName=f"role-{suffix}", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    iam.attach_role_policy(
        RoleName=f"role-{suffix}", PolicyArn="arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"
    )
    bucket = f"sagemaker-test-{suffix}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    made = Account(aws, role, bucket, "", folder)
    made.image = made.push(f"tiny-{suffix}")
    return made
