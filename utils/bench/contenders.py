"""Who is measured: our container, the baseline, the peers, and the handlers that do nothing, as running servers."""

import contextlib
import functools
import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import BUILD, IRIS, PROGRAMS, ROOT, BenchError

WORKERS = 2
START_SECONDS = 60
TEXT = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}


@dataclass(frozen=True)
class Contender:
    """One way to serve the iris tree.

    command:      the program and its arguments, given its own Python and a port
    requirements: files of what it imports: each contender has these packages and no others, as in an image of its own
    pinned:       its packages are of the versions that requirements.lock has, where they are in it
    body:         rows' CSV lines to what this server takes, where that is not text/csv
    labels:       its reply to a line for each label, where it is not that
    """

    name: str
    title: str
    command: Callable[[Path, int], list]
    requirements: tuple[Path, ...]
    pinned: bool = True
    content_type: str = "text/csv"
    path: str = "/invocations"
    health: str = "/ping"
    body: Callable[[list[str]], bytes] = lambda rows: "".join(f"{row}\n" for row in rows).encode()
    labels: Callable[[bytes], bytes] = lambda reply: reply.replace(b"\r\n", b"\n")

    def environment(self, **variables) -> dict[str, str]:
        """What its process gets: this one's environment, its own Python first, where data and algorithm are."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SAGEMAKER_", "MODEL_SERVER_"))}
        env["PATH"] = f"{python(self).parent}:{env['PATH']}"
        env |= {"BENCH_TRAINING": str(IRIS), "MODEL_SERVER_WORKERS": str(WORKERS)}
        env |= {"MODEL_SERVER_ADDRESS": "127.0.0.1", "ALGORITHM_DIR": str(TREES)}
        return env | {name: str(value) for name, value in variables.items()}


class Server:
    """A contender that runs, with its processes."""

    def __init__(self, contender: Contender, run: Path, **variables):
        self.contender, self.port = contender, free_port()
        run.mkdir(parents=True, exist_ok=True)
        env = contender.environment(BENCH_RUN=run, SAGEMAKER_BIND_TO_PORT=self.port, **variables)
        self.log = run / "log"
        with self.log.open("wb") as log:
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                contender.command(python(contender), self.port), env=env, cwd=run, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.contender.path}"

    def await_ready(self) -> float:
        """Wait for the first 200 of its health path; return the seconds since its exec. Raises BenchError."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                with contextlib.closing(connection):
                    connection.request("GET", self.contender.health)
                    if connection.getresponse().status == 200:
                        return time.perf_counter() - self.started
            if self.process.poll() is not None or time.perf_counter() - self.started > START_SECONDS:
                end = self.log.read_text(errors="replace")[-600:]
                raise BenchError(f"{self.contender.name} does not serve. The end of {self.log}:\n{end}")
            time.sleep(0.003)

    def send(self, body: bytes, content_type: str | None = None) -> bytes:
        """One request on a connection of its own; returns the reply's body. Raises BenchError on another status."""
        status, content = self.post(body, {"Content-Type": content_type or self.contender.content_type})
        if status != 200:
            raise BenchError(f"{self.contender.name} answers {status}: {content[:300]!r}")
        return content

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """One request on a connection of its own; returns the reply's status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", self.contender.path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def memory(self) -> int:
        """Proportional set size of all its processes, bytes (Linux)."""
        root = psutil.Process(self.process.pid)
        return sum(process.memory_full_info().pss for process in [root, *root.children(recursive=True)])

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # what it left behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(*contenders: Contender, **variables) -> Iterator[list[Server]]:
    """The contenders as ready servers, all at once: those that are not asked do nothing."""
    servers = []
    try:
        for contender in contenders:
            servers.append(Server(contender, BUILD / "run" / contender.name, **variables))
        for server in servers:
            server.await_ready()
            if server.contender is OURS and "not compiled" in server.log.read_text():
                raise BenchError(f"{OURS.name} runs without fast.c: see {server.log}")
        yield servers
    finally:
        for server in servers:
            server.stop()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@functools.cache
def python(contender: Contender) -> Path:
    """The contender's own Python, made the first time it is asked for. Raises BenchError."""
    locks = [str(file) for file in contender.requirements if file.suffix == ".lock"]
    if locks:  # this container: the environment that container/run would take
        command = [sys.executable, "-I", str(ROOT / "container/environment"), *locks]
        return Path(_install(contender, [command]).strip())
    wanted = "\n".join(file.read_text() for file in contender.requirements)
    name = hashlib.sha256(f"{wanted}{contender.pinned}{sys.version}".encode()).hexdigest()[:12]
    folder = BUILD / "venvs" / name
    program, stamp = folder / "bin" / "python", folder / "ready"
    if stamp.exists():
        return program
    here = [sys.executable, "-m"]
    pip = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for file in contender.requirements:
        pip += ["--requirement", str(file)]
    if contender.pinned:
        listed = subprocess.run([*here, "pip", "list", "--format", "freeze", "--exclude-editable"], **TEXT)
        BUILD.mkdir(parents=True, exist_ok=True)
        (BUILD / "versions.txt").write_text(listed.stdout)
        pip += ["--constraint", str(BUILD / "versions.txt")]
    _install(contender, [[*here, "venv", "--clear", str(folder)], pip])
    stamp.touch()
    return program


def _install(contender: Contender, commands: list[list[str]]) -> str:
    """Run the commands; what the last one prints."""
    for command in commands:
        done = subprocess.run(command, **TEXT)
        if done.returncode:
            raise BenchError(f"{contender.title} cannot be installed:\n{(done.stdout + done.stderr)[-600:]}")
    return done.stdout


def stack_with(program: str) -> Callable[[Path, int], list]:
    """Our own `serve`, nginx and gunicorn, with another program in the place of wsgi.py."""

    def command(python: Path, port: int) -> list:
        folder = copy_of_stack(program)
        shutil.copy(PROGRAMS / f"{program}.py", folder / "wsgi.py")
        return [python, folder / "serve"]

    return command


def without(name: str, title: str, file: str, part: str, instead: str = "") -> Contender:
    """This container less one of the things that make it fast: `part` of a file of the stack, replaced."""

    def command(python: Path, port: int) -> list:
        folder = copy_of_stack(name)
        changed = folder / file
        text = changed.read_text()
        if part not in text:
            raise BenchError(f"{file} has no {part!r} any more: mend {name} in contenders.py")
        changed.write_text(text.replace(part, instead))
        return [python, folder / "serve"]

    return Contender(name, title, command, LOCKS)


def copy_of_stack(name: str) -> Path:
    folder = BUILD / "stacks" / name / "stack"
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(ROOT / "container/stack", folder, ignore=shutil.ignore_patterns("__pycache__"))


TREES = ROOT / "container" / "decision_trees"
LOCKS = (TREES / "requirements-train.lock", TREES / "requirements-serve.lock")
OURS = Contender(
    "ours",
    "this container",
    # As an image starts it: container/run would look for the environment first, which is there.
    lambda python, port: [python, ROOT / "container/stack/serve"],
    LOCKS,
)
BASELINE = Contender(
    "baseline",
    "baseline: as the sample",
    lambda python, port: [python, PROGRAMS / "baseline/serve.py"],
    (PROGRAMS / "baseline/requirements.txt",),
)
FASTAPI = Contender(
    "fastapi",
    "FastAPI + uvicorn, no nginx",
    lambda python, port: [
        *(python, "-m", "uvicorn", "app:app", "--app-dir", PROGRAMS / "fastapi", "--no-access-log"),
        *("--port", str(port), "--workers", str(WORKERS), "--loop", "uvloop", "--http", "httptools"),
    ],
    (PROGRAMS / "fastapi/requirements.txt",),
)
CONSTANT_WSGI = Contender("constant_wsgi", "limit: constant WSGI app", stack_with("constant_wsgi"), LOCKS)
CONSTANT_FLASK = Contender("constant_flask", "limit: constant flask app", stack_with("constant_flask"), LOCKS)
# What each part of the container gives is seen where it is missing.
PARTS = [
    without(
        "sync",
        "gunicorn's own sync worker",
        "serve",
        'command += ["--worker-class", "stack.server.worker.Worker"]',
        "pass",
    ),
    without(
        "shortcut",
        "flask for every invocation",
        "wsgi.py",
        'environ["PATH_INFO"] == "/invocations"',
        "False",
    ),
    without(
        "float",
        "Python in the place of fast.c",
        "tables/fast.py",
        "libfast.so",
        "nothing.so",
    ),
    without(
        "thread",
        "one thread for a large request",
        "server/app.py",
        "min(settings.default_workers(), MAX_THREADS)",
        "1",
    ),
]
