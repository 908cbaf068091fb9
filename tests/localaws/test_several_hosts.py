"""gradient_boosting on several hosts of a job: Dask brings them together, and they end together."""

import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from contextlib import suppress

import numpy as np
import onnxruntime
import psutil
import pytest
import tiny
from sklearn.metrics import roc_auc_score
from test_hosts import program, running
from waiting import wait_until

from localaws.state import locate

# Each host imports XGBoost and Dask, for a second of a CPU or two, and all share this machine's.
PATIENCE = 120
pytestmark = pytest.mark.timeout(2 * PATIENCE)


@pytest.fixture(scope="module")
def account(kernel, localaws, tmp_path_factory):
    """One whose image is that of gradient_boosting, with a bucket that has four files of rows."""
    folder = locate.ROOT / "container"
    lock = folder / "gradient_boosting/requirements-train.lock"
    # Made here if need be, at its leisure.
    subprocess.run([sys.executable, folder / "environment", lock], check=True, capture_output=True)
    made, name = tiny.account(localaws, tmp_path_factory.mktemp("several")), f"trees-{uuid.uuid4().hex[:8]}"
    repository = localaws.client("ecr").create_repository(repositoryName=name)["repository"]
    localaws.command("build", "gradient_boosting", "-t", name)
    localaws.command("push", name, repository["repositoryUri"])
    made.image = repository["repositoryUri"]
    for number in range(4):
        made.put(f"rows/{number}.csv", csv(number))
    return made


def table(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with few values, of which every host makes the same bins, and a class that they tell with some noise."""
    numbers = np.random.default_rng(seed)
    features = numbers.integers(-20, 21, (count, 4)).astype(np.float32)
    noise = numbers.normal(0, 8, count)
    return features, features[:, 0] + features[:, 1] * np.sign(features[:, 2]) + noise > 0


def csv(seed: int, count: int = 1000) -> str:
    rows = zip(*table(seed, count), strict=True)
    return "".join(f"{'yes' if yes else 'no'},{','.join(map(str, row))}\n" for row, yes in rows)


def start(account, hosts: int, *channels: dict, image: str = "", **hyperparameters) -> str:
    """A job's name, which learns from what is sharded over its hosts."""
    sharded = tiny.channel("training", f"s3://{account.bucket}/rows/", distribution="ShardedByS3Key")
    request = account.training_request(**hyperparameters) | {"InputDataConfig": [*channels] or [sharded]}
    request["ResourceConfig"]["InstanceCount"] = hosts
    if image:
        request["AlgorithmSpecification"]["TrainingImage"] = image
    account.sagemaker.create_training_job(**request)
    return request["TrainingJobName"]


def finish(account, name: str) -> dict:
    def ended():
        job = account.sagemaker.describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return wait_until(ended, PATIENCE)


def log(account, name: str) -> str:
    return "\n".join(account.lines("/aws/sagemaker/TrainingJobs", f"{name}/"))


def files(account, job: dict, kind: str) -> dict[str, bytes]:
    packed = account.get(job["ModelArtifacts"]["S3ModelArtifacts"].replace("model.tar.gz", f"{kind}.tar.gz"))
    with tarfile.open(fileobj=io.BytesIO(packed)) as found:
        return {file.name: found.extractfile(file).read() for file in found if file.isfile()}


def processes(name: str, host: str) -> list[psutil.Process]:
    """Of a host of a job: train, its child, and the worker; none where it has not begun."""
    with suppress(AssertionError, psutil.Error):
        first = program(name, host)
        return [first, *first.children(recursive=True)]
    return []


def kill(name: str, host: str, moment: float) -> None:
    """End one of a host's processes, at random as the moment is, in seconds since the host began."""
    wait_until(lambda: processes(name, host), PATIENCE)
    time.sleep(moment)
    random.choice(processes(name, host)).kill()


def test_four_hosts_learn_what_one_does_of_rows_that_each_count_once(account):
    """Dask counts the rows that were answered; the trees are those of all rows, each once, or they would be others."""
    whole = tiny.channel("validation", f"s3://{account.bucket}/rows/")
    sharded = tiny.channel("training", f"s3://{account.bucket}/rows/", distribution="ShardedByS3Key")
    models = {}
    for hosts in (1, 4):
        job = finish(account, name := start(account, hosts, sharded, whole, n_estimators="10"))
        assert job["TrainingJobStatus"] == "Completed", (job.get("FailureReason"), log(account, name))
        for channel in ("training", "validation"):
            assert f"{channel}_rows=4000" in log(account, name)
        model = files(account, job, "model")
        assert list(model) == ["model.onnx"]
        models[hosts] = onnxruntime.InferenceSession(model["model.onnx"])
    told = json.loads(files(account, job, "output")["dask.json"])["hosts"]
    assert list(told) == ["algo-1", "algo-2", "algo-3", "algo-4"]
    assert all(host["channels"]["training"] == {"files": 1, "rows": 1000} for host in told.values())
    assert all(host["interface_sent_bytes"] > host["dask_sent_bytes"] > 0 for host in told.values())
    features, yes = table(9, 5000)
    one, four = (model.run(["probabilities"], {"features": features})[0][:, 1] for model in models.values())
    assert 0.7 < roc_auc_score(yes, one) < 0.99
    # The features have fewer values than XGBoost makes bins, so there is nothing that hosts could see otherwise.
    np.testing.assert_allclose(one, four, atol=1e-4)


# Beside README's example, told apart by a hyperparameter.
OF_ITS_OWN = """import sys
import example
from sklearn.tree import DecisionTreeClassifier
from stack import onnx_model, tables


def divide(by):
    return 1 / by


def train(hyperparameters, channels, model_dir, client):
    match hyperparameters.get("ends", "well"):
        case "on a host":
            client.submit(divide, 0).result()
        case "in fit":
            table, _ = tables.read(channels, client=client)
            onnx_model.fit(DecisionTreeClassifier(), table, {})
    metrics = example.train(hyperparameters, channels, model_dir, client)
    print("without XGBoost:", "xgboost" not in sys.modules)
    return metrics
"""


@pytest.fixture(scope="module")
def own_image(account, tmp_path_factory) -> str:
    """One that trains container/README's example of an algorithm that is not XGBoost's."""
    container, folder = locate.ROOT / "container", tmp_path_factory.mktemp("own") / "program"
    shutil.copytree(container / "stack", folder / "stack", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(container / "gradient_boosting/requirements-train.lock", folder)
    (example,) = re.findall(r"```python\n([^`]*GaussianNB[^`]*)```", (container / "README.md").read_text())
    for name, text in (("example", example), ("training", OF_ITS_OWN), ("predictor", "")):
        (folder / f"{name}.py").write_text(text)
    (folder / "train").write_text('#!/bin/sh\nexec "${0%/*}/stack/train"\n')
    (folder / "train").chmod(0o755)
    name = f"own-{uuid.uuid4().hex[:8]}"
    repository = account.aws.client("ecr").create_repository(repositoryName=name)["repository"]
    account.aws.command("build", f"{folder}/", "-t", name)
    account.aws.command("push", name, repository["repositoryUri"])
    return repository["repositoryUri"]


def test_readmes_example_learns_the_same_on_any_number_of_hosts(account, own_image):
    features, _ = table(9, 500)
    models = {}
    for hosts in (1, 3):
        job = finish(account, name := start(account, hosts, image=own_image))
        assert job["TrainingJobStatus"] == "Completed", (job.get("FailureReason"), log(account, name))
        assert "without XGBoost: True" in log(account, name)
        model = onnxruntime.InferenceSession(files(account, job, "model")["model.onnx"])
        models[hosts] = model.run(["probabilities"], {"features": features})[0]
    np.testing.assert_allclose(models[1], models[3], atol=1e-5)


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ("on a host", "algo-1: training.py, line 8: ZeroDivisionError: division by zero"),
        ("in fit", "algo-1: DecisionTreeClassifier learns on one host, and of several XGBClassifier and"),
    ],
)
def test_what_an_algorithm_of_ones_own_does_wrong_is_told_as_the_first_hosts(account, own_image, ends, why):
    reason = finish(account, start(account, 2, image=own_image, ends=ends))["FailureReason"]
    assert reason.startswith(f"AlgorithmError: {why}")


@pytest.mark.parametrize(
    ("hosts", "victim"),
    [(2, "algo-1"), (2, "algo-2")]
    + [pytest.param(4, f"algo-{1 + k % 4}", marks=pytest.mark.slow, id=f"{k}") for k in range(10)],
)
def test_a_host_that_dies_at_any_moment_ends_all_by_its_name(account, hosts, victim):
    name = start(account, hosts, n_estimators="100000")
    kill(name, victim, moment := random.uniform(0, 3 * hosts))
    killed = time.monotonic()
    job = finish(account, name)
    assert job["TrainingJobStatus"] == "Failed", moment
    assert victim in job["FailureReason"], (moment, log(account, name))
    assert time.monotonic() - killed < 60
    assert not running(name)


@pytest.mark.slow
@pytest.mark.timeout(20 * PATIENCE)
def test_twenty_jobs_of_four_hosts_complete(account):
    for _ in range(20):
        job = finish(account, start(account, 4, n_estimators="10"))
        assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")


def test_all_hosts_stop_with_their_job(account):
    name = start(account, 2, n_estimators="100000")
    wait_until(lambda: "rows by host" in log(account, name), PATIENCE)
    account.sagemaker.stop_training_job(TrainingJobName=name)
    job = finish(account, name)
    assert job["TrainingJobStatus"] == "Stopped"
    assert log(account, name).count("train: stopped by SIGTERM") == 2
    assert not running(name)


def test_a_bad_row_is_told_with_its_host(account):
    for number, text in enumerate((csv(0, 10), csv(1, 10) + "yes,1,2,three,4\n")):
        account.put(f"bad/{number}.csv", text)
    sharded = tiny.channel("training", f"s3://{account.bucket}/bad/", distribution="ShardedByS3Key")
    reason = finish(account, start(account, 2, sharded))["FailureReason"]
    assert "algo-2: training/" in reason
    assert "1.csv: row 11, column 4: 'three'" in reason
