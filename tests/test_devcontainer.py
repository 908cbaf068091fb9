"""Places to open the labs in without a set-up of one's own: a dev container, and Binder."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import devcontainer_cli
import pytest

from workshop import ROOT

DEVCONTAINER, BINDER = ROOT / ".devcontainer", ROOT / ".binder"


@pytest.mark.timeout(400)
def test_the_devcontainer_cli_reads_it():
    """tests/docker starts it, on an engine."""
    # It looks for a container that runs already: none does, and no engine is asked.
    alone = ["--workspace-folder", str(ROOT), "--docker-path", shutil.which("true")]
    command = [*devcontainer_cli.command(), "read-configuration", *alone]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["configuration"]
    assert read["remoteUser"] == "learner" and read["privileged"], "a Docker engine runs in it"
    assert read["postCreateCommand"] == "make setup"


def test_it_needs_no_registry_but_the_base_images():
    """Features would come from another one. The base is the container's own."""
    read = json.loads((DEVCONTAINER / "devcontainer.json").read_text())
    assert "features" not in read and (DEVCONTAINER / read["build"]["dockerfile"]).is_file()
    base = re.compile(r"^ARG BASE_IMAGE=(.+)$", re.MULTILINE)
    files = (DEVCONTAINER / "Dockerfile", ROOT / "container" / "Dockerfile")
    assert len({base.search(file.read_text())[1] for file in files}) == 1
    assert (
        f"useradd --create-home --shell /bin/bash --groups docker {read['remoteUser']}"
        in files[0].read_text()
    )
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert read["postCreateCommand"].removeprefix("make ") in targets


def test_binder_installs_what_the_lock_pins():
    (line,) = [
        line for line in (BINDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert (BINDER / line.removeprefix("-r ")).resolve() == ROOT / "requirements.lock"
    pinned = re.match(r"python-(3\.\d+)$", (BINDER / "runtime.txt").read_text().strip())[1]
    assert pinned == "3.11", "the version that the lock file was tested with"
    assert os.access(BINDER / "postBuild", os.X_OK)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, which apt.txt brings to Binder")
def test_binders_last_step_makes_a_clone_ready(tmp_path):
    """postBuild itself, in a clone, with a Python of its own that has what the lock pins."""
    clone, prefix = tmp_path / "clone", tmp_path / "python"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    shutil.copytree(BINDER, clone / ".binder", dirs_exist_ok=True)
    venv.create(prefix)  # whose pip and setuptools are the lock's
    (packages,) = prefix.glob("lib/python*/site-packages")
    (own,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (packages / "lock.pth").write_text(f"{own}\n")
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{prefix / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
    }
    done = subprocess.run(
        [str(clone / ".binder" / "postBuild")],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (prefix / "lib" / "libfast.so").is_file()
    where = "import workshop; print(workshop.ROOT)"
    said = subprocess.run(
        [prefix / "bin" / "python", "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == str(clone.resolve()), said.stderr
