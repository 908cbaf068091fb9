"""What this machine has for the labs: [OK], [--] for what they can do without, [FAIL] with the command that mends it."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys

from packaging.requirements import Requirement

from . import ROOT
from .language import _


def preflight() -> bool:
    """Print one line for each thing that the labs need or can use; return whether nothing that they need is missing."""
    ready = True
    for there, needed, what, mend in _findings():
        mark = "[OK]  " if there else "[FAIL]" if needed else "[--]  "
        print(f"{mark} {what}" + ("" if there else f": {mend}"))
        ready &= there or not needed
    return ready


def _findings():
    """(is it there, do the labs need it, what it is, what to do without it)"""
    version = ".".join(map(str, sys.version_info[:3]))
    yield (
        (3, 11) <= sys.version_info < (3, 14),
        True,
        f"Python {version}",
        _("3.11, 3.12 or 3.13 is needed: make setup"),
    )
    pinned = _pinned()
    for package in ("sagemaker", "boto3", "scikit-learn", "onnxruntime", "flask", "gunicorn", "pandas"):
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield False, True, package, "make setup"
            continue
        what = f"{package} {installed}"
        if installed != pinned[package]:
            what = _("{what} (tested with {pinned})", what=what, pinned=pinned[package])
        yield True, True, what, ""
    aws = shutil.which(
        "aws", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    )
    yield bool(aws), True, _("the aws command"), "make setup"
    nginx = shutil.which(
        "nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
    )
    yield (
        bool(nginx),
        False,
        "nginx",
        _("gunicorn listens itself; apt-get install nginx-light, or brew install nginx"),
    )
    yield (
        docker_answers(),
        False,
        _("a Docker engine"),
        _("localaws runs the images' programs as processes instead"),
    )
    free = shutil.disk_usage(ROOT).free / 1e9
    yield free > 2, True, _("{free:.0f} GB free disk", free=free), _("2 GB are needed")


def _pinned() -> dict[str, str]:
    """What requirements.lock pins for this Python on this machine: version by package."""
    lines = re.findall(r"^[a-z0-9-]+==.*?(?= \\|$)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    wanted = (
        requirement
        for requirement in map(Requirement, lines)
        if not requirement.marker or requirement.marker.evaluate()
    )
    return {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in wanted}


def docker_answers() -> bool:
    """Whether a Docker engine, not only its client, answers on this machine."""
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, timeout=20
    )
    return asked.returncode == 0
