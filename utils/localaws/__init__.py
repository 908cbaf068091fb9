"""AWS as far as the labs go, on this machine: one process on 127.0.0.1 that executes what it is asked.

    >>> import localaws
    >>> localaws.start().endpoint_url
    'http://127.0.0.1:4571'
    >>> os.environ.update(localaws.environment())   # boto3, the SDK and the `aws` command now talk to it

Importing this package is quick; the server runs in a process of its own (`door/server.py`).
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from localaws.state import locate, processes
from localaws.state.locate import ACCOUNT, REGION, Status, answers, environment, home, leads_here, port

__all__ = [
    "ACCOUNT",
    "REGION",
    "Status",
    "environment",
    "home",
    "leads_here",
    "page",
    "port",
    "start",
    "status",
    "stop",
]

STOP_SECONDS = 20
PAGE_KINDS = ("job", "endpoint", "model", "image", "bucket")


def start(timeout: float = 30, tell: Callable[[str], None] = lambda line: None) -> Status:
    """Start localaws unless it runs, wait until it is ready, and return where it listens.

    While it brings back what is on disk it has all the time that it makes use of; `tell` gets how far it is.

    The server outlives the caller. Two calls at once give one server. Raises RuntimeError, with the end of the
    server's log, when it makes no progress within `timeout` seconds (it is then stopped), and where its folder cannot
    be written to; ValueError when LOCALAWS_PORT is no port.
    """
    folder = home()
    port()  # a bad value is the caller's to mend, not the server's to die of
    deadline = time.monotonic() + timeout
    with _locked(folder / "start.lock", deadline):
        found = locate.running()
        pid, seen, log = found.pid if found else None, "", folder / "server.log"
        old = log.stat().st_size if log.exists() else 0
        while time.monotonic() < deadline:
            if pid is None:
                processes.kill_recorded(folder)  # what a killed server left behind
                pid = _spawn(folder)
            if (running := locate.running()) and answers(running.address):
                return locate.running() or running  # which tells by now what was brought back
            if (progress := _read(folder / locate.PROGRESS)) not in ("", seen):
                seen, deadline = progress, time.monotonic() + timeout
                tell(progress)
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
    raise RuntimeError(f"localaws {what}. The end of {log}:\n{_tail(log, old)}")


def stop() -> list[str]:
    """Stop localaws with the jobs and endpoints that it runs; return, in words, which processes were stopped."""
    folder = home()
    stopped = []
    with _locked(folder / "start.lock", time.monotonic() + STOP_SECONDS):
        if running := locate.running():
            processes.stop([psutil.Process(running.pid)], grace=STOP_SECONDS)
            stopped.append(f"localaws (pid {running.pid})")
        stopped += processes.kill_recorded(folder)
        if (folder / "docker").is_dir():  # a killed server's containers outlive what was attached to them
            from localaws.engines.docker import remove_orphans

            remove_orphans(folder)
        (folder / "server.json").unlink(missing_ok=True)
    return stopped


def status() -> Status | None:
    """Return the running localaws, or None when none runs or it does not answer."""
    running = locate.running()
    return running if running and answers(running.address) else None


def page(kind: str = "", name: str = "") -> str:
    """Return the address of localaws' page for its owner's browser, which opens one thing on it where that is named.

    `kind` is job, endpoint, model, image or bucket; a bucket's `name` may go on with a slash and a prefix. The address
    lets one browser in, once, which may come back without it: so a notebook may show it. Raises RuntimeError when
    localaws does not run, ValueError for another kind.
    """
    if bool(kind) != bool(name) or kind not in ("", *PAGE_KINDS):
        raise ValueError(
            f"page({kind!r}, {name!r}): expected one of {', '.join(PAGE_KINDS)} and a name, or neither"
        )
    running = status()
    if running is None:
        raise RuntimeError("localaws is not running. Start it: python -m localaws up")
    address = f"{running.endpoint_url}/_localaws/?ticket={locate.ticket(Path(running.home))}"
    return address + (f"#{kind}/{quote(name)}" if kind else "")


def _spawn(folder: Path) -> int:
    """Start the server in a session of its own, as nobody's child, and return its pid.

    The shell in between ends at once: the server then belongs to init, which reaps it, so it can neither die with
    the kernel that started it nor stay behind as its zombie.
    """
    command = [sys.executable, "-m", "localaws.door.server"]
    log = folder / "server.log"
    result = subprocess.run(
        ["sh", "-c", 'log=$1; shift; "$@" >>"$log" 2>&1 & echo $!', "sh", str(log), *command],
        env={**os.environ, "LOCALAWS_HOME": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        umask=0o077,
        check=True,
    )
    return int(result.stdout)


@contextmanager
def _locked(file: Path, deadline: float) -> Iterator[None]:
    """Hold a lock between processes. It goes with the process that holds it, so it is never left behind."""
    try:
        locate.private_home()
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


def _tail(log: Path, begin: int, lines: int = 15) -> str:
    """The last lines of a log after its first `begin` bytes, which tell of an earlier server."""
    with suppress(FileNotFoundError):
        return "\n".join(log.read_bytes()[begin:].decode(errors="replace").splitlines()[-lines:])
    return "(no log)"


def _read(file: Path) -> str:
    with suppress(FileNotFoundError):
        return file.read_text()
    return ""
