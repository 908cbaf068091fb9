#!/usr/bin/env python3
"""Makes up visits to a shop, and whether each ended with a purchase: python data/visits.py FOLDER [--rows N] [--files N]

    FOLDER/training/000.csv …     2,000,000 rows in 16 files of equal length, 110 MB
    FOLDER/validation/000.csv …   100,000 more, in 4 files

A row is `buys` or `left`, then ten numbers of which eight matter, from 10.0 to 99.9. Chance has its part in each purchase,
so no model is right about all of them. The same seed gives the same rows, in however many files.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

COLUMNS = 10
LABELS = np.array([b"left,", b"buys,"])
NUMBERS = {
    end: np.array([f"{tenths / 10:.1f}{end}".encode() for tenths in range(100, 1000)]) for end in ",\n"
}
#: Rows that are made at once: what they need of memory is some tens of megabytes.
BLOCK = 25_000


def rows(random: np.random.Generator, count: int) -> bytes:
    """Lines of CSV, the label first."""
    numbers = random.integers(0, 900, (count, COLUMNS), np.int16)
    x = numbers.T / 450 - 1  # of (COLUMNS, count), from -1 to 1
    likes = (
        1.5 * x[0]
        + np.sin(3 * x[1])
        + x[2] ** 2
        + x[3]
        + x[3] * x[4]
        + np.maximum(x[5], 0)
        - x[6]
        - x[7] ** 3
    )
    buys = random.random(count) < 1 / (1 + np.exp(-2 * likes))
    fields = [
        LABELS[buys.astype(int)],
        *(NUMBERS[","][column] for column in numbers.T[:-1]),
        NUMBERS["\n"][numbers[:, -1]],
    ]
    # All fields are equally long, so the lines of a block are a table of bytes.
    return np.stack(fields, axis=1).tobytes()


def make(folder: Path, count: int, files: int, seed: int = 0) -> None:
    """Write `count` rows into files 000.csv, 001.csv … of the folder, each with as many rows as another, or one more."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    lines = [rows(random, min(BLOCK, count - begun)) for begun in range(0, count, BLOCK)]
    text, length = b"".join(lines), 5 * (COLUMNS + 1)
    bounds = [count * number // files * length for number in range(files + 1)]
    for number, (begin, end) in enumerate(pairwise(bounds)):
        (folder / f"{number:03}.csv").write_bytes(text[begin:end])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--files", type=int, default=16)
    words = parser.parse_args()
    make(words.folder / "training", words.rows, words.files)
    make(words.folder / "validation", 100_000, 4, seed=1)
    print(
        f"{words.rows:,} rows for training in {words.files} files, 100,000 for validation, in {words.folder}"
    )
