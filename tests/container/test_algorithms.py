"""Every algorithm in container/: few lines of its own, the files that an image needs, and the whole contract."""

import ast
import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import algorithms
import pytest
from conftest import ROOT, Server, environment, lay_out, run_training

TRACKED = subprocess.run(
    ["git", "ls-files", "container/*/training.py"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
# A learner's own folder, which git does not track, is not held to what follows.
FOLDERS = sorted(ROOT / Path(name).parent for name in TRACKED if name.count("/") == 2)
FILES = ["training.py", "predictor.py", "README.md", "labs.json"]
FILES += [f"requirements-{verb}.{kind}" for verb in ("train", "serve") for kind in ("txt", "lock")]
TABULAR = [
    folder for folder in FOLDERS if folder.name in algorithms.ALL and algorithms.ALL[folder.name].tabular
]

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
each_of_tables = pytest.mark.parametrize("folder", TABULAR, ids=lambda folder: folder.name)
others = pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if f.name != "decision_trees"], ids=lambda folder: folder.name
)


def code_lines(file: Path) -> list[str]:
    """A file's lines without blank ones, comments and docstrings."""
    text = file.read_text()
    strings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            strings |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return [line for i, line in lines if i not in strings and line.strip() and line.strip()[0] != "#"]


def own_code(folder: Path) -> list[str]:
    return [line for file in sorted(folder.glob("*.py")) for line in code_lines(file)]


@pytest.fixture(scope="module")
def python():
    """The Python in which an algorithm runs off Docker. The one place that skips where its packages cannot be had."""

    def of(folder: Path) -> str:
        program = ROOT / "container/environment"
        if not program.exists():
            return sys.executable
        locks = sorted(folder.glob("requirements-*.lock"))
        made = subprocess.run([sys.executable, "-I", program, *locks], capture_output=True, text=True)
        if made.returncode and "connect this machine" in made.stderr and "CI" not in os.environ:
            pytest.skip(f"the packages of {folder.name} cannot be had without a network")
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    return of


def test_these_are_the_algorithms():
    assert [folder.name for folder in FOLDERS] == sorted(algorithms.ALL)


@each_of_tables
def test_an_algorithm_is_a_dozen_lines(folder):
    assert len(own_code(folder)) <= 12


def test_four_more_algorithms_are_few_lines():
    assert sum(len(own_code(folder)) for folder in TABULAR) <= 120


def test_no_two_algorithms_share_six_lines():
    def runs(folder):
        lines = own_code(folder)
        return {tuple(lines[i : i + 6]) for i in range(len(lines) - 5)}

    for one, two in itertools.combinations(FOLDERS, 2):
        assert not runs(one) & runs(two), f"{one.name} and {two.name}"


@each_folder
def test_an_algorithm_has_its_files(folder):
    assert not [name for name in FILES if not (folder / name).exists()]
    assert len(list(folder.glob("payload.*"))) == 1


@contextlib.contextmanager
def hyperparameters(base: Path, brief: dict):
    """A folder in which README's command trains with these, where its defaults take long; and without its checkpoints."""
    file = base / "input/config/hyperparameters.json"
    shutil.rmtree(base / "checkpoints", ignore_errors=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(brief))
    try:
        yield
    finally:
        file.unlink()
        shutil.rmtree(base / "checkpoints", ignore_errors=True)


@each_folder
def test_the_readme_is_five_lines_whose_commands_work(folder, python):
    python(folder)
    lines = (folder / "README.md").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"# {folder.name}: ")
    train, serve, invoke = re.findall(r"`([^`]+)`", "".join(lines[1:3]))
    base = ROOT / "build/ml" / folder.name
    with hyperparameters(base, algorithms.ALL[folder.name].brief):
        ended = subprocess.run(train, shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert serve == f"SAGEMAKER_BASE_DIR={base.relative_to(ROOT)} container/run {folder.name} serve"
    server = Server([ROOT / "container/run", folder.name, "serve"], base, base / "serve.log")
    try:
        command = shlex.split(invoke.replace("localhost:8080", f"127.0.0.1:{server.port}"))
        answers = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    finally:
        server.close()
    if folder in TABULAR:
        assert len(answers) == len((folder / "payload.csv").read_text().splitlines())
    assert answers
    assert not any("error" in answer for answer in answers)


def data_of(algorithm: algorithms.Algorithm) -> dict:
    """The channels that README trains it on; of pictures some that are smaller."""
    if not algorithm.tabular:
        return algorithm.channels
    return {"training": {"data.csv": (ROOT / "data" / algorithm.data).read_text()}}


@each_folder
def test_the_readmes_hyperparameters_are_some(folder, python, tmp_path):
    """Those that it calls worth trying, with the value in brackets, are taken."""
    python(folder)
    line = (folder / "README.md").read_text().splitlines()[3]
    named = dict(re.findall(r"`(\w+)` \(`?([\w.]+)`?", line))
    assert len(named) >= 2
    algorithm = algorithms.ALL[folder.name]
    base = lay_out(tmp_path / "ml", data_of(algorithm), named | algorithm.brief)
    ended = run_training([str(ROOT / "container/run"), folder.name, "train"], base)
    assert ended.code == 0


@each_of_tables
def test_the_payload_is_rows_of_the_data(folder):
    text = data_of(algorithms.ALL[folder.name])["training"]["data.csv"]
    rows = {line.partition(",")[2] for line in text.splitlines()}
    assert set((folder / "payload.csv").read_text().split()) <= rows


@others
@pytest.mark.timeout(600)
def test_it_keeps_the_whole_contract(folder, python):
    """The strict tables, and how a server lives, with this algorithm in the place of decision_trees."""
    python(folder)
    tables = [f"tests/container/test_{name}.py" for name in ("contract_serving", "contract_training", "life")]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", *tables]
    env = environment(BYOA_ALGORITHM=folder.name) | {"PYTHONDONTWRITEBYTECODE": "1"}
    env = {name: value for name, value in env.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:]
    passed = int(re.search(r"(\d+) passed", ended.stdout)[1])
    assert passed > (260 if folder in TABULAR else 90), "rows of the tables were left out"


def test_xgboost_is_answered_for_exactly(python):
    folder = ROOT / "container/gradient_boosting"
    command = [python(folder), ROOT / "tests/container/xgboost_edges.py"]
    ended = subprocess.run(command, cwd=ROOT / "container", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"(\d{4} rows 0 differ\n){2}", ended.stdout)
