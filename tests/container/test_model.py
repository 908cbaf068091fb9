"""The model file: the same tree as scikit-learn's, and harmless wherever it comes from."""

import csv
import io
import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc

import channels
import numpy as np
import onnx
import onnx_check
import predictor
import pytest
import training
from conftest import IRIS, STACK, TREES
from errors import InputError
from onnx import TensorProto, helper
from sklearn.datasets import make_classification
from sklearn.tree import DecisionTreeClassifier


def write(folder, tree, classes):
    (folder / "model.onnx").write_bytes(training.to_onnx(tree, classes, {}, {}))
    return predictor.model_fn(folder)


def on_the_thresholds(tree, features) -> np.ndarray:
    """Rows of the data with one value put on a threshold, and one float32 step to either side."""
    inner = tree.tree_.children_left >= 0
    column, threshold = tree.tree_.feature[inner], tree.tree_.threshold[inner].astype(np.float32)
    rows = np.random.default_rng(0).integers(0, len(features), (3, len(column)))
    steps = (
        threshold,
        np.nextafter(threshold, np.float32(np.inf)),
        np.nextafter(threshold, np.float32(-np.inf)),
    )
    edges = features[rows]
    for edge, values in zip(edges, steps, strict=True):
        edge[np.arange(len(column)), column] = values
    return edges.reshape(-1, features.shape[1])


def test_scikit_learn_comes_without_scipy_stats_until_somebody_calls_it():
    program = """
import gc, sys, training
tree = training.import_tree()
assert tree.DecisionTreeClassifier is training.import_tree().DecisionTreeClassifier
assert gc.isenabled() and not [name for name in sys.modules if name.startswith("scipy.stats")]
from sklearn.metrics._ranking import rankdata
assert rankdata([30, 10, 20]).tolist() == [3, 1, 2]
import scipy.stats
assert scipy.stats.mode([1, 2, 2]).mode == 2 and scipy.stats.rankdata.__module__.startswith("scipy")
"""
    environment = {**os.environ, "PYTHONPATH": f"{STACK}:{TREES}"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("weights", [None, "balanced"])
def test_onnx_predicts_what_scikit_learn_predicts(tmp_path, classes, weights):
    features, targets = make_classification(
        4000, 12, n_informative=8, n_classes=classes, flip_y=0.4, random_state=classes
    )
    features = features.astype(np.float32)
    tree = DecisionTreeClassifier(random_state=0, class_weight=weights, min_samples_leaf=2).fit(
        features, targets
    )
    labels = [f"class {i}" for i in range(classes)]
    rows = np.concatenate([features, on_the_thresholds(tree, features)])
    model = write(tmp_path, tree, labels)
    probabilities = np.concatenate(list(predictor.scores(rows, model)))
    found = probabilities.argmax(axis=1)
    assert np.array_equal(found, tree.predict(rows))
    assert np.array_equal(
        model.session.run(["label"], {"features": rows})[0], np.array(labels, object)[found]
    )
    assert np.allclose(probabilities, tree.predict_proba(rows), atol=1e-6)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5 - 1e-12, 0.5 + 1e-12), (0.5 + 1e-12, 0.5 - 1e-12)])
@pytest.mark.parametrize("classes", [2, 3])
def test_shares_too_close_for_float32_keep_their_winner(tmp_path, shares, classes):
    class Stump:
        """A tree of one leaf, as scikit-learn shows it."""

        n_features_in_ = 1

        class tree_:
            children_left = children_right = np.array([-1])
            feature, threshold = np.array([-2]), np.array([-2.0])
            value = np.array([[(*shares, 0.0)[:classes]]])

    labels = ["a", "b", "c"][:classes]
    (found,) = predictor.scores(np.zeros((1, 1), np.float32), write(tmp_path, Stump, labels))
    found = found.argmax(axis=1)
    assert found.tolist() == [int(np.argmax(shares))]


def test_training_and_predictor_mean_the_same_file():
    assert (training.FILE, training.FORMAT) == (predictor.FILE, predictor.FORMAT)


def test_the_file_explains_itself(iris):
    model = onnx.load(iris / "model/model.onnx")
    onnx.checker.check_model(model)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["format"] == 1
    assert metadata["features"] == 4
    assert metadata["labels"] == ["setosa", "versicolor", "virginica"]
    assert metadata["metrics"]["training_accuracy"] == 1
    assert set(metadata["versions"]) == {"python", "numpy", "onnx", "scikit-learn"}
    (node,) = model.graph.node
    assert (node.op_type, model.graph.input[0].name) == ("TreeEnsembleClassifier", "features")


def good_model(iris) -> onnx.ModelProto:
    return onnx.load(iris / "model/model.onnx")


def constant(iris):
    """A model whose weights would be read from /etc/passwd."""
    model = good_model(iris)
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.initializer.append(tensor)
    return model


def bomb(iris):
    """A model that asks for a terabyte."""
    model = good_model(iris)
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [1 << 40])
    model.graph.node.append(helper.make_node("Constant", [], ["shape"], value=shape))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["much"]))
    return model


def other_operator(iris):
    model = good_model(iris)
    model.graph.node[0].op_type = "TreeEnsembleRegressor"
    return model


def tensor_inside(iris):
    model = good_model(iris)
    attribute = model.graph.node[0].attribute.add(
        name="base_values_as_tensor", type=onnx.AttributeProto.TENSOR
    )
    attribute.t.CopyFrom(helper.make_tensor("x", TensorProto.DOUBLE, [1], [1.0]))
    return model


def function_inside(iris):
    model = good_model(iris)
    model.functions.add(name="f", domain="x")
    return model


def with_metadata(name, value):
    def change(iris):
        model = good_model(iris)
        for entry in [entry for entry in model.metadata_props if entry.key == name]:
            entry.value = json.dumps(value)
        return model

    return change


def attribute(model, name):
    return next(a for a in model.graph.node[0].attribute if a.name == name)


def with_value(name, at, value, kind="ints"):
    """A model with one number of its tree changed."""

    def change(iris):
        model = good_model(iris)
        getattr(attribute(model, name), kind)[at] = value
        return model

    return change


def without(name, kind="ints"):
    def change(iris):
        model = good_model(iris)
        getattr(attribute(model, name), kind).pop()
        return model

    return change


def twice(iris):
    model = good_model(iris)
    model.graph.node[0].attribute.append(attribute(model, "nodes_modes"))
    return model


def soft(iris):
    model = good_model(iris)
    attribute(model, "post_transform").s = b"PROBIT"
    return model


class Chain:
    """A tree, as scikit-learn shows it, that goes down as many levels as it has thresholds."""

    n_features_in_ = 4

    def __init__(self, depth):
        inner = np.arange(depth)
        nothing = np.full(depth + 1, -1)
        self.tree_ = self
        self.children_left = np.concatenate([2 * inner + 1, nothing])[self.order(depth)]
        self.children_right = np.concatenate([2 * inner + 2, nothing])[self.order(depth)]
        self.feature = np.zeros(2 * depth + 1, int)
        self.threshold = np.zeros(2 * depth + 1)
        self.value = np.tile([[[1.0, 0.0, 0.0]]], (2 * depth + 1, 1, 1))

    @staticmethod
    def order(depth):
        """Inner nodes at 0, 2, 4 …, a leaf at 1, 3, 5 … and at the end."""
        places = np.empty(2 * depth + 1, int)
        places[0:-1:2], places[1::2], places[-1] = np.arange(depth), np.arange(depth, 2 * depth), -1
        return places


def chain(depth):
    def make(iris):
        return onnx.load_from_string(training.to_onnx(Chain(depth), ["a", "b", "c"], {}, {}))

    return make


EVIL = {
    "weights elsewhere": constant,
    "memory bomb": bomb,
    "other operator": other_operator,
    "tensor": tensor_inside,
    "function": function_inside,
    "feature index": with_value("nodes_featureids", 0, 4),
    "feature index far out": with_value("nodes_featureids", 0, 1 << 40),
    "negative feature index": with_value("nodes_featureids", 0, -1),
    "child index": with_value("nodes_falsenodeids", 0, 99),
    "child index far out": with_value("nodes_truenodeids", 0, 1 << 31),
    "negative child index": with_value("nodes_truenodeids", 0, -1),
    "child of itself": with_value("nodes_truenodeids", 2, 2),
    "cycle": with_value("nodes_truenodeids", 2, 0),
    "child of two": with_value("nodes_truenodeids", 2, 1),
    "too deep for a stack": chain(30_000),
    "class index": with_value("class_ids", 0, 3),
    "negative class index": with_value("class_ids", 0, -1),
    "class of no node": with_value("class_nodeids", 0, 9),
    "class of an inner node": with_value("class_nodeids", 0, 0),
    "second tree": with_value("nodes_treeids", 8, 1),
    "node twice": with_value("nodes_nodeids", 3, 2),
    "mode of another kind": with_value("nodes_modes", 0, b"BRANCH_GT", "strings"),
    "threshold NaN": with_value("nodes_values", 0, float("nan"), "floats"),
    "weight infinite": with_value("class_weights", 0, float("inf"), "floats"),
    "label not UTF-8": with_value("classlabels_strings", 0, b"\xff", "strings"),
    "label with NUL": with_value("classlabels_strings", 0, b"setosa\0", "strings"),
    "label of another model": with_value("classlabels_strings", 0, b"x", "strings"),
    "a child too few": without("nodes_truenodeids"),
    "a weight too few": without("class_weights", "floats"),
    "an attribute twice": twice,
    "other transform": soft,
    "format of another time": with_metadata("format", 2),
    "format as text": with_metadata("format", "1"),
    "wrong number of features": with_metadata("features", 7),
    "features not a number": with_metadata("features", "many"),
    "wrong labels": with_metadata("labels", ["a"]),
}


def test_a_deep_tree_is_served(iris, tmp_path):
    (tmp_path / "model.onnx").write_bytes(chain(2000)(iris).SerializeToString())
    model = predictor.model_fn(tmp_path)
    assert next(predictor.scores(np.ones((1, 4), np.float32), model)).argmax() == 0


def test_a_big_tree_is_looked_through_in_time_and_memory(tmp_path):
    """Half a million nodes, in which numbers take one to four bytes."""
    nodes = (1 << 19) - 1
    left = np.full(nodes, -1)
    left[: nodes // 2] = 2 * np.arange(nodes // 2) + 1

    class Full:
        n_features_in_ = 3_000_000

        class tree_:
            children_left, children_right = left, np.where(left < 0, -1, left + 1)
            feature, threshold = np.arange(nodes) * 5, np.linspace(-1, 1, nodes)
            value = np.tile([[[0.25, 0.75]]], (nodes, 1, 1))

    content = training.to_onnx(Full, ["LEAF", "BRANCH_LEQ"], {}, {})
    tracemalloc.start()
    begin = time.perf_counter()
    needed, labels = onnx_check.one_tree(content)
    seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (needed, labels) == ((nodes // 2 - 1) * 5 + 1, ["LEAF", "BRANCH_LEQ"])
    assert seconds < 5
    assert peak < 4 * len(content)


@pytest.mark.parametrize("make", EVIL.values(), ids=EVIL)
def test_a_model_with_more_in_it_is_refused(iris, tmp_path, make):
    (tmp_path / "model.onnx").write_bytes(make(iris).SerializeToString())
    with pytest.raises(InputError, match=r"model\.onnx"):
        predictor.model_fn(tmp_path)


class Trap:
    def __reduce__(self):
        return os.system, ("touch /tmp/trapped",)


def bytes_of(iris):
    return (iris / "model/model.onnx").read_bytes()


CORRUPT = {
    "empty": lambda iris: b"",
    "cut in half": lambda iris: bytes_of(iris)[: len(bytes_of(iris)) // 2],
    "cut by one": lambda iris: bytes_of(iris)[:-1],
    "other bytes": lambda iris: b"label,feature\n" * 100,
    "zeros": lambda iris: bytes(1000),
    "pickle": lambda iris: pickle.dumps(Trap()),
    "JSON": lambda iris: b'{"a": 1}',
    "gzip": lambda iris: b"\x1f\x8b\x08" + bytes(100),
}


@pytest.mark.parametrize("make", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_model_is_refused(iris, tmp_path, make):
    (tmp_path / "model.onnx").write_bytes(make(iris))
    with pytest.raises(InputError, match=r"model\.onnx"):
        predictor.model_fn(tmp_path)


def test_flipped_bytes_never_crash(iris, tmp_path):
    content = bytearray(bytes_of(iris))
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(content), 300):
        changed = content.copy()
        changed[at] ^= 1 << int(generator.integers(8))
        (tmp_path / "model.onnx").write_bytes(changed)
        try:
            model = predictor.model_fn(tmp_path)
            predictor.predict_fn(np.ones((3, model.features), np.float32), model)
        except InputError:
            pass


def no_file(folder, iris):
    pass


def link_out(folder, iris):
    (folder / "model.onnx").symlink_to(iris / "model/model.onnx")


def directory(folder, iris):
    (folder / "model.onnx").mkdir()


def pipe(folder, iris):
    os.mkfifo(folder / "model.onnx")


def device(folder, iris):
    (folder / "model.onnx").symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [no_file, link_out, directory, pipe, device])
def test_what_is_no_file_of_the_folder_is_refused(iris, tmp_path, make):
    make(tmp_path, iris)
    with pytest.raises(InputError, match=r"model\.onnx"):
        predictor.model_fn(tmp_path)


@pytest.mark.parametrize("content", [None, b"", pickle.dumps(Trap())], ids=["missing", "empty", "pickle"])
def test_serve_names_the_file_and_ends(start, tmp_path, content):
    (tmp_path / "ml/model").mkdir(parents=True)
    if content is not None:
        (tmp_path / "ml/model/model.onnx").write_bytes(content)
    server = start(base=tmp_path / "ml", ready=False)
    assert server.process.wait(20) != 0
    assert str(tmp_path / "ml/model/model.onnx") in server.log
    assert "Traceback" not in server.log
    assert not os.path.exists("/tmp/trapped")


def test_there_is_no_pickle_in_the_sources():
    for file in [*STACK.iterdir(), *TREES.iterdir()]:
        if file.is_file():
            text = file.read_text()
            assert "import pickle" not in text
            assert "import joblib" not in text
            assert "allow_pickle=True" not in text


def test_iris_by_hand(iris):
    """The file's own arrays, walked as anybody could, give the labels of the training data."""
    model = good_model(iris)
    a = {attribute.name: helper.get_attribute_value(attribute) for attribute in model.graph.node[0].attribute}
    labels = [label.decode() for label in a["classlabels_strings"]]
    for row in csv.reader(io.StringIO(IRIS)):
        node, values = 0, np.array(row[1:], np.float32)
        while a["nodes_modes"][node] == b"BRANCH_LEQ":
            left = values[a["nodes_featureids"][node]] <= a["nodes_values"][node]
            node = a["nodes_truenodeids" if left else "nodes_falsenodeids"][node]
        weights = [w for n, w in zip(a["class_nodeids"], a["class_weights"], strict=True) if n == node]
        assert labels[int(np.argmax(weights))] == row[0]


def test_a_tree_too_deep_to_be_served_is_not_trained(tmp_path):
    (tmp_path / "d.csv").write_text("".join(f"{'ab'[i % 2]},{i}\n" for i in range(6000)))
    channel = channels.Channel("training", tmp_path, {})
    with pytest.raises(InputError, match="max_depth"):
        training.train({}, {"training": channel}, tmp_path)
