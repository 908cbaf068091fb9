"""Trains scikit-learn's decision tree on CSV files, label first, and writes it as model.onnx."""

import gc
import importlib
import json
import os
import platform
import re
import sys
import types
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import fast
import numeric
import numpy as np
import onnx_check
from errors import InputError, hint, shown

# Those of DecisionTreeClassifier that a string can say; scikit-learn checks their values itself.
HYPERPARAMETERS = [
    "ccp_alpha",
    "class_weight",
    "criterion",
    "max_depth",
    "max_features",
    "max_leaf_nodes",
    "min_impurity_decrease",
    "min_samples_leaf",
    "min_samples_split",
    "min_weight_fraction_leaf",
    "random_state",
    "splitter",
]
FILE, FORMAT = "model.onnx", 1  # predictor.py reads this file, and this format of its metadata
# Bytes read at a time: what is made of them must fit into the processor's cache, and into memory that malloc keeps.
PIECE = 1 << 20
# What stands before the features of a row: the end of a line, a label, quoted or not, and a comma.
LABEL = re.compile(rb'\n(?:([^",\n]*)|[ \t]*"((?:[^"\n]|"")*)"[ \t]*),')


def train(hyperparameters: dict, channels: dict, model_dir: Path) -> dict[str, float]:
    """Fits a tree to channel `training`, writes model_dir/model.onnx and returns the metrics.

    Accuracies are fractions of the rows of `training` and, where there is one, of `validation`.
    Raises InputError for what the user can mend.
    """
    if "training" not in channels or set(channels) - {"training", "validation"}:
        found = ", ".join(channels) or "none"
        raise InputError(f"expected a channel 'training' and, if wanted, one 'validation'; found: {found}")
    check_hyperparameters(hyperparameters)
    labels = Labels()
    features, codes = read_table(channels["training"], labels)
    classes = check_labels(labels, codes)
    held_out = None
    if "validation" in channels:
        held_out = read_table(channels["validation"], labels, features.shape[1])
    # scikit-learn numbers classes in the order of their labels; a label that only validation has is no class.
    rank = {label: i for i, label in enumerate(classes)}
    ranks = np.array([rank.get(label, -1) for label in labels.codes], np.int32)

    tree = fit(features, ranks[codes], {"random_state": 0} | hyperparameters)
    if tree.get_depth() > onnx_check.MAX_DEPTH:
        raise InputError(
            f"the tree is {tree.get_depth()} levels deep; a server takes {onnx_check.MAX_DEPTH}. "
            "Set hyperparameter max_depth"
        )
    predicted = tree.predict(features)
    metrics = {
        "training_accuracy": float(np.mean(predicted == ranks[codes])),
        "tree_depth": int(tree.get_depth()),
        "tree_leaves": int(tree.get_n_leaves()),
        "training_rows": len(features),
        "features": features.shape[1],
        "classes": len(classes),
    }
    if held_out:
        metrics["validation_accuracy"] = float(np.mean(tree.predict(held_out[0]) == ranks[held_out[1]]))
        metrics["validation_rows"] = len(held_out[0])
    (model_dir / FILE).write_bytes(to_onnx(tree, classes, hyperparameters, metrics))
    compare(predicted, features, model_dir)
    return metrics


def check_hyperparameters(hyperparameters: dict) -> None:
    for name, value in hyperparameters.items():
        if name not in HYPERPARAMETERS:
            raise InputError(f"hyperparameter {name!r} is unknown; allowed are {', '.join(HYPERPARAMETERS)}")
        if not isinstance(value, int | float | str | None) or isinstance(value, bool):
            raise InputError(f"hyperparameter {name}={json.dumps(value)} must be a number, a word or null")
        if isinstance(value, int) and abs(value) >= 2**31:
            raise InputError(f"hyperparameter {name}={value} is too large; at most 2147483647")
        if name == "random_state" and value is None:
            raise InputError("hyperparameter random_state=null would make each model another; give a number")


class Labels(dict):
    """Labels as written in the files to codes from 0; `codes` has them clean, in order of appearance."""

    def __init__(self):
        super().__init__()
        self.codes: dict[str, int] = {}

    def __missing__(self, raw: bytes) -> int:
        try:
            label = raw.strip(b" \t").replace(b'""', b'"').decode()
        except UnicodeDecodeError:
            raise InputError("the label is not UTF-8 text", value=raw) from None
        if not label:
            raise InputError("the label is missing; the first column holds it", value=raw)
        if any(unicodedata.category(character) == "Cc" for character in label):
            raise InputError(f"the label {shown(label)!r} has a control character", value=raw)
        self[raw] = self.codes.setdefault(label, len(self.codes))
        return self[raw]


def read_table(channel, labels: Labels, columns: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a channel: features, float32 of shape (rows, columns), and label codes, int32 (rows,).

    Raises InputError with file, row, column (both from 1) and value.
    """
    rows = Rows()
    for name, stream in channel.open_files():
        row, left = 1, stream.seek(0, os.SEEK_END) if stream.seekable() else 0
        if left:
            stream.seek(0)
        try:
            for piece in pieces(stream):
                left = max(0, left - len(piece))
                if plain := read_plain(piece, labels, columns):
                    columns = rows.add(*plain, left / len(piece))
                    row += len(plain[1])
                    continue
                raw, rests, bad = split(piece)
                if raw:
                    features = numeric.parse(b"\n".join(rests), row, 2, columns)
                    columns = rows.add(features, read_labels(raw, labels, row), left / len(piece))
                row += len(raw)
                if bad is not None:
                    raise InputError(f"row {row} {bad_line(bad)}")
            if row == 1:
                raise InputError("the file is empty; remove it, or put rows in it")
        except InputError as error:
            first = error.details.get("row") == 1 and error.code == "bad_value"
            what = hint(rests[0], "; if row 1 is a header, remove it") if first else ""
            raise InputError(f"{name}: {error}{what}") from None
    if not rows.count:
        raise InputError(f"channel {channel.name} holds no data; put CSV files into {channel.path}")
    return rows.features[: rows.count], rows.codes[: rows.count]


class Rows:
    """Features and label codes, piece by piece. What is not filled takes no memory: the kernel gives it when it is."""

    def __init__(self):
        self.count, self.features, self.codes = 0, np.empty((0, 0), np.float32), np.empty(0, np.int32)

    def add(self, features: np.ndarray, codes: np.ndarray, more: float) -> int:
        """Add a piece of which `more` times as much is left, so that all is moved seldom; the number of columns."""
        begin, self.count = self.count, self.count + len(codes)
        if self.count > len(self.codes):
            room = max(2 * self.count, self.count + int(1.05 * more * len(codes)))
            held = self.features[:begin], self.codes[:begin]
            self.features = np.empty((room, features.shape[1]), np.float32)
            self.codes = np.empty(room, np.int32)
            if begin:
                self.features[:begin], self.codes[:begin] = held
        self.features[begin : self.count], self.codes[begin : self.count] = features, codes
        return features.shape[1]


def read_plain(piece: bytes, labels: Labels, columns: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and codes of lines that are as lines nearly always are, else None."""
    plain = fast.read_rows(piece, columns, labelled=True)
    if not plain:
        return None
    features, places, raw = plain
    try:
        return features, np.array([labels[label] for label in raw], np.int32)[places]
    except InputError:  # a bad label: where it is, is known to who reads line by line
        return None


def pieces(stream: BinaryIO) -> Iterator[bytes]:
    """A file as pieces of whole lines, LF between them, without byte order mark and trailing blank lines."""
    data = stream.read(PIECE).removeprefix(b"\xef\xbb\xbf")
    if data.startswith(b"\x1f\x8b"):
        raise InputError("the file is compressed with gzip; unpack it")
    while True:
        more = stream.read(PIECE)
        lines, newline, rest = data.rpartition(b"\n") if more else (data, b"", b"")
        kept = lines.rstrip(b" \t\r\n")
        if kept:
            yield kept.replace(b"\r\n", b"\n") if b"\r" in kept else kept
        if not more:
            return
        # Blank lines stay: only those at the very end are nothing.
        blank = (lines[len(kept) :] + newline).partition(b"\n")[2] if kept else lines + newline
        data = blank + rest + more


def split(piece: bytes) -> tuple[list[bytes], list[bytes], bytes | None]:
    """Lines as labels, what follows them, and the line that is not so (None: all are); it ends there."""
    parts = LABEL.split(b"\n" + piece)
    rests = parts[3::3]
    if len(rests) == piece.count(b"\n") + 1 and b"" not in rests:
        raw = [
            bare if quoted is None else quoted for bare, quoted in zip(parts[1::3], parts[2::3], strict=True)
        ]
        return raw, rests, None
    lines = piece.split(b"\n")
    for whole, line in enumerate(lines):
        label = LABEL.match(b"\n" + line)
        if not label or label.end() > len(line):
            raw, rests, _ = split(b"\n".join(lines[:whole])) if whole else ([], [], None)
            return raw, rests, line
    raise AssertionError("the two readings of a line differ")


def bad_line(line: bytes) -> str:
    if not line.strip():
        return "is empty: remove it"
    if b'"' in line:
        return f"has a label whose quotes do not match: {shown(line)!r}"
    if line.rstrip(b" \t").endswith(b",") and line.count(b",") == 1:
        return "has a label, but no number after it"
    other = next((mark for mark in (b";", b"\t", b"|") if mark in line), None)
    hint = f"; the delimiter must be ',', not {other.decode()!r}" if other else ""
    return f"has 1 column; expected a label and at least one number, with commas between{hint}"


def read_labels(raw: list[bytes], labels: Labels, first_row: int) -> np.ndarray:
    try:
        return np.fromiter(map(labels.__getitem__, raw), np.int32, len(raw))
    except InputError as error:
        row = first_row + raw.index(error.details["value"])
        raise InputError(f"row {row}, column 1: {error}") from None


def check_labels(labels: Labels, codes: np.ndarray) -> list[str]:
    """The classes, sorted; refuses what a classifier cannot learn from."""
    classes = sorted(labels.codes)
    if len(codes) < 2 or len(classes) < 2:
        raise InputError(
            f"the training data has {len(codes)} rows and {len(classes)} different labels "
            f"({', '.join(map(shown, classes))}); expected at least 2 of each"
        )
    try:
        numbers = [float(label) for label in classes]
    except ValueError:
        return classes
    fraction = next((c for c, n in zip(classes, numbers, strict=True) if n != n or n % 1), None)
    if fraction is not None or len(classes) > max(20, len(codes) / 2):
        raise InputError(
            f"the label column is continuous ({len(classes)} different numbers such as {fraction or classes[0]} "
            f"in {len(codes)} rows); a classification tree needs classes. The label is the first column"
        )
    return classes


def fit(features: np.ndarray, targets: np.ndarray, hyperparameters: dict):
    tree = import_tree().DecisionTreeClassifier(**hyperparameters)
    try:
        return tree.fit(features, targets)
    except ValueError as error:  # the data is checked: this is scikit-learn's word on a hyperparameter
        raise InputError(f"hyperparameters: {error}") from None


class Later(types.ModuleType):
    """Stands in for a module of which others take functions when they are imported, and call them later if at all."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *values, **options: getattr(importlib.import_module(self.__name__), name)(
            *values, **options
        )


def import_tree() -> types.ModuleType:
    """sklearn.tree: two thirds of a training on iris, so not before the data is known to be good.

    scipy.stats is a third of this import, and no tree uses it. The garbage collector would look again and again
    through a hundred thousand objects that stay.
    """
    late = "scipy.stats" not in sys.modules
    if late:
        sys.modules["scipy.stats"] = Later("scipy.stats")
    gc.disable()
    try:
        return importlib.import_module("sklearn.tree")
    finally:
        gc.freeze()
        gc.enable()
        if late:
            del sys.modules["scipy.stats"]


def to_onnx(tree, classes: list[str], hyperparameters: dict, metrics: dict) -> bytes:
    """The fitted tree as an ONNX model of one TreeEnsembleClassifier, the same bytes for the same tree.

    Input `features`, float32 (rows, columns); outputs `label`, string (rows,), and `probabilities`,
    float32 (rows, classes). What else a server must know stands in the model's metadata, as JSON.
    """
    import onnx
    import sklearn
    from onnx import TensorProto, helper

    nodes = tree.tree_
    leaf = nodes.children_left < 0
    # scikit-learn compares float32 features with float64 thresholds. x <= t holds for the same float32 x
    # when t is rounded down to float32, and for others when it is rounded to the nearest.
    thresholds = nodes.threshold.astype(np.float32)
    above = thresholds > nodes.threshold
    thresholds[above] = np.nextafter(thresholds[above], np.float32(-np.inf))
    thresholds[leaf] = 0

    shares = nodes.value[leaf, 0, :]
    shares = shares / shares.sum(axis=1, keepdims=True)
    weights = shares.astype(np.float32)
    # Two shares that differ may be equal as float32; the greatest one must stay the first greatest.
    winner = shares.argmax(axis=1)
    rows = np.arange(len(shares))
    if len(classes) == 2:
        # ONNX's rule for two classes: one weight a leaf, that of the second, which wins above 0.5.
        tie = (winner == 1) & (weights[:, 1] <= 0.5)
        weights[tie, 1] = np.nextafter(np.float32(0.5), np.float32(1))
        weights, class_ids = weights[:, 1:], [0]
    else:
        tie = weights.argmax(axis=1) != winner
        weights[rows[tie], winner[tie]] = np.nextafter(weights[tie].max(axis=1), np.float32(1))
        class_ids = list(range(len(classes)))

    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        nodes_treeids=[0] * len(leaf),
        nodes_nodeids=list(range(len(leaf))),
        nodes_modes=["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf],
        nodes_featureids=np.where(leaf, 0, nodes.feature).tolist(),
        nodes_values=thresholds.tolist(),
        nodes_truenodeids=np.where(leaf, 0, nodes.children_left).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, nodes.children_right).tolist(),
        class_treeids=[0] * weights.size,
        class_nodeids=np.repeat(np.flatnonzero(leaf), len(class_ids)).tolist(),
        class_ids=class_ids * len(weights),
        class_weights=weights.ravel().tolist(),
        classlabels_strings=classes,
        post_transform="NONE",
    )
    graph = helper.make_graph(
        [node],
        "decision_tree",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, tree.n_features_in_])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, len(classes)]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, producer_name="decision_trees", opset_imports=opsets, ir_version=8)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    versions |= {"scikit-learn": sklearn.__version__, "onnx": onnx.__version__}
    metadata = {
        "format": FORMAT,
        "features": tree.n_features_in_,
        "labels": classes,
        "hyperparameters": hyperparameters,
        "metrics": metrics,
        "versions": versions,
    }
    texts = {name: json.dumps(value, ensure_ascii=False, sort_keys=True) for name, value in metadata.items()}
    helper.set_model_props(model, texts)
    return model.SerializeToString(deterministic=True)


def compare(predicted: np.ndarray, features: np.ndarray, model_dir: Path) -> None:
    """Loads the file as a server does and holds its answers against what scikit-learn predicted, on every training row."""
    import predictor  # late, as scikit-learn is

    answers = predictor.scores(features, predictor.model_fn(model_dir))
    if not np.array_equal(np.concatenate([piece.argmax(axis=1) for piece in answers]), predicted):
        raise RuntimeError("the ONNX model and scikit-learn's tree differ; no model is written")
