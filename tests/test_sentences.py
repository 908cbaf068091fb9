"""What the labs' prose says of the data, the tree and the stack, against the data, the tree and the stack."""

import re
import sys
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier
from test_labs import FILES, LABS, cells_of, each_lab

from workshop import ROOT

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


def test_01_says_what_train_gets(monkeypatch):
    monkeypatch.syspath_prepend(STACK)
    with patch.dict(sys.modules):  # its modules have names that others may have, too
        import channels

    assert channels.read.__annotations__["return"] == dict[str, channels.Channel]
    assert hasattr(channels.Channel, "open_files")
    assert "each channel as a `Channel`" in prose("01_build") and "`open_files()`" in prose("01_build")


def test_01_names_what_an_algorithm_brings():
    task = re.search(r"Look at what (.*?) use of yours", prose("01_build")).group(1)
    files = re.findall("`(.*?)`", task)
    used = {
        file: set(re.findall(r"\b(?:training|predictor)\.(\w+)\(", (STACK / file).read_text()))
        for file in files
    }
    assert all(used.values()), f"nothing of the learner's is used in one of {files}"
    assert set.union(*used.values()) == {"train", "model_fn", "input_fn", "predict_fn", "output_fn"}


def test_06_and_07_say_which_flowers_are_wrong(iris):
    X, y = iris
    tree = DecisionTreeClassifier(max_leaf_nodes=5, random_state=0).fit(X, y)
    wrong = [(was, said) for was, said in zip(y, tree.predict(X), strict=True) if was != said]
    assert wrong == [("versicolor", "virginica")] * 3
    assert "three flowers are wrong" in prose("06_invoke")
    code = "".join(cell.source for cell in cells_of(LABS / "06_invoke.ipynb", "code"))
    assert "three versicolor taken for virginica" in code


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


def test_09_says_how_deep_the_tree_is(iris):
    assert DecisionTreeClassifier(random_state=0).fit(*iris).get_depth() == 5
    assert "A tree of depth 5 is five comparisons at most" in prose("09_speed")


def test_09_promises_nothing_of_what_the_learner_measures():
    """In either order of CSV and npy, of numpy and pandas, the prose fits."""
    text = prose("09_speed")
    assert "which of the two is ahead may change from run to run" in text
    assert "above 1 is a gain, below 1 a loss" in text
    assert "does that save" not in text
