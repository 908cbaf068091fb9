"""Starts the real programs, train and serve, and talks to them over loopback.

By default they are ours. Any other container that learns iris is held to the same contract, and each promise
that it breaks is one line. A program, an image (Docker on Linux), a server that has a model of data/iris.csv:

    pytest tests/container/test_contract_*.py -q --tb=no -rfE --train-command TRAIN --serve-command SERVE
        (for an image: TRAIN is "$PWD/tests/docker/in_image IMAGE train", SERVE the same with serve)
    pytest tests/container/test_contract_serving.py -q --tb=no -rfE --base-url http://localhost:8080

The commands get SAGEMAKER_BASE_DIR and SAGEMAKER_BIND_TO_PORT in their environment. BYOA_ALGORITHM=knn chooses another
algorithm of ours; what the tables must know of it is in algorithms.py.
"""

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import algorithms
import pytest
from algorithms import LABELS, LINES, ROWS

__all__ = ["LABELS", "ROWS"]
ROOT = Path(__file__).resolve().parents[2]
STACK = ROOT / "container/stack"
TREES = ROOT / "container/decision_trees"
# The one that the tables are about; of one that is not listed, a learner's, the defaults hold.
NAME = os.environ.get("BYOA_ALGORITHM", "decision_trees")
ALGORITHM = algorithms.ALL.get(NAME) or algorithms.Algorithm(NAME)
SAMPLE = ALGORITHM.sample(0)
IRIS = "".join(f"{ALGORITHM.written(label)},{row}\n" for label, row in LINES)
CSV = {"Content-Type": "text/csv"}

sys.path.insert(0, str(ROOT / "container"))  # as the programs see `stack`, for tests of single functions


def pytest_addoption(parser):
    group = parser.getgroup("container")
    group.addoption("--base-url", help="hold the server at this address to the contract; starts none")
    group.addoption(
        "--train-command", help="the command that trains (default: container/run $BYOA_ALGORITHM train)"
    )
    group.addoption(
        "--serve-command", help="the command that serves (default: container/run $BYOA_ALGORITHM serve)"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "nginx: a promise that our container keeps by nginx alone")
    config.addinivalue_line("markers", "trees: how the stack reads and runs, tried with decision_trees alone")
    config.addinivalue_line("markers", "own: but this one with each algorithm and its own payload")
    config.addinivalue_line("markers", "tables: about rows of numbers, not for an algorithm of pictures")
    for verb in ("train", "serve"):
        program = command(config, verb)[0]
        if not shutil.which(program):
            raise pytest.UsageError(
                f"--{verb}-command: there is no program {program!r}. A path with a blank in it wants quotes of its own: "
                f"\"'/my path/run' my_algorithm {verb}\""
            )


def pytest_collection_modifyitems(config, items):
    def is_about_another(item) -> bool:
        marks = {mark.name for mark in item.iter_markers()}
        of_trees = "trees" in marks and "own" not in marks and ALGORITHM.name != "decision_trees"
        return of_trees or ("tables" in marks and not ALGORITHM.tabular)

    config.hook.pytest_deselected(items=[item for item in items if is_about_another(item)])
    items[:] = [item for item in items if not is_about_another(item)]
    theirs = config.getoption("--base-url", default=None) or config.getoption("--serve-command", default=None)
    if not theirs and not shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"):
        for item in items:
            if item.get_closest_marker("nginx"):
                item.add_marker(pytest.mark.skip(reason="nginx is not installed"))


def command(config, verb: str) -> list[str]:
    given = config.getoption(f"--{verb}-command", default=None)
    return shlex.split(given) if given else [str(ROOT / "container/run"), ALGORITHM.name, verb]


def environment(**variables) -> dict:
    """This process's environment with our Python first on PATH and nothing of the contract's left in it."""
    prefixes = ("SAGEMAKER_", "MODEL_SERVER_", "PYTHON", "ALGORITHM_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    return env | {name: str(value) for name, value in variables.items()}


def until(condition, seconds: float, what: str):
    """Polls until the condition holds, and returns what it gave."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)


class Reply(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def species(self) -> list[str]:
        """What the rows of an answer mean, in JSON or as lines of CSV."""
        if self.headers["content-type"] == "application/json":
            return [ALGORITHM.species(*row.values()) for row in json.loads(self.body)["predictions"]]
        assert self.text.endswith("\n"), self
        return [ALGORITHM.species(line) for line in self.text.splitlines()]

    @property
    def error(self) -> dict:
        """The error object, held to the promises for every error: JSON, small, no more than that."""
        assert self.headers["content-type"].split(";")[0] == "application/json", self
        assert len(self.body) <= 1024, self
        document = json.loads(self.body)
        assert list(document) == ["error"], self
        assert document["error"]["code"] and document["error"]["message"], self
        assert not any(
            word in self.text for word in ("<html", "Traceback", 'File "', "nginx/", "gunicorn/", "Werkzeug")
        )
        return document["error"]


class Client:
    """One request a connection, so that no test depends on another one's connection."""

    def __init__(self, url: str):
        self.address = urlsplit(url).hostname, urlsplit(url).port

    def request(self, method, path, body=None, headers=None, timeout=60.0, **options) -> Reply:
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, **options)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, headers, response.read())

    def ping(self, timeout=2.0) -> Reply:
        return self.request("GET", "/ping", timeout=timeout)

    def predict(self, body, content_type=ALGORITHM.content_type, **headers) -> Reply:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", "/invocations", body, {"Content-Type": content_type} | headers)

    def raw(self, sent: bytes, timeout=10.0) -> bytes:
        """What comes back for these very bytes, until the server closes."""
        with socket.create_connection(self.address, timeout=timeout) as connection:
            connection.sendall(sent)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65536):
                    received += chunk
            return received


class Server(Client):
    """A serve program of its own: its process, its log, its address."""

    def __init__(self, args: list[str], base: Path, log: Path, ready=True, **variables):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        super().__init__(f"http://127.0.0.1:{port}")
        self.port, self.log_file = port, log
        address = {"SAGEMAKER_BIND_TO_PORT": port, "MODEL_SERVER_ADDRESS": "127.0.0.1"}
        env = environment(**{"SAGEMAKER_BASE_DIR": base} | address | variables)
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                args, env=env, stdout=stream, stderr=subprocess.STDOUT, cwd=log.parent
            )
        if ready:
            until(self.is_ready, 30, "the first 200 on /ping")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"serve ended with {self.process.returncode}:\n{self.log}"
        try:
            return self.ping().status == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self, seconds=30) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self):
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        print(self.log[-5000:])  # pytest shows it where a test failed


class Training(NamedTuple):
    """How one run of train ended."""

    code: int
    output: str
    base: Path

    @property
    def failure(self) -> str:
        return (self.base / "output/failure").read_text(encoding="utf-8")

    @property
    def model(self) -> dict[str, bytes]:
        """The files under model/, by name."""
        files = sorted(path for path in (self.base / "model").rglob("*") if path.is_file())
        return {path.relative_to(self.base / "model").as_posix(): path.read_bytes() for path in files}


def lay_out(
    base: Path, channels: dict, hyperparameters: dict | None = None, config: dict | None = None
) -> Path:
    """The folder tree of SageMaker: {channel: {file name: text or bytes}} below input/data."""
    for folder in ("input/config", "model", "output"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for channel, files in channels.items():
        (base / "input/data" / channel).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            file = base / "input/data" / channel / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    inputs = {
        channel: {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        for channel in channels
    }
    configs = {"hyperparameters.json": hyperparameters or {}, "inputdataconfig.json": inputs}
    configs["resourceconfig.json"] = {
        "current_host": "algo-1",
        "hosts": ["algo-1"],
        "network_interface_name": "eth0",
    }
    for name, document in (configs | (config or {})).items():
        (base / "input/config" / name).write_text(
            document if isinstance(document, str) else json.dumps(document)
        )
    return base


def run_training(args: list[str], base: Path, **variables) -> Training:
    env = environment(SAGEMAKER_BASE_DIR=base, **variables)
    ended = subprocess.run(
        args, env=env, cwd=base, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
    )
    print(output := ended.stdout.decode())
    return Training(ended.returncode, output, base)


@pytest.fixture(scope="session")
def run_train(request):
    """A function that runs train on a folder and waits for its end."""
    return lambda base, **variables: run_training(command(request.config, "train"), base, **variables)


@pytest.fixture
def train(run_train, tmp_path):
    """train(text) or train(channels, hyperparameters, config): one run in a fresh folder.

    Without channels: on the algorithm's own data, as quickly as it can, with these hyperparameters besides.
    """

    def run(channels=None, hyperparameters=None, config=None, **variables) -> Training:
        if channels is None:
            channels, hyperparameters = ALGORITHM.channels, ALGORITHM.quick | (hyperparameters or {})
        if not isinstance(channels, dict):
            channels = {"training": {"data.csv": channels}}
        return run_train(lay_out(tmp_path / "ml", channels, hyperparameters, config), **variables)

    return run


@pytest.fixture(scope="session")
def learned(run_train, tmp_path_factory) -> Training:
    """A run of train that has made the algorithm's model."""
    return run_train(lay_out(tmp_path_factory.mktemp("learned") / "ml", ALGORITHM.channels, ALGORITHM.quick))


@pytest.fixture(scope="session")
def trained(learned) -> Path:
    """A base folder in which train has made the algorithm's model."""
    assert learned.code == 0
    return learned.base


@pytest.fixture(scope="session")
def iris(trained) -> Path:
    """The same, where it is the iris tree."""
    assert ALGORITHM.name == "decision_trees"
    return trained


@pytest.fixture
def start(request, tmp_path, trained):
    """A function that starts servers of the test's own; base, command and variables as wanted."""
    servers = []

    def run(base=None, args=None, ready=True, **variables) -> Server:
        log = tmp_path / f"serve-{len(servers)}.log"
        args = args or command(request.config, "serve")
        server = Server(args, base or trained, log, ready=False, **variables)
        servers.append(server)
        if ready:
            until(server.is_ready, 30, "the first 200 on /ping")
        return server

    yield run
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def shared_server(request, tmp_path_factory):
    """One server of that model for all tests that do it no harm; or the one at --base-url."""
    url = request.config.getoption("--base-url", default=None)
    if url:
        client = Client(url)
        try:
            client.ping()
        except OSError as error:
            pytest.exit(f"--base-url {url}: GET /ping gets no answer ({error}); start the container first", 2)
        yield client
        return
    base = request.getfixturevalue("trained")
    log = tmp_path_factory.mktemp("server") / "serve.log"
    server = Server(command(request.config, "serve"), base, log)
    yield server
    server.close()


@pytest.fixture
def server(shared_server):
    yield shared_server
    if isinstance(shared_server, Server):
        print(shared_server.log[-3000:])
