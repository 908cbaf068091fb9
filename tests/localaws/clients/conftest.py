"""Clients that nobody here wrote, each in an environment of its own, with no way out of this machine.

A client is a script in scripts/, in the words of the client's own documentation. It is run by `python` of an environment
that holds the client's packages as they come from the registry, where only loopback is, with the variables of
`localaws env` and nothing else: a localaws is started beside it and stopped after it.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workshop import ROOT

HERE = Path(__file__).parent
OFFLINE = ROOT / "tests" / "offline"
#: A script that ends with it has nothing to say here: its last line says why.
SKIPPED = 77
# Of the tests' own environment a client needs these.
KEPT = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")
WALK = """
{python} -m localaws up >/dev/null
export CONTAINER={container} PYTHON={python}
eval "$({python} -m localaws env)"
status=0
"$@" || status=$?
{python} -m localaws down >/dev/null
exit $status
"""


def pytest_collection_modifyitems(config, items):
    for item in items:
        if HERE in item.path.parents and not config.getoption("--clients"):
            item.add_marker(
                pytest.mark.skip(reason="clients from elsewhere, which are installed: run with --clients")
            )


@pytest.fixture(scope="session")
def client_python() -> Callable[..., Path]:
    """Return the Python of an environment with some packages, as in: client_python("sagemaker<3", "pandas").

    It is made once, in build/clients. Where the registry does not answer the test is left out, but in CI.
    """

    def made(*packages: str) -> Path:
        folder = ROOT / "build" / "clients" / hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
        python, ready = folder / "bin" / "python", folder / "ready"
        folder.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other processes run other tests
            if not ready.exists():
                subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
                install = [
                    sys.executable,
                    ROOT / "utils" / "uv_pip.py",
                    "install",
                    "--quiet",
                    "--python",
                    python,
                ]
                done = subprocess.run([*install, *packages], capture_output=True, text=True)
                if done.returncode and "CI" not in os.environ:
                    pytest.skip(f"cannot be installed: {' '.join(packages)}: {done.stderr[-300:]}")
                assert done.returncode == 0, done.stderr
                ready.touch()
        return python

    return made


@pytest.fixture
def client(tmp_path) -> Callable[..., str]:
    """Run a command as a client of a localaws of its own, offline; return what it printed.

    Where a command is one Python and a script's name, the script is the one in scripts/. CONTAINER, a variable of its
    environment, is the folder container/ of this tree; PYTHON is the Python that localaws runs by.
    """

    def run(*command: str | Path, timeout: float = 300, **variables: str) -> str:
        if len(command) == 2 and str(command[1]).endswith(".py"):
            command = (command[0], HERE / "scripts" / command[1])
        log = tmp_path / "left-the-machine.log"
        script = WALK.format(python=f"'{sys.executable}'", container=f"'{ROOT / 'container'}'")
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {
            "LOCALAWS_HOME": str(tmp_path / "localaws"),
            "LOCALAWS_PORT": "0",
            "LOCALAWS_ENGINE": "process",
            "OFFLINE_LOG": str(log),
            "PYTHONPATH": str(OFFLINE),
            # Both streams of several programs come by one pipe: what is held back is written in blocks that end
            # within a line, or within a character, and what another stream says then stands in between.
            "PYTHONUNBUFFERED": "1",
        }
        done = subprocess.run(
            [sys.executable, OFFLINE / "run.py", "sh", "-euc", script, "sh", *map(str, command)],
            env=environment | variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
        )
        if done.returncode == SKIPPED:
            pytest.skip(done.stdout.splitlines()[-1])
        assert done.returncode == 0, done.stdout[-8000:]
        assert not log.exists(), log.read_text() + done.stdout[-4000:]
        return done.stdout

    return run
