"""make new: an algorithm of one's own from a template, or a word on why not."""

import os
import shutil
import subprocess
import sys

import pytest

from workshop import ROOT, new
from workshop.contract.program import free_port

LIKE = new.templates()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of container/, in which a folder may be made."""
    ignored = shutil.ignore_patterns("__pycache__", "local_test")
    shutil.copytree(ROOT / "container", tmp_path / "container", ignore=ignored)
    (tmp_path / "data").symlink_to(ROOT / "data")
    for name in (".venv", "utils", "pyproject.toml", "requirements.lock"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr(new, "CONTAINER", tmp_path / "container")
    return tmp_path


def own_test_passes(clone, name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"container/{name}"]
    ended = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "1 passed" in ended.stdout


def test_there_are_three_templates():
    assert LIKE == ["blank", "image", "tabular"]


@pytest.mark.parametrize("like", LIKE)
def test_what_is_new_passes_its_own_test_at_once(clone, like):
    folder = new.create("my_own", like)
    assert folder == clone / "container/my_own"
    texts = {path.name: path.read_text(errors="replace") for path in folder.iterdir()}
    assert {"training.py", "predictor.py", "my_own_test.py", "requirements-train.lock"} <= texts.keys()
    assert not [name for name, text in texts.items() if new.PLACEHOLDER in text]
    assert all("TODO" in texts[name] for name in ("training.py", "predictor.py", "my_own_test.py"))
    own_test_passes(clone, "my_own")


TRAINING = """
import json

def train(hyperparameters, channels, model_dir):
    print("epoch=1 loss=0.5")
    (model_dir / "model.json").write_text(json.dumps([hyperparameters, sorted(channels)]))
    return {"channels": len(channels)}
"""
PREDICTOR = """
def model_fn(model_dir):
    return (model_dir / "model.json").read_text()

def input_fn(body, content_type):
    return body

def predict_fn(data, model):
    return model

def output_fn(prediction, accept):
    return prediction
"""
ITS_TEST = """
import json
import pytest

def test_the_fixture(algorithm):
    with pytest.raises(AssertionError, match="nothing is trained yet"):
        algorithm.ask("payload.txt", "text/plain")
    assert algorithm.train("data/iris.csv") == {"channels": 1}
    assert json.loads(algorithm.ask("payload.txt", "text/plain")) == [{}, ["training"]]
    data = {"training": "data/iris.csv", "validation": "data/colours"}
    assert algorithm.train(data, data="text", layers=[16, 8], fast=True, most=None, rate=0.5) == {"channels": 2}
    strings = (algorithm.base / "input/config/hyperparameters.json").read_text()
    assert json.loads(strings) == {
        "data": "text", "layers": "[16, 8]", "fast": "true", "most": "null", "rate": "0.5"
    }
    decoded, channels = json.loads(algorithm.ask("payload.txt", "text/plain"))
    assert decoded == {"data": "text", "layers": [16, 8], "fast": True, "most": None, "rate": 0.5}
    assert channels == ["training", "validation"]
"""


def test_an_own_test_may_train_twice_on_several_channels_with_any_hyperparameter(clone):
    folder = new.create("twice", "blank")
    for name, text in {"training.py": TRAINING, "predictor.py": PREDICTOR, "twice_test.py": ITS_TEST}.items():
        (folder / name).write_text(text)
    own_test_passes(clone, "twice")


def test_what_is_new_is_formatted_whatever_its_name(clone):
    for i, like in enumerate(LIKE):
        new.create("a_rather_long_name_for_an_algorithm_i" + "i" * i, like)
    ruff = [sys.executable, "-m", "ruff"]
    for arguments in (["check"], ["format", "--check"]):
        ended = subprocess.run(
            [*ruff, *arguments, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "container"],
            cwd=clone, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout


REFUSED = {
    "none": ("", "make new NAME=my_algorithm"),
    "a dash": ("a-b", "small letters, digits and _"),
    "a path": ("../x", "small letters, digits and _"),
    "a digit first": ("1st", "a letter first"),
    "not ASCII": ("bäume", "small letters, digits and _"),
    "the stack": ("stack", "take another name"),
    "the templates": ("templates", "take another name"),
    "a program": ("install", "take another name"),
    "an algorithm": ("decision_trees", "take another name"),
    "in capitals, which no image's name has": ("MyAlgo", "an image gets this name"),
    "_ at its end": ("mine_", "digits and _ between them"),
    "what git ignores": ("build", "git ignores every folder build/"),
}


@pytest.mark.parametrize(("name", "words"), REFUSED.values(), ids=REFUSED)
def test_a_name_is_refused_in_words(clone, name, words):
    before = sorted(path.name for path in (clone / "container").iterdir())
    with pytest.raises(new.NewError, match=words):
        new.create(name)
    assert sorted(path.name for path in (clone / "container").iterdir()) == before


def test_an_unknown_template_is_refused_with_those_that_there_are(clone):
    with pytest.raises(new.NewError, match="there are blank, image, tabular"):
        new.create("mine", "sound")


def test_make_new_says_what_is_wrong():
    ended = subprocess.run(["make", "new", "NAME=decision_trees"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "new: NAME=decision_trees: container/decision_trees is there already" in ended.stderr


@pytest.mark.parametrize(("like", "answer"), [("tabular", "setosa\nsetosa\n"), ("image", '"label": "red"')])
def test_make_new_says_what_comes_next(clone, capsys, monkeypatch, like, answer):
    monkeypatch.setattr(sys, "argv", ["new", "mine", "--like", like])
    assert new.main() == 0
    said = capsys.readouterr().out
    assert "\n  make check-container ALGORITHM=mine\n" in said
    for command in ("pytest container/mine ", "container/lock.sh mine ", "localaws build mine -t mine "):
        assert command in said
    assert "TODO: mine_test.py, predictor.py, training.py." in said
    # What it prints to be pasted works when it is pasted.
    port = str(free_port())
    pasted = said.partition("/opt/ml:\n")[2].partition("\ncontainer/README")[0].replace("8080", port)
    script = f"trap 'kill $!; wait' EXIT\n{pasted}"
    env = os.environ | {"SAGEMAKER_BIND_TO_PORT": port}
    ended = subprocess.run(["bash", "-ec", script], cwd=clone, env=env, capture_output=True, text=True)
    assert ended.returncode == 0 and answer in ended.stdout, ended.stdout + ended.stderr
