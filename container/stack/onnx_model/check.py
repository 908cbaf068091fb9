"""A look into an ONNX file before onnxruntime has it, for models that come from elsewhere.

onnxruntime runs whatever graph a file holds: loops that never end, weights that lie in other files. It also walks a tree
by recursion: one that is deep or goes in circles ends the process. So a server takes graphs of operators that it knows,
without loops or branches, and trees that are trees. What remains is what no look can tell: a graph that is large, and
slow. (The onnx package could read the file, but a server has no other use for its 60 MB; protobuf alone, with a schema made here,
would cost each start 55 ms.)
"""

import re
from collections.abc import Iterator

import numpy as np

# onnxruntime 1.31 overruns a stack of 8 MB somewhere between 8,000 and 12,000 levels.
MAX_DEPTH = 2000
TREES = {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}
# What skl2onnx makes of scikit-learn's estimators (found by converting all of them), and what networks are made of.
KNOWN = """
    Abs Add And ArgMax ArgMin ArrayFeatureExtractor AveragePool BatchNormalization Binarizer CDist Cast Clip Concat
    Constant ConstantOfShape Conv ConvTranspose CumSum Div Equal Erf Exp FeatureVectorizer Flatten Floor Gather
    GatherElements Gemm GlobalAveragePool Greater GreaterOrEqual Identity Imputer IsNaN LabelEncoder LeakyRelu Less
    LessOrEqual LinearClassifier LinearRegressor Log LogSoftmax MatMul Max MaxPool Min Mul Neg Normalizer Not
    OneHotEncoder Or Pow Reciprocal ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize SVMClassifier SVMRegressor Scaler Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Sum
    Tanh TopK Transpose Unsqueeze Where
"""
OPERATORS = TREES | set(KNOWN.split())
# Between the input and a tree these leave each feature its place.
IN_PLACE = {"Binarizer", "Cast", "Identity", "Imputer", "Normalizer", "Scaler"}

# Fields of onnx.proto by number: those that are looked into, and those that may be there.
MODEL = {7: "graph"}, {1, 2, 3, 4, 5, 6, 8, 14}  # versions, producer, documentation, opsets, metadata
GRAPH = {1: "node", 5: "tensor"}, {2, 10, 11, 12, 13}  # name, documentation, inputs, outputs, types
NODE = {1: "input", 2: "output", 4: "operator", 5: "attribute"}, {3, 6, 7}  # name, documentation, domain
# shape, type, data of each kind, name: no data in other files
TENSOR = {}, {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12}
ATTRIBUTE = {1: "name", 5: "tensor", 9: "string"}, {2, 3, 4, 7, 8, 13, 20}  # numbers, texts, type: no graph

# Lists of numbers and of a tree's words, in pieces, so that decoding takes little memory. Before each stands its tag,
# field << 3 | kind: 3d is a float (field 7), 40 an integer (8), 4a a string (9).
FLOATS = re.compile(rb"(?:\x3d.{4}){1,65536}", re.DOTALL)
INTEGERS = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f]){1,65536}")
MODES = re.compile(rb"(?:\x4a\x04LEAF|\x4a\x0aBRANCH_LEQ|\x4a\x09BRANCH_LT){1,65536}")


def graph(content: bytes) -> int:
    """How many features a row needs at least, for the trees of a file that may be served.

    Raises ValueError for any other file. Takes time and memory in proportion to the file's size.
    """
    graphs = [found for _, found in _fields(memoryview(content), *MODEL)]
    if len(graphs) != 1:
        raise ValueError(f"it has {len(graphs)} graphs; expected one")
    needed, unmoved = 0, {b"features"}
    for what, message in _fields(graphs[0], *GRAPH):
        if what == "tensor":
            list(_fields(message, *TENSOR))
            continue
        node = {"input": [], "output": [], "operator": [], "attribute": []}
        for field, value in _fields(message, *NODE):
            node[field].append(value)
        operator = bytes(b"".join(node["operator"])).decode("utf-8", "replace")
        if operator not in OPERATORS:
            raise ValueError(
                f"its operator {operator[:40]!r} is not one that a server takes (stack/onnx_model/check.py)"
            )
        first = bytes(b"".join(node["input"][:1]))
        attributes = [_attribute(value) for value in node["attribute"]]
        if operator in IN_PLACE and first in unmoved:
            unmoved |= set(map(bytes, node["output"]))
        if operator in TREES:
            found = dict(attributes)
            if len(found) < len(attributes):
                raise ValueError("it has an attribute twice")
            features = _check_trees(found)
            needed = max(needed, features if first in unmoved else 0)
    return needed


def _check_trees(a: dict) -> int:
    """How many features the trees of one operator need, once they are trees, and not too deep."""
    names = [
        f"nodes_{name}"
        for name in ("treeids", "nodeids", "modes", "featureids", "truenodeids", "falsenodeids")
    ]
    missing = sorted({*names, "nodes_values"} - set(a))
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    trees, ids, inner, features, left, right = (a[name] for name in names)
    nodes = len(ids)
    if not nodes or {len(a[name]) for name in (*names, "nodes_values")} != {nodes}:
        raise ValueError("its nodes_* attributes differ in length, or there are none")
    numbers = np.arange(nodes)
    begins = np.flatnonzero(ids == 0)
    # The trees come one after another, and so do the nodes of each.
    tree = np.searchsorted(begins, numbers, "right") - 1
    if ids[0] or not np.array_equal(trees, tree) or not np.array_equal(ids, numbers - begins[tree]):
        raise ValueError("its trees or their nodes are not numbered from 0")
    numbers_of = {name: a[name] for name in a if isinstance(a[name], np.ndarray)}
    if not all(np.isfinite(found).all() for found in numbers_of.values()):
        raise ValueError("a threshold or a weight is not a finite number")
    if any(found.min() < 0 for name, found in numbers_of.items() if name.endswith("ids")):
        raise ValueError("an index is out of range")
    ends = np.append(begins[1:], nodes)
    children = np.concatenate([(begins[tree] + side)[inner] for side in (left, right)])
    before = np.concatenate([numbers[inner]] * 2)
    # Each node but the first of a tree is the child of one node before it: then this is a tree, without circles.
    rest = np.delete(numbers, begins)
    if (
        not np.array_equal(np.sort(children), rest)
        or (children <= before).any()
        or (children >= ends[tree[before]]).any()
    ):
        raise ValueError("a child index is out of range, has two parents or leads back")
    depth, level = 0, begins
    while len(level := level[inner[level]]):
        level = np.concatenate([(begins[tree] + side)[level] for side in (left, right)])
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"a tree is more than {MAX_DEPTH} levels deep; set hyperparameter max_depth")
    for kind in ("class", "target"):
        if f"{kind}_nodeids" in a:
            of, at, index = (a.get(f"{kind}_{name}", ()) for name in ("treeids", "nodeids", "ids"))
            if not len(of) == len(at) == len(index) == len(a.get(f"{kind}_weights", ())):
                raise ValueError(f"its {kind}_* attributes differ in length")
            if (of >= len(begins)).any() or (at >= (ends - begins)[of]).any() or inner[begins[of] + at].any():
                raise ValueError("a weight belongs to no leaf")
            if (
                index >= max(2, len(a.get("classlabels_int64s", ())), len(a.get("classlabels_strings", ())))
            ).any() and kind == "class":
                raise ValueError("a class index is out of range")
    return int(features.max()) + 1


def _attribute(message: memoryview) -> tuple[str, np.ndarray | list | None]:
    """An attribute by name, with its list of numbers or words; None where it is something else."""
    name, pieces, at = "", [], 0
    while at < len(message):
        for pattern, decode in DECODED.items():
            if piece := pattern.match(message, at):
                pieces.append(decode(piece[0]))
                at = piece.end()
                break
        else:
            field, value, at = _field(message, at, *ATTRIBUTE)
            if field == "name":
                name = bytes(value).decode("utf-8", "replace")
            elif field == "tensor":
                list(_fields(value, *TENSOR))
            elif field == "string":
                pieces.append([bytes(value)])
    if len({type(piece) for piece in pieces} | {getattr(piece, "dtype", None) for piece in pieces}) > 2:
        raise ValueError(f"its attribute {name} holds several kinds of values")
    if not pieces or isinstance(pieces[0], list):
        return name, [value for piece in pieces for value in piece] if pieces else None
    return name, pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _floats(piece: bytes) -> np.ndarray:
    return np.frombuffer(piece, [("tag", "u1"), ("value", "<f4")])["value"]


def _integers(piece: bytes) -> np.ndarray:
    """Seven bits a byte, the lowest first; a byte below 128 is the last of a tag or a number."""
    data = np.frombuffer(piece, np.uint8).astype(np.int64)
    ends = np.flatnonzero(data < 128)
    first, last = ends[0::2] + 1, ends[1::2]
    numbers = np.zeros(len(first), np.int64)
    for k in range(10):
        more = first + k <= last
        numbers[more] |= (data[first[more] + k] & 127) << 7 * k
    return numbers


def _modes(piece: bytes) -> np.ndarray:
    """True for an inner node, False for a leaf."""
    for word, short in ((b"\x04LEAF", b"\x00"), (b"\x0aBRANCH_LEQ", b"\x01"), (b"\x09BRANCH_LT", b"\x01")):
        piece = piece.replace(b"\x4a" + word, short)
    return np.frombuffer(piece, bool)


DECODED = {FLOATS: _floats, INTEGERS: _integers, MODES: _modes}


def _fields(
    message: memoryview, wanted: dict[int, str], allowed: set[int]
) -> Iterator[tuple[str, memoryview]]:
    """The wanted fields of a protobuf message as (name, bytes); any other one must be allowed."""
    at = 0
    while at < len(message):
        field, value, at = _field(message, at, wanted, allowed)
        if field:
            yield field, value


def _field(
    message: memoryview, at: int, wanted: dict[int, str], allowed: set[int]
) -> tuple[str, memoryview, int]:
    """A field of a protobuf message: its name, where it is wanted, its bytes, and where the next one begins."""
    tag, at = _varint(message, at)
    number, wire = tag >> 3, tag & 7
    if wire == 0:
        size, at = 0, _varint(message, at)[1]
    elif wire == 2:
        size, at = _varint(message, at)
    else:
        size = {1: 8, 5: 4}.get(wire, len(message))
    if at + size > len(message):
        raise ValueError("it is cut off, or not an ONNX file")
    end = at + size
    if number in wanted and wire == 2:
        return wanted[number], message[at:end], end
    if number not in allowed:
        raise ValueError(f"it is not an ONNX file, or holds more than a server takes (field {number})")
    return "", message[:0], end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is cut off, or not an ONNX file")
