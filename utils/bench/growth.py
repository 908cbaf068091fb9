"""How cost grows: with rows, columns, leaves, connections and workers, with the limit beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from . import BUILD, BenchError, training
from .contenders import BASELINE, CONSTANT_WSGI, OURS, Server, running
from .load import once, rows, wrk

ROWS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
COLUMNS = (4, 10, 20, 50, 100, 200)
LEAVES = (3, 30, 300, 3_000, 50_000)
CONNECTIONS = (1, 4, 16, 64, 256)
WORKERS = (1, 2, 3, 4)
SECONDS = 1


def measure(model: Path) -> dict:
    """{what grows: {"unit": …, "points": {contender: [(size, figure), …]}}}."""
    return {
        "rows of a request": {"unit": "seconds a request", "points": _rows(model)},
        "columns (100 rows a request)": {"unit": "seconds a request", "points": _columns()},
        "leaves of the tree (100 rows a request)": {"unit": "seconds a request", "points": _leaves()},
        "connections (1 row a request)": {"unit": "requests a second", "points": _connections(model)},
        "workers (1 row a request, 16 connections)": {"unit": "requests a second", "points": _workers(model)},
    }


def _rows(model: Path) -> dict:
    points: dict = {}
    with running(OURS, BASELINE, CONSTANT_WSGI, SAGEMAKER_BASE_DIR=model) as servers:
        for count in ROWS:
            body = OURS.body(rows(count))
            for server in servers:
                server.send(body)
                times = 3 if count > 10_000 else 20
                best = min(once(server, body) for _ in range(times))
                points.setdefault(server.contender.name, []).append((count, best))
    return points


def _columns() -> dict:
    points: dict = {}
    random = np.random.default_rng(0)
    for columns in COLUMNS:
        table = random.integers(0, 1000, (2_000, columns))
        with _trained(f"columns-{columns}", table, table[:, 0] % 3, max_depth=5) as (servers, lines):
            for server in servers:
                rate = wrk(server, OURS.body(lines[:100]), 1, SECONDS).rate
                points.setdefault(server.contender.name, []).append((columns, 1 / rate))
    return points


def _leaves() -> dict:
    points: dict = {}
    random = np.random.default_rng(0)
    table = random.integers(0, 100_000, (200_000, 4))
    for leaves in LEAVES:
        name, labels = f"leaves-{leaves}", random.integers(0, 3, len(table))
        with _trained(name, table, labels, max_leaf_nodes=leaves) as (servers, lines):
            for server in servers:
                rate = wrk(server, OURS.body(lines[:100]), 1, SECONDS).rate
                points.setdefault(server.contender.name, []).append((leaves, 1 / rate))
    return points


def _connections(model: Path) -> dict:
    points: dict = {}
    with running(OURS, BASELINE, CONSTANT_WSGI, SAGEMAKER_BASE_DIR=model) as servers:
        for connections in CONNECTIONS:
            for server in servers:
                try:
                    rate = wrk(server, OURS.body(rows(1)), connections, SECONDS).rate
                except BenchError as error:
                    # The sample's nginx has 512 connections, and a request takes two: its line ends before 256.
                    if server.contender is not BASELINE:
                        raise
                    print(f"{connections} connections: {error}", flush=True)
                    continue
                points.setdefault(server.contender.name, []).append((connections, rate))
    return points


def _workers(model: Path) -> dict:
    points: dict = {}
    for workers in WORKERS:
        with running(
            OURS, BASELINE, CONSTANT_WSGI, SAGEMAKER_BASE_DIR=model, MODEL_SERVER_WORKERS=workers
        ) as servers:
            for server in servers:
                server.send(OURS.body(rows(1)))
                rate = wrk(server, OURS.body(rows(1)), 16, SECONDS).rate
                points.setdefault(server.contender.name, []).append((workers, rate))
    return points


@contextmanager
def _trained(
    name: str, table: np.ndarray, labels: np.ndarray, **hyperparameters
) -> Iterator[tuple[list[Server], list[str]]]:
    """Ours and the limit on a model of this table; and the table's rows as CSV lines."""
    lines = [",".join(map(str, row)) for row in table.tolist()]
    file = BUILD / "data" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"class-{label},{line}\n" for label, line in zip(labels, lines, strict=True)))
    given = {key: str(value) for key, value in hyperparameters.items()}
    base = training.folder(name, file, **given)
    training.train(OURS, base)
    with running(OURS, CONSTANT_WSGI, SAGEMAKER_BASE_DIR=base) as servers:
        yield servers, lines
