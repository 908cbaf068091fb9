"""The devcontainer CLI, from npm, in build/: made on demand, by the tests of .devcontainer alone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "devcontainer"
PACKAGE = "@devcontainers/cli@0.89.0"


def command() -> list[str]:
    """What runs the CLI; skips where it is not there and cannot be installed."""
    program = FOLDER / "node_modules/@devcontainers/cli/devcontainer.js"
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("npm is not installed: the devcontainer CLI does not look at .devcontainer")
    if not program.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        quiet = ["--silent", "--no-fund", "--no-audit", "--fetch-retries=0", "--fetch-timeout=30000"]
        install = ["npm", "install", *quiet, "--prefix", str(FOLDER), PACKAGE]
        done = subprocess.run(install, capture_output=True, text=True, timeout=240)
        # Where npm is told of a registry by variables, a user with nothing in the environment has none; .ci/docker has.
        if done.returncode and os.environ.get("BYOA_DOCKER") != "required":
            pytest.skip(
                f"npm cannot install {PACKAGE}, so it does not look at .devcontainer: {done.stderr[-200:]}"
            )
        assert done.returncode == 0, done.stdout + done.stderr
    return ["node", str(program)]
