"""The docker command, SageMaker's folder tree and a localaws of one's own, for the tests of this folder."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import boto3

ROOT = Path(__file__).resolve().parents[2]
NAME = "sagemaker-byoa-check"
BOTH, TRAIN, SERVE, SAMPLE, ELSEWHERE = (
    f"{NAME}:{tag}" for tag in ("both", "train", "serve", "sample", "elsewhere")
)
BOOSTING = f"{NAME}:gradient_boosting"
UNET_TRAIN, UNET_SERVE = (f"{NAME}:unet-{verb}" for verb in ("train", "serve"))


def docker(
    *arguments: str, check: bool = True, timeout: float = 120, **options
) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [os.environ.get("DOCKER", "docker"), *arguments],
        stdin=None if "input" in options else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )
    if check:
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


def problem() -> str | None:
    if not shutil.which(os.environ.get("DOCKER", "docker")):
        return "docker is not installed"
    if docker("version", check=False, timeout=10).returncode:
        return "no Docker engine answers"
    for image in (BOTH, TRAIN, SERVE, SAMPLE, ELSEWHERE, UNET_TRAIN, UNET_SERVE):
        if docker("image", "inspect", image, check=False).returncode:
            return f"the engine has no image {image}; .ci/docker builds it"
    return None


def until(condition, seconds: float, what: str):
    """Polls until the condition holds, and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return found


def lay_out(base: Path, data: str | None = None, **hyperparameters: str) -> Path:
    """The folder tree of SageMaker with one channel, data/iris.csv or `data`."""
    for folder in ("input/config", "input/data/training", "model", "output"):
        (base / folder).mkdir(parents=True)
    (base / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))
    text = (ROOT / "data/iris.csv").read_text() if data is None else data
    (base / "input/data/training/data.csv").write_text(text)
    return base


class LocalAws:
    """A localaws of its own, on the docker engine; `env` is for programs that should talk to it."""

    def __init__(self, home: Path, **variables: str):
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "LOCALAWS_"))}
        # The learner's own login stays what it is.
        login = {"DOCKER_CONFIG": str(home.parent / "docker-config")}
        tools = f"{Path(sys.executable).parent}:{kept['PATH']}"
        self.env = (
            kept | login | variables | {"LOCALAWS_HOME": str(home), "LOCALAWS_PORT": "0", "PATH": tools}
        )
        self.home = home

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "localaws", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        self.command("up")
        words = subprocess.run(
            ["sh", "-c", self.command("env") + "env -0"], env=self.env, capture_output=True, check=True
        )
        self.env = dict(pair.split("=", 1) for pair in words.stdout.decode().split("\0") if pair)

    def client(self, service: str):
        session = boto3.Session(
            self.env["AWS_ACCESS_KEY_ID"], self.env["AWS_SECRET_ACCESS_KEY"], region_name="us-west-2"
        )
        return session.client(service, endpoint_url=self.env["AWS_ENDPOINT_URL"])

    def containers(self) -> list[str]:
        """The containers that carry its label, running or not."""
        return docker("ps", "--all", "--quiet", "--filter", f"label=localaws.home={self.home}").stdout.split()

    def networks(self) -> list[str]:
        return docker(
            "network", "ls", "--quiet", "--filter", f"label=localaws.home={self.home}"
        ).stdout.split()
