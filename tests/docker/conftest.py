"""The images that .ci/docker builds, on the engine that it finds or starts. Nothing here builds from the network.

Where no engine answers, or it has not these images, all that needs them is skipped, with one line that says so; with
BYOA_DOCKER=required in the environment, as in CI, it fails.
"""

import os
import uuid
from pathlib import Path

import pytest
from docker_tools import BOTH, LocalAws, docker, lay_out, problem

LEFT_OUT = ": the tests of the image itself are left out"


@pytest.fixture(scope="session")
def engine():
    """Skips what asks for it where there is no engine with the images."""
    if found := problem():
        if os.environ.get("BYOA_DOCKER") == "required":
            pytest.fail(f"BYOA_DOCKER=required, but {found}")
        pytest.skip(f"{found}{LEFT_OUT}")
    return docker


@pytest.fixture
def run(engine):
    """run(IMAGE, VERB, *options): a detached container, removed after the test. Returns its name."""
    names = []

    def start(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
        names.append(f"byoa-test-{uuid.uuid4().hex[:12]}")
        engine("run", "--detach", "--name", names[-1], *options, image, *command)
        return names[-1]

    yield start
    for name in names:
        print(engine("logs", name, check=False))
        engine("rm", "--force", "--volumes", name)


@pytest.fixture(scope="session")
def model(engine, tmp_path_factory) -> Path:
    """A folder like /opt/ml in which the image has trained the iris tree."""
    base = lay_out(tmp_path_factory.mktemp("trained") / "ml")
    done = engine("run", "--rm", "--network=none", f"--volume={base}:/opt/ml", BOTH, "train")
    assert "training_accuracy=1" in done.stdout
    return base


@pytest.fixture(scope="session")
def localaws(engine, tmp_path_factory):
    """The localaws that the tests share."""
    aws = LocalAws(tmp_path_factory.mktemp("aws") / "home", LOCALAWS_ENGINE="docker")
    aws.up()
    yield aws
    aws.command("down")
    assert not aws.containers()
    assert not aws.networks()


@pytest.fixture
def image_of(engine, tmp_path):
    """image_of(PROGRAM, ...): the image with another `train`, made without a build; removed after the test."""
    images = []

    def make(program: str, verb: str = "train") -> str:
        file = tmp_path / verb
        file.write_text(program)
        file.chmod(0o755)
        container = engine("create", BOTH, verb).stdout.strip()
        engine("cp", str(file), f"{container}:/opt/program/{verb}")
        images.append(f"byoa-test-{uuid.uuid4().hex[:12]}")
        engine("commit", container, images[-1])
        engine("rm", container)
        return images[-1]

    yield make
    for image in images:
        engine("rmi", "--force", image)


def pytest_terminal_summary(terminalreporter):
    """The one line."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    left_out = [reason.removeprefix("Skipped: ") for reason in reasons if reason.endswith(LEFT_OUT)]
    if left_out:
        terminalreporter.write_line(f"{len(left_out)} tests need a Docker engine: {left_out[0]} (.ci/docker)")
