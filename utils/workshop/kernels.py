"""Which kernels work on a walk: two people who open one lab under one name would overwrite each other's things."""

import os
import time
from pathlib import Path

import psutil

from .language import _


def others(folder: Path) -> list[str]:
    """A line for each other kernel on this machine that has this kernel's notebook open for the same walk.

    `folder` is the walk's own. Notes this kernel for those that come. JupyterLab names the notebook to its kernel (JPY_SESSION_NAME); without that
    nothing is noted, and nothing found.
    """
    notebook = os.environ.get("JPY_SESSION_NAME")
    if not notebook:
        return []
    folder = folder / Path(notebook).stem
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(os.getpid())).touch()
    found = []
    for note in sorted(folder.iterdir()):
        process, noted = int(note.name), note.stat().st_mtime
        if process == os.getpid():
            continue
        # A number is given out again: who has it now must have begun before the note was written.
        if psutil.pid_exists(process) and psutil.Process(process).create_time() <= noted:
            found.append(
                _(
                    "process {process}, since {moment}",
                    process=process,
                    moment=time.strftime("%H:%M", time.localtime(noted)),
                )
            )
        else:
            note.unlink(missing_ok=True)
    return found


def warn(walk: str, folder: Path) -> None:
    """Print what to do where another kernel has this lab open under the same name."""
    for other in others(folder):
        print(
            _(
                "[!] Another kernel ({other}) has this lab open as {walk}. If that is somebody else, each of you would "
                "overwrite what the other makes: set WORKSHOP_LEARNER, 2 to 8 small letters or digits, before JupyterLab "
                "starts. If it is you, shut one of the two down.",
                other=other,
                walk=walk,
            )
        )
