"""The formats of requests and replies: CSV, JSON, JSON Lines and npy, by content type and Accept."""

import functools
import io
import json
import re
from typing import NamedTuple

import numpy as np

from stack.errors import InputError, hint, shown
from stack.tables import fast, numeric

CSV, JSON, JSON_LINES, NPY = "text/csv", "application/json", "application/jsonlines", "application/x-npy"
MANY = 1000  # rows, from which on it takes longer to write them than to prepare to
# Two rows next to each other that are plain. Elsewhere a piece could begin with a byte order mark, or end in blank lines.
BORDER = re.compile(rb"[0-9.]\r?\n(?=[-+.0-9])")
TYPES = (CSV, JSON, JSON_LINES, NPY)
# JSON of rows of numbers, and nothing else, is read as CSV is, without an object for each number: by these, whose `++`
# and `*+` keep no way back, so that they need no memory. B stands for blanks.
NUMBER = r"-?(?:0|[1-9]\d*+)(?:\.\d++)?+(?:[eE][-+]?\d++)?+B"
NUMBERS = rf"\[B{NUMBER}(?:,B{NUMBER})*+\]B"
ROW = rf'(?:{NUMBERS}|\{{B"features"B:B{NUMBERS}\}}B)'
ROWS = re.compile(rf'B\{{B"instances"B:B\[B((?:{ROW}(?:,B{ROW})*+)?+)'.replace("B", r"[ \t\r\n]*+").encode())
LINES = re.compile(rf"(B(?:{ROW}(?:\nB{ROW})*+)?+)".replace("B", r"[ \t\r]*+").encode())
END = re.compile(rb"\][ \t\r\n]*+\}[ \t\r\n]*+")
# All else becomes Python's objects, which take up to forty times its bytes, to find out what is wrong with it.
MAX_OTHER_JSON_MB = 2
PIECE = 1 << 20


@functools.lru_cache(maxsize=256)
def media_type(content_type: str) -> tuple[str, bool]:
    """A Content-Type header as (media type, whether the first row is a header, RFC 4180). Raises 415."""
    # Here: `train` uses the other half of this file, and has no werkzeug.
    from werkzeug.http import parse_options_header

    name, options = parse_options_header(content_type)
    name = name.strip().lower()
    if name not in TYPES:
        text = f"content type {shown(content_type)!r} is not supported; send one of {', '.join(TYPES)}"
        raise InputError(text, "unsupported_media_type", 415)
    charset = options.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        text = f"charset {shown(charset)!r} is not supported; send UTF-8"
        raise InputError(text, "unsupported_media_type", 415)
    header = options.get("header", "absent").lower()
    if header not in ("present", "absent"):
        raise InputError(
            f"header={shown(header)} is neither present nor absent", "unsupported_media_type", 415
        )
    return name, header == "present"


def decode(body: bytes, content_type: str) -> np.ndarray:
    """The rows of a request as a float32 matrix of shape (rows, columns), at least one row.

    Raises InputError that names row and column (from 1) and value.
    """
    name, header = media_type(content_type)
    if not body or body.isspace():
        raise InputError("the request has no body; send at least one row", "empty_body")
    if name == NPY:
        return _from_npy(body)
    if name == CSV:
        return _from_csv(body, header)
    body = body.removeprefix(b"\xef\xbb\xbf").rstrip()
    rows = _from_plain_json(body, name == JSON_LINES)
    if rows is not None:
        return rows
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8 at byte {error.start + 1}", "not_utf8") from None
    return _from_json(text) if name == JSON else _from_json_lines(text)


def cut(body: bytes, size: int) -> list[slice]:
    """Pieces of a CSV body, of `size` bytes or little more, that mean apart what they mean in the whole.

    What is refused in the whole may still be refused in a piece alone, or for the number of its columns.
    """
    pieces, start = [], 0
    while border := BORDER.search(body, start + size):
        pieces.append(slice(start, border.end()))
        start = border.end()
    return [*pieces, slice(start, len(body))]


def _from_csv(body: bytes, header: bool) -> np.ndarray:
    text = body.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    text = text.rstrip(b" \t\n")
    if header:
        text = text.partition(b"\n")[2]
        if not text:
            raise InputError("there is no row below the header", "empty_body")
    try:
        return numeric.parse(text, 1 + header)
    except InputError as error:
        if error.details.get("row") == 1 + header and error.code == "bad_value":
            names = "" if header else "; if row 1 is a header, send 'text/csv; header=present'"
            first = text.partition(b"\n")[0]
            error.args = (f"{error}{hint(first, names)}",)
        raise


def _from_plain_json(body: bytes, lines: bool) -> np.ndarray | None:
    """Rows of numbers and nothing else; None for a body that is something else, or wrong, and not large."""
    found = (LINES if lines else ROWS).match(body)
    end, rows = (found.end(), found[1]) if found else (0, b"")
    large = len(body) > MAX_OTHER_JSON_MB << 20
    if rows and (end == len(body) if lines else END.fullmatch(body, end)):
        text = rows.replace(b'"features"', b"")
        if lines:
            text = text.translate(None, b" \t\r{:[]}")
        else:
            text = text.translate(None, b" \t\r\n{:[}")[:-1].replace(b"],", b"\n")
        try:
            return numeric.parse(text)
        except InputError:
            if large:
                raise
    if large:
        columns = rows.count(b",", 0, rows.find(b"]")) + 1 if rows else None
        raise _other_row(body[end : end + PIECE].lstrip(b", \t\r\n"), body.count(b"]", 0, end) + 1, columns)
    return None


def _other_row(text: bytes, i: int, columns: int | None) -> InputError:
    """Why the text from row `i` on is not as the rows before it, in a body that is too large to look at more of it."""
    try:
        row, _ = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text.decode(errors="replace"))
        _check_row(_numbers(row), i, columns)
    except InputError as error:
        return error
    except (ValueError, RecursionError):  # no JSON, or more of it than was looked at
        pass
    problem = (
        f"row {i} is not, or not followed by, what JSON of more than {MAX_OTHER_JSON_MB} MB must have: rows"
    )
    value = shown(text)
    expected = 'of numbers and nothing else, in {"instances": […]} or a line each'
    return InputError(f"{problem} {expected}; found {value!r}", "bad_row", row=i, value=value)


def _from_json(text: str) -> np.ndarray:
    document = _json(text, "the body")
    if not isinstance(document, dict) or list(document) != ["instances"]:
        raise InputError('expected one JSON object, {"instances": [[5.1, 3.5], …]}', "bad_json")
    if not isinstance(document["instances"], list):
        raise InputError('"instances" must be a list of rows', "bad_json")
    return _matrix(document["instances"])


def _from_json_lines(text: str) -> np.ndarray:
    return _matrix([_json(line, f"line {i}") for i, line in enumerate(text.rstrip().split("\n"), 1)])


def _json(text: str, what: str):
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputError(f"{what} is nested too deeply", "bad_json") from None
    except json.JSONDecodeError as error:
        text = f"{what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InputError(text, "bad_json") from None
    except ValueError as error:
        raise InputError(
            f"{what} holds a number that cannot be read: {shown(str(error))}", "bad_json"
        ) from None


def _refuse_constant(name: str):
    raise InputError(f"{name} is not JSON and not a number that can be predicted on", "bad_value", value=name)


def _matrix(instances: list) -> np.ndarray:
    """Rows as lists of numbers, or as {"features": list}, to a float32 matrix."""
    rows = [_numbers(row) for row in instances]
    if not rows:
        raise InputError("there is no row in the request", "empty_body")
    for i, row in enumerate(rows, 1):
        _check_row(row, i, len(rows[0]) if i > 1 else None)
    try:
        return _finite32(np.array(rows, np.float64))
    except OverflowError:
        raise InputError(
            "an integer does not fit into a 32-bit float (at most 3.4e38)", "bad_value"
        ) from None


def _numbers(row):
    return row["features"] if isinstance(row, dict) and list(row) == ["features"] else row


def _check_row(row, i: int, columns: int | None) -> None:
    if not isinstance(row, list) or not row:
        text = f'row {i} is not a list of numbers; expected [5.1, 3.5] or {{"features": [5.1, 3.5]}}'
        raise InputError(text, "bad_row", row=i)
    if len(row) != (columns or len(row)):
        text = f"row {i} has {len(row)} columns where {columns} were expected, as in the rows before"
        raise InputError(text, "bad_columns", row=i)
    if not set(map(type, row)) <= {int, float}:
        column = next(j for j, value in enumerate(row, 1) if type(value) not in (int, float))
        value = shown(json.dumps(row[column - 1], ensure_ascii=False)[:200])
        text = f"row {i}, column {column}: {value} is not a number"
        raise InputError(text, "bad_value", row=i, column=column, value=value)


def _from_npy(body: bytes) -> np.ndarray:
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy evaluates the header as a literal: every way to fail is the client's
        raise InputError("the body is not an npy file of version 1 or 2", "bad_npy") from error
    if dtype.kind not in "fiu" or dtype.itemsize > 8 or len(shape) != 2 or min(shape) < 1:
        text = f"expected an array of numbers with shape (rows, columns); got {shown(str(dtype))} of {shown(str(shape))}"
        raise InputError(text, "bad_npy")
    data = body[stream.tell() :]
    if len(data) != dtype.itemsize * shape[0] * shape[1]:
        raise InputError(f"the array's shape is {shown(str(shape))}, its data {len(data)} bytes", "bad_npy")
    return _finite32(np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C"))


def _finite32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(values, np.float32)
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        value = str(values[row, column])
        text = f"row {row + 1}, column {column + 1}: {value} is not a finite 32-bit float"
        raise InputError(text, "bad_value", row=row + 1, column=column + 1, value=value)
    return matrix


class Categories(NamedTuple):
    """A column of few words and many rows: row i holds names[codes[i]]."""

    names: tuple[str, ...]
    codes: np.ndarray


def encode(columns: dict, media: str) -> bytes:
    """Named columns of one length (Categories, arrays, or vectors and lists a row) in a media type."""
    if media == CSV and len(columns) == 1 and isinstance(column := next(iter(columns.values())), Categories):
        lines = _csv_lines(column.names)
        text = fast.write_lines(column.codes, lines) if len(column.codes) > MANY else None
        return b"".join(map(lines.__getitem__, column.codes.tolist())) if text is None else text
    columns = {
        name: np.array(column.names, object)[column.codes] if isinstance(column, Categories) else column
        for name, column in columns.items()
    }
    if media == NPY:
        if len(columns) > 1:
            text = f"npy holds one array, and {', '.join(columns)} were asked for; accept {JSON}"
            raise InputError(text, "not_acceptable", 406)
        values = np.asarray(next(iter(columns.values())))
        stream = io.BytesIO()
        np.save(stream, values.astype(str) if values.dtype == object else values, allow_pickle=False)
        return stream.getvalue()
    count = max(map(len, columns.values()))
    # Piece by piece: Python's objects take some forty times the bytes that are written.
    pieces = [
        _written({name: _plain(column[i : i + MANY]) for name, column in columns.items()}, media)
        for i in range(0, count, MANY)
    ]
    if media == JSON:
        return b'{"predictions": [' + b", ".join(pieces) + b"]}"
    return b"".join(pieces)


def _written(columns: dict, media: str) -> bytes:
    if media == CSV:
        cells = [
            [_csv_cell(v) if isinstance(v, str) else _csv_cell(json.dumps(v, ensure_ascii=False)) for v in c]
            for c in columns.values()
        ]
        lines = cells[0] if len(cells) == 1 else map(",".join, zip(*cells, strict=True))
        return ("\n".join(lines) + "\n").encode()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if media == JSON:
        return json.dumps(rows, ensure_ascii=False)[1:-1].encode()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@functools.lru_cache(maxsize=8)
def _csv_lines(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f"{_csv_cell(name)}\n".encode() for name in names)


def _plain(column) -> list:
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        # By way of text: 0.98 as a float32 is 0.9800000190734863 as a Python float.
        return column.astype(str).astype(float).tolist()
    return list(column)


@functools.lru_cache(maxsize=1024)
def _csv_cell(text: str) -> str:
    if text == text.strip() and not any(mark in text for mark in ',"\n\r'):
        return text
    return '"' + text.replace('"', '""') + '"'
