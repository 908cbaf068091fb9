"""AWS as far as the labs go, on this machine: one process on 127.0.0.1 that executes what it is asked.

    >>> import localaws
    >>> localaws.start().endpoint_url
    'http://127.0.0.1:4571'
    >>> os.environ.update(localaws.environment())   # boto3, the SDK and the `aws` command now talk to it

Importing this package is quick; the server runs in a process of its own (`server.py`).
"""

import fcntl
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from . import processes

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-west-2"
ACCOUNT = "000000000000"
PORT = 4571
LOOPBACK = ("127.0.0.1", "localhost")
STOP_SECONDS = 20


@dataclass(frozen=True)
class Status:
    """A running localaws: where it listens, its process, its folder, how it runs containers, and what people should know."""

    endpoint_url: str
    pid: int
    create_time: float
    home: str
    engine: str = "process"
    region: str = REGION
    account: str = ACCOUNT
    note: str = ""

    @property
    def address(self) -> str:
        return self.endpoint_url.removeprefix("http://")


def home() -> Path:
    """Return the folder that holds all state: LOCALAWS_HOME, else `.localaws` in the repository."""
    return Path(os.environ.get("LOCALAWS_HOME") or ROOT / ".localaws").resolve()


def port() -> int:
    """Return the port to listen on: LOCALAWS_PORT, else 4571; 0 is any free one. Raises ValueError."""
    text = os.environ.get("LOCALAWS_PORT") or str(PORT)
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(
            f"LOCALAWS_PORT={text} is not a port: give a number from 1 to 65535, or unset it for {PORT}"
        )
    return int(text)


def start(timeout: float = 30) -> Status:
    """Start localaws unless it runs, wait until it is ready, and return where it listens.

    The server outlives the caller. Two calls at once give one server. Raises RuntimeError, with the end of the
    server's log, when it does not come up within `timeout` seconds (it is then stopped), and where its folder cannot
    be written to; ValueError when LOCALAWS_PORT is no port.
    """
    folder = home()
    port()  # a bad value is the caller's to mend, not the server's to die of
    deadline = time.monotonic() + timeout
    with _locked(folder / "start.lock", deadline):
        found = _running()
        pid = found.pid if found else None
        while time.monotonic() < deadline:
            if pid is None:
                processes.kill_recorded(folder)  # what a killed server left behind
                pid = _spawn(folder)
            if (running := _running()) and answers(running.address):
                return running
            if not psutil.pid_exists(pid):
                if found is None:
                    break
                found = pid = None  # it had been killed, and was not gone yet
            time.sleep(0.05)
        what = f"is not ready after {timeout:.0f} s"
        if not psutil.pid_exists(pid):
            what = "ended before it was ready"
        elif found is None:  # else it is not this call's
            with suppress(psutil.NoSuchProcess):
                processes.stop([psutil.Process(pid)], grace=STOP_SECONDS)
    log = folder / "server.log"
    raise RuntimeError(f"localaws {what}. The end of {log}:\n{_tail(log)}")


def stop() -> list[str]:
    """Stop localaws with the jobs and endpoints that it runs; return, in words, which processes were stopped."""
    folder = home()
    stopped = []
    with _locked(folder / "start.lock", time.monotonic() + STOP_SECONDS):
        if running := _running():
            processes.stop([psutil.Process(running.pid)], grace=STOP_SECONDS)
            stopped.append(f"localaws (pid {running.pid})")
        stopped += processes.kill_recorded(folder)
        if (folder / "docker").is_dir():  # a killed server's containers outlive what was attached to them
            from .docker_engine import remove_orphans

            remove_orphans(folder)
        (folder / "server.json").unlink(missing_ok=True)
    return stopped


def status() -> Status | None:
    """Return the running localaws, or None when none runs or it does not answer."""
    running = _running()
    return running if running and answers(running.address) else None


def environment(endpoint_url: str | None = None) -> dict[str, str]:
    """Return the environment variables that point boto3, the SDK and the `aws` command at localaws.

    The keys are obviously fake and the profile files empty, so that a learner's real account can never be
    used by mistake. Raises RuntimeError when localaws is not running (unless `endpoint_url` is given).
    """
    folder = home()
    if endpoint_url is None:
        running = _running()
        if running is None:
            raise RuntimeError(
                f"localaws is not running. Start it: {Path(sys.executable).name} -m localaws up"
            )
        endpoint_url, folder = running.endpoint_url, Path(running.home)
    config = _client_files(folder)
    others = [host for host in os.environ.get("NO_PROXY", "").split(",") if host not in ("", *LOOPBACK)]
    no_proxy = ",".join([*others, *LOOPBACK])
    # A service's own variable (AWS_ENDPOINT_URL_S3, …) would win over AWS_ENDPOINT_URL.
    services = {name: endpoint_url for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")}
    return {
        **services,
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "AWS_ACCESS_KEY_ID": "localaws-not-a-key",
        "AWS_SECRET_ACCESS_KEY": "localaws-not-a-secret",
        "AWS_SESSION_TOKEN": "",
        "AWS_SECURITY_TOKEN": "",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_PROFILE": "default",
        "AWS_DEFAULT_PROFILE": "default",
        "AWS_CONFIG_FILE": str(config / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(config / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config / "sagemaker.yaml"),
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(config / "sagemaker.yaml"),
        "LOCALAWS_HOME": str(folder),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def announce(folder: Path, running: Status) -> None:
    """Write down, for `status` and `stop`, which process serves this folder."""
    processes.write_json(folder / "server.json", asdict(running))


def _client_files(folder: Path) -> Path:
    config = folder / "aws"
    # Without it the SDK sends usage data to a bucket of AWS's.
    telemetry = "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"
    for name, text in (("config", "[default]\n"), ("credentials", ""), ("sagemaker.yaml", telemetry)):
        processes.write_whole(config / name, text.encode())  # another program may read it at this moment
    return config


def _running() -> Status | None:
    # ValueError, TypeError: damaged, or another version's. Nothing that we know how to talk to runs, then.
    with suppress(FileNotFoundError, ValueError, TypeError):
        running = Status(**json.loads((home() / "server.json").read_text()))
        if processes.find(running.pid, running.create_time):
            return running
    return None


def answers(address: str, seconds: float = 5) -> bool:
    """Tell whether a localaws that is ready answers at an address of the form HOST:PORT."""
    connection = http.client.HTTPConnection(address, timeout=seconds)
    try:
        connection.request("GET", "/_localaws/health")
        return b'"ready": true' in connection.getresponse().read(64)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _spawn(folder: Path) -> int:
    """Start the server in a session of its own, as nobody's child, and return its pid.

    The shell in between ends at once: the server then belongs to init, which reaps it, so it can neither die with
    the kernel that started it nor stay behind as its zombie.
    """
    command = [sys.executable, "-m", "localaws.server"]
    log = folder / "server.log"
    result = subprocess.run(
        ["sh", "-c", 'log=$1; shift; "$@" >>"$log" 2>&1 & echo $!', "sh", str(log), *command],
        env={**os.environ, "LOCALAWS_HOME": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=True,
    )
    return int(result.stdout)


@contextmanager
def _locked(file: Path, deadline: float) -> Iterator[None]:
    """Hold a lock between processes. It goes with the process that holds it, so it is never left behind."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("w")
    except OSError as error:
        raise RuntimeError(
            f"localaws cannot write to its folder {file.parent} ({error.strerror}). Make it yours, or choose another: "
            "export LOCALAWS_HOME=FOLDER"
        ) from None
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Another `localaws up` or `down` holds {file}. Try again") from None
                time.sleep(0.05)
        yield


def _tail(log: Path, lines: int = 15) -> str:
    with suppress(FileNotFoundError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return "(no log)"
