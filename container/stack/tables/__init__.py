"""Tables of numbers: `read` for a training job's channels; `input_fn` and `output_fn` for a server's requests."""

from typing import NamedTuple

import numpy as np

from stack.errors import InputError
from stack.tables import files, formats


class Table(NamedTuple):
    """Rows to learn from.

    Arrays of NumPy; on several hosts of Dask, whose pieces lie on the hosts that have read them.

    X:       float32 of shape (rows, features)
    y:       int32 (rows,), the number of each row's class, -1 for a class that `training` has not; or float32 (rows,)
    classes: the labels as they were written, by number; None where the target is a number
    """

    X: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...] | None


def read(channels: dict, target: str = "class", client=None) -> tuple[Table, Table | None]:
    """The channels `training` and `validation` (None where there is none) as tables.

    With the `client` of a cluster of hosts each host reads its own files, or where all have all, its share of them.
    Their files are CSV without a header, the target in the first column: a label (target="class") or a number
    (target="number"). Raises InputError that names file, row, column (both from 1) and value.
    """
    if target not in ("class", "number"):
        raise ValueError(f"target={target!r} is neither 'class' nor 'number'")
    if "training" not in channels or set(channels) - {"training", "validation"}:
        found = ", ".join(channels) or "none"
        raise InputError(f"expected a channel 'training' and, if wanted, one 'validation'; found: {found}")
    if client is not None:
        from stack.tables import shares

        return shares.read(channels, target, client)
    labels = files.Labels() if target == "class" else None
    features, y = files.read(channels["training"], labels)
    classes = None if labels is None else files.check_labels(labels.codes, len(y))
    found = [(features, y)]
    if "validation" in channels:
        found.append(files.read(channels["validation"], labels, features.shape[1]))
    if labels is None:
        if len(y) < 2:
            raise InputError("the training data has 1 row; expected at least 2")
    else:
        numbers = files.numbers(labels.codes, classes)
        found = [(features, numbers[codes]) for features, codes in found]
    training, *validation = [Table(*each, classes) for each in found]
    return training, validation[0] if validation else None


def input_fn(body: bytes, content_type: str) -> np.ndarray:
    """A request as float32 (rows, columns). Raises InputError that names row, column and value."""
    return formats.decode(body, content_type)


def output_fn(prediction, accept: str) -> bytes | tuple[bytes, str]:
    """An answer in the media type `accept`: columns by name, or one array, list or Categories of a value a row.

    As CSV, which it then says, where the client leaves the choice. Raises InputError for a type that is none of ours.
    """
    columns = prediction if isinstance(prediction, dict) else {"prediction": prediction}
    if "*" in accept:
        return formats.encode(columns, formats.CSV), formats.CSV
    if accept not in formats.TYPES:
        text = f"no reply is possible as {accept!r}; accept one of {', '.join(formats.TYPES)}"
        raise InputError(text, "not_acceptable", 406)
    return formats.encode(columns, accept)
