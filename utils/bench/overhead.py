"""What localaws adds: to a job, to an invocation, and to the walk through all labs."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import psutil

from . import BUILD, IRIS, ROOT, BenchError, training
from .contenders import OURS
from .load import rows

ROLE = json.dumps(
    {
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ]
    }
)


HOME = BUILD / "localaws"


@contextlib.contextmanager
def localaws_of_its_own(engine: str):
    """A localaws with an empty folder and a free port; its environment is set here and taken back."""
    import boto3

    import localaws

    before = dict(os.environ)
    os.environ.update(LOCALAWS_HOME=str(HOME), LOCALAWS_PORT="0", LOCALAWS_ENGINE=engine)
    # The user's own login to Docker stays what it is.
    os.environ["DOCKER_CONFIG"] = str(BUILD / "docker-config")
    try:
        localaws.stop()
        shutil.rmtree(HOME, ignore_errors=True)
        localaws.start()
        os.environ.update(localaws.environment())
        # boto3 keeps the keys that it has found first.
        with patch.object(boto3, "DEFAULT_SESSION", None):
            yield localaws.status()
    finally:
        localaws.stop()
        os.environ.clear()
        os.environ.update(before)


def run(*command) -> str:
    """What a program prints. Raises BenchError with its last words when it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BenchError(f"{' '.join(map(str, command[:4]))} failed:\n{(done.stdout + done.stderr)[-600:]}")
    return done.stdout


def docker(*arguments) -> str:
    return run(os.environ.get("DOCKER", "docker"), *arguments)


def docker_answers() -> bool:
    with contextlib.suppress(BenchError, FileNotFoundError):
        return bool(docker("version", "--format", "{{.Server.Version}}"))
    return False


def image_sizes() -> dict[str, int]:
    """The bytes of the image that Docker builds of each algorithm, train and serve in one.

    Of one that may be trained on GPUs, a lock for CUDA says so, those of two: no server needs those gigabytes.
    """
    sizes = {}
    for lock in sorted((ROOT / "container").glob("*/requirements-train.lock")):
        algorithm = lock.parent.name
        for target in ("train", "serve") if lock.with_suffix(".cuda.lock").exists() else ("both",):
            name = algorithm if target == "both" else f"{algorithm}-{target}"
            words = ["--algorithm", algorithm, "--target", target, "--tag", name]
            run(ROOT / "container/build_local.sh", "bench", *words)
            size = int(docker("image", "inspect", "--format", "{{.Size}}", f"bench:{name}"))
            look = "ls /opt/venv/lib/python*/site-packages"
            packages = docker("run", "--rm", "--network=none", f"bench:{name}", "sh", "-c", look)
            sizes[f"{name}, a build for CPUs alone" if "+cpu.dist-info" in packages else name] = size
    return sizes


def measure(rounds: int, invocations: int, engine: str = "process") -> dict:
    """What localaws adds to the container's own time, each pair of figures in turn.

    {"job": [(seconds of a training job, seconds that the same `train` runs), …],
     "invocation": [(ms by InvokeEndpoint, ms straight from the container), …]}
    """
    with localaws_of_its_own(engine) as status:
        import boto3

        client, s3, iam = (boto3.client(service) for service in ("sagemaker", "s3", "iam"))
        s3.create_bucket(
            Bucket="sagemaker-bench", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        s3.upload_file(str(IRIS), "sagemaker-bench", "data/iris.csv")
        role = iam.create_role(RoleName="bench", AssumeRolePolicyDocument=ROLE)["Role"]["Arn"]
        iam.attach_role_policy(
            RoleName="bench", PolicyArn="arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"
        )
        uri = boto3.client("ecr").create_repository(repositoryName="bench")["repository"]["repositoryUri"]
        if engine == "docker":
            run(ROOT / "container/build_and_push.sh", "bench")
        else:
            for command in (
                ["build", "decision_trees", "--tag", "bench:latest"],
                ["push", "bench:latest", uri],
            ):
                run(sys.executable, "-m", "localaws", *command)
        jobs = []
        for i in range(rounds):
            taken = job(client, f"bench-{i}", f"{uri}:latest", role)
            folder = training.folder("overhead", IRIS)
            jobs.append((taken, in_container(folder) if engine == "docker" else as_process(folder)))
        model = client.describe_training_job(TrainingJobName="bench-0")["ModelArtifacts"]["S3ModelArtifacts"]
        deploy(client, f"{uri}:latest", model, role)
        address = published() if engine == "docker" else f"127.0.0.1:{port_of_process()}"
        pairs = invoke(urlsplit(status.endpoint_url).netloc, address, invocations)
        client.delete_endpoint(EndpointName="bench")
        return {"job": jobs, "invocation": pairs}


def as_process(folder: Path) -> float:
    """Seconds that `train` runs, with the Python that the job has: there is pandas, and scikit-learn imports it."""
    return training.train(OURS, folder, program=Path(sys.executable)).seconds


def in_container(folder: Path) -> float:
    """Seconds that a container with `train` runs, without what the engine takes to make and to remove it."""
    container = docker(
        "create", "--network=none", f"--volume={folder}:/opt/ml", "bench:latest", "train"
    ).strip()
    docker("start", "--attach", container)
    times = docker("inspect", "--format", "{{.State.StartedAt}} {{.State.FinishedAt}}", container)
    docker("rm", container)
    # Nanoseconds, which datetime does not read.
    started, ended = (datetime.fromisoformat(text[:26].rstrip("Z")) for text in times.split())
    return (ended - started).total_seconds()


def published() -> str:
    """Host and port of the only container that this localaws has."""
    ports = docker("ps", "--filter", f"label=localaws.home={HOME}", "--format", "{{.Ports}}")
    (address,) = re.findall(r"(127\.0\.0\.1:\d+)->", ports)
    return address


def port_of_process() -> int:
    (port,) = {
        int(process.environ()["SAGEMAKER_BIND_TO_PORT"])
        for process in psutil.process_iter()
        if _environment(process).get("SAGEMAKER_BASE_DIR", "").startswith(str(HOME))
    }
    return port


def job(client, name: str, image: str, role: str) -> float:
    """Seconds that a training job takes which ends well. Raises BenchError where it does not."""
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://sagemaker-bench/data"}
    channel = {"ChannelName": "training", "DataSource": {"S3DataSource": source}}
    seconds, answer = run_job(client, name, image, role, "sagemaker-bench", InputDataConfig=[channel])
    if answer["TrainingJobStatus"] != "Completed":
        raise BenchError(f"{name} is {answer['TrainingJobStatus']}: {answer.get('FailureReason')}")
    return seconds


def run_job(client, name: str, image: str, role: str, bucket: str, **fields) -> tuple[float, dict]:
    """Seconds from CreateTrainingJob to the first answer that says how it ended, and that answer."""
    request = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"},
        "RoleArn": role,
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/output"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
    }
    started = time.perf_counter()
    client.create_training_job(**request | fields)
    while (answer := client.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] == "InProgress":
        time.sleep(0.005)
    return time.perf_counter() - started, answer


def deploy(client, image: str, model: str, role: str) -> None:
    container = {"Image": image, "ModelDataUrl": model}
    client.create_model(ModelName="bench", PrimaryContainer=container, ExecutionRoleArn=role)
    variant = {"VariantName": "AllTraffic", "ModelName": "bench", "InitialInstanceCount": 1}
    variant["InstanceType"] = "ml.m5.large"
    client.create_endpoint_config(EndpointConfigName="bench", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="bench", EndpointConfigName="bench")
    while (status := client.describe_endpoint(EndpointName="bench")["EndpointStatus"]) == "Creating":
        time.sleep(0.05)
    if status != "InService":
        raise BenchError(f"the endpoint is {status}")


def invoke(localaws: str, container: str, times: int) -> list[tuple[float, float]]:
    """Pairs of ms: a request by localaws, and the same to the container's own port, on kept connections."""
    import boto3
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    ways = [(localaws, "/endpoints/bench/invocations"), (container, "/invocations")]
    connections = [http.client.HTTPConnection(address, timeout=30) for address, _ in ways]
    body, pairs = f"{rows(1)[0]}\n", []
    # A signature is good for five minutes; the container gets the same headers.
    request = AWSRequest("POST", f"http://{localaws}{ways[0][1]}", {"Content-Type": "text/csv"}, body)
    session = boto3.Session()
    SigV4Auth(session.get_credentials(), "sagemaker", session.region_name).add_auth(request)
    headers = dict(request.headers)
    for _ in range(times):
        taken = []
        for connection, (_, path) in zip(connections, ways, strict=True):
            started = time.perf_counter()
            connection.request("POST", path, body, headers)
            reply = connection.getresponse()
            content = reply.read()
            taken.append((time.perf_counter() - started) * 1000)
            if (reply.status, content) != (200, b"setosa\n"):
                raise BenchError(f"{path} answers {reply.status}: {content[:200]!r}")
        pairs.append(tuple(taken))
    for connection in connections:
        connection.close()
    return pairs


def _environment(process: psutil.Process) -> dict:
    with contextlib.suppress(psutil.Error):
        return process.environ()
    return {}


def walk() -> float:
    """Seconds that all labs take on localaws, one after the other."""
    started = time.perf_counter()
    run(sys.executable, "-m", "workshop", "run", "--output", BUILD / "labs")
    return time.perf_counter() - started
