"""`algorithm`, for an algorithm's own test, container/NAME/NAME_test.py: its real programs, off Docker."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

CONTAINER = Path(__file__).resolve().parent
ROOT = CONTAINER.parent
SECONDS = 60  # until a server answers


class Algorithm:
    """The algorithm whose folder the test is in; what it trains lies in folders of the test's own."""

    def __init__(self, folder: Path, place: Path):
        self.folder, self.place = folder, place
        self.base = None  # SAGEMAKER_BASE_DIR of the last training: model/ and output/ are in it
        self.server = None

    def train(self, data: str | dict[str, str], /, **hyperparameters) -> dict[str, float]:
        """Train on a file or folder of the clone, or on {channel: file or folder}; the metrics. Fails where train does.

        Each training has a folder of its own, and what is asked then is its model.
        """
        self.stop()
        self.base = Path(tempfile.mkdtemp(prefix="ml-", dir=self.place))
        (self.base / "input/config").mkdir(parents=True)
        # Strings, as SageMaker sends them and its SDK writes them.
        strings = {n: v if isinstance(v, str) else json.dumps(v) for n, v in hyperparameters.items()}
        (self.base / "input/config/hyperparameters.json").write_text(json.dumps(strings))
        for name, path in (data if isinstance(data, dict) else {"training": data}).items():
            source, channel = ROOT / path, self.base / "input/data" / name
            if source.is_dir():
                shutil.copytree(source, channel)
            else:
                channel.mkdir(parents=True)
                shutil.copy(source, channel)
        ended = subprocess.run(
            self._command("train"),
            env=self._env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(ended.stdout)
        assert ended.returncode == 0, ended.stdout
        metrics = {}
        for name, _, value in (line.partition("=") for line in ended.stdout.splitlines()):
            with contextlib.suppress(ValueError):  # whatever else it prints is no metric
                metrics |= {name: float(value)} if name.isidentifier() else {}
        return metrics

    def ask(self, payload: str, content_type: str, accept: str = "*/*") -> str:
        """The answer to a file of the algorithm's folder, from a server of what was trained. Fails where it is no 200."""
        assert self.base, "nothing is trained yet that could be asked: call algorithm.train(data) first"
        if self.server is None:
            self._serve()
        body = (self.folder / payload).read_bytes()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/invocations", body, {"Content-Type": content_type, "Accept": accept})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        assert response.status == 200, f"{response.status} {text}\n{self._log()}"
        return text

    def stop(self) -> None:
        """End the server, where there is one."""
        if self.server:
            self.server.terminate()
            self.server.wait(30)
            self.server = None

    def _command(self, verb: str) -> list[str]:
        return [str(CONTAINER / "run"), self.folder.relative_to(CONTAINER).as_posix(), verb]

    def _env(self, **variables) -> dict:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"PATH": path, "SAGEMAKER_BASE_DIR": str(self.base)} | variables

    def _log(self) -> str:
        return (self.base / "serve.log").read_text(errors="replace")

    def _serve(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        env = self._env(SAGEMAKER_BIND_TO_PORT=str(self.port))
        with open(self.base / "serve.log", "wb") as log:
            self.server = subprocess.Popen(self._command("serve"), env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while not self._ready():
            assert self.server.poll() is None, f"serve ended with {self.server.returncode}:\n{self._log()}"
            assert time.monotonic() < deadline, f"no 200 on /ping within {SECONDS} s:\n{self._log()}"
            time.sleep(0.05)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture
def algorithm(request, tmp_path):
    """The algorithm in whose folder the test is."""
    found = Algorithm(request.path.parent, tmp_path)
    yield found
    found.stop()
