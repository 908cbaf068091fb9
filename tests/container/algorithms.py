"""What the contract's tables must know of an algorithm: what it learns from, is asked and answers, and its hyperparameters.

BYOA_ALGORITHM=knn pytest tests/container/test_contract_*.py: the tables for container/knn (default: decision_trees).
An algorithm of rows learns data/iris.csv: four numbers and a species, or the number that stands for it; each of the
tables is about it. One of pictures learns bright squares on a dark ground, and tests that are marked `tables` are not
about it.
"""

import functools
import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

LINES = [
    line.split(",", 1)
    for line in (Path(__file__).resolve().parents[2] / "data/iris.csv").read_text().splitlines()
]
LABELS, ROWS = [label for label, _ in LINES], [row for _, row in LINES]
# What a species is to an algorithm that predicts numbers.
NUMBERS = {"setosa": "-1.5", "versicolor": "2", "virginica": "5.25"}


@dataclass(frozen=True)
class Algorithm:
    """An algorithm of container/ that learns rows.

    data:    the file of data/ that its README trains it on, and from which its payload is
    numbers: it predicts numbers, not classes
    quick:   hyperparameters with which the tests train it on `channels`
    brief:   those that make a training on README's data short, where it is not
    good:    others that it takes
    bad:     by name: hyperparameters that it refuses, and words of its refusal
    """

    name: str
    data: str = "iris.csv"
    numbers: bool = False
    quick: dict = field(default_factory=dict)
    brief: dict = field(default_factory=dict)
    good: dict | None = None
    bad: dict | None = None

    tabular = True
    content_type = "text/csv"
    samples = len(ROWS)

    def written(self, species: str) -> str:
        """A species as this algorithm's data have it."""
        return NUMBERS[species] if self.numbers else species

    def species(self, answer: str | float) -> str:
        """The species that an answer means: for a number, the nearest."""
        if not self.numbers:
            return answer
        return min(NUMBERS, key=lambda name: abs(float(NUMBERS[name]) - float(answer)))

    @property
    def channels(self) -> dict[str, dict[str, str | bytes]]:
        """What the tests train it on: {channel: {file: content}}."""
        return {"training": {"iris.csv": "".join(f"{self.written(label)},{row}\n" for label, row in LINES)}}

    def sample(self, i: int) -> bytes:
        """The body of a request, of which there are `samples`."""
        return ROWS[i].encode()

    def right(self, i: int, answer: bytes) -> float:
        """How much of the answer to a sample is right, 0 to 1."""
        return float(self.species(answer.decode().strip()) == LABELS[i])

    def large(self, size: int) -> bytes:
        """The body of a request that is answered, of so many bytes or a few less."""
        line = b"5.1,3.5,1.4,0.2\n"
        return line * (size // len(line))


def png(array: np.ndarray, palette: list[int] | None = None) -> bytes:
    image, stream = Image.fromarray(array), io.BytesIO()
    if palette:
        image.putpalette(palette)
    image.save(stream, "PNG")
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@functools.cache
def square(i: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A picture, RGB, with a bright square on a dark ground, and its mask."""
    random = np.random.default_rng(i)
    side = random.integers(size // 3, size // 2)
    top, left = random.integers(0, size - side, 2)
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    light = np.where(mask, 190, 60)[..., None] + random.normal(0, 10, (size, size, 3))
    return light.clip(0, 255).astype(np.uint8), mask


@dataclass(frozen=True)
class Segmentation(Algorithm):
    """One that learns pictures with their masks, and answers a picture with its mask."""

    data: str = ""

    tabular = False
    content_type = "image/png"
    samples = 8

    @property
    def channels(self) -> dict[str, dict[str, str | bytes]]:
        files = {}
        for i in range(12):
            picture, mask = square(i)
            files |= {f"images/{i}.png": png(picture), f"masks/{i}.png": png(mask, [0, 0, 0, 230, 159, 0])}
        return {"training": files, "validation": dict(list(files.items())[:4])}

    def sample(self, i: int) -> bytes:
        return png(square(100 + i)[0])

    def right(self, i: int, answer: bytes) -> float:
        found = Image.open(io.BytesIO(answer), formats=["PNG"])
        return float((np.asarray(found) == square(100 + i)[1]).mean())

    def large(self, size: int) -> bytes:
        body = self.sample(0)
        # Of a chunk with a small first letter a reader that does not know it passes over.
        filling = chunk(b"prVt", bytes(size - len(body) - 12))
        return body[:-12] + filling + body[-12:]


TREES = Algorithm(
    "decision_trees",
    good={"max_depth": "2"},
    bad={
        "unknown name": ({"max_dept": "3"}, ["max_dept", "max_depth"]),
        "text for a number": ({"max_depth": "three"}, ["max_depth", "three"]),
        "boolean": ({"max_depth": "true"}, ["max_depth", "true"]),
        "unknown word": ({"criterion": "gin"}, ["criterion", "gin", "gini"]),
    },
)
KNN = Algorithm(
    "knn",
    good={"n_neighbors": "3"},
    bad={
        "unknown name": ({"k": "3"}, ["'k'", "n_neighbors"]),
        "text for a number": ({"n_neighbors": "three"}, ["n_neighbors", "three"]),
        "distances that ONNX Runtime has not": ({"p": "1"}, ["KNeighborsClassifier", "take other hyper"]),
        "more than there are rows": ({"n_neighbors": "151"}, ["n_neighbors", "151"]),
    },
)
PIPELINE = Algorithm(
    "logistic_regression",
    good={"logisticregression__C": "0.5", "logisticregression__class_weight": "balanced"},
    bad={
        "of no part": ({"C": "1"}, ["'C'", "logisticregression__C"]),
        "text for a number": ({"logisticregression__C": "much"}, ["C", "much"]),
    },
)
BOOSTING = Algorithm(
    "gradient_boosting",
    good={"n_estimators": "20", "max_depth": "3", "learning_rate": 0.5},
    bad={
        "unknown name": ({"max_dept": "3"}, ["max_dept", "max_depth"]),
        "text for a number": ({"max_depth": "three"}, ["max_depth", "three"]),
        "text for a count": ({"n_estimators": "many"}, ["n_estimators", "many"]),
        "none at all": ({"n_estimators": "0"}, ["XGBClassifier", "take other hyperparameters"]),
        "no trees": ({"booster": "gblinear"}, ["XGBClassifier", "take other hyperparameters"]),
    },
)
FOREST = Algorithm(
    "random_forest_regressor",
    data="diabetes.csv",
    numbers=True,
    good={"n_estimators": "10", "max_features": "sqrt"},
    bad={
        "unknown name": ({"trees": "3"}, ["'trees'", "n_estimators"]),
        "text for a number": ({"n_estimators": "many"}, ["n_estimators", "many"]),
    },
)
UNET = Segmentation(
    "unet",
    brief={"epochs": "1", "width": "2", "depth": "1"},
    quick={"epochs": "3", "width": "4", "depth": "1", "batch_size": "2", "learning_rate": "0.05"},
    good={"seed": "2", "classes": "3", "learning_rate": 0.01},
    bad={
        "unknown name": ({"epoch": "3"}, ["'epoch'", "epochs"]),
        "text for a number": ({"epochs": "three"}, ["epochs", "three", "whole number"]),
        "out of bounds": ({"depth": "7"}, ["depth=7", "1 to 6"]),
    },
)
ALL = {each.name: each for each in (TREES, KNN, PIPELINE, BOOSTING, FOREST, UNET)}
