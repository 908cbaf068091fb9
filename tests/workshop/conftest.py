"""The workshop on a localaws of the tests; this process's environment is put back afterwards."""

import os
import uuid
from unittest.mock import patch

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


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory):
    """The folder of a running localaws that tests share as learners in a class do."""
    folder = tmp_path_factory.mktemp("localaws")
    with patch.dict(os.environ, LOCALAWS_HOME=str(folder), LOCALAWS_PORT="0"):
        localaws.start()
        yield folder
        os.environ["LOCALAWS_HOME"] = str(folder)
        localaws.stop()


@pytest.fixture
def target(shared_home, environment):
    """The local target, connected, for a learner of the test's own: nothing of theirs is there yet."""
    environment["LOCALAWS_HOME"] = str(shared_home)
    environment["LOCALAWS_PORT"] = "0"
    environment["WORKSHOP_LEARNER"] = uuid.uuid4().hex[:8]
    return connect(quiet=True)
