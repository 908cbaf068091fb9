"""A clone of this tree that a test may change: labs, helpers and container are copies, the rest leads here."""

import shutil
import subprocess
import sys
from pathlib import Path

from workshop import ROOT

# Two walks at once write a container/my_knn each. (utils decides where the workshop takes its folders to be.)
COPIED = ("container", "labs", "utils")
VERBS = ("train", "serve")
LEFT_BEHIND = shutil.ignore_patterns("my_*", "__pycache__", ".ipynb_checkpoints")


def clone(folder: Path) -> Path:
    """Make the clone in `folder`, which is not there yet. Programs find its helpers by `helpers(folder)`.

    And make the algorithms' environments, where they are not yet: what runs in a clone may have no network.
    """
    for lock in (lock for verb in VERBS for lock in ROOT.glob(f"container/*/requirements-{verb}.lock")):
        subprocess.run(
            [sys.executable, ROOT / "container/environment", lock], check=True, capture_output=True
        )
    folder.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name in COPIED:
            shutil.copytree(path, folder / path.name, ignore=LEFT_BEHIND)
        else:
            (folder / path.name).symlink_to(path)
    return folder


def helpers(folder: Path) -> str:
    """What PYTHONPATH must have for a clone, before what is installed."""
    return str(folder / "utils")
