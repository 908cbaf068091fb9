"""A look into an ONNX file before onnxruntime has it, for models that come from elsewhere.

onnxruntime runs whatever graph a file holds: operators that allocate without bound or never end, and
weights that lie in other files. It also walks a tree by recursion: one that is deep or goes in circles ends
the process. So a server of decision trees takes one tree in the form that training.py writes. (The onnx
package could read the file, but a server has no other use for its 60 MB.)
"""

import re
from collections.abc import Iterator

import numpy as np

# onnxruntime 1.31 overruns a stack of 8 MB somewhere between 8,000 and 12,000 levels.
MAX_DEPTH = 2000

# Fields of onnx.proto by number: those that are looked into, and those that may be there.
MODEL = {7: "graph"}, {1, 2, 3, 4, 5, 6, 8, 14}  # versions, producer, documentation, opsets, metadata
GRAPH = {1: "node"}, {2, 10, 11, 12, 13}  # name, documentation, inputs, outputs, types
NODE = {4: "operator", 5: "attribute"}, {1, 2, 3, 6, 7}  # inputs, outputs, name, documentation, domain

# What each attribute holds: fields with their tag, in pieces, so that decoding takes little memory.
FLOATS = re.compile(rb"(?:\x3d.{4}){1,65536}", re.DOTALL)
INTEGERS = re.compile(rb"(?:\x40[\x80-\xff]{0,4}[\x00-\x7f]){1,65536}")
MODES = re.compile(rb"(?:\x4a\x04LEAF|\x4a\x0aBRANCH_LEQ){1,65536}")
LABELS = re.compile(rb"\x4a.+", re.DOTALL)
NONE = re.compile(rb"\x22\x04NONE")
ATTRIBUTES = {
    "nodes_treeids": INTEGERS,
    "nodes_nodeids": INTEGERS,
    "nodes_modes": MODES,
    "nodes_featureids": INTEGERS,
    "nodes_values": FLOATS,
    "nodes_truenodeids": INTEGERS,
    "nodes_falsenodeids": INTEGERS,
    "class_treeids": INTEGERS,
    "class_nodeids": INTEGERS,
    "class_ids": INTEGERS,
    "class_weights": FLOATS,
    "classlabels_strings": LABELS,
    "post_transform": NONE,
}


def one_tree(content: bytes) -> tuple[int, list[str]]:
    """How many features a row needs at least, and the labels, of a file that is one tree.

    Raises ValueError for any other file. Takes time and memory in proportion to the file's size.
    """
    graphs = [graph for _, graph in _fields(memoryview(content), *MODEL)]
    nodes = [node for graph in graphs for _, node in _fields(graph, *GRAPH)]
    if len(graphs) != 1 or len(nodes) != 1:
        raise ValueError(f"it has {len(nodes)} operators; expected one, TreeEnsembleClassifier")
    found = {}
    for field, value in _fields(nodes[0], *NODE):
        if field == "operator" and value != b"TreeEnsembleClassifier":
            raise ValueError("its operator is not TreeEnsembleClassifier")
        if field == "attribute":
            name, decoded = _attribute(value)
            if name in found:
                raise ValueError(f"it has {name} twice")
            found[name] = decoded
    if set(found) != set(ATTRIBUTES):
        raise ValueError(f"it lacks {', '.join(sorted(set(ATTRIBUTES) - set(found)))}")
    return _check_tree(found), found["classlabels_strings"]


def _check_tree(a: dict) -> int:
    inner, left, right = a["nodes_modes"], a["nodes_truenodeids"], a["nodes_falsenodeids"]
    features, nodes, weights = a["nodes_featureids"], len(inner), len(a["class_weights"])
    numbers = np.arange(nodes)
    if not nodes or {len(a[name]) for name in a if name.startswith("nodes_")} != {nodes}:
        raise ValueError("its nodes_* attributes differ in length, or there are none")
    if {len(a[name]) for name in ("class_treeids", "class_nodeids", "class_ids")} != {weights}:
        raise ValueError("its class_* attributes differ in length")
    if a["nodes_treeids"].any() or a["class_treeids"].any() or (a["nodes_nodeids"] != numbers).any():
        raise ValueError("it is not one tree with nodes numbered from 0")
    if not (np.isfinite(a["nodes_values"]).all() and np.isfinite(a["class_weights"]).all()):
        raise ValueError("a threshold or a weight is not a finite number")
    # Each node but the first is the child of one node before it: then this is a tree, without circles.
    children = np.concatenate([left[inner], right[inner]])
    before = np.concatenate([numbers[inner]] * 2)
    if not np.array_equal(np.sort(children), numbers[1:]) or (children <= before).any():
        raise ValueError("a child index is out of range, has two parents or leads back")
    depth, level = 0, numbers[:1]
    while len(level := level[inner[level]]):
        level, depth = np.concatenate([left[level], right[level]]), depth + 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the tree is more than {MAX_DEPTH} levels deep; train it with a max_depth")
    if not (a["class_nodeids"] < nodes).all() or inner[a["class_nodeids"]].any():
        raise ValueError("a class weight belongs to no leaf")
    if not (a["class_ids"] < len(a["classlabels_strings"])).all():
        raise ValueError("a class index is out of range")
    return int(features.max()) + 1


def _attribute(message: memoryview) -> tuple[str, np.ndarray | list[str]]:
    """An attribute by name: its length and letters, the fields of its content, its type."""
    if len(message) < 2 or message[0] != 0x0A or message[1] > 0x7F:
        raise ValueError("an attribute does not begin with its name")
    name = bytes(message[2 : 2 + message[1]]).decode()
    body = message[2 + message[1] : -3]
    if name not in ATTRIBUTES or message[-3:-1] != b"\xa0\x01":
        raise ValueError(
            f"its attribute {name!r} is not one of a decision tree, or not as training writes it"
        )
    pattern, at, pieces = ATTRIBUTES[name], 0, []
    while at < len(body):
        piece = pattern.match(body, at)
        if not piece:
            raise ValueError(f"its attribute {name} holds something else than expected")
        pieces.append(DECODED[pattern](piece[0]))
        at = piece.end()
    if not pieces:
        raise ValueError(f"its attribute {name} is empty")
    return name, pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _floats(piece: bytes) -> np.ndarray:
    return np.frombuffer(piece, [("tag", "u1"), ("value", "<f4")])["value"]


def _integers(piece: bytes) -> np.ndarray:
    """Seven bits a byte, the lowest first; a byte below 128 is the last of a tag or a number."""
    data = np.frombuffer(piece, np.uint8).astype(np.int64)
    ends = np.flatnonzero(data < 128)
    first, last = ends[0::2] + 1, ends[1::2]
    numbers = np.zeros(len(first), np.int64)
    for k in range(5):
        more = first + k <= last
        numbers[more] |= (data[first[more] + k] & 127) << 7 * k
    if numbers.max() >= 2**31:
        raise ValueError("an index is out of range")
    return numbers.astype(np.int32)


def _modes(piece: bytes) -> np.ndarray:
    """True for an inner node, False for a leaf."""
    short = piece.replace(b"\x4a\x04LEAF", b"\x00").replace(b"\x4a\x0aBRANCH_LEQ", b"\x01")
    return np.frombuffer(short, bool)


def _labels(piece: bytes) -> list[str]:
    labels = [bytes(label).decode() for _, label in _fields(memoryview(piece), {9: "label"}, set())]
    if any("\0" in label for label in labels):
        raise ValueError("a label has a NUL in it")
    return labels


DECODED = {FLOATS: _floats, INTEGERS: _integers, MODES: _modes, LABELS: _labels, NONE: bytes}


def _fields(
    message: memoryview, wanted: dict[int, str], allowed: set[int]
) -> Iterator[tuple[str, memoryview]]:
    """The wanted fields of a protobuf message as (name, bytes); any other one must be allowed."""
    at = 0
    while at < len(message):
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
        if number in wanted and wire == 2:
            yield wanted[number], message[at : at + size]
        elif number not in allowed:
            raise ValueError(f"it is not an ONNX file, or holds more than one tree (field {number})")
        at += size


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
