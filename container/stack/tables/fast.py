"""fast.c's functions: what plain rows and labels take, where it was compiled (compile.sh); everywhere else None."""

import contextlib
import ctypes
import sys

import numpy as np

MOST_LABELS = 256  # that fast.c looks through for each row


def _load() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(f"{sys.prefix}/lib/libfast.so")
        text, number, array = ctypes.c_char_p, ctypes.c_long, ctypes.c_void_p
        library.read_rows.restype, library.write_lines.restype = number, None
        known = ctypes.POINTER(number)
        library.read_rows.argtypes = [text, number, number, array, array, array, number, known]
        library.write_lines.argtypes = [array, number, text, array, array]
        return library
    return None


LIBRARY = _load()


def read_rows(
    text: bytes, columns: int | None = None, labelled: bool = False
) -> tuple[np.ndarray, np.ndarray | None, list[bytes]] | None:
    """Lines as numeric.parse takes them, where all of them are plain: (numbers, codes, labels), else None.

    `labelled`: each line begins with a label; `codes`, int32 of shape (rows,), says which of `labels`, which are as
    they were written, in order of appearance.
    """
    end, rows = text.find(b"\n"), text.count(b"\n") + 1
    wide = text.count(b",", 0, end if rows > 1 else len(text)) + (not labelled)
    # A number and what ends it are two bytes: no text, however strange, takes more memory than it could fill.
    if LIBRARY is None or columns not in (None, wide) or not 0 < 2 * rows * wide <= len(text) + 1:
        return None
    matrix, known = np.empty((rows, wide), np.float32), ctypes.c_long()
    codes = places = None
    arrays = [matrix.ctypes.data, None, None, 0]
    if labelled:
        codes, places = np.empty(rows, np.int32), np.empty((MOST_LABELS, 2), np.int64)
        arrays[1:] = codes.ctypes.data, places.ctypes.data, MOST_LABELS
    if LIBRARY.read_rows(text, len(text), wide, *arrays, known) != rows:
        return None
    labels = [text[at : at + size] for at, size in places[: known.value].tolist()] if labelled else []
    return matrix, codes, labels


def write_lines(codes: np.ndarray, lines: tuple[bytes, ...]) -> bytes | None:
    """The line of each code, end to end."""
    if LIBRARY is None:
        return None
    codes = np.ascontiguousarray(codes, np.int64)
    sizes = np.array([len(line) for line in lines])
    out = np.empty(np.bincount(codes, minlength=len(lines)) @ sizes, np.uint8)
    ends = np.cumsum(sizes)
    LIBRARY.write_lines(codes.ctypes.data, len(codes), b"".join(lines), ends.ctypes.data, out.ctypes.data)
    return out.tobytes()
