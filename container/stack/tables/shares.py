"""Tables that lie on several hosts: each reads its files where they are, and keeps what it read."""

from operator import itemgetter

import dask.array as da
import distributed
import numpy as np

from stack import channels as job
from stack.cluster import workers
from stack.errors import InputError
from stack.server import settings
from stack.tables import Table, files


def read(channels: dict, target: str, client: distributed.Client) -> tuple[Table, Table | None]:
    """The channels `training` and `validation` as tables.read says, of arrays with a piece for each host that has rows.

    Raises InputError that names the host as well.
    """
    found = {name: _read_everywhere(name, target, client) for name in sorted(channels)}
    first, columns = next((host, about[1]) for host, (_, about) in found["training"].items())
    for name, shares in found.items():
        for host, (_, about) in shares.items():
            if about[1] != columns:
                raise InputError(
                    f"{host}: channel {name}: its rows have {about[1]} features; {columns} in those of {first}"
                )
    rows = sum(about[0] for _, about in found["training"].values())
    classes = None
    if target == "class":
        labels = {label for _, about in found["training"].values() for label in about[2]}
        classes = files.check_labels(labels, rows)
    elif rows < 2:
        raise InputError("the training data has 1 row; expected at least 2")
    training, *validation = [_table(found[name], classes, client) for name in sorted(found)]
    return training, validation[0] if validation else None


def _read_everywhere(name: str, target: str, client: distributed.Client) -> dict:
    """What each host has of a channel, where it has something: (the rows, which stay there, and what _about says)."""
    places = workers(client)
    shares = {
        host: client.submit(_read, name, target, workers=[place], pure=False)
        for host, place in places.items()
    }
    abouts = {host: client.submit(_about, share, pure=False) for host, share in shares.items()}
    found = {host: (shares[host], about) for host, each in abouts.items() if (about := each.result())}
    told = ", ".join(f"{host} {found[host][1][0] if host in found else 0}" for host in places)
    print(f"train: channel {name}: rows by host: {told}")
    if not found:
        raise InputError(f"channel {name} holds no data on any host; put CSV files into it")
    return found


def _read(name: str, target: str) -> tuple | None:
    """On a host: its rows of a channel, as files.read gives them, and the labels of their codes; None where it has none."""
    worker = distributed.get_worker()
    channel = job.read(settings.base_dir())[name]
    if channel.config.get("S3DistributionType") != "ShardedByS3Key":
        if channel.config.get("TrainingInputMode") == "Pipe":
            raise InputError(
                f"channel {name}: FullyReplicated in Pipe mode gives each host all rows in one stream, which cannot be "
                "shared; set ShardedByS3Key, or File or FastFile mode"
            )
        channel = channel._replace(share=worker.place)
    counted = sum(1 for _ in channel.files())
    worker.read[name] = {"files": counted, "rows": 0}
    if not counted:
        return None
    labels = files.Labels() if target == "class" else None
    try:
        features, targets = files.read(channel, labels)
    except InputError as error:
        raise InputError(f"{worker.name}: {error}") from None
    worker.read[name]["rows"] = len(targets)
    return features, targets, labels and list(labels.codes)


def _about(share: tuple | None) -> tuple | None:
    """Of what _read gives, what all need to know: rows, features, labels."""
    return share and (*share[0].shape, share[2])


def _table(shares: dict, classes: list[str] | None, client: distributed.Client) -> Table:
    """The hosts' rows as one table, each where it was read."""
    X, y = [], []
    for share, (rows, features, _) in shares.values():
        pair = client.submit(_numbered, share, classes, pure=False)
        each = [client.submit(itemgetter(i), pair, pure=False) for i in (0, 1)]
        X.append(da.from_delayed(each[0], (rows, features), np.float32))
        y.append(da.from_delayed(each[1], (rows,), np.float32 if classes is None else np.int32))
    return Table(da.concatenate(X), da.concatenate(y), classes)


def _numbered(share: tuple, classes: list[str] | None) -> tuple[np.ndarray, np.ndarray]:
    features, targets, labels = share
    return features, targets if classes is None else files.numbers(labels, classes)[targets]
