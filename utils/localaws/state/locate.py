"""Where localaws keeps what it knows, whose secret opens it, which process serves it, and how clients get there."""

import fcntl
import hmac
import http.client
import json
import os
import re
import secrets
import ssl
import stat
import sys
import time
from base64 import b64decode, urlsafe_b64encode
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from . import processes

TICKET_SECONDS = 12 * 3600  # a working day: what a notebook showed yesterday opens nothing

ROOT = Path(__file__).resolve().parents[3]
REGION = "us-west-2"
ACCOUNT = "000000000000"
KEY = "localaws-not-a-key"  # the owner's; obviously none of AWS's
ROLE = "AmazonSageMaker-ExecutionRole"  # that the owner's key stands for: named as SageMaker's console does
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/service-role/{ROLE}"
PORT = 4571
CERTIFICATE = "proxy.crt"  # of the proxy, beside the clients' files
PROGRESS = "starting"  # a file in the home, while what is on disk is brought back
NO_OTHER = "direct"  # of proxies, in the URL of ours
LOOPBACK = ("127.0.0.1", "localhost")
# What the SageMaker SDK, 2 and 3, takes for what a program does not say. Without the first it sends usage data to a bucket
# of AWS's; the bucket has the name that it would give it, and is made by who asks for it.
SDK_DEFAULTS = f"""\
SchemaVersion: '1.0'
SageMaker:
  PythonSDK:
    Modules:
      TelemetryOptOut: true
      Session:
        DefaultS3Bucket: sagemaker-{REGION}-{ACCOUNT}
      RemoteFunction:
        RoleArn: {ROLE_ARN}
      Serve:
        RoleArn: {ROLE_ARN}
  TrainingJob:
    RoleArn: {ROLE_ARN}
  ProcessingJob:
    RoleArn: {ROLE_ARN}
  Model:
    ExecutionRoleArn: {ROLE_ARN}
"""


@dataclass(frozen=True)
class Status:
    """A running localaws: where it listens, its process, its folder, how it runs containers, and what people should know."""

    endpoint_url: str
    pid: int
    create_time: float
    home: str
    engine: str = "process"
    region: str = REGION
    account: str = ACCOUNT
    note: str = ""
    there: str = ""  # what was brought back at the start,
    lost: tuple[str, ...] = ()  # and what could not be, each with the reason

    @property
    def address(self) -> str:
        return self.endpoint_url.removeprefix("http://")

    @property
    def page(self) -> str:
        """The page's address with what shows it that a browser is the owner's."""
        return f"{self.endpoint_url}/_localaws/?token={token(Path(self.home))}"


def home() -> Path:
    """Return the folder that holds all state: LOCALAWS_HOME, else `.localaws` in the workshop, and without one in the
    user's own folder."""
    place = ROOT if has_workshop() else Path.home()
    return Path(os.environ.get("LOCALAWS_HOME") or place / ".localaws").resolve()


def has_workshop() -> bool:
    """Whether this package lies in the workshop's tree, which has algorithms by name; else it was installed alone."""
    return (ROOT / "container" / "stack").is_dir()


def private_home() -> Path:
    """Return `home`, made where it is not there, and closed to everybody but its owner.

    Raises OSError where it is not ours, ValueError where it is everybody's, such as /tmp.
    """
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    if mode & stat.S_ISVTX:
        raise ValueError(f"LOCALAWS_HOME={folder} is a folder for everybody: name one of your own below it")
    if mode & 0o077:  # an earlier version's
        folder.chmod(0o700)
    return folder


def secret(folder: Path) -> str:
    """Return the secret access key of a home: random, made by whoever asks first, its owner's alone to read."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(folder / "secret", os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # programs that begin at once have one secret
        if not (key := file.read()):
            key = f"localaws-{secrets.token_hex(24)}"
            file.write(key)
    return key


def token(folder: Path, purpose: str = "page") -> str:
    """Return what shows, for one purpose, that its bearer has a home's secret, and does not tell it."""
    return hmac.new(secret(folder).encode(), purpose.encode(), "sha256").hexdigest()


def ticket(folder: Path) -> str:
    """Return what lets one browser in, once, within TICKET_SECONDS: what a notebook may show and keep."""
    tickets = folder / "tickets"
    tickets.mkdir(mode=0o700, exist_ok=True)
    for old in tickets.iterdir():
        if old.stat().st_mtime < time.time() - TICKET_SECONDS:
            old.unlink(missing_ok=True)
    new = secrets.token_hex(16)
    (tickets / new).touch(mode=0o600)
    return new


def spend(folder: Path, ticket: str) -> bool:
    """Whether the ticket was good; from now on it is not."""
    file = folder / "tickets" / ticket
    if not re.fullmatch(r"[0-9a-f]{32}", ticket):
        return False
    try:
        good = file.stat().st_mtime > time.time() - TICKET_SECONDS
        file.unlink()
    except FileNotFoundError:  # never given out, or spent, also by who came a moment ago
        return False
    return good


def port() -> int:
    """Return the port to listen on: LOCALAWS_PORT, else 4571; 0 is any free one. Raises ValueError."""
    text = os.environ.get("LOCALAWS_PORT") or str(PORT)
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(
            f"LOCALAWS_PORT={text} is not a port: give a number from 1 to 65535, or unset it for {PORT}"
        )
    return int(text)


def environment(endpoint_url: str | None = None) -> dict[str, str]:
    """Return the environment variables that point boto3, the SDK and the `aws` command at localaws.

    The key is obviously not AWS's, its secret is this home's own, and the profile files have these alone, so that a
    learner's real account can never be used by mistake. Raises RuntimeError when localaws is not running (unless `endpoint_url`
    is given).
    """
    folder = home()
    if endpoint_url is None:
        found = required()
        endpoint_url, folder = found.endpoint_url, Path(found.home)
    config = _client_files(folder, endpoint_url)
    others = [host for host in os.environ.get("NO_PROXY", "").split(",") if host not in ("", *LOOPBACK)]
    no_proxy = ",".join([*others, *LOOPBACK])
    # A service's own variable (AWS_ENDPOINT_URL_S3, …) would win over AWS_ENDPOINT_URL.
    services = {name: endpoint_url for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")}
    return {
        **services,
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret(folder),
        "AWS_SESSION_TOKEN": "",
        "AWS_SECURITY_TOKEN": "",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_PROFILE": "default",
        "AWS_DEFAULT_PROFILE": "default",
        "AWS_CONFIG_FILE": str(config / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(config / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config / "sagemaker.yaml"),
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(config / "sagemaker.yaml"),
        "LOCALAWS_HOME": str(folder),
        **{
            name: _proxy(folder, endpoint_url, scheme)
            for scheme in ("https", "http")
            for name in (f"{scheme.upper()}_PROXY", f"{scheme}_proxy")
        },
        "AWS_CA_BUNDLE": str(config / "ca.pem"),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def announce(folder: Path, server: Status) -> None:
    """Write down, for `status` and `stop`, which process serves this folder."""
    processes.write_json(folder / "server.json", asdict(server))


def _client_files(folder: Path, endpoint_url: str) -> Path:
    config = folder / "aws"
    key = f"aws_access_key_id = {KEY}\naws_secret_access_key = {secret(folder)}"
    for name, text in (
        ("config", f"[default]\nregion = {REGION}\nendpoint_url = {endpoint_url}\n"),
        ("credentials", f"[default]\n{key}\n"),
        ("sagemaker.yaml", SDK_DEFAULTS),
        ("ca.pem", _trusted(config)),
    ):
        processes.write_whole(config / name, text.encode())  # another program may read it at this moment
    return config


def _trusted(config: Path) -> str:
    """The certificates that AWS clients are to trust: those that they would without us, and our proxy's."""
    own = (config / CERTIFICATE).read_text() if (config / CERTIFICATE).exists() else ""
    said = [os.environ.get(name) for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")]
    files = [Path(file) for file in (*said, ssl.get_default_verify_paths().cafile) if file]
    others = next((file.read_text() for file in files if file.is_file()), "")
    return others.replace(own, "") + own


def _proxy(folder: Path, endpoint_url: str, scheme: str) -> str:
    """The URL of our proxy: as its user a token, as the password the proxy that the environment had, for other hosts."""
    found = getproxies_environment()
    before = found.get(scheme) or found.get("all") or ""
    if leads_here("HTTPS_PROXY", before):  # from an earlier `localaws env`, maybe of another home's
        rest = urlsplit(before).password
    else:
        rest = urlsafe_b64encode(before.encode()).decode().rstrip("=") or NO_OTHER
    return endpoint_url.replace("://", f"://{token(folder, 'proxy')}:{rest}@")


def leads_here(name: str, value: str) -> bool:
    """Tell whether a variable, by the proxy or the profile that it names, sends AWS clients to a localaws."""
    if name == "AWS_CONFIG_FILE":
        return bool(value) and (Path(value).parent / CERTIFICATE).exists()
    stated = urlsplit(value if name.upper() in ("HTTPS_PROXY", "HTTP_PROXY") else "")
    return stated.hostname in LOOPBACK and bool(re.fullmatch(r"[0-9a-f]{64}", stated.username or ""))


def beyond(password: str) -> str:
    """Return the proxy that the password of our proxy's URL names, "" where it names none."""
    return "" if password == NO_OTHER else b64decode(password + "==", b"-_").decode()


def running() -> Status | None:
    """Return what `announce` wrote of the process that serves this home, or None where it has ended."""
    # ValueError, TypeError: damaged, or another version's. Nothing that we know how to talk to runs, then.
    with suppress(OSError, ValueError, TypeError):
        found = Status(**json.loads((home() / "server.json").read_text()))
        if processes.find(found.pid, found.create_time):
            return found
    return None


def required() -> Status:
    """Return what runs. Raises RuntimeError where nothing does."""
    if found := running():
        return found
    raise RuntimeError(f"localaws is not running. Start it: {Path(sys.executable).name} -m localaws up")


def answers(address: str, seconds: float = 5) -> bool:
    """Tell whether a localaws that is ready answers at an address of the form HOST:PORT."""
    with closing(http.client.HTTPConnection(address, timeout=seconds)) as connection:
        try:
            connection.request("GET", "/_localaws/health")
            return b'"ready": true' in connection.getresponse().read(64)
        except (OSError, http.client.HTTPException):
            return False
