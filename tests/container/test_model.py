"""The model file: the same tree as scikit-learn's, and harmless wherever it comes from."""

import csv
import io
import json
import os
import pickle

import numpy as np
import onnx
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
    found, probabilities = predictor.run(rows, write(tmp_path, tree, labels))
    assert np.array_equal(found, np.array(labels, object)[tree.predict(rows)])
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
    found, _ = predictor.run(np.zeros((1, 1), np.float32), write(tmp_path, Stump, labels))
    assert found[0] == labels[int(np.argmax(shares))]


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


def cycle(iris):
    model = good_model(iris)
    (children,) = (a for a in model.graph.node[0].attribute if a.name == "nodes_truenodeids")
    children.ints[2] = 0
    return model


EVIL = {
    "weights elsewhere": constant,
    "memory bomb": bomb,
    "other operator": other_operator,
    "tensor": tensor_inside,
    "function": function_inside,
    "cycle": cycle,
    "format of another time": with_metadata("format", 2),
    "format as text": with_metadata("format", "1"),
    "wrong number of features": with_metadata("features", 7),
    "features not a number": with_metadata("features", "many"),
    "wrong labels": with_metadata("labels", ["a"]),
}


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
