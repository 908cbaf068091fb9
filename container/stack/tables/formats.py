"""The formats of requests and replies: CSV, JSON, JSON Lines and npy, by content type and Accept."""

import contextlib
import functools
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from stack.errors import InputError, hint, shown
from stack.tables import fast, numeric

CSV, JSON, JSON_LINES, NPY = "text/csv", "application/json", "application/jsonlines", "application/x-npy"
MANY = 1000  # rows, from which on it takes longer to write them than to prepare to
# Two rows next to each other that are plain. Elsewhere a piece could begin with a byte order mark, or end in blank lines.
BORDER = re.compile(rb"[0-9.]\r?\n(?=[-+.0-9])")
TYPES = (CSV, JSON, JSON_LINES, NPY)
# Characters of JSON that are parsed at a time, and that a row may have: Python's objects take up to thirty times as much.
PIECE = 1 << 20
# And of what can only be read as a whole.
WHOLE = 8 << 20
SPLIT, RECORDS = "dataframe_split", "dataframe_records"
# What TensorFlow Serving calls the rows, and what else mlflow's scoring protocol does.
KEYS = ("instances", "inputs", SPLIT, RECORDS)
EXPECTED = 'expected one JSON object, {"instances": [[5.1, 3.5], …]}'
OTHERS = f"{EXPECTED}, or in its place {', '.join(KEYS[1:])}"
# What stands before the first row; a piece, as long as can be, that ends where a row does; what stands between two.
OPENING, ROWS, COMMA = (
    re.compile(pattern.replace(" ", r"[ \t\r\n]*"), re.DOTALL)
    for pattern in (rf' \{{ "(instances|inputs|{RECORDS})" : \[', r".*[\]}] ,(?= [\[{])", " , ")
)
LINES = re.compile(r".*\n", re.DOTALL)


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
    try:
        text = body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8 at byte {error.start + 1}", "not_utf8") from None
    return _matrix(_from_json(text) if name == JSON else _from_json_lines(text.rstrip()))


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


def _from_json(text: str) -> Iterator[list]:
    """The rows of one of KEYS, as in {"instances": rows}, in pieces where they are large."""
    opening = OPENING.match(text) if len(text) > PIECE else None
    if not opening:
        if len(text) > WHOLE:
            message = f"{OTHERS}; of more than {WHOLE >> 20} MB no {SPLIT}, and no inputs by column: send CSV"
            raise InputError(message, "bad_json")
        yield _rows(*_said(_json(text, "the body")), [])
        return
    start, row, names = opening.end(), 1, []
    while start < len(text):
        try:
            end = _end(text, start, ROWS, row)
            rows = _rows(opening[1], _piece(text, start, end, opening[1]), names, row)
        except InputError as error:
            # Only a row that is wrong can have been cut apart: who checks these rows finds it.
            readable = _readable("," + text[start : start + 2 * PIECE])
            yield _rows(opening[1], readable, names, row)
            if error.code == "bad_json" and end < len(text):
                error.args = (f"{error} (or row {row + len(readable)} is longer than {PIECE >> 20} MB)",)
            raise
        start, row = end, row + len(rows)
        yield rows
        del rows  # before there are the next ones


def _piece(text: str, start: int, end: int, key: str) -> list:
    """The rows of a piece of a body, which is made a body of its own."""
    before, piece = f'{{"{key}": [', text[start:end]
    if end < len(text):
        piece = piece.removesuffix(",") + "]}"
    return _said(_json(before + piece, "the body", text, start - len(before)))[1]


def _said(document) -> tuple[str, object]:
    """Which of KEYS a body has, and what that holds."""
    if not isinstance(document, dict):
        raise InputError(OTHERS, "bad_json")
    if document.pop("params", None) not in (None, {}):
        raise InputError('"params" are for models that take some, and this one takes none', "bad_json")
    if len(document) != 1 or (key := next(iter(document))) not in KEYS:
        raise InputError(OTHERS, "bad_json")
    return key, document[key]


def _rows(key: str, said, names: list[str], first: int = 1) -> list:
    """Rows, each a list or {"features": list}, of what one of KEYS holds; `first` is the number of the first.

    Columns are in the order in which they are said: a model has no names for them. `names` are those of the records
    before, and are filled by the first one.
    """
    if key == SPLIT:
        if not isinstance(said, dict) or not {"columns", "data"} <= said.keys() <= {
            "columns",
            "data",
            "index",
        }:
            raise InputError(f'"{SPLIT}" must be {{"columns": names, "data": rows}}', "bad_json")
        columns, said = said["columns"], said["data"]
        if isinstance(columns, list) and isinstance(said, list):
            for i, row in enumerate(said, 1):
                if isinstance(row, list) and len(row) != len(columns):
                    text = f"row {i} has {len(row)} columns where {len(columns)} are named"
                    raise InputError(text, "bad_columns", row=i)
    if key == "inputs" and isinstance(said, dict):
        counts = {name: len(column) if isinstance(column, list) else None for name, column in said.items()}
        if len(set(counts.values())) != 1 or None in counts.values():
            lengths = shown(json.dumps(counts, ensure_ascii=False))
            raise InputError(
                f'"inputs" must have a list of one length for each column; got {lengths}', "bad_columns"
            )
        return [list(row) for row in zip(*said.values(), strict=True)]
    if not isinstance(said, list):
        raise InputError(f'"{key}" must be a list of rows', "bad_json")
    if key != RECORDS:
        return said
    rows = []
    for i, record in enumerate(said, first):
        if not isinstance(record, dict):
            raise InputError(f'row {i} is not {{"name": number, …}}', "bad_row", row=i)
        names[:] = names or record
        if odd := record.keys() ^ set(names):
            name = min(odd)
            text = f"row {i} has {'a' if name in record else 'no'} column {shown(name)!r}, unlike row 1"
            raise InputError(text, "bad_columns", row=i)
        rows.append([record[name] for name in names])
    return rows


def _readable(text: str) -> list:
    """The rows at the beginning of a text, each after a comma, as far as they are JSON."""
    rows, place = [], 0
    with contextlib.suppress(ValueError, RecursionError):
        while comma := COMMA.match(text, place):
            row, place = DECODER.raw_decode(text, comma.end())
            rows.append(row)
    return rows


def _from_json_lines(text: str) -> Iterator[list]:
    """The rows of a body with one a line, in pieces where it is large."""
    start, row = 0, 1
    while start < len(text):
        end = _end(text, start, LINES, row)
        lines = text[start:end].removesuffix("\n").split("\n")
        yield [_json(line, f"line {i}") for i, line in enumerate(lines, row)]
        start, row = end, row + len(lines)


def _end(text: str, start: int, pattern: re.Pattern, row: int) -> int:
    """Where a piece ends that begins at `start`, with row `row`."""
    if len(text) - start <= PIECE:
        return len(text)
    piece = pattern.match(text, start, start + PIECE)
    if not piece:
        raise InputError(f"row {row} is longer than {PIECE >> 20} MB", "bad_row", row=row)
    return piece.end()


def _json(text: str, what: str, whole: str = "", start: int = 0):
    """What a text says; an error says where it is in the whole, if the text is a piece of that from `start` on."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise InputError(f"{what} is nested too deeply", "bad_json") from None
    except json.JSONDecodeError as error:
        error = json.JSONDecodeError(error.msg, whole or text, start + error.pos)
        text = f"{what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InputError(text, "bad_json") from None
    except ValueError as error:
        raise InputError(
            f"{what} holds a number that cannot be read: {shown(str(error))}", "bad_json"
        ) from None


def _refuse_constant(name: str):
    raise InputError(f"{name} is not JSON and not a number that can be predicted on", "bad_value", value=name)


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _matrix(pieces: Iterable[list]) -> np.ndarray:
    """Pieces of rows as lists of numbers, or as {"features": list}, to a float32 matrix."""
    matrices, count, columns = [], 0, None
    for instances in pieces:
        rows = [
            row["features"] if isinstance(row, dict) and list(row) == ["features"] else row
            for row in instances
        ]
        for i, row in enumerate(rows, count + 1):
            if not isinstance(row, list) or not row:
                text = f'row {i} is not a list of numbers; expected [5.1, 3.5] or {{"features": [5.1, 3.5]}}'
                raise InputError(text, "bad_row", row=i)
            columns = columns or len(row)
            if len(row) != columns:
                text = f"row {i} has {len(row)} columns where {columns} were expected, as in the rows before"
                raise InputError(text, "bad_columns", row=i)
            if not set(map(type, row)) <= {int, float}:
                column = next(j for j, value in enumerate(row, 1) if type(value) not in (int, float))
                value = shown(json.dumps(row[column - 1], ensure_ascii=False)[:200])
                text = f"row {i}, column {column}: {value} is not a number"
                error = InputError(text, "bad_value", row=i, column=column, value=value)
                error.columns = len(row) if column == 1 else None
                raise error
        if rows:
            try:
                matrices.append(_finite32(np.array(rows, np.float64), count + 1))
            except OverflowError:
                raise InputError(
                    "an integer does not fit into a 32-bit float (at most 3.4e38)", "bad_value"
                ) from None
        count += len(rows)
        # Before there are the next ones.
        del instances, rows
    if not matrices:
        raise InputError("there is no row in the request", "empty_body")
    return np.concatenate(matrices)


def npy(body: bytes) -> np.ndarray:
    """The array in an npy file of numbers, of any shape without a 0, not copied. Raises InputError."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # numpy evaluates the header as a literal: every way to fail is the client's
        raise InputError("the body is not an npy file of version 1 or 2", "bad_npy") from error
    if dtype.kind not in "fiu" or dtype.itemsize > 8 or min(shape, default=1) < 1:
        text = f"expected an array of numbers; got {shown(str(dtype))} of {shown(str(shape))}"
        raise InputError(text, "bad_npy")
    data = body[stream.tell() :]
    if len(data) != dtype.itemsize * math.prod(shape):
        raise InputError(f"the array's shape is {shown(str(shape))}, its data {len(data)} bytes", "bad_npy")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _from_npy(body: bytes) -> np.ndarray:
    rows = npy(body)
    if rows.ndim != 2:
        text = f"expected an array of numbers with shape (rows, columns); got {rows.dtype} of {shown(str(rows.shape))}"
        raise InputError(text, "bad_npy")
    return _finite32(rows)


def _finite32(values: np.ndarray, first_row: int = 1) -> np.ndarray:
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(values, np.float32)
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        value = str(values[row, column])
        text = f"row {first_row + row}, column {column + 1}: {value} is not a finite 32-bit float"
        raise InputError(text, "bad_value", row=first_row + row, column=column + 1, value=value)
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
    begin, between, end = (b'{"predictions": [', b", ", b"]}") if media == JSON else (b"", b"", b"")
    # Piece by piece into one buffer: Python's objects take some forty times the bytes that are written.
    stream = io.BytesIO()
    stream.write(begin)
    for i in range(0, max(map(len, columns.values())), MANY):
        stream.write(between if i else b"")
        stream.write(_written({name: _plain(c[i : i + MANY]) for name, c in columns.items()}, media))
    stream.write(end)
    return stream.getvalue()


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
