"""gradient_boosting on several hosts of a job: Dask brings them together, and they end together."""

import io
import json
import random
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


def start(account, hosts: int, *channels: dict, **hyperparameters) -> str:
    """A job's name, which learns from what is sharded over its hosts."""
    sharded = tiny.channel("training", f"s3://{account.bucket}/rows/", distribution="ShardedByS3Key")
    request = account.training_request(**hyperparameters) | {"InputDataConfig": [*channels] or [sharded]}
    request["ResourceConfig"]["InstanceCount"] = hosts
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
