"""Strict parsing of comma separated numbers: requests and training files go through here.

Nearly all rows are plain, and fast.c reads those at the speed of memory, where it was compiled. What it does not take,
and everything where it is missing, Python's float() reads, to the same numbers. What both refuse is explained.
"""

import re

import numpy as np

from stack.errors import InputError, shown
from stack.tables import fast

# With these characters only, float() takes exactly the decimal numbers that CSV files hold:
# 5, +7, 5., .3, 1e-3, blanks around them. nan, inf, 1_0, 0x1 and other digits need other characters.
NUMERALS = b"0123456789+-.eE \t"
NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
QUOTED = re.compile(rb'(?<![^,\n])([ \t]*)"([^",\n]*)"(?=[ \t]*(?:[,\n]|\Z))')
# Python's cells take some fifteen times the bytes they were read from, so a big body goes piece by piece.
PIECE = 1 << 20


def parse(text: bytes, first_row: int = 1, first_column: int = 1, columns: int | None = None) -> np.ndarray:
    """Lines of comma separated numbers as a float32 matrix of shape (rows, columns).

    Lines end in LF, the last one in nothing. `first_row` and `first_column` say where `text`
    begins in what the user wrote. `columns`, where it is known, is what every row must have.
    Raises InputError with row, column (both from 1) and value.
    """
    if plain := fast.read_rows(text, columns):
        return plain[0]
    pieces, start = [], 0
    while start <= len(text):
        end = len(text)
        if end - start > PIECE:
            end = text.rfind(b"\n", start, start + PIECE)
            end = end if end > start else text.find(b"\n", start + PIECE)
            end = end if end > start else len(text)
        piece = text[start:end]
        plain = fast.read_rows(piece, columns)
        matrix = plain[0] if plain else _read_any(piece, columns)
        if matrix is None:
            raise _explain(piece, first_row, first_column, columns)
        pieces.append(matrix)
        columns = matrix.shape[1]
        first_row += len(matrix)
        start = end + 1
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _read_any(piece: bytes, columns: int | None) -> np.ndarray | None:
    if b'"' in piece:
        piece = QUOTED.sub(rb"\1\2", piece)
    separators = piece.translate(None, NUMERALS) + b"\n"
    wide = separators.index(b"\n") + 1
    rows = len(separators) // wide
    if separators != (b"," * (wide - 1) + b"\n") * rows or columns not in (None, wide):
        return None
    try:
        values = np.fromiter(map(float, piece.replace(b"\n", b",").split(b",")), np.float64, rows * wide)
    except ValueError:
        return None
    matrix = _float32(values).reshape(rows, wide)
    return matrix if np.isfinite(matrix).all() else None


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a number beyond float32 becomes inf, which is looked for
        return values.astype(np.float32)


def _explain(piece: bytes, first_row: int, first_column: int, columns: int | None) -> InputError:
    """Finds what `_read_any` would not take, slowly, and says where it is."""
    for row, line in enumerate(piece.split(b"\n"), first_row):
        if not line.strip():
            return InputError(f"row {row} is empty: remove it", "empty_row", row=row)
        cells = line.split(b",")
        for column, cell in enumerate(cells, first_column):
            problem = _problem(cell)
            if problem:
                where = {"row": row, "column": column, "value": shown(cell)}
                error = InputError(f"row {row}, column {column}: {problem}", "bad_value", **where)
                error.columns = len(cells) if column == 1 else None
                return error
        columns = columns or len(cells)
        if len(cells) != columns:
            found, expected = len(cells) + first_column - 1, columns + first_column - 1
            text = f"row {row} has {found} columns where {expected} were expected, as in the rows before"
            return InputError(text, "bad_columns", row=row)
    raise AssertionError("the two readings of a number differ")


def _problem(cell: bytes) -> str | None:
    bare = cell.strip(b" \t")
    if len(bare) > 1 and bare[:1] == bare[-1:] == b'"':
        bare = bare[1:-1].strip(b" \t")
    if not bare:
        return "the value is missing; expected a number"
    if not NUMBER.fullmatch(bare):
        try:
            cell.decode()
        except UnicodeDecodeError:
            return "the value is not UTF-8 text; expected a number"
        return f"{shown(cell)!r} is not a number; expected one such as 5.1 or 1e-3"
    if not np.isfinite(_float32(np.array(float(bare)))):
        return f"{shown(cell)!r} does not fit into a 32-bit float (at most 3.4e38)"
    return None
