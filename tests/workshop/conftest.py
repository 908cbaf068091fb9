"""The workshop on a localaws of its own; this process's environment is put back afterwards."""

import os

import boto3
import pytest

import localaws
from workshop import connect


@pytest.fixture
def environment():
    """This process's environment without anything of AWS or the workshop; put back after the test."""
    saved = dict(os.environ)
    for name in saved:
        if name.startswith(("AWS_", "WORKSHOP_", "LOCALAWS_", "SAGEMAKER_")):
            del os.environ[name]
    yield os.environ
    os.environ.clear()
    os.environ.update(saved)
    boto3.setup_default_session()


@pytest.fixture
def home(environment, tmp_path):
    """The folder of a localaws that the test may start; whatever of it runs is stopped after the test."""
    environment["LOCALAWS_HOME"] = str(tmp_path / "localaws")
    environment["LOCALAWS_PORT"] = "0"
    yield tmp_path / "localaws"
    environment["LOCALAWS_HOME"] = str(tmp_path / "localaws")
    localaws.stop()


@pytest.fixture
def target(home):
    """The local target, connected."""
    return connect(quiet=True)
