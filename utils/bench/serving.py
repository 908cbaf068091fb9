"""What is measured of servers: requests a second, large requests, start, memory."""

import statistics
import threading
import time
from pathlib import Path

from . import BUILD, BenchError
from .contenders import BASELINE, CONSTANT_FLASK, CONSTANT_WSGI, OURS, Contender, Server, running
from .load import labels, median_ratio, once, rows, rows_of, wrk

NPY = "application/x-npy"
#: name -> (rows of a request, connections)
LOADS = {
    "1 row, 1 connection": (1, 1),
    "1 row, 16 connections": (1, 16),
    "100 rows": (100, 1),
    "10,000 rows": (10_000, 1),
}
LARGE = {"6 MB": 6_000_000, "25 MB": 25_000_000}  # under the 25 MiB that we accept
PARALLEL = 8


def npy(features: list[str]) -> bytes:
    """Rows as an npy body of float32."""
    import io

    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.array([row.split(",") for row in features], np.float32))
    return stream.getvalue()


def check(server: Server, features: list[str]) -> None:
    """Nobody is measured for wrong answers. Raises BenchError."""
    reply = server.contender.labels(server.send(server.contender.body(features)))
    if server.contender not in (CONSTANT_WSGI, CONSTANT_FLASK) and reply != labels(features):
        raise BenchError(f"{server.contender.name} answers {len(features)} rows wrongly: {reply[:80]!r}")


def throughput(contenders: list[Contender], model: Path, rounds: int, seconds: int) -> dict:
    """{load: {contender: {"rate": [a round each], "p50", "p99" (ms)}}}, measured in turn, on two workers each."""
    results: dict = {}
    with running(*contenders, SAGEMAKER_BASE_DIR=model) as servers:
        for name, (count, connections) in LOADS.items():
            features = rows(count)
            turns: dict = {server.contender.name: [] for server in servers}
            for turn in range(rounds):
                for server in servers:
                    if len(turns[server.contender.name]) < turn:
                        continue
                    try:
                        if turn == 0:
                            check(server, features)
                        body = server.contender.body(features)
                        turns[server.contender.name].append(wrk(server, body, connections, seconds))
                    except BenchError as error:
                        if server.contender.pinned:
                            raise
                        print(f"{name}: {server.contender.title} is left out: {error}")
            results[name] = {
                contender: {key: [getattr(load, key) for load in loads] for key in ("rate", "p50", "p99")}
                for contender, loads in turns.items()
                if len(loads) == rounds
            }
        # The peers have formats of their own, in which so many rows are far more bytes.
        servers = [server for server in servers if server.contender.pinned]
        ours = next(server for server in servers if server.contender is OURS)
        features = rows(10_000)
        turns = {"csv": [], "npy": []}
        for _ in range(rounds):
            turns["csv"].append(wrk(ours, OURS.body(features), 1, seconds).rate)
            turns["npy"].append(wrk(ours, npy(features), 1, seconds, NPY).rate)
        results["x-npy against CSV, 10,000 rows"] = turns
        for name, size in LARGE.items():
            features = rows_of(size)
            for server in servers:
                check(server, features)
            results[name] = {server.contender.name: [] for server in servers}
            for _ in range(rounds):
                for server in servers:
                    results[name][server.contender.name].append(once(server, server.contender.body(features)))
        results["memory, bytes"] = {server.contender.name: server.memory() for server in servers}
    return results


def idle_memory(contenders: list[Contender], model: Path) -> dict[str, int]:
    """Proportional set size of each contender that has answered some requests and waits, bytes."""
    with running(*contenders, SAGEMAKER_BASE_DIR=model) as servers:
        for server in servers:
            for _ in range(20):
                check(server, rows(1))
        return {server.contender.name: server.memory() for server in servers}


def cold_starts(contenders: list[Contender], model: Path, rounds: int) -> dict:
    """{contender: {"ready": seconds from exec to the first 200 on /ping, "first": ms of the slowest of eight at once}}."""
    results: dict = {contender.name: {"ready": [], "first": []} for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            server = Server(contender, BUILD / "run" / contender.name, SAGEMAKER_BASE_DIR=model)
            try:
                results[contender.name]["ready"].append(server.await_ready())
                results[contender.name]["first"].append(max(at_once(server)) * 1000)
            finally:
                server.stop()
    return results


def at_once(server: Server) -> list[float]:
    """Seconds that each of eight parallel first requests takes."""
    body = server.contender.body(rows(1))
    barrier, taken = threading.Barrier(PARALLEL), []

    def ask():
        barrier.wait()
        taken.append(once(server, body))

    threads = [threading.Thread(target=ask) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(taken) < PARALLEL:
        raise BenchError(f"{server.contender.name}: {PARALLEL - len(taken)} of the first requests failed")
    return taken


def flat_memory(model: Path, requests: int) -> list[int]:
    """Our memory, bytes, before and after so many requests of 6 MB, taken ten times on the way."""
    body = OURS.body(rows_of(6_000_000))
    with running(OURS, SAGEMAKER_BASE_DIR=model) as (server,):
        for _ in range(20):
            server.send(body)
        seen = [server.memory()]
        for i in range(requests):
            server.send(body)
            if (i + 1) % max(1, requests // 10) == 0:
                seen.append(server.memory())
        return seen


def rate_ratio(results: dict, load: str, one: Contender, other: Contender) -> float:
    return median_ratio(results[load][one.name]["rate"], results[load][other.name]["rate"])


def time_ratio(results: dict, load: str, one: Contender, other: Contender) -> float:
    """How many times as quick `one` is."""
    return median_ratio(results[load][other.name], results[load][one.name])


def tail(results: dict, load: str, one: Contender) -> float:
    return statistics.median(results[load][one.name]["p99"])


def baseline_is_like_the_sample(model: Path) -> list[str]:
    """Shows that the baseline has the sample's habits; returns them in words. Raises BenchError where it has not."""
    import contextlib
    import http.client

    import psutil

    with running(BASELINE, OURS, SAGEMAKER_BASE_DIR=model) as servers:
        seen = {}
        for server in servers:
            answers = []
            for body in (b"5.1,abc,1.4,0.2\n", b"5.1,3.5\n", b"\x00\xff", b"", b"5.1,3.5,1.4,0.2\n5.1\n"):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                with contextlib.closing(connection):
                    connection.request("POST", "/invocations", body, {"Content-Type": "text/csv"})
                    reply = connection.getresponse()
                    answers.append((reply.status, reply.getheader("Content-Type"), reply.read()))
            seen[server.contender.name] = answers
            for child in psutil.Process(server.process.pid).children():
                if child.name() == "nginx":
                    child.kill()
            deadline = time.monotonic() + 30
            while server.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            seen[server.contender.name, "exit"] = server.process.poll()
    html = sum(status >= 500 and "html" in kind for status, kind, _ in seen[BASELINE.name])
    strict = sum(status == 400 and kind == "application/json" for status, kind, _ in seen[OURS.name])
    if html < 3 or seen[BASELINE.name, "exit"] != 0:
        raise BenchError(f"the baseline does not behave like the sample: {seen}")
    return [
        f"malformed CSV, 5 bodies: the baseline answers {html} with HTML 500, this container {strict} with JSON 400",
        f"nginx killed: the baseline exits {seen[BASELINE.name, 'exit']}, this container {seen[OURS.name, 'exit']}",
    ]
