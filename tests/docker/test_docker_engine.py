"""localaws' docker engine: the walk with real containers, several hosts, limits, and nothing left behind."""

import json
import os
import re
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from botocore.exceptions import ClientError, WaiterError
from docker_tools import BOOSTING, BOTH, ELSEWHERE, ROOT, LocalAws, until
from sklearn.tree import DecisionTreeClassifier

from localaws.engines import docker

IRIS = (ROOT / "data/iris.csv").read_text()
ROWS = [line.partition(",")[2] for line in IRIS.splitlines()]
LABELS = [line.partition(",")[0] for line in IRIS.splitlines()]
BUCKET = "sagemaker-data"  # AmazonSageMakerFullAccess reaches those alone that have sagemaker in their names
HYPERPARAMETERS = {"max_leaf_nodes": "5", "random_state": "0"}


class Account:
    """Role, bucket and the image in ECR of one localaws."""

    def __init__(self, aws, docker):
        self.aws, self.docker = aws, docker
        self.sagemaker, self.s3, self.logs = map(aws.client, ("sagemaker", "s3", "logs"))
        self.runtime = aws.client("sagemaker-runtime")
        trust = (ROOT / "utils/iam/trust-policy.json").read_text()
        iam, name = aws.client("iam"), "sagemaker-byoa"
        self.role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AmazonSageMakerFullAccess")
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        self.s3.put_object(Bucket=BUCKET, Key="iris/iris.csv", Body=IRIS)
        self.s3.put_object(Bucket=BUCKET, Key="rows/rows.csv", Body="\n".join(ROWS) + "\n")
        ecr = aws.client("ecr")
        self.repository = ecr.create_repository(repositoryName="sagemaker-test")["repository"]
        self.image = self.push(BOTH)

    def push(self, image: str) -> str:
        """Push under a tag of its own; in one repository, where what the images share travels once."""
        ecr, uri = self.aws.client("ecr"), f"{self.repository['repositoryUri']}:{uuid.uuid4().hex[:8]}"
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        folder = Path(self.aws.env["DOCKER_CONFIG"])
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"auths": {uri.split("/")[0]: {"auth": token}}}))
        self.docker("tag", image, uri)
        self.docker("--config", str(folder), "push", "--quiet", uri, timeout=300)
        self.docker("rmi", uri)
        return uri

    def start(
        self,
        hosts=1,
        instance="ml.m5.large",
        image=None,
        uri=f"s3://{BUCKET}/iris/",
        specification=None,
        hyperparameters=HYPERPARAMETERS,
        sharded=False,
        **options,
    ) -> str:
        name = f"job-{uuid.uuid4().hex[:12]}"
        distribution = "ShardedByS3Key" if sharded else "FullyReplicated"
        source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": distribution}
        self.sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn=self.role,
            AlgorithmSpecification={"TrainingImage": image or self.image, "TrainingInputMode": "File"}
            | (specification or {}),
            HyperParameters=hyperparameters,
            InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
            OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/output"},
            ResourceConfig={"InstanceType": instance, "InstanceCount": hosts, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 600},
            **options,
        )
        return name

    def train(self, **options) -> dict:
        return self.finish(self.start(**options))

    def finish(self, name: str) -> dict:
        waiter = self.sagemaker.get_waiter("training_job_completed_or_stopped")
        try:
            waiter.wait(TrainingJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 180})
        except WaiterError as error:
            assert "Failed" in str(error), error
        return self.sagemaker.describe_training_job(TrainingJobName=name)

    def log(self, job: str) -> dict[str, str]:
        """A training job's log by host."""
        group = "/aws/sagemaker/TrainingJobs"
        streams = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")[
            "logStreams"
        ]
        return {
            stream["logStreamName"].split("/")[1].rpartition("-")[0]: "\n".join(
                event["message"]
                for event in self.logs.get_log_events(
                    logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
                )["events"]
            )
            for stream in streams
        }

    def model(self, name: str, data: str | None = None, image: str | None = None, **options) -> None:
        container = {"Image": image or self.image} | ({"ModelDataUrl": data} if data else {})
        self.sagemaker.create_model(
            ModelName=name, ExecutionRoleArn=self.role, PrimaryContainer=container, **options
        )

    def endpoint(self, name: str, data: str | None = None, image: str | None = None, **options) -> None:
        self.model(name, data, image, **options)
        variant = {"VariantName": "all", "ModelName": name, "InstanceType": "ml.t2.medium"}
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": 1}]
        )
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        self.in_service(name)

    def delete(self, name: str) -> None:
        """Delete an endpoint and wait until it is gone."""
        self.sagemaker.delete_endpoint(EndpointName=name)
        self.sagemaker.get_waiter("endpoint_deleted").wait(
            EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )

    def transform(self, name: str, **options) -> dict:
        """Transform the iris rows with the model of that name, in a job of that name."""
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/rows/"}}
        self.sagemaker.create_transform_job(
            TransformJobName=name,
            ModelName=name,
            TransformInput={"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
            TransformOutput={"S3OutputPath": f"s3://{BUCKET}/{name}", "AssembleWith": "Line"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
            **options,
        )
        waiter = self.sagemaker.get_waiter("transform_job_completed_or_stopped")
        try:
            waiter.wait(TransformJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        except WaiterError as error:
            assert "Failed" in str(error), error
        return self.sagemaker.describe_transform_job(TransformJobName=name)

    def in_service(self, name: str) -> None:
        waiter = self.sagemaker.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})

    def predict(self, name: str, rows: list[str] = ROWS) -> list[str]:
        answer = self.runtime.invoke_endpoint(EndpointName=name, ContentType="text/csv", Body="\n".join(rows))
        return answer["Body"].read().decode().split()

    def answer(self, name: str, rows: list[str] = ROWS) -> list[str] | None:
        """What it predicts, or None where its container does not serve yet."""
        try:
            return self.predict(name, rows)
        except ClientError:
            return None


@pytest.fixture(scope="session")
def account(localaws, engine):
    return Account(localaws, engine)


@pytest.fixture(scope="session")
def job(account):
    described = account.train()
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    return described


@pytest.fixture(scope="session")
def scikit_learn() -> list[str]:
    """scikit-learn's own predictions, what `process` is held to as well."""
    X = [[float(cell) for cell in row.split(",")] for row in ROWS]
    return DecisionTreeClassifier(max_leaf_nodes=5, random_state=0).fit(X, LABELS).predict(X).tolist()


def test_status_says_docker(localaws):
    assert "engine       docker" in localaws.command("status")


def test_a_training_job_runs_in_a_container(account, job):
    log = account.log(job["TrainingJobName"])["algo-1"]
    assert "training_accuracy=" in log
    assert "engine: process" not in log


def test_endpoint_and_transform_predict_what_scikit_learn_does(account, localaws, job, scikit_learn, engine):
    name = f"walk-{uuid.uuid4().hex[:8]}"
    account.endpoint(name, job["ModelArtifacts"]["S3ModelArtifacts"])
    [container] = localaws.containers()
    [state] = json.loads(engine("inspect", container).stdout)
    assert re.fullmatch(r"127\.0\.0\.1:\d+/sagemaker-test@sha256:[0-9a-f]{64}", state["Config"]["Image"])
    assert state["HostConfig"]["NanoCpus"] == 2_000_000_000
    assert state["HostConfig"]["Memory"] == 4 << 30
    assert state["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"
    assert account.predict(name) == scikit_learn

    described = account.transform(name)
    assert described["TransformJobStatus"] == "Completed", described.get("FailureReason")
    answer = account.s3.get_object(Bucket=BUCKET, Key=f"{name}/rows.csv.out")["Body"].read().decode()
    assert answer.split() == scikit_learn

    account.delete(name)
    assert not localaws.containers()


def test_awss_sample_container_trains_serves_and_transforms(account, scikit_learn):
    """Nothing in it knows of localaws; tests/localaws/test_whole_images.py has its files run without Docker."""
    name, image = f"elsewhere-{uuid.uuid4().hex[:8]}", account.push(ELSEWHERE)
    job = account.train(image=image)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    account.endpoint(name, job["ModelArtifacts"]["S3ModelArtifacts"], image=image)
    assert sum(map(str.__eq__, account.predict(name), scikit_learn)) > 140
    described = account.transform(name)
    assert described["TransformJobStatus"] == "Completed", described.get("FailureReason")
    answer = account.s3.get_object(Bucket=BUCKET, Key=f"{name}/rows.csv.out")["Body"].read().decode()
    assert answer.split() == account.predict(name)
    account.delete(name)


def test_a_job_names_its_own_program(account):
    own = {
        "ContainerEntrypoint": ["sh", "-c"],
        "ContainerArguments": ["echo said by $TRAINING_JOB_NAME; ls /opt/ml/input/data/training"],
    }
    job = account.train(specification=own)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert account.log(job["TrainingJobName"])["algo-1"].split("\n") == [
        f"said by {job['TrainingJobName']}",
        "iris.csv",
    ]


def test_a_processing_job_reads_and_writes_s3(account, localaws):
    name = f"processing-{uuid.uuid4().hex[:8]}"
    root, end = "/opt/ml/processing", {"S3UploadMode": "EndOfJob"}
    count = f"wc -l < {root}/in/iris.csv > {root}/out/lines.txt; printf counted > /opt/ml/output/message"
    account.sagemaker.create_processing_job(
        ProcessingJobName=name,
        RoleArn=account.role,
        AppSpecification={
            "ImageUri": account.image,
            "ContainerEntrypoint": ["sh", "-c"],
            "ContainerArguments": [count],
        },
        ProcessingInputs=[
            {
                "InputName": "in",
                "S3Input": {
                    "S3Uri": f"s3://{BUCKET}/iris/",
                    "LocalPath": f"{root}/in",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                },
            }
        ],
        ProcessingOutputConfig={
            "Outputs": [
                {
                    "OutputName": "out",
                    "S3Output": {"S3Uri": f"s3://{BUCKET}/{name}", "LocalPath": f"{root}/out"} | end,
                }
            ]
        },
        ProcessingResources={
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
    )
    account.sagemaker.get_waiter("processing_job_completed_or_stopped").wait(
        ProcessingJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    job = account.sagemaker.describe_processing_job(ProcessingJobName=name)
    assert (job["ProcessingJobStatus"], job["ExitMessage"]) == ("Completed", "counted")
    lines = account.s3.get_object(Bucket=BUCKET, Key=f"{name}/lines.txt")["Body"].read()
    assert int(lines) == len(ROWS)
    assert not localaws.containers()


def test_a_killed_container_comes_back(account, localaws, job, engine, scikit_learn):
    name = f"killed-{uuid.uuid4().hex[:8]}"
    account.endpoint(name, job["ModelArtifacts"]["S3ModelArtifacts"])
    [before] = localaws.containers()
    engine("kill", before)
    until(lambda: localaws.containers() not in ([], [before]), 60, "another container")

    assert until(lambda: account.answer(name), 60, "an answer") == scikit_learn
    account.sagemaker.delete_endpoint(EndpointName=name)
    until(lambda: not localaws.containers(), 60, "the end of its container")


def test_two_hosts_are_two_containers_on_a_network_of_their_own(account, localaws, engine):
    described = account.train(hosts=2)
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    log = account.log(described["TrainingJobName"])
    assert "training_accuracy=" in log["algo-1"]
    assert "algo-2 has nothing to do" in log["algo-2"]
    assert not localaws.networks()


# Has algo-1 wait for a word from each other host, on the interface that resourceconfig.json names; what comes then, the
# test says.
TALK = """#!/usr/bin/env python3
import json, pathlib, socket, sys, time
config = json.loads(pathlib.Path("/opt/ml/input/config/resourceconfig.json").read_text())
assert config["network_interface_name"] in [name for _, name in socket.if_nameindex()]
if config["current_host"] == "algo-1":
    server = socket.create_server(("", 7000))
    heard = sorted(server.accept()[0].recv(100).decode() for _ in config["hosts"][1:])
    print("heard", *heard, flush=True)
else:
    for attempt in range(300):
        try:
            socket.create_connection(("algo-1", 7000)).sendall(socket.gethostname().encode())
            break
        except OSError:
            time.sleep(0.1)
"""


def test_hosts_find_each_other_by_name(account, localaws, image_of):
    described = account.train(hosts=3, image=account.push(image_of(TALK)))
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    log = account.log(described["TrainingJobName"])
    assert log["algo-1"].endswith("\nheard algo-2 algo-3")
    for host in ("algo-1", "algo-2", "algo-3"):
        assert log[host].startswith("[localaws] engine: docker. The job's hosts are containers on a network")


def test_the_host_that_failed_first_is_named_and_nothing_is_left(account, localaws, image_of):
    program = TALK + "sys.exit(3) if socket.gethostname() == 'algo-2' else time.sleep(600)\n"
    described = account.train(hosts=2, image=account.push(image_of(program)))
    assert described["FailureReason"] == "AlgorithmError: algo-2, exit code: 3"
    assert not localaws.containers()
    assert not localaws.networks()


def test_a_container_killed_for_memory_ends_as_aws_words_it(account, image_of):
    program = """#!/usr/bin/env python3
block = []
for _ in range(96):  # 6 GiB: the machine survives a limit that is not kept
    block.append(b"x" * (64 << 20))
"""
    described = account.train(instance="ml.t3.medium", image=account.push(image_of(program)))
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("ClientError: Please use an instance type with more memory")


def test_a_table_that_one_host_has_no_memory_for_trains_on_four(account, localaws, engine):
    """512 MB as float32, which take twice that on one host. An instance type has 4 GiB at least, so less is said here."""
    random, rows, features = np.random.default_rng(0), 200_000, 160
    text = np.full((rows, 2 * features + 2), ord(","), np.uint8)
    for number in range(4):
        text[:, 2:-1:2] = random.integers(ord("0"), ord("9"), (rows, features), endpoint=True)
        text[:, 0] = ord("0") + (text[:, 2] + text[:, 4] > 2 * ord("4"))
        text[:, -1] = ord("\n")
        account.s3.put_object(Bucket=BUCKET, Key=f"large/{number}.csv", Body=text.tobytes())
    image = account.push(BOOSTING)

    def limited(hosts: int) -> dict:
        name = account.start(
            hosts,
            image=image,
            uri=f"s3://{BUCKET}/large/",
            sharded=True,
            hyperparameters={"n_estimators": "2"},
        )
        containers = until(lambda: len(found := localaws.containers()) == hosts and found, 60, "hosts")
        engine("update", "--memory=850m", "--memory-swap=850m", *containers)
        return account.finish(name)

    assert limited(1)["FailureReason"].startswith("ClientError: Please use an instance type with more memory")
    described = limited(4)
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert "training_rows=800000" in account.log(described["TrainingJobName"])["algo-1"]


def test_a_server_killed_for_memory_comes_back_and_its_log_tells(account, localaws, image_of):
    program = """#!/usr/bin/env python3
import os, signal
from http.server import BaseHTTPRequestHandler, HTTPServer
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        rows = self.rfile.read(int(self.headers["Content-Length"])).split()
        block = [b"x" * (64 << 20) for _ in rows[1:97]]  # for 97 rows 6 GiB, of ml.t2.medium's 4
        self.do_GET()
HTTPServer(("", 8080), Handler).serve_forever()
"""
    name = f"memory-{uuid.uuid4().hex[:8]}"
    account.endpoint(name, image=account.push(image_of(program, "serve")))
    before = localaws.containers()
    with pytest.raises(account.runtime.exceptions.ModelError):
        account.predict(name)
    until(lambda: localaws.containers() not in ([], before), 60, "another container")
    until(lambda: account.answer(name, ROWS[:1]) == [], 60, "an answer")
    account.delete(name)
    log = account.logs.filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{name}")["events"]
    assert any("exit code 137, killed for memory" in event["message"] for event in log)


def test_a_serverless_endpoint_has_its_memory_and_writes_to_tmp_alone(
    account, localaws, job, engine, scikit_learn
):
    name = f"serverless-{uuid.uuid4().hex[:8]}"
    account.model(name, job["ModelArtifacts"]["S3ModelArtifacts"])
    variant = {"VariantName": "all", "ModelName": name}
    variant["ServerlessConfig"] = {"MemorySizeInMB": 1024, "MaxConcurrency": 5}
    account.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    account.in_service(name)
    [container] = localaws.containers()
    [state] = json.loads(engine("inspect", container).stdout)
    assert (state["HostConfig"]["Memory"], state["HostConfig"]["ReadonlyRootfs"]) == (1 << 30, True)
    assert account.predict(name) == scikit_learn
    account.delete(name)


def test_a_transform_s_container_has_the_limits_of_its_instance(account, localaws, engine, job):
    name = f"limits-{uuid.uuid4().hex[:8]}"
    account.model(name, job["ModelArtifacts"]["S3ModelArtifacts"])
    with ThreadPoolExecutor() as pool:
        transform = pool.submit(account.transform, name)
        [container] = until(localaws.containers, 30, "its container")
        [state] = json.loads(engine("inspect", container).stdout)
        assert transform.result()["TransformJobStatus"] == "Completed"
    limits = docker._limits("ml.m5.large")
    host = state["HostConfig"]
    assert limits[:2] == [f"--cpus={host['NanoCpus'] / 1e9:.0f}", f"--memory={host['Memory']}"]


def test_a_failure_tells_its_cause(account):
    account.s3.put_object(Bucket=BUCKET, Key="bad/bad.csv", Body="a,1,2\nb,x,4\n")
    described = account.train(uri=f"s3://{BUCKET}/bad/")
    assert described["TrainingJobStatus"] == "Failed"
    assert "bad.csv: row 2, column 2: 'x'" in described["FailureReason"]


def test_an_image_that_localaws_built_runs_as_a_process(account, localaws):
    name = f"sagemaker-{uuid.uuid4().hex[:8]}"
    uri = localaws.client("ecr").create_repository(repositoryName=name)["repository"]["repositoryUri"]
    localaws.command("build", "decision_trees", "-t", name)
    localaws.command("push", name, uri)
    described = account.train(image=uri)
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert "engine: process" in account.log(described["TrainingJobName"])["algo-1"]


def test_what_a_killed_server_left_is_removed_at_the_next_start(engine, tmp_path, scikit_learn, image_of):
    aws = LocalAws(tmp_path / "home", LOCALAWS_ENGINE="docker")
    aws.up()
    try:
        account = Account(aws, engine)
        data = account.train()["ModelArtifacts"]["S3ModelArtifacts"]
        for name in ("one", "two"):
            account.endpoint(name, data)
        job = account.start(hosts=2, image=account.push(image_of(TALK + "time.sleep(600)\n")))
        until(lambda: "heard algo-2" in account.log(job).get("algo-1", ""), 60, "hosts that talk")
        before = aws.containers()
        assert (len(before), len(aws.networks())) == (4, 1)
        os.kill(json.loads((aws.home / "server.json").read_text())["pid"], signal.SIGKILL)
        aws.up()
        account.runtime = aws.client("sagemaker-runtime")
        account.sagemaker = aws.client("sagemaker")
        for name in ("one", "two"):
            account.in_service(name)
            assert account.predict(name) == scikit_learn
        after = aws.containers()
        assert (len(after), len(aws.networks())) == (2, 0)
        assert not set(after) & set(before)

        os.kill(json.loads((aws.home / "server.json").read_text())["pid"], signal.SIGKILL)
    finally:
        aws.command("down")
    assert not aws.containers()


def test_an_engine_of_another_name_is_refused(engine, tmp_path):
    aws = LocalAws(tmp_path / "home", LOCALAWS_ENGINE="podman")
    with pytest.raises(AssertionError, match="LOCALAWS_ENGINE=podman is none of docker, process"):
        aws.up()


def test_docker_that_is_asked_for_and_does_not_answer_is_an_error(tmp_path):
    aws = LocalAws(tmp_path / "home", LOCALAWS_ENGINE="docker", DOCKER_HOST=f"unix://{tmp_path}/none")
    with pytest.raises(AssertionError, match="LOCALAWS_ENGINE=docker, but no Docker engine answers"):
        aws.up()


def test_network_isolation_of_training_jobs(account, image_of, localaws, engine):
    """A job of one host has no network; the hosts of a job have one without a way out, and find each other in it."""
    program = """#!/usr/bin/env python3
import json, pathlib, socket, time
print("eth0" if "eth0" in [name for _, name in socket.if_nameindex()] else "no network")
config = json.loads(pathlib.Path("/opt/ml/input/config/resourceconfig.json").read_text())
deadline = time.monotonic() + 30
while len(config["hosts"]) > 1 and time.monotonic() < deadline:
    try:
        print("found", *[socket.gethostbyname(host) for host in config["hosts"]])
        time.sleep(3)  # to be looked at; and a host that has ended has no name any more
        break
    except OSError:
        time.sleep(0.1)
"""
    image = account.push(image_of(program))
    for isolated, said in ((False, "eth0"), (True, "no network")):
        described = account.train(image=image, EnableNetworkIsolation=isolated)
        assert described["EnableNetworkIsolation"] is isolated
        assert account.log(described["TrainingJobName"])["algo-1"].strip() == said
    with ThreadPoolExecutor() as pool:
        job = pool.submit(account.train, hosts=2, image=image, EnableNetworkIsolation=True)
        [network] = until(localaws.networks, 30, "the network of two hosts")
        internal = engine("network", "inspect", "--format", "{{.Internal}}", network).stdout.strip()
        described = job.result()
    assert internal == "true"
    said = account.log(described["TrainingJobName"])["algo-1"]
    assert re.fullmatch(r".*, and nobody else\.\s+eth0\s+found [\d.]+ [\d.]+", said.strip())


def test_network_isolation_of_models(account, localaws, job, engine, scikit_learn):
    """Endpoints and transform jobs: no port is published, there is no way out, and they answer all the same."""
    name = f"alone-{uuid.uuid4().hex[:8]}"
    account.endpoint(name, job["ModelArtifacts"]["S3ModelArtifacts"], EnableNetworkIsolation=True)
    assert account.sagemaker.describe_model(ModelName=name)["EnableNetworkIsolation"] is True
    assert account.predict(name) == scikit_learn
    [container] = localaws.containers()
    assert engine("port", container).stdout == ""
    ask = "import socket; socket.getaddrinfo('no-such-host.invalid', 80)"
    patience = "--env=RES_OPTIONS=timeout:1 attempts:1"
    asked = engine("exec", patience, container, "python3", "-c", ask, check=False)
    assert (
        "Temporary failure in name resolution" in asked.stderr
    )  # nobody has answered, not even that there is none
    [network] = localaws.networks()
    assert engine("network", "inspect", "--format", "{{.Internal}}", network).stdout.strip() == "true"
    engine("kill", container)
    until(lambda: localaws.containers() not in ([], [container]), 60, "another container")
    assert until(lambda: account.answer(name), 60, "an answer") == scikit_learn
    account.delete(name)
    described = account.transform(name)
    assert described["TransformJobStatus"] == "Completed", described.get("FailureReason")
    until(lambda: not localaws.containers() and not localaws.networks(), 30, "the end of them all")


@pytest.mark.parametrize(
    ("instance_type", "cpus", "gib"),
    [
        ("ml.t3.medium", 2, 4),
        ("ml.m5.large", 2, 8),
        ("ml.c5.xlarge", 4, 8),
        ("ml.r5.2xlarge", 8, 64),
        ("ml.m7i-flex.4xlarge", 16, 64),
    ],
)
def test_limits_follow_the_instance_type_within_the_machine(monkeypatch, instance_type, cpus, gib):
    machine = {"cpus": 1000, "memory": 1 << 50}
    monkeypatch.setattr(docker.psutil, "cpu_count", lambda: machine["cpus"])
    memory = SimpleNamespace(total=machine["memory"])
    monkeypatch.setattr(docker.psutil, "virtual_memory", lambda: memory)
    words = [f"--cpus={cpus}", f"--memory={gib << 30}", f"--memory-swap={gib << 30}"]
    assert docker._limits(instance_type) == words
    machine["cpus"], memory.total = 1, 1 << 30
    assert docker._limits(instance_type) == [
        "--cpus=1",
        f"--memory={1 << 30}",
        f"--memory-swap={1 << 30}",
    ]
