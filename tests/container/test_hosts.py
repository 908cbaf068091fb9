"""gradient_boosting on several hosts: each a process tree, in a name space where their names are addresses of loopback.

A job costs ten to twenty seconds here, since each host imports Dask, XGBoost and what they need, on the same CPUs.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT, environment, lay_out, run_training

BOOSTING = ROOT / "container/gradient_boosting"
DISTRIBUTION = {"training": "ShardedByS3Key", "validation": "FullyReplicated"}


def can_separate() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not can_separate(), reason="the kernel gives no name space, in which hosts could have names"
)


@pytest.fixture(scope="module")
def python():
    lock = BOOSTING / "requirements-train.lock"
    program = [sys.executable, ROOT / "container/environment", lock]
    return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with few values, of which every host makes the same bins, and a class that they tell with some noise."""
    random = np.random.default_rng(seed)
    features = random.integers(-20, 21, (count, 4)).astype(np.float32)
    noise = random.normal(0, 8, count)
    return features, features[:, 0] + features[:, 1] * np.sign(features[:, 2]) + noise > 0


def csv(seed: int, count: int = 1000) -> str:
    features, yes = rows(seed, count)
    return "".join(
        f"{'yes' if y else 'no'},{','.join(map(str, row))}\n" for y, row in zip(yes, features, strict=True)
    )


def auc(model, features: np.ndarray, yes: np.ndarray) -> float:
    """The chance that a row of class yes gets more than one of the other."""
    probabilities = model.run(["probabilities"], {"features": features})[0][:, 1]
    ranks = np.searchsorted(np.sort(probabilities), probabilities, "left") + np.searchsorted(
        np.sort(probabilities), probabilities, "right"
    )
    return float((ranks[yes].mean() - yes.sum()) / 2 / (~yes).sum())


@pytest.fixture
def job(tmp_path, python):
    """job([channels of the first host, of the second …]): how each host ended, by name. `validation` is on all hosts."""

    def run(hosts_channels: list[dict], hyperparameters=None, kill=()) -> dict:
        hosts = [f"algo-{number}" for number in range(1, len(hosts_channels) + 1)]
        for host, channels in zip(hosts, hosts_channels, strict=True):
            inputs = {
                name: {"TrainingInputMode": "File", "S3DistributionType": DISTRIBUTION[name]}
                for name in channels
            }
            resources = {"current_host": host, "hosts": hosts, "network_interface_name": "lo"}
            config = {"inputdataconfig.json": inputs, "resourceconfig.json": resources}
            shutil.rmtree(tmp_path / host, ignore_errors=True)
            lay_out(tmp_path / host, channels, hyperparameters, config)
        alone = ["unshare", "-rm", sys.executable, ROOT / "tests/offline/run.py", sys.executable]
        ended = subprocess.run(
            [*alone, ROOT / "tests/container/hosts.py", tmp_path, python, *kill],
            env=environment(ALGORITHM_DIR=BOOSTING),
            stdout=subprocess.PIPE,
            check=True,
        )
        for host in hosts:
            print(f"--- {host}\n{(tmp_path / f'{host}.log').read_text()}")
        return json.loads(ended.stdout.splitlines()[-1])

    return run


@pytest.mark.timeout(180)
def test_hosts_train_one_model_of_all_rows(job, tmp_path):
    """Each has a file of training, and all have the two of validation, of which each file counts once."""
    files = {f"{i}.csv": csv(i) for i in range(3)}
    validation = {"a.csv": csv(7, 400), "b.csv": csv(8, 300)}
    quick = {"n_estimators": "10"}
    assert job([{"training": files}], quick)["algo-1"][0] == 0
    alone = onnxruntime.InferenceSession(tmp_path / "algo-1/model/model.onnx")
    ended = job([{"training": dict([file]), "validation": validation} for file in files.items()], quick)
    assert {host: code for host, (code, _) in ended.items()} == {"algo-1": 0, "algo-2": 0, "algo-3": 0}
    log = (tmp_path / "algo-1.log").read_text()
    assert "training_rows=3000" in log
    assert "validation_rows=700" in log
    told = json.loads((tmp_path / "algo-1/output/data/dask.json").read_text())["hosts"]
    assert [each["channels"]["training"] for each in told.values()] == [{"files": 1, "rows": 1000}] * 3
    assert [each["channels"]["validation"]["rows"] for each in told.values()] == [400, 300, 0]
    together = onnxruntime.InferenceSession(tmp_path / "algo-1/model/model.onnx")
    held_out = rows(9, 5000)
    assert 0.7 < auc(alone, *held_out) < 0.99
    assert abs(auc(alone, *held_out) - auc(together, *held_out)) < 0.002
    # The features have fewer values than XGBoost makes bins, so the very same rows, each once, make the very same trees.
    found = [model.run(["probabilities"], {"features": held_out[0]})[0][:, 1] for model in (alone, together)]
    np.testing.assert_allclose(*found, atol=1e-4)
    assert not list((tmp_path / "algo-2/model").iterdir())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", ["algo-1", "algo-2"])
def test_a_host_that_dies_ends_all_by_its_name(victim, job, tmp_path):
    ended = job(
        [{"training": {"0.csv": csv(0)}}, {"training": {"1.csv": csv(1)}}],
        hyperparameters={"n_estimators": "100000"},
        kill=(victim, "rows by host"),
    )
    other = "algo-2" if victim == "algo-1" else "algo-1"
    assert ended[victim][0] == -9
    assert ended[other][0] == 1
    assert ended[other][1] < 60
    assert (tmp_path / other / "output/failure").read_text().startswith(f"{victim} is gone")
    assert not list((tmp_path / other / "model").iterdir())


@pytest.mark.timeout(180)
def test_a_bad_row_is_told_with_its_host_by_all(job, tmp_path):
    ended = job([{"training": {"0.csv": csv(0)}}, {"training": {"1.csv": csv(1) + "yes,1,2,three,4\n"}}])
    assert {host: code for host, (code, _) in ended.items()} == {"algo-1": 1, "algo-2": 1}
    for host in ended:
        failure = (tmp_path / host / "output/failure").read_text()
        assert failure.startswith("algo-2: training/1.csv: row 1001, column 4: 'three'")


@pytest.mark.timeout(60)
def test_an_interface_that_is_not_there_is_named(tmp_path, python):
    resources = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth7"}
    config = {"resourceconfig.json": resources}
    base = lay_out(tmp_path / "ml", {"training": {"0.csv": csv(0, 10)}}, config=config)
    train = [python, ROOT / "container/stack/train"]
    ended = run_training(train, base, ALGORITHM_DIR=BOOSTING)
    assert ended.code == 1
    assert "network_interface_name 'eth7'" in ended.failure
    assert "lo" in ended.failure


def test_a_client_is_asked_for_where_dask_is_not_listed(tmp_path):
    """And on one host it is None, which needs no Dask."""
    for name, text in (
        (
            "training",
            "def train(hyperparameters, channels, model_dir, client):\n    (model_dir / 'm').write_text(str(client))",
        ),
        ("predictor", ""),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    train = [sys.executable, ROOT / "container/stack/train"]
    ended = run_training(train, lay_out(tmp_path / "one", {}), ALGORITHM_DIR=tmp_path)
    assert (ended.code, ended.model) == (0, {"m": b"None"})
    resources = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "lo"}
    base = lay_out(tmp_path / "two", {}, config={"resourceconfig.json": resources})
    ended = run_training(train, base, ALGORITHM_DIR=tmp_path)
    assert ended.code == 1
    assert "requirements-train.txt" in ended.failure
