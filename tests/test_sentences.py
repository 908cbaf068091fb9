"""What the labs' prose says of the data, the tree and the stack, against the data, the tree and the stack."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from test_labs import FILES, LABS, cells_of, each_lab

from workshop import PRICES, ROOT, exercises
from workshop.solutions import solution_of

STACK = ROOT / "container" / "stack"


def prose(lab: str) -> str:
    return "\n".join(cell.source for cell in cells_of(LABS / f"{lab}.ipynb", "markdown"))


def printed(path) -> str:
    """What the compared cells of a lab print."""
    outputs = [output for cell in cells_of(path, "code") for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


@each_lab
def test_a_number_of_flowers_is_one_that_a_compared_cell_prints_for_what_the_sentence_means(path):
    """Agreement with scikit-learn and accuracy are two numbers: prose quotes the accuracy."""
    shown = printed(path)
    for count in re.findall(r"\d+ of 150", prose(path.stem)):
        assert f"{count} are the species that the botanist wrote down" in shown, f"{path.name}: {count} what?"


def test_where_agreement_is_printed_accuracy_is_too():
    agreeing = [path for path in FILES if "scikit-learn's own" in printed(path)]
    assert len(agreeing) == 4
    for path in agreeing:
        right = "147 of 150 are the species" in printed(path) or "versicolor  virginica    3" in printed(path)
        assert right, f"{path.name} leaves 150 of 150 unexplained"


@pytest.fixture
def iris() -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(ROOT / "data" / "iris.csv", header=None)
    return table.iloc[:, 1:].to_numpy(np.float32), table[0].to_numpy()


RECORDER = """
import io
import json
from pathlib import Path

def train(hyperparameters, channels, model_dir):
    {name: [file for file, _ in channel.open_files()] for name, channel in channels.items()}
    seen = [hyperparameters, {name: type(channel).__name__ for name, channel in channels.items()}]
    (model_dir / "seen.json").write_text(json.dumps([*seen, isinstance(model_dir, Path)]))
    return {"metric": 0.5}
"""


def test_01_says_what_train_gets(tmp_path):
    (tmp_path / "training.py").write_text(RECORDER)
    for folder in ("input/config", "input/data/training"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "input/data/training/a.csv").write_text("a,1\n")
    (tmp_path / "input/config/hyperparameters.json").write_text('{"depth": "5", "fast": "true"}')
    environment = {"SAGEMAKER_BASE_DIR": str(tmp_path), "ALGORITHM_DIR": str(tmp_path)}
    train = [sys.executable, STACK / "train"]
    run = subprocess.run(train, env=environment, capture_output=True, text=True, timeout=60)
    assert run.stdout == "metric=0.5\n", run.stdout + run.stderr
    seen = json.loads((tmp_path / "model/seen.json").read_text())
    assert seen == [{"depth": 5, "fast": True}, {"training": "Channel"}, True]
    for words in ("as Python values", "has a `Channel`", "`open_files()`", "`model_dir` is a `Path`"):
        assert words in prose("01_build")


def test_01_names_what_an_algorithm_brings():
    """Its solution finds the names that the stack calls, all of them and no others."""
    names = {"stack": STACK}
    with redirect_stdout(io.StringIO()):
        exec(solution_of(ROOT / "labs" / "01_build.ipynb")[1], names)
    source = (STACK / "algorithm.py").read_text()
    called = {"model_fn", "input_fn", "predict_fn", "output_fn", "train"}
    assert set(names["names_of_mine"]) == called
    assert all(f'"{name}"' in source for name in called)
    (finding,) = exercises._build(None, names)
    assert finding[0], finding


def test_01_reads_the_files_aloud_that_are_there():
    text = prose("01_build")
    for room in ("server", "tables", "onnx_model"):
        assert (STACK / room).is_dir() and f"`{room}`" in text
    tree = ROOT / "container" / "decision_trees"
    for call in ("tables.read", "onnx_model.fit", "onnx_model.save"):
        assert f"{call}(" in (tree / "training.py").read_text() and f"`{call}`" in text
    assert "ROWS_ARE_INDEPENDENT = True" in (tree / "predictor.py").read_text()
    assert "def " not in (tree / "predictor.py").read_text(), (
        "the lab says that the tree has none of the four"
    )


def test_06_and_07_say_which_flowers_are_wrong(iris):
    X, y = iris
    tree = DecisionTreeClassifier(max_leaf_nodes=5, random_state=0).fit(X, y)
    wrong = [(was, said) for was, said in zip(y, tree.predict(X), strict=True) if was != said]
    assert wrong == [("versicolor", "virginica")] * 3
    assert "the tree takes three flowers for others" in prose("06_invoke")


def test_07_says_of_the_label_what_the_container_does():
    ask = "there are {columns} columns where {features} were expected"
    assert ask in (STACK / "server" / "app.py").read_text()
    assert ask.format(columns=5, features=4) in prose("07_batch_transform")


def test_08_says_what_leaves_do(iris):
    X, y = iris
    X, unseen, y, labels = train_test_split(X, y, test_size=0.4, stratify=y, random_state=1)

    def right(leaves: int, least: int) -> int:
        tree = DecisionTreeClassifier(max_leaf_nodes=leaves, min_samples_leaf=least, random_state=0)
        return sum(tree.fit(X, y).predict(unseen) == labels)

    assert {right(2, least) for least in range(1, 21)} == {40}, "about two thirds of 60"
    many = {right(leaves, least) for leaves in range(3, 13) for least in range(1, 21, 3)}
    assert max(many) - min(many) == 1, "beyond three leaves: one more or less"
    assert "of 60 rows, one more or less that is right makes 0.017" in prose("08_tune")


def test_10_says_who_is_ahead_and_of_how_many(iris):
    X, unseen, y, labels = train_test_split(*iris, test_size=50, stratify=iris[1], random_state=3)
    said = [
        model.fit(X, y).predict(unseen)
        for model in (DecisionTreeClassifier(max_leaf_nodes=5, random_state=0), KNeighborsClassifier())
    ]
    old, new = (sum(predicted == labels) for predicted in said)
    shown = printed(LABS / "10_bring_your_own.ipynb")
    assert f"old is right about {old} of 50\nnew is right about {new} of 50\n" in shown
    assert f"they disagree about {sum(said[0] != said[1])}\n" in shown
    assert new - old == 2 and "ahead of the tree by two flowers of 50" in prose("10_bring_your_own")


def test_10_has_the_slips_that_it_says_are_told(tmp_path):
    written = [
        cell.source.partition("\n")
        for cell in cells_of(LABS / "10_bring_your_own.ipynb", "code")
        if cell.source.startswith("%%writefile ")
    ]
    for first_line, _, text in written[:2]:
        (tmp_path / Path(first_line).name).write_text(text)
    (tmp_path / "payload.csv").write_text("5.1,3.5,1.4,0.2\n5.9,3.0,5.1,1.8\n6.3,3.3,6.0,2.5\n")
    for folder in ("input/data/training", "model", "output"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "data" / "iris.csv", tmp_path / "input/data/training")

    def said(verb: str) -> tuple[int, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = os.environ | {"SAGEMAKER_BASE_DIR": str(tmp_path), "ALGORITHM_DIR": str(tmp_path)}
        environment |= {"SAGEMAKER_BIND_TO_PORT": port, "MODEL_SERVER_ADDRESS": "127.0.0.1"}
        command = [sys.executable, STACK / verb]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return run.returncode, run.stdout + run.stderr

    code, text = said("train")
    assert (
        code == 1
        and "defines no train(hyperparameters, channels, model_dir); did you mean that by trian?" in text
    )
    source = tmp_path / "training.py"
    source.write_text(source.read_text().replace("trian", "train"))
    code, text = said("train")
    assert code == 0 and "metric best_k='None' is no number; it is left out" in text
    code, text = said("serve")
    assert code == 1 and "predictor.py: output_fn returned list; expected bytes, text" in text


def test_09_says_how_deep_the_tree_is(iris):
    assert DecisionTreeClassifier(random_state=0).fit(*iris).get_depth() == 5
    assert "A tree of depth 5 is five comparisons at most" in prose("09_speed")


def test_09_promises_nothing_of_what_the_learner_measures():
    """In either order of CSV and npy, of numpy and pandas, the prose fits."""
    text = prose("09_speed")
    assert "which of the two is ahead may change from run to run" in text
    assert "above 1 is a gain, below 1 a loss" in text
    assert "does that save" not in text


def test_12_has_fifteen_failures_and_an_index_of_words_that_its_cells_print():
    path = LABS / "12_what_goes_wrong.ipynb"
    # Its last table is of other labs' words.
    shown, text = printed(path), prose("12_what_goes_wrong").partition("Beside the fifteen")[0]
    heads = re.findall(r"^### (\d+) · ", text, re.MULTILINE)
    assert heads == [str(number) for number in range(1, 16)]
    rows = re.findall(r"^\| (?!You read|---)(.+?) \| .+? \| (.+?) \|$", text, re.MULTILINE)
    named = {number for _, mend in rows for number in re.findall(r"\d+", mend.partition(":")[0])}
    assert named == set(heads), "the index and the failures differ"
    words = [quoted for said, _ in rows for quoted in re.findall(r"`(.+?)`", said)]
    assert len(words) >= 15
    for quoted in words:
        parts = [re.escape(part) for part in re.split(r" ?… ?", quoted)]
        assert re.search(".*".join(parts), shown), f"no compared cell prints {quoted!r}"
    for place, part in enumerate(re.split(r"^### \d+ · .*$", text, flags=re.MULTILINE)[1:], 1):
        assert "**Mend:**" in part and "**Where:**" in part, f"failure {place} has no place or no mend"


def test_each_failure_of_12_is_followed_by_a_compared_cell():
    notebook = nbformat.read(LABS / "12_what_goes_wrong.ipynb", as_version=4)
    compared, number = set(), "0"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            number = (re.findall(r"^### (\d+) · ", cell.source, re.MULTILINE) or [number])[-1]
        elif cell.outputs:
            compared.add(int(number))
    assert compared == set(range(1, 16))


def test_12_says_what_an_endpoint_costs():
    (line,) = [
        line for line in printed(LABS / "12_what_goes_wrong.ipynb").splitlines() if "ml.m5.large: $" in line
    ]
    assert (
        line
        == f"one ml.m5.large: ${24 * PRICES['ml.m5.large']:.2f} a day, ${730 * PRICES['ml.m5.large']:.2f} a month"
    )
