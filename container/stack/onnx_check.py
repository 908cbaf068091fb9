"""A look into an ONNX file before onnxruntime has it, for models that come from elsewhere.

onnxruntime runs whatever graph a file holds: operators that allocate without bound or never end, and
weights that lie in other files. A server of one operator allows that one, and no tensors. (The onnx
package could read the file, but a server has no other use for its 60 MB.)
"""

import re

# Fields of onnx.proto by number: those that are looked into, and those that may be there.
MODEL = {7: "graph"}, {1, 2, 3, 4, 5, 6, 8, 14}  # versions, producer, documentation, opsets, metadata
GRAPH = {1: "node"}, {2, 10, 11, 12, 13}  # name, documentation, inputs, outputs, types
NODE = {4: "operator", 5: "attribute"}, {1, 2, 3, 6, 7}  # inputs, outputs, name, documentation, domain
ATTRIBUTE = {}, {1, 2, 3, 4, 7, 8, 9, 13, 20}  # name, numbers and texts, documentation, type
# A big tree has its numbers in long runs of fields: eight (integers) and seven (floats), each with its tag.
RUN = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+|(?:\x3d.{4})+", re.DOTALL)


def one_operator(content: bytes, operator: str) -> None:
    """Raises ValueError unless the file is one node of this operator, with numbers and texts only."""
    graphs = [graph for _, graph in _fields(content, *MODEL)]
    nodes = [node for graph in graphs for _, node in _fields(graph, *GRAPH)]
    if len(graphs) != 1 or len(nodes) != 1:
        raise ValueError(f"it has {len(nodes)} operators; expected one, {operator}")
    for name, value in _fields(nodes[0], *NODE):
        if name == "attribute":
            list(_fields(value, *ATTRIBUTE))
        elif value != operator.encode():
            raise ValueError(f"its operator is not {operator}")


def _fields(message: bytes, wanted: dict[int, str], allowed: set[int]):
    """The wanted fields of a protobuf message as (name, bytes); any other one must be allowed."""
    at = 0
    while at < len(message):
        run = RUN.match(message, at) if not wanted else None
        if run:
            at = run.end()
            continue
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
            raise ValueError(f"it is not an ONNX file, or holds more than one operator (field {number})")
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
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
