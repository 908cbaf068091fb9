"""For pytest, where localaws is installed: `localaws`, an AWS of the test's own, and `localaws_session`, one for all tests.

    def test_my_training_code(localaws):
        start_training(bucket="mine")  # by boto3, which finds localaws through the environment
        jobs = localaws.client("sagemaker").list_training_jobs()

Each is a server of its own, on a free port, with its state in a folder of pytest's. While it is there the environment
leads boto3, the SDK and the `aws` command to it; after it that is as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import localaws as package


@dataclass(frozen=True)
class LocalAws:
    """A running localaws: where it listens, its folder, and the variables that lead programs to it."""

    endpoint_url: str
    home: Path
    environment: dict[str, str] = field(repr=False)

    def client(self, service: str, **options):
        """Return boto3's client of a service, for localaws whatever the environment says by then."""
        import boto3

        given = self.environment
        keys = {name: given[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
        where = {"endpoint_url": self.endpoint_url, "region_name": given["AWS_REGION"]}
        return boto3.client(service, **{**keys, **where, **options})


@contextmanager
def running(home: Path) -> Iterator[LocalAws]:
    """Start a localaws with its state in `home`, lead this process's environment to it, and stop it at the end."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALAWS_HOME", str(home))
        patch.setenv("LOCALAWS_PORT", "0")
        try:
            url = package.start().endpoint_url
            environment = package.environment()
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(
                boto3, "DEFAULT_SESSION", None
            )  # it would go on with the keys that were there before
            yield LocalAws(url, home, environment)
        finally:
            patch.setenv("LOCALAWS_HOME", str(home))
            package.stop()


@pytest.fixture
def localaws(tmp_path_factory) -> Iterator[LocalAws]:
    """A localaws of the test's own, in which nothing is there yet; it starts within seconds."""
    with running(tmp_path_factory.mktemp("localaws")) as aws:
        yield aws


@pytest.fixture(scope="session")
def localaws_session(tmp_path_factory) -> Iterator[LocalAws]:
    """The localaws that all tests of a session share, with what they have left in it: started once."""
    with running(tmp_path_factory.mktemp("localaws")) as aws:
        yield aws
