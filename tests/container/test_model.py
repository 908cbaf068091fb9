"""The model file: it answers as scikit-learn does, and is harmless wherever it comes from."""

import csv
import io
import json
import os
import pickle
import time
import tracemalloc

import numpy as np
import onnx
import pytest
from algorithms import ALL
from conftest import IRIS, ROOT, STACK
from onnx import TensorProto, helper
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier
from stack import channels, onnx_model, tables
from stack.errors import InputError
from stack.onnx_model import check
from stack.tables import Table


def table(rows=600, classes=3, columns=8) -> Table:
    features, targets = make_classification(
        rows, columns, n_informative=6, n_classes=classes, flip_y=0.3, random_state=classes
    )
    labels = tuple(f"class {i}" for i in range(classes))
    return Table(features.astype(np.float32), targets.astype(np.int32), labels)


def served(estimator, learned: Table, folder, agreement=0.99):
    """The estimator, fitted and written, as a server has it."""
    onnx_model.fit(estimator, learned, {})
    onnx_model.save(estimator, learned, None, folder, agreement)
    return onnx_model.model_fn(folder)


def on_the_thresholds(tree, features) -> np.ndarray:
    """Rows of the data with one value put on a threshold, and one float32 step to either side."""
    inner = tree.tree_.children_left >= 0
    column, threshold = tree.tree_.feature[inner], tree.tree_.threshold[inner].astype(np.float32)
    rows = np.random.default_rng(0).integers(0, len(features), (3, len(column)))
    up, down = (np.nextafter(threshold, np.float32(to)) for to in (np.inf, -np.inf))
    edges = features[rows]
    for edge, values in zip(edges, (threshold, up, down), strict=True):
        edge[np.arange(len(column)), column] = values
    return edges.reshape(-1, features.shape[1])


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("weights", [None, "balanced"])
def test_a_tree_is_answered_for_exactly(tmp_path, classes, weights, monkeypatch):
    learned = table(4000, classes, 12)
    tree = DecisionTreeClassifier(random_state=0, class_weight=weights, min_samples_leaf=2)
    monkeypatch.setenv("SAGEMAKER_INFERENCE_OUTPUT", "predicted_label,probabilities")
    model = served(tree, learned, tmp_path, agreement=1)
    rows = np.concatenate([learned.X, on_the_thresholds(tree, learned.X)])
    answer = onnx_model.predict_fn(rows, model)
    assert answer["predicted_label"].names == learned.classes
    assert np.array_equal(answer["predicted_label"].codes, tree.predict(rows))
    assert np.allclose(answer["probabilities"], tree.predict_proba(rows), atol=1e-6)


ESTIMATORS = {
    "forest": RandomForestClassifier(20),
    "boosting": GradientBoostingClassifier(n_estimators=20),
    "neighbours": KNeighborsClassifier(),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
    "network": make_pipeline(StandardScaler(), MLPClassifier((10,), max_iter=50)),
    "bayes": GaussianNB(),
    "vectors": SVC(),
    "ridge": RidgeClassifier(),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_other_estimators_are_answered_for(tmp_path, estimator):
    learned = table()
    model = served(estimator, learned, tmp_path)
    (answer,) = onnx_model.predict_fn(learned.X, model).values()
    assert np.mean(answer.codes == estimator.predict(learned.X)) >= 0.99
    assert model.probabilities == hasattr(estimator, "predict_proba")


@pytest.mark.parametrize(
    "estimator", [HistGradientBoostingRegressor(max_iter=20), SVR()], ids=["boosting", "vectors"]
)
def test_regressors_answer_with_numbers(tmp_path, estimator):
    features, targets = make_regression(500, 5, random_state=0)
    learned = Table(features.astype(np.float32), targets.astype(np.float32), None)
    model = served(estimator, learned, tmp_path, agreement=0.9)
    (answer,) = onnx_model.predict_fn(learned.X, model).values()
    assert np.mean(np.isclose(answer, estimator.predict(learned.X), rtol=1e-3, atol=1e-2)) > 0.9
    assert tables.output_fn({"prediction": answer[:1]}, "application/json").startswith(
        b'{"predictions": [{"prediction": '
    )


def test_less_agreement_than_asked_for_is_no_model(tmp_path):
    learned = table()
    other = RandomForestClassifier(3).fit(learned.X, learned.y)
    other.predict = lambda X: (learned.y + 1) % 3
    with pytest.raises(InputError, match=r"model\.onnx answers 0\.\d+ of the training rows"):
        onnx_model.save(other, learned, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_probabilities_than_the_estimators_are_no_model(tmp_path):
    learned = table()
    other = LogisticRegression().fit(learned.X, learned.y)
    other.predict_proba = lambda X: np.eye(3)[np.zeros(len(X), int)]
    with pytest.raises(InputError, match="other probabilities than LogisticRegression"):
        onnx_model.save(other, learned, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_estimator_without_onnx_is_refused_before_it_is_fitted():
    with pytest.raises(InputError, match="NearestCentroid has no ONNX form"):
        onnx_model.fit(NearestCentroid(), None, {})


def test_the_target_is_of_the_estimators_kind():
    numbers = table()._replace(y=np.ones(600, np.float32), classes=None)
    with pytest.raises(InputError, match=r"DecisionTreeClassifier is a classifier: .* target='class'"):
        onnx_model.fit(DecisionTreeClassifier(), numbers, {})
    with pytest.raises(InputError, match="SVR is a regressor: read its tables with target='number'"):
        onnx_model.fit(SVR(), table(), {})


def test_a_model_of_another_kind_is_named(tmp_path):
    (tmp_path / "weights.npz").touch()
    with pytest.raises(
        InputError, match=r"There is weights\.npz; what is not model\.onnx, a model_fn of yours reads"
    ):
        onnx_model.model_fn(tmp_path)


REFUSED = {
    "unknown": ({"depth": 3}, "'depth' is unknown; did you mean max_depth\\? allowed are ccp_alpha, "),
    "a boolean for a number": ({"max_depth": True}, "max_depth=true must be a number"),
    "no seed": ({"random_state": None}, "random_state=null would make each model another"),
    "a value": ({"max_depth": -1}, "max_depth"),
    "a value that the estimator does not name": ({"class_weight": "x"}, "class_weight"),
}


@pytest.mark.parametrize(("hyperparameters", "words"), REFUSED.values(), ids=REFUSED)
def test_hyperparameters_are_the_estimators_own(hyperparameters, words):
    with pytest.raises(InputError, match=words):
        onnx_model.fit(DecisionTreeClassifier(), table(), hyperparameters)


def test_hyperparameters_of_a_part_are_named_by_it():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    onnx_model.fit(
        pipeline, table(), {"logisticregression__C": 0.1, "logisticregression__fit_intercept": False}
    )
    assert pipeline.get_params()["logisticregression__C"] == 0.1
    with pytest.raises(InputError, match="allowed are logisticregression__C, "):
        onnx_model.fit(pipeline, table(), {"memory": "somewhere"})
    with pytest.raises(InputError, match="'C' is unknown; did you mean logisticregression__C"):
        onnx_model.fit(pipeline, table(), {"C": 1})


def test_a_list_is_written_as_json():
    with pytest.raises(InputError, match=r"hidden_layer_sizes=\(16, 8\) is a list; .* JSON, as in \[16, 8\]"):
        onnx_model.fit(MLPClassifier(), table(), {"hidden_layer_sizes": "(16, 8)"})
    assert onnx_model.fit(MLPClassifier(max_iter=1), table(), {"hidden_layer_sizes": [16, 8]}).n_layers_ == 4


def test_the_same_data_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        served(make_pipeline(StandardScaler(), RandomForestClassifier(5)), table(), tmp_path / name)
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()


def test_probabilities_are_asked_of_those_that_have_them(tmp_path, monkeypatch):
    served(RidgeClassifier(), table(), tmp_path)
    monkeypatch.setenv("SAGEMAKER_INFERENCE_OUTPUT", "probability")
    with pytest.raises(
        InputError, match="SAGEMAKER_INFERENCE_OUTPUT='probability' must list some of predicted_label,"
    ):
        onnx_model.model_fn(tmp_path)


def test_the_file_explains_itself(iris):
    model = onnx.load(iris / "model/model.onnx")
    onnx.checker.check_model(model)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert (metadata["format"], metadata["features"], metadata["probabilities"]) == (
        onnx_model.FORMAT,
        4,
        True,
    )
    assert metadata["labels"] == ["setosa", "versicolor", "virginica"]
    assert metadata["metrics"]["training_accuracy"] == 1
    assert metadata["hyperparameters"]["random_state"] == 0
    assert set(metadata["versions"]) == {"python", "numpy", "onnx", "scikit-learn"}
    (node,) = model.graph.node
    assert (node.op_type, model.graph.input[0].name) == ("TreeEnsembleClassifier", "features")


def good_model(iris) -> onnx.ModelProto:
    return onnx.load(iris / "model/model.onnx")


def elsewhere() -> TensorProto:
    """Weights that would be read from /etc/passwd."""
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def weights_elsewhere(iris):
    model = good_model(iris)
    model.graph.initializer.append(elsewhere())
    return model


def constant_elsewhere(iris):
    model = good_model(iris)
    model.graph.node.append(helper.make_node("Constant", [], ["much"], value=elsewhere()))
    return model


def loop(iris):
    """A model that never ends."""
    model = good_model(iris)
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))
    return model


def graph_in_a_node(iris):
    model = good_model(iris)
    model.graph.node.append(helper.make_node("Add", [], ["x"], body=helper.make_graph([], "body", [], [])))
    return model


def other_operator(iris):
    model = good_model(iris)
    model.graph.node[0].op_type = "TreeEnsemble"
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


def grown(features, inner, left, right, feature=None, threshold=None) -> onnx.ModelProto:
    """A model of one tree from arrays: each node's children, where it is an inner one; each leaf says class `a`."""
    nodes = len(inner)
    leaves = np.flatnonzero(~inner)
    node = helper.make_node(
        "TreeEnsembleClassifier", ["features"], ["label", "probabilities"], domain="ai.onnx.ml",
        nodes_treeids=[0] * nodes, nodes_nodeids=list(range(nodes)),
        nodes_modes=["BRANCH_LEQ" if is_inner else "LEAF" for is_inner in inner],
        nodes_featureids=([0] * nodes if feature is None else feature.tolist()),
        nodes_values=([0.0] * nodes if threshold is None else threshold.tolist()),
        nodes_truenodeids=np.where(inner, left, 0).tolist(), nodes_falsenodeids=np.where(inner, right, 0).tolist(),
        class_treeids=[0] * 3 * len(leaves), class_nodeids=np.repeat(leaves, 3).tolist(), class_ids=[0, 1, 2] * len(leaves),
        class_weights=[1.0, 0.0, 0.0] * len(leaves), classlabels_int64s=[0, 1, 2], post_transform="NONE",
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "tree", [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
         helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    metadata = {
        "format": onnx_model.FORMAT,
        "features": features,
        "labels": ["a", "b", "c"],
        "probabilities": True,
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    return model


def chain(depth):
    """A tree that goes down as many levels: inner nodes at 0, 2, 4 …, leaves at 1, 3, 5 … and at the end."""
    numbers = np.arange(2 * depth + 1)
    inner = (numbers % 2 == 0) & (numbers < 2 * depth)
    return lambda iris: grown(4, inner, numbers + 1, numbers + 2)


EVIL = {
    "weights elsewhere": weights_elsewhere,
    "constant elsewhere": constant_elsewhere,
    "loop": loop,
    "graph in a node": graph_in_a_node,
    "other operator": other_operator,
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
    "class of no tree": with_value("class_treeids", 0, 1),
    "second tree": with_value("nodes_treeids", 8, 1),
    "node twice": with_value("nodes_nodeids", 3, 2),
    "mode of another kind": with_value("nodes_modes", 0, b"BRANCH_GT", "strings"),
    "threshold NaN": with_value("nodes_values", 0, float("nan"), "floats"),
    "weight infinite": with_value("class_weights", 0, float("inf"), "floats"),
    "label of another model": with_value("classlabels_int64s", 0, 7),
    "a child too few": without("nodes_truenodeids"),
    "a weight too few": without("class_weights", "floats"),
    "an attribute twice": twice,
    "format of another time": with_metadata("format", 1),
    "format as text": with_metadata("format", "2"),
    "wrong number of features": with_metadata("features", 7),
    "features not a number": with_metadata("features", "many"),
    "wrong labels": with_metadata("labels", ["a"]),
    "labels that are no words": with_metadata("labels", [1, 2, 3]),
}


def test_a_deep_tree_is_served(iris, tmp_path):
    (tmp_path / "model.onnx").write_bytes(chain(2000)(iris).SerializeToString())
    answer = onnx_model.predict_fn(np.ones((1, 4), np.float32), onnx_model.model_fn(tmp_path))
    assert answer["predicted_label"].codes.tolist() == [0]


def test_a_big_tree_is_looked_through_in_time_and_memory():
    """Half a million nodes, in which numbers take one to four bytes."""
    nodes = np.arange((1 << 19) - 1)
    inner = nodes < len(nodes) // 2
    content = grown(
        3_000_000, inner, 2 * nodes + 1, 2 * nodes + 2, nodes * 5, np.linspace(-1, 1, len(nodes))
    ).SerializeToString()
    tracemalloc.start()
    begin = time.perf_counter()
    needed = check.graph(content)
    seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert needed == (len(nodes) - 1) * 5 + 1
    assert seconds < 5
    assert peak < 6 * len(content)


@pytest.mark.parametrize("make", EVIL.values(), ids=EVIL)
def test_a_model_with_more_in_it_is_refused(iris, tmp_path, make):
    (tmp_path / "model.onnx").write_bytes(make(iris).SerializeToString())
    with pytest.raises(InputError, match=r"model\.onnx"):
        onnx_model.model_fn(tmp_path)


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
        onnx_model.model_fn(tmp_path)


def test_flipped_bytes_never_crash(iris, tmp_path):
    content = bytearray(bytes_of(iris))
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(content), 300):
        changed = content.copy()
        changed[at] ^= 1 << int(generator.integers(8))
        (tmp_path / "model.onnx").write_bytes(changed)
        try:
            model = onnx_model.model_fn(tmp_path)
            onnx_model.predict_fn(np.ones((3, model.features), np.float32), model)
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
        onnx_model.model_fn(tmp_path)


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
    sources = [STACK / "train", STACK / "serve", *STACK.rglob("*.py")]
    sources += [path for folder in ALL for path in (ROOT / "container" / folder).glob("*.py")]
    assert len(sources) > 10
    for file in sources:
        text = file.read_text()
        assert "import pickle" not in text
        assert "import joblib" not in text
        assert "allow_pickle=True" not in text


def test_iris_by_hand(iris):
    """The file's own arrays, walked as anybody could, give the labels of the training data."""
    model = good_model(iris)
    a = {attribute.name: helper.get_attribute_value(attribute) for attribute in model.graph.node[0].attribute}
    labels = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "labels"))
    for row in csv.reader(io.StringIO(IRIS)):
        node, values = 0, np.array(row[1:], np.float32)
        while a["nodes_modes"][node] == b"BRANCH_LEQ":
            left = values[a["nodes_featureids"][node]] <= a["nodes_values"][node]
            node = a["nodes_truenodeids" if left else "nodes_falsenodeids"][node]
        weights = [w for n, w in zip(a["class_nodeids"], a["class_weights"], strict=True) if n == node]
        assert labels[int(np.argmax(weights))] == row[0]


def test_a_tree_too_deep_to_be_served_is_not_trained(tmp_path):
    (tmp_path / "d.csv").write_text("".join(f"{'ab'[i % 2]},{i}\n" for i in range(6000)))
    training, _ = tables.read({"training": channels.Channel("training", tmp_path, {})})
    tree = onnx_model.fit(DecisionTreeClassifier(), training, {})
    with pytest.raises(InputError, match="max_depth"):
        onnx_model.save(tree, training, None, tmp_path)
    assert not (tmp_path / "model.onnx").exists()
