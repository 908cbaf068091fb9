"""`make faults` measures what large or hostile things cost, each by its own name, and writes FAULTS.md.

`make faults CASE="large flood"` measures those anew, and leaves the others as they were.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import psutil

from . import BUILD, IRIS, BenchError, report, training
from .contenders import OURS, Server, running
from .overhead import HOME, ROLE, localaws_of_its_own, run_job

FAULTS = Path(__file__).with_name("FAULTS.md")
JSON = Path(__file__).with_name("faults.json")
MB = 1 << 20
WEST = {"LocationConstraint": "us-west-2"}
BUCKET = "sagemaker-faults"
# Does what its hyperparameter asks for. `marked` is a number of seconds that nobody else sleeps.
TRAIN = """#!/usr/bin/env python3
import json, os, pathlib, subprocess, time
asked = json.loads(pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "input/config/hyperparameters.json").read_text())
match asked["do"]:
    case "flood":
        subprocess.run(["timeout", "20", "yes"])
    case "backtrack":
        print("a" * 100 + "b", flush=True)
    case "leave":
        subprocess.Popen(["sleep", asked["marked"]], start_new_session=True)
        time.sleep(600)
"""


class Figure(NamedTuple):
    """What was measured, the most that it may be, what it was, and the unit of both."""

    what: str
    most: float
    value: float
    unit: str


def home() -> Iterator[Figure]:
    """A home of 20,000 objects and 1 GB of log lines comes up after kill -9."""
    with localaws_of_its_own("process"):
        put_objects(20_000)
        put_lines(1000 * MB)
        seconds, _ = up_after_kill("20,000 objects")
    yield Figure("`up` of 20,000 objects and 1 GB of log lines, after kill -9", 10, seconds, "s")


def crowd() -> Iterator[Figure]:
    """A home of 200,000 objects comes up, and says how far it is."""
    with localaws_of_its_own("process"):
        put_objects(200_000)
        seconds, silence = up_after_kill("200,000 objects")
    yield Figure("`up` of 200,000 objects, after kill -9", 60, seconds, "s")
    yield Figure("… and the longest silence on the screen", 10, silence, "s")


def large() -> Iterator[Figure]:
    """An object of 1.5 GB goes in and out."""
    with localaws_of_its_own("process") as status:
        s3 = client("s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=WEST)
        source, target = BUILD / "large", BUILD / "got"
        with source.open("wb") as file:
            for _ in range(1536):
                file.write(os.urandom(MB))
        ratios = []
        s3.upload_file(str(source), BUCKET, "large")
        for _ in range(3):
            copied = clocked(lambda: subprocess.run(["cp", source, target], check=True))
            target.unlink()
            ratios.append(clocked(lambda: s3.download_file(BUCKET, "large", str(target))) / copied)
            target.unlink()
        with ThreadPoolExecutor(3) as readers:
            list(readers.map(lambda n: s3.download_file(BUCKET, "large", f"{target}-{n}"), range(3)))
        yield Figure("`download_file` of 1.5 GB: times `cp`", 5, sorted(ratios)[1], "x")
        yield Figure(
            "… and the most memory of localaws, with three readers at last",
            600,
            most_memory(status.pid),
            "MB",
        )
        for file in (source, *BUILD.glob("got-*")):
            file.unlink()


def flood() -> Iterator[Figure]:
    """A job prints `yes` for 20 seconds."""
    with localaws_of_its_own("process") as status:
        before = most_memory(status.pid)
        ended = job("flood")
        yield Figure(
            "the most memory of localaws, a job having printed `yes` for 20 s",
            600,
            most_memory(status.pid),
            "MB",
        )
        yield Figure("… of which are the lines'", 300, most_memory(status.pid) - before, "MB")
        yield Figure("… until the job has ended", 40, ended, "s")


def backtrack() -> Iterator[Figure]:
    """A metric's regex would take for ever on a line."""
    with localaws_of_its_own("process"):
        yield Figure(
            "a metric's regex of exponential time: until the job has ended", 10, job("backtrack"), "s"
        )


def leave() -> Iterator[Figure]:
    """A job leaves a child in another session, and is at its MaxRuntimeInSeconds, 2, as is the child."""
    with localaws_of_its_own("process"):
        taken = job("leave", seconds=2)
        yield Figure(
            "a job with a child in a session of its own: until it is ended, MaxRuntime being 2 s",
            15,
            taken,
            "s",
        )
        left = [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", MARK]]
        yield Figure("… and of its processes there are left", 0, len(left), "")


def models() -> Iterator[Figure]:
    """500 clients create a model at once."""
    with localaws_of_its_own("process"):
        image, role = prepared()
        sagemaker = client("sagemaker", connections=500)
        container = {"Image": image, "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
        client("s3").put_object(Bucket=BUCKET, Key="model.tar.gz", Body=b"")

        def create(number: int) -> None:
            name = f"faults-{number}"
            sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role)

        with ThreadPoolExecutor(500) as clients:
            taken = clocked(lambda: list(clients.map(create, range(500))))
        # `create` retries nothing: one refusal would have ended the case.
        yield Figure("500 CreateModel at once, each answered 200", 30, taken, "s")


def bodies() -> Iterator[Figure]:
    """Requests that are small to send and could be dear to answer."""
    model = training.folder("faults", IRIS)
    training.train(OURS, model)
    empty = gzip.compress(b"")
    with running(OURS, SAGEMAKER_BASE_DIR=model, MODEL_SERVER_WORKERS=1) as (server,):
        before = of_worker(server)
        members = empty * (2 * MB // len(empty)) + gzip.compress(b"5.1,3.5,1.4,0.2\n")
        taken = clocked(lambda: ask(server, members, "text/csv", "gzip"))
        yield Figure("2 MB of gzip's empty members: until the answer", 2, taken, "s")
        bomb = gzip.compress(bytes(256 * MB))
        taken = clocked(lambda: ask(server, bomb, "text/csv", "gzip"))
        yield Figure("256 MB of zeros, in gzip: until the answer", 2, taken, "s")
        slowest = 0.0
        for row in ("[5.1,3.5,1.4,0.2]", "[1]", "{}", "null", '"a"'):
            body = b'{"instances":[' + b",".join([row.encode()] * (25 * 1000**2 // (len(row) + 1))) + b"]}"
            slowest = max(slowest, clocked(lambda body=body: ask(server, body, "application/json")))
        yield Figure("25 MB of JSON, the slowest of five: until the answer", 20, slowest, "s")
        yield Figure(
            "… and the most memory of the worker, above what it had", 400, of_worker(server) - before, "MB"
        )


def tables() -> Iterator[Figure]:
    """Training files that are easily made by mistake."""
    named = BUILD / "data" / "identifiers.csv"
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_text("".join(f"customer-{n},{n % 7},{n % 11}\n" for n in range(10_000)))
    seconds, memory = refused(named)
    yield Figure("10,000 identifiers in the label's place: until `train` refuses", 10, seconds, "s")
    yield Figure("… and its memory", 400, memory, "MB")
    returns = BUILD / "data" / "returns.csv"
    returns.write_bytes(b"a,1.5,2\r" * (10 * MB // 8))
    seconds, memory = refused(returns)
    yield Figure("10 MB with CR alone as line end: until `train` refuses", 10, seconds, "s")


CASES: dict[str, Callable[[], Iterator[Figure]]] = {
    case.__name__: case for case in (home, crowd, large, flood, backtrack, leave, models, bodies, tables)
}
MARK = "86399.25"  # seconds
PAGE = """# What large and hostile things cost

Measured on {days} by `make faults`: {machine}. The command beside a figure measures it again.

{table}

What must not happen at all is no figure, but a test:

| What is tried | Command |
|---|---|
| 200 histories of random requests of every service, by up to four clients, each killed two or three times with requests in flight: all that can be seen is the same after the start | `make test ARGS="--slow tests/localaws/test_histories.py"` |
| each file of a home is emptied, cut off, changed by a byte, replaced or deleted: `up` says what was lost, and all else is there | `make test ARGS="--slow tests/localaws/test_recovery.py"` |
| a disk becomes full (root only) | `make test ARGS=tests/localaws/test_recovery.py` |
| jobs, pushes and puts are killed in the middle, 30 moments | `make test ARGS="--slow tests/localaws/test_kill.py"` |
| another user of this machine looks for a way in (root only) | `make test ARGS=tests/localaws/test_trust.py` |
| 2,000 random bodies, and hostile requests | `make test ARGS="--slow tests/container/test_contract_serving.py"` |
| the container's processes are killed, one by one and under load | `make test ARGS=tests/container/test_life.py` |
"""


def clocked(action: Callable) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def client(service: str, connections: int = 16):
    """A client that retries nothing."""
    import boto3
    from botocore.config import Config

    once = {"total_max_attempts": 1}
    return boto3.client(
        service, config=Config(retries=once, max_pool_connections=connections, read_timeout=120)
    )


def most_memory(pid: int) -> float:
    """The most memory that a process has had, MB (Linux)."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def of_worker(server: Server) -> float:
    """The most memory that one of a server's workers has had, MB."""
    found = psutil.Process(server.process.pid).children(recursive=True)
    return max(most_memory(process.pid) for process in found if process.name() != "nginx")


def put_objects(count: int) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=WEST)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda n: s3.put_object(Bucket=BUCKET, Key=f"{n:06}", Body=b"1"), range(count)))


def put_lines(size: int) -> None:
    """So many bytes of lines of 100, in ten streams, as large a batch at a time as the API takes."""
    logs = client("logs")
    logs.create_log_group(logGroupName="faults")
    now = int(time.time() * 1000)
    # The API counts 26 bytes more for each.
    lines = [{"timestamp": now, "message": f"{n:100}"} for n in range(MB // 126)]
    for stream in range(10):
        where = {"logGroupName": "faults", "logStreamName": str(stream)}
        logs.create_log_stream(**where)
        for _ in range(size // 10 // (len(lines) * 100)):
            logs.put_log_events(**where, logEvents=lines)


def up_after_kill(expected: str) -> tuple[float, float]:
    """Seconds that `up` takes after kill -9, and that it was silent at the longest. Raises BenchError."""
    server = psutil.Process(json.loads((HOME / "server.json").read_text())["pid"])
    server.kill()
    server.wait(30)
    started = heard = time.perf_counter()
    silence, told = 0.0, []
    up = [sys.executable, "-m", "localaws", "up"]
    with subprocess.Popen(up, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        for line in program.stdout:
            now = time.perf_counter()
            silence, heard = max(silence, now - heard), now
            told.append(line)
    if program.returncode or not any(expected in line for line in told):
        raise BenchError(f"`up` does not tell of {expected}:\n{''.join(told)[-600:]}")
    return time.perf_counter() - started, silence


def prepared() -> tuple[str, str]:
    """An image with TRAIN, pushed, and a role; and there is a bucket."""
    import localaws
    from localaws import images

    stack = BUILD / "faulty" / "container" / "stack"
    for folder in (stack, stack.parent / "faulty"):
        folder.mkdir(parents=True, exist_ok=True)
    (stack.parent / "faulty" / "training.py").touch()
    for program in ("train", "serve"):
        (stack / program).write_text(TRAIN)
        (stack / program).chmod(0o755)
    client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=WEST)
    iam = client("iam")
    role = iam.create_role(RoleName="faults", AssumeRolePolicyDocument=ROLE)["Role"]["Arn"]
    iam.attach_role_policy(RoleName="faults", PolicyArn="arn:aws:iam::aws:policy/AmazonSageMakerFullAccess")
    uri = client("ecr").create_repository(repositoryName="faulty")["repository"]["repositoryUri"]
    with patch.object(localaws.state.locate, "ROOT", stack.parents[1]):
        images.build("faulty", "faulty:latest")
        images.push("faulty:latest", uri)
    return f"{uri}:latest", role


def job(what: str, seconds: int = 600) -> float:
    """Seconds that a job takes, of `seconds` at most, which does what TRAIN has under this word."""
    image, role = prepared()
    algorithm = {"TrainingImage": image, "TrainingInputMode": "File"}
    algorithm["MetricDefinitions"] = [{"Name": "slow", "Regex": "(a|aa)+$"}]
    taken, _ = run_job(
        *(client("sagemaker"), f"faults-{what}", image, role, BUCKET),
        AlgorithmSpecification=algorithm,
        HyperParameters={"do": what, "marked": MARK},
        StoppingCondition={"MaxRuntimeInSeconds": seconds},
    )
    return taken


def ask(server: Server, body: bytes, content_type: str, encoding: str = "identity") -> None:
    """One request, whose answer may be a refusal. Raises BenchError where the server fails."""
    status, content = server.post(body, {"Content-Type": content_type, "Content-Encoding": encoding})
    if status >= 500:
        raise BenchError(f"{len(body)} bytes of {content_type} are answered {status}: {content[:200]!r}")


def refused(file: Path) -> tuple[float, float]:
    """Seconds and MB of a `train` that refuses this file. Raises BenchError where it does not."""
    one = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]) != 1)"
    train = [sys.executable, "-c", one, str(training.python(OURS)), str(training.PROGRAM[OURS]), "train"]
    base = training.folder("faults", file)
    run = training.process(train, SAGEMAKER_BASE_DIR=base, ALGORITHM_DIR=training.TREES)
    return run.seconds, run.peak / MB


def table(measured: dict[str, dict]) -> str:
    """What each case gave when it was last measured: {case: {"on": date, "figures": [Figure]}}."""
    lines = ["| What | At most | Measured | | Command |", "|---|---|---|---|---|"]
    for case in CASES:
        for what, most, value, unit in measured.get(case, {}).get("figures", ()):
            mark = "yes" if value <= most else "**missed**"
            bound, seen = (f"{number:.3g} {unit}".rstrip() for number in (most, value))
            lines.append(f"| {what} | {bound} | {seen} | {mark} | `make faults CASE={case}` |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("case", nargs="*", choices=[*CASES, []], help="these alone (default: all)")
    measured = json.loads(JSON.read_text()) if JSON.exists() else {}
    for name in parser.parse_args().case or CASES:
        print(f"{name}: {CASES[name].__doc__}", flush=True)
        try:
            figures = list(CASES[name]())
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        # After each: the next one may take a quarter of an hour, and somebody may have had enough.
        measured[name] = {"on": str(date.today()), "figures": figures}
        cases = ",\n".join(f"{json.dumps(case)}: {json.dumps(found)}" for case, found in measured.items())
        JSON.write_text(f"{{\n{cases}\n}}\n")
        days = sorted({found["on"] for found in measured.values()})
        FAULTS.write_text(
            PAGE.format(days=" and ".join(days), machine=report.machine(), table=table(measured))
        )
        print(table({name: measured[name]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
