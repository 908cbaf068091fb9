"""The load: wrk for requests a second, single requests for large bodies, and the bodies themselves."""

import functools
import json
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import BUILD, IRIS, BenchError
from .contenders import Server

# wrk runs this: every request the same; at the end one line of JSON, microseconds.
SCRIPT = """
wrk.method = "POST"
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = os.getenv("BENCH_TYPE")
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\nJSON{"requests":%d,"us":%d,"p50":%d,"p99":%d,"errors":%d}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


def rows(count: int) -> list[str]:
    """`count` rows of iris's features as CSV lines, over and over."""
    lines = [line.partition(",")[2] for line in IRIS.read_text().splitlines()]
    return (lines * (count // len(lines) + 1))[:count]


def rows_of(size: int) -> list[str]:
    """As many rows as make a CSV body of `size` bytes."""
    lines = rows(size // 15)
    length = 0
    for i, line in enumerate(lines):
        length += len(line) + 1
        if length > size:
            return lines[:i]
    return lines


def labels(features: list[str]) -> bytes:
    """What a server must answer for these rows of iris: found by scikit-learn, not by a server."""
    known = _known()
    return "".join([known[row] for row in features]).encode()


@functools.cache
def _known() -> dict[str, str]:
    import pandas
    from sklearn.tree import DecisionTreeClassifier

    table = pandas.read_csv(IRIS, header=None)
    matrix = table.iloc[:, 1:].to_numpy("float32")
    tree = DecisionTreeClassifier(random_state=0).fit(matrix, table.iloc[:, 0])
    # As many as there are: `rows` goes on with the first one.
    return {row: f"{label}\n" for row, label in zip(rows(len(table)), tree.predict(matrix), strict=True)}


def wrk(server: Server, body: bytes, connections: int, seconds: int, content_type: str | None = None) -> Load:
    """Send the body over and over on kept-alive connections. Raises BenchError for any reply but 200."""
    program = shutil.which("wrk")
    if program is None:
        raise BenchError("wrk, the load generator, is needed: apt-get install wrk, or brew install wrk")
    BUILD.mkdir(parents=True, exist_ok=True)
    script, payload = BUILD / "load.lua", BUILD / "body"
    script.write_text(SCRIPT)
    payload.write_bytes(body)
    command = [program, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    done = subprocess.run(
        [*command, "--timeout", "60s", "--script", str(script), server.url],
        env={
            "BENCH_BODY": str(payload),
            "BENCH_TYPE": content_type or server.contender.content_type,
            "PATH": str(Path(program).parent),
        },
        capture_output=True,
        text=True,
    )
    if "JSON{" not in done.stdout:
        raise BenchError(f"wrk failed: {done.stdout[-300:]} {done.stderr[-300:]}")
    seen = json.loads(done.stdout.rpartition("JSON")[2])
    if seen["errors"] or not seen["requests"]:
        raise BenchError(f"{server.contender.name}: {seen['errors']} of {seen['requests']} requests failed")
    return Load(seen["requests"] / seen["us"] * 1e6, seen["p50"] / 1000, seen["p99"] / 1000)


def once(server: Server, body: bytes, content_type: str | None = None) -> float:
    """Seconds that one request takes, from connecting to the last byte of the reply."""
    started = time.perf_counter()
    server.send(body, content_type)
    return time.perf_counter() - started


def median_ratio(these: list[float], those: list[float]) -> float:
    """The median of the ratios, each of two figures of one round."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))
