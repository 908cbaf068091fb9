"""A command of the container's as processes that are looked at, stopped and, whatever happens, ended; and its files."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

from ..language import _
from .promises import ContractError


class Program:
    """A command of the container's, in a session of its own. When the `with` block is left, nothing of it runs."""

    def __init__(self, command: list[str], base: Path, port: int = 0, **variables: str):
        ours = ("SAGEMAKER_", "MODEL_SERVER_", "TRAINING_JOB_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.mark = {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port or free_port())}
        self.base, self.log, self.seen = base, base.with_name(f"{base.name}-{port}.log"), set()
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
        with open(self.log, "wb") as stream:
            try:
                self.process = psutil.Popen(
                    command, env=env | self.mark | variables, stdout=stream, **options
                )
            except OSError as error:
                raise ContractError(
                    _(
                        "{command} cannot be started: {error}; is its first line #! and an interpreter?",
                        command=command[0],
                        error=error.strerror,
                    )
                ) from None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        with contextlib.suppress(psutil.Error):
            if self.process.is_running():
                self.process.terminate()  # first in words: it may have folders of its own to remove
                self.process.wait(3)
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.wait(0.2)
        # tests/docker/in_image notes its container's id there: what an engine runs is no child of its command.
        for cid in self.base.parent.glob(f"{self.base.name}.*.cid"):
            docker = os.environ.get("DOCKER", "docker")
            subprocess.run([docker, "rm", "--force", cid.read_text().strip()], capture_output=True)

    def wait(self, seconds: float) -> int | None:
        """The exit code; None when it still runs."""
        try:
            return self.process.wait(seconds)
        except psutil.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """SIGTERM to the program alone, as SageMaker does."""
        self.processes()  # as long as everybody has a parent
        with contextlib.suppress(psutil.Error):
            self.process.terminate()

    def left(self, seconds: float) -> str:
        """What of it still runs when so many seconds are over; nothing as soon as nothing does."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return names(left)

    def processes(self) -> set[psutil.Process]:
        """What it has started and still runs: its children's children, also those that have cut themselves loose."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    os.getsid(process.pid) == self.process.pid
                    or self.mark.items() <= process.environ().items()
                ):
                    self.seen.add(process)
        running = set()
        for process in list(self.seen):
            with contextlib.suppress(psutil.Error):
                self.seen.update(process.children(recursive=True))
        for process in self.seen:
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    running.add(process)
        return running

    def ports(self) -> set[int]:
        """The TCP ports on which its processes listen."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                listening = [
                    each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN
                ]
                found |= {each.laddr.port for each in listening}
        return found

    @property
    def log_end(self) -> str:
        """The last lines of what it has said."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[-400:] or _("nothing")


def names(processes: set[psutil.Process]) -> str:
    """Processes as a person would look for them."""
    found = []
    for process in sorted(processes, key=lambda process: process.pid):
        with contextlib.suppress(psutil.Error):
            found.append(f"{process.name()} ({process.pid})")
    return ", ".join(found)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def how(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return _("no end")
    return _("exit code {code}", code=code) if code >= 0 else signal.Signals(-code).name


@contextlib.contextmanager
def read_only(folder: Path):
    """A folder that may not be written to, as long as the block lasts. Root, and who owns no file of it, is not kept."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if not path.is_symlink()}

    def chmod(mask: int):
        for path, mode in modes.items():
            with contextlib.suppress(OSError):
                path.chmod(mode & mask)

    chmod(~0o222)
    try:
        yield
    finally:
        chmod(~0)


def snapshot(base: Path, below: tuple[str, ...] = ("model", "output", "checkpoints")) -> dict[str, object]:
    """What lies in a folder, but for the folders that may be written to; differs when a file was touched."""
    found = {}
    for path in base.rglob("*"):
        name = path.relative_to(base)
        if name.parts[0] not in below:
            state = path.lstat()
            found[str(name)] = path.is_file() and (state.st_size, state.st_mtime_ns, state.st_ino)
    return found


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The files that differ between two snapshots."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
