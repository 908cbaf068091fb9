"""What a host says before there is a cluster. How several train, tests/localaws/test_several_hosts.py holds."""

import subprocess
import sys

import pytest
from conftest import ROOT, lay_out, run_training

BOOSTING = ROOT / "container/gradient_boosting"


@pytest.fixture(scope="module")
def python():
    lock = BOOSTING / "requirements-train.lock"
    program = [sys.executable, ROOT / "container/environment", lock]
    return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.mark.timeout(60)
def test_an_interface_that_is_not_there_is_named(tmp_path, python):
    resources = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth7"}
    config = {"resourceconfig.json": resources}
    base = lay_out(tmp_path / "ml", {"training": {"0.csv": "yes,1\nno,2\n"}}, config=config)
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
