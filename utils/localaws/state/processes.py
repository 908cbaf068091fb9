"""The processes that localaws starts, recorded on disk so that none outlives it, not even after `kill -9`.

A record is ``HOME/processes/PID.json`` with ``pid``, ``create_time`` (psutil's, seconds since the epoch), ``what``
(words for people), ``base_dir`` (a program's /opt/ml, which it has to itself) and ``temporary`` (its /tmp). Pid and create time together name one
process for good: a pid alone is reused.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

# psutil derives the create time from clock ticks: the same process may differ by a tick between two readings.
SAME_TIME = 0.05


def record(home: Path, pid: int, what: str, base_dir: Path | None = None, temporary: str = "") -> None:
    """Note that the process `pid`, just started, is ours. Call `forget` once it has ended."""
    with suppress(psutil.NoSuchProcess):
        entry = {"pid": pid, "create_time": psutil.Process(pid).create_time(), "what": what}
        write_json(_file(home, pid), entry | {"base_dir": str(base_dir or ""), "temporary": temporary})


def forget(home: Path, pid: int) -> None:
    """Drop the record of a process that has ended."""
    _file(home, pid).unlink(missing_ok=True)


def find(pid: int, create_time: float) -> psutil.Process | None:
    """Return the live process that was recorded with this pid and create time, or None."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - create_time) < SAME_TIME and _is_alive(process):
            return process
    return None


def kill(home: Path, pid: int) -> None:
    """SIGKILL to a recorded process and to all that it started, as far as that can be seen from outside."""
    with suppress(FileNotFoundError, ValueError):
        stop(_family(json.loads(_file(home, pid).read_text())), grace=0)


def kill_recorded(home: Path, grace: float = 1.0) -> list[str]:
    """Stop every recorded process with all that it started, and every program of a job in `home`: SIGTERM, after `grace` seconds SIGKILL.

    Nobody is left who would take what they may still have to give, so they are not waited for long. Return what was
    stopped, in words. A process that is not ours is never touched.
    """
    files = sorted((home / "processes").glob("*.json"))
    stopped, victims, temporary = [], {}, []
    for file in files:
        try:
            entry = json.loads(file.read_text())
        except ValueError:  # after a power cut, which has ended the process as well
            continue
        temporary += filter(None, [entry.get("temporary")])
        ours = _family(entry)
        if ours:
            stopped.append(f"{entry['what']} (pid {entry['pid']})")
        victims.update({process.pid: process for process in ours})
    for process in psutil.process_iter():  # killed between the start of a program and its record
        with suppress(psutil.Error):
            if process.environ().get("SAGEMAKER_BASE_DIR", "").startswith(f"{home}{os.sep}jobs{os.sep}"):
                victims[process.pid] = process
    stop(list(victims.values()), grace)
    for folder in temporary:
        shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        file.unlink(missing_ok=True)
    return stopped


def stop(processes: list[psutil.Process], grace: float) -> None:
    """Send SIGTERM to all, wait up to `grace` seconds for all to end, then SIGKILL what is left."""
    for name, patience in (("terminate", grace), ("kill", 5.0)):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if _is_alive(process):
                    getattr(process, name)()
        deadline = time.monotonic() + patience
        while any(map(_is_alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.02)


def write_json(file: Path, value) -> None:
    """Write a JSON file as `write_whole` does."""
    write_whole(file, json.dumps(value).encode())


def write_whole(file: Path, content: bytes, synced: bool = False) -> None:
    """Write a file so that a reader, its owner alone, or a crash sees the old content or the new one, never a part.

    `synced`: the content is on the disk itself before the name is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{uuid.uuid4().hex}")  # threads and programs may write the same file at once
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        if synced:
            out.flush()
            os.fsync(out.fileno())
    temporary.replace(file)


def is_whole(file: Path, digest: str, algorithm: str = "sha256") -> bool:
    """Whether a file has the digest (hexadecimal) that names it. Raises FileNotFoundError.

    One that was found whole gets a modification time that no writing leaves, so that it is read but once.
    """
    if file.stat().st_mtime_ns != 0:
        with file.open("rb") as content:
            if hashlib.file_digest(content, algorithm).hexdigest() != digest:
                return False
        os.utime(file, (0, 0))
    return True


def _family(entry: dict) -> list[psutil.Process]:
    """Return the recorded process, its descendants, its session, which may have outlived it, and its base_dir's programs.

    Each recorded process leads a session of its own. While a member of a session lives the kernel gives its
    leader's pid to nobody else, so a session without its leader, whose members are younger than the record, is ours.
    """
    family: list[psutil.Process] = []
    pid, born, base_dir = entry["pid"], entry["create_time"] - SAME_TIME, entry.get("base_dir")
    with suppress(psutil.NoSuchProcess):
        if leader := find(pid, entry["create_time"]):
            family = [leader, *leader.children(recursive=True)]
        elif _is_alive(psutil.Process(pid)):
            pid = -1  # it belongs to somebody else by now
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            session = os.getsid(process.pid) == pid and process.create_time() >= born
            if session or (base_dir and process.environ().get("SAGEMAKER_BASE_DIR") == base_dir):
                family.append(process)
    return family


def _is_alive(process: psutil.Process) -> bool:
    """Tell whether it runs. A zombie does not: psutil's own wait would go on until its parent has noticed."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _file(home: Path, pid: int) -> Path:
    return home / "processes" / f"{pid}.json"
