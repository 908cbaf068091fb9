"""A real localaws, in a folder and on a port of its own, started and stopped by its own command."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from localaws.state import locate

# One for all tests: a session reads the services' models, which takes longer than most calls.
SESSION = boto3.Session(region_name="us-west-2")


@dataclass
class LocalAws:
    """A running localaws. `env` is the environment for programs that should talk to it."""

    home: Path
    env: dict = field(repr=False)
    endpoint_url: str = ""

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run `python -m localaws …` and return what it did."""
        done = subprocess.run(
            [sys.executable, "-m", "localaws", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def up(self) -> None:
        """Start it and read the environment that it gives."""
        self.command("up")
        lines = self.command("env").stdout.splitlines()
        exports = "".join(f"{line}\n" for line in lines) + "env -0"
        shell = subprocess.run(["sh", "-c", exports], env=self.env, capture_output=True, check=True)
        pairs = [entry.split("=", 1) for entry in shell.stdout.decode().split("\0") if entry]
        self.env = dict(pairs)
        self.endpoint_url = self.env["AWS_ENDPOINT_URL"]

    def client(self, service: str, **options):
        """Return a boto3 client that talks to it, with its owner's keys unless `options` has others."""
        keys = {name: self.env[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
        return SESSION.client(service, endpoint_url=self.endpoint_url, **{**keys, **options})

    def signed(self, method: str, path: str, body=b"", headers=None, service: str = "sagemaker") -> dict:
        """Return the headers of a request with its owner's signature."""
        request = AWSRequest(method, self.endpoint_url + path, headers, body or b"")
        signer = S3SigV4Auth if service == "s3" else SigV4Auth
        key = Credentials(self.env["AWS_ACCESS_KEY_ID"], self.env["AWS_SECRET_ACCESS_KEY"])
        signer(key, service, "us-west-2").add_auth(request)
        return dict(request.headers)

    @property
    def page(self) -> str:
        """The page's address for its owner's browser."""
        return f"{self.endpoint_url}/_localaws/?token={locate.token(self.home)}"

    def cookie(self) -> dict:
        """Return the header by which a browser is known as its owner's."""
        port = self.endpoint_url.rpartition(":")[2]
        return {"Cookie": f"localaws-{port}={locate.token(self.home)}"}


def bare(home: Path) -> LocalAws:
    """Return a localaws that is not started yet."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LOCALAWS_"))}
    # tests/docker has the other engine.
    return LocalAws(
        home, {**env, "LOCALAWS_HOME": str(home), "LOCALAWS_PORT": "0", "LOCALAWS_ENGINE": "process"}
    )


@pytest.fixture(scope="session")
def kernel():
    """One that gives everybody name spaces."""
    if sys.platform != "linux":
        pytest.skip("name spaces are Linux'")
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        assert "CI" not in os.environ, (
            "CI must run them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
        pytest.skip("the kernel refuses name spaces")


@pytest.fixture
def fresh(tmp_path):
    """A localaws of the test's own, not started yet; whatever of it runs is stopped after the test."""
    aws = bare(tmp_path / "localaws")
    yield aws
    aws.command("down")


@pytest.fixture(scope="session")
def localaws(tmp_path_factory):
    """The localaws that the tests of a session share."""
    aws = bare(tmp_path_factory.mktemp("localaws"))
    aws.up()
    yield aws
    aws.command("down")


@pytest.fixture(scope="module")
def survivor(tmp_path_factory):
    """The localaws that the tests of a module kill and start again, with all that it had before."""
    aws = bare(tmp_path_factory.mktemp("localaws"))
    aws.up()
    yield aws
    aws.command("down")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A localaws that records, into a file of its home."""
    aws = bare(tmp_path_factory.mktemp("localaws"))
    aws.env["LOCALAWS_RECORD"] = "rights.jsonl"
    aws.up()
    yield aws
    aws.command("down")
