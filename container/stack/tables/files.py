"""Training files: CSV, the target in the first column, every mistake named by file, row, column and value."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from stack.errors import InputError, hint, is_name, shown
from stack.tables import fast, numeric

# Bytes read at a time: what is made of them must fit into the processor's cache.
PIECE = 1 << 20
LONGEST = 16 << 20  # bytes of a line
# What stands before the features of a row: a label, quoted or not, and a comma.
LABEL = re.compile(rb'(?:([^",]*)|[ \t]*"((?:[^"]|"")*)"[ \t]*),')


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


def read(channel, labels: Labels | None, columns: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a channel: features, float32 of shape (rows, columns), and targets (rows,).

    Targets are the codes of `labels`, int32; numbers, float32, where there are no labels.
    Raises InputError with file, row, column (both from 1) and value.
    """
    rows = Rows(np.float32 if labels is None else np.int32)
    for name, stream in channel.open_files():
        row, left = 1, stream.seek(0, os.SEEK_END) if stream.seekable() else 0
        if left:
            stream.seek(0)
        try:
            for piece in pieces(stream):
                left = max(0, left - len(piece))
                if labels is None:
                    features, targets = read_numbers(piece, row, columns)
                else:
                    features, targets = read_labelled(piece, labels, row, columns)
                columns = rows.add(features, targets, left / len(piece))
                row += len(targets)
            if row == 1:
                raise InputError("the file is empty; remove it, or put rows in it")
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if not rows.count:
        raise InputError(f"channel {channel.name} holds no data; put CSV files into {channel.path}")
    return rows.features[: rows.count], rows.targets[: rows.count]


class Rows:
    """Features and targets, piece by piece. What is not filled takes no memory: the kernel gives it when it is."""

    def __init__(self, kind):
        self.count, self.features, self.targets = 0, np.empty((0, 0), np.float32), np.empty(0, kind)

    def add(self, features: np.ndarray, targets: np.ndarray, more: float) -> int:
        """Add a piece of which `more` times as much is left, so that all is moved seldom; the number of columns."""
        begin, self.count = self.count, self.count + len(targets)
        if self.count > len(self.targets):
            room = max(2 * self.count, self.count + int(1.05 * more * len(targets)))
            held = self.features[:begin], self.targets[:begin]
            self.features = np.empty((room, features.shape[1]), np.float32)
            self.targets = np.empty(room, self.targets.dtype)
            if begin:
                self.features[:begin], self.targets[:begin] = held
        self.features[begin : self.count], self.targets[begin : self.count] = features, targets
        return features.shape[1]


def read_numbers(piece: bytes, row: int, columns: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Features and the numbers before them, of lines of numbers; `row` is the number of the first one."""
    try:
        matrix = numeric.parse(piece, row, 1, columns and columns + 1)
    except InputError as error:
        raise hinted(error, piece) from None
    if matrix.shape[1] < 2:
        raise InputError(f"row {row} {bad_line(first_line(piece))}")
    return matrix[:, 1:], matrix[:, 0]


def read_labelled(
    piece: bytes, labels: Labels, row: int, columns: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Features and label codes of lines that begin with a label; `row` is the number of the first one."""
    if plain := read_plain(piece, labels, columns):
        return plain
    raw, rests, bad = split(piece)
    if raw:
        try:
            features = numeric.parse(b"\n".join(rests), row, 2, columns)
        except InputError as error:
            raise hinted(error, rests[0]) from None
        codes = read_labels(raw, labels, row)
    if bad is not None:
        raise InputError(f"row {row + len(raw)} {bad_line(bad)}")
    return features, codes


def first_line(text: bytes) -> bytes:
    return text.partition(b"\n")[0]


def hinted(error: InputError, text: bytes) -> InputError:
    """The error, with what its line seems to be where that is a file's first one."""
    line = [cell.strip(' \t\r"') for cell in first_line(text).decode("utf-8", "replace").split(",")]
    if error.details.get("row") == 1 and error.code == "bad_value":
        if len(line) > 1 and is_name(line[-1]) and not any(map(is_name, line[:-1])):
            error.args = (f"{error}; the target is the first column: if it is the last one here, move it",)
            return error
        error.args = (f"{error}{hint(first_line(text), '; if row 1 is a header, remove it')}",)
    return error


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
        if len(rest) > LONGEST:
            raise InputError(
                f"a line is longer than {LONGEST >> 20} MB; if lines end in CR alone, write the file with LF"
            )
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
    raw, rests = [], []
    for line in piece.split(b"\n"):
        label = LABEL.match(line)
        if not label or label.end() == len(line):
            return raw, rests, line
        raw.append(label[1] if label[2] is None else label[2])
        rests.append(line[label.end() :])
    return raw, rests, None


def bad_line(line: bytes) -> str:
    if not line.strip():
        return "is empty: remove it"
    if b'"' in line:
        return f"has a label whose quotes do not match: {shown(line)!r}"
    if line.rstrip(b" \t").endswith(b",") and line.count(b",") == 1:
        return "has a label, but no number after it"
    other = next((mark for mark in (b";", b"\t", b"|") if mark in line), None)
    mend = f"; the delimiter must be ',', not {other.decode()!r}" if other else ""
    return f"has 1 column; expected a label and at least one number, with commas between{mend}"


def read_labels(raw: list[bytes], labels: Labels, first_row: int) -> np.ndarray:
    try:
        return np.fromiter(map(labels.__getitem__, raw), np.int32, len(raw))
    except InputError as error:
        row = first_row + raw.index(error.details["value"])
        raise InputError(f"row {row}, column 1: {error}") from None


def check_labels(labels: Iterable[str], rows: int) -> list[str]:
    """The classes, sorted; refuses what a classifier cannot learn from."""
    classes = sorted(labels)
    if rows < 2 or len(classes) < 2:
        raise InputError(
            f"the training data has {rows} rows and {len(classes)} different labels "
            f"({', '.join(map(shown, classes))}); expected at least 2 of each"
        )
    many = len(classes) > max(20, rows / 2)
    try:
        numbers = [float(label) for label in classes]
    except ValueError:
        if not many:
            return classes
        raise InputError(
            f"the label column has {len(classes)} different labels, such as {shown(classes[0])!r}, in {rows} rows: "
            "names or numbers of rows, it seems; a classifier needs classes. The label is the first column"
        ) from None
    fraction = next((c for c, n in zip(classes, numbers, strict=True) if n != n or n % 1), None)
    if fraction is not None or many:
        raise InputError(
            f"the label column is continuous ({len(classes)} different numbers such as {fraction or classes[0]} "
            f"in {rows} rows); a classification tree needs classes. The label is the first column"
        )
    return classes


def numbers(labels: Iterable[str], classes: list[str]) -> np.ndarray:
    """The number of each label's class, int32: classes count in the order of their labels, as in scikit-learn; else -1."""
    number = {label: i for i, label in enumerate(classes)}
    return np.array([number.get(label, -1) for label in labels], np.int32)
