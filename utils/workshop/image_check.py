"""Does an image keep what SageMaker asks of it? `python -m workshop.image_check IMAGE` trains, serves and stops it.

One line a promise: [OK], or [FAIL] with what was found and how to mend it. Exit code 0 when all are kept. Files go in
and out by `docker cp`, so the engine may be anywhere and nothing is left behind.
"""

import argparse
import io
import json
import math
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import ROOT
from .errors import WorkshopError
from .language import _

TEST_DIR = ROOT / "container" / "local_test" / "test_dir"
PING_SECONDS = 30  # SageMaker gives a container minutes; a learner should not wait that long
STOP_SECONDS = 30  # then SageMaker kills
MAX_GB = 10  # serverless endpoints take no larger image
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What gives itself away; a name alone, such as TOKEN_FILE, does not.
SECRETS = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret": r"(?i)aws_secret_access_key\W{1,3}\S",
    "a password in an address": r"://[^/\s:@]+:[^/\s@$]+@",
    "a password or token": r"(?i)\b[a-z_]*(?:password|passwd|secret|token)\s*=\s*['\"]?[^\s'\"$]{6,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# Files of a layer: what has a secret in it by its name, and what gives itself away in any text. Words alone do not:
# libraries are full of them.
SECRET_FILES = re.compile(
    r"(^|/)(\.aws/credentials|\.netrc|\.git-credentials|\.pypirc|\.docker/config\.json|\.ssh/id_\w+|\.env)$"
)
PIP_FILES = re.compile(r"(^|/)(pip\.conf|pip\.ini)$")
ACCESS_KEY = "an AWS access key", re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
PRIVATE_KEY = "a private key", re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}")
# By words that are found a hundred times as fast as a pattern.
SECRET_TEXTS = {b"AKIA": ACCESS_KEY, b"ASIA": ACCESS_KEY, b"PRIVATE KEY-----": PRIVATE_KEY}
TEXT_BYTES = 1 << 20  # larger files are data and programs


class ImageCheckError(WorkshopError):
    """The image cannot be checked at all."""


class Docker:
    """The `docker` command (another one by the variable DOCKER), and the image that is looked at."""

    def __init__(self, image: str):
        self.image = image
        self.program = os.environ.get("DOCKER", "docker")
        try:
            engine = self.run("version", "--format", "{{.Server.Version}}")
        except OSError:
            raise ImageCheckError(
                _(
                    "{program!r} is not installed: https://docs.docker.com/engine/install",
                    program=self.program,
                )
            ) from None
        if engine.returncode:
            raise ImageCheckError(
                _("no Docker engine answers. Start Docker Desktop, or: sudo systemctl start docker")
            )
        found = self.run("image", "inspect", image)
        if found.returncode:
            raise ImageCheckError(
                _(
                    "there is no image {image} here. Build it: container/build_local.sh {name}",
                    image=image,
                    name=image.partition(":")[0],
                )
            )
        self.about = json.loads(found.stdout)[0]

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        return subprocess.run([self.program, *arguments], capture_output=True, timeout=300, **options)

    @contextmanager
    def container(self, *options: str, verb: str, files: bytes = b"") -> Iterator[str]:
        """A container, not started yet, with the files of a tar archive below /; removed in the end."""
        made = self.run("create", *options, self.image, verb)
        if made.returncode:
            raise ImageCheckError(f"docker create {self.image} {verb}: {made.stderr.decode().strip()}")
        container = made.stdout.decode().strip()
        try:
            if files and (copied := self.run("cp", "-", f"{container}:/", input=files)).returncode:
                raise ImageCheckError(f"docker cp: {copied.stderr.decode().strip()}")
            yield container
        finally:
            self.run("rm", "--force", "--volumes", container)

    def read(self, container: str, path: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        """The file or folder at `path` of a container: (what tar says of it, bytes) by name. Empty if there is none."""
        copied = self.run("cp", "--follow-link", f"{container}:{path}", "-")
        if copied.returncode:
            return {}
        with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as archive:
            return {
                member.name: (member, archive.extractfile(member).read())
                for member in archive
                if member.isfile()
            }

    def files(self, max_bytes: float = math.inf) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of each file of each layer, also of those that a later layer removes or replaces."""
        with tempfile.TemporaryFile() as saved:
            command = [self.program, "save", self.image]
            done = subprocess.run(command, stdout=saved, stderr=subprocess.PIPE, timeout=600)
            if done.returncode:
                raise ImageCheckError(f"docker save {self.image}: {done.stderr.decode().strip()}")
            saved.seek(0)
            with tarfile.open(fileobj=saved) as archive:
                [manifest] = json.load(archive.extractfile("manifest.json"))
                for layer in manifest["Layers"]:
                    # Where the engine keeps layers compressed, they are saved so.
                    with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                        for member in files:
                            if member.isfile() and member.size <= max_bytes:
                                yield member.name, files.extractfile(member).read()

    def wait(self, container: str) -> tuple[int, str]:
        """The exit code and the log of a container that ends by itself."""
        code = int(self.run("wait", container).stdout)
        log = self.run("logs", container)
        return code, (log.stdout + log.stderr).decode("utf-8", "replace")


Finding = tuple[bool, str, str]  # is it so, what it is, how to mend it


def check_image(image: str, test_dir: Path = TEST_DIR, verbs: tuple[str, ...] = ("train", "serve")) -> bool:
    """Print a line for each promise, and return whether the image keeps all of them.

    `test_dir` is laid out like /opt/ml before training: input/config and input/data. Without data in it the channel
    `training` is data/iris.csv. Raises ImageCheckError where there is no engine or no such image.
    """
    docker, kept = Docker(image), True
    for there, what, mend in _findings(docker, test_dir, verbs):
        print(f"[OK]   {what}" if there else f"[FAIL] {what}: {mend}", flush=True)
        kept &= there
    return kept


def _findings(docker: Docker, test_dir: Path, verbs: tuple[str, ...]) -> Iterator[Finding]:
    about = docker.about
    platform = f"{about['Os']}/{about['Architecture']}"
    yield (
        platform == "linux/amd64",
        _("its platform is {platform}", platform=platform),
        _("build with --platform linux/amd64"),
    )
    kind = about.get("Descriptor", {}).get("mediaType", "")
    yield (
        kind not in INDEXES,
        _("its manifest is one image, not an index"),
        _("SageMaker takes no index: build with --provenance=false --sbom=false"),
    )
    size = about["Size"] / 1e9
    yield (
        size < MAX_GB,
        _("its size is {size:.2f} GB", size=size),
        _("above {most} GB: look at the layers, docker history", most=MAX_GB),
    )
    yield from _secrets(docker)
    config = about["Config"]
    yield (
        not config.get("Entrypoint"),
        _("no ENTRYPOINT stands before {verbs}", verbs=_(" and ").join(verbs)),
        _(
            "it has {entrypoint}: remove it, or take the arguments train and serve there",
            entrypoint=config.get("Entrypoint"),
        ),
    )
    runnable = True
    for verb in verbs:
        for finding in _program(docker, verb):
            runnable &= finding[0]
            yield finding
    if not runnable:
        return
    model = {} if "train" in verbs else _model(test_dir)
    if "train" in verbs:
        yield from _training(docker, test_dir, model)
    if "serve" in verbs:
        yield from _serving(docker, test_dir, model)


def _secrets(docker: Docker) -> Iterator[Finding]:
    history = docker.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", docker.image).stdout.decode()
    text = history + "\n".join(docker.about["Config"].get("Env") or ())
    found = [_called(what) for what, pattern in SECRETS.items() if re.search(pattern, text)]
    yield (
        not found,
        _("no secret in its history and environment"),
        _(
            "{found} can be read by whoever pulls it: revoke it, use RUN --mount=type=secret, build anew",
            found=", ".join(found),
        ),
    )
    found = sorted(
        {where for path, content in docker.files(TEXT_BYTES) for where in _secrets_of_file(path, content)}
    )
    yield (
        not found,
        _("no secret in the files of its layers"),
        _(
            "{found}: a file that a later layer removes is still there for whoever pulls it. Revoke it, use "
            "RUN --mount=type=secret or .dockerignore, build anew",
            found=", ".join(found),
        ),
    )


def _called(secret: str) -> str:
    """What a kind of secret is called, in the learner's language."""
    return {
        "an AWS access key": _("an AWS access key"),
        "an AWS secret": _("an AWS secret"),
        "a password in an address": _("a password in an address"),
        "a password or token": _("a password or token"),
        "a private key": _("a private key"),
    }[secret]


def _secrets_of_file(path: str, content: bytes) -> Iterator[str]:
    if content and SECRET_FILES.search(path):
        yield f"/{path}"
    if PIP_FILES.search(path) and re.search(SECRETS["a password in an address"].encode(), content):
        yield _("a password in /{path}", path=path)
    for word, (what, pattern) in SECRET_TEXTS.items():
        if word in content and pattern.search(content):
            yield _("{what} in /{path}", what=_called(what), path=path)


def _program(docker: Docker, verb: str) -> Iterator[Finding]:
    """Is it on the PATH, executable, with an interpreter that can be found?"""
    environment = dict(pair.split("=", 1) for pair in docker.about["Config"].get("Env") or ())
    folders = environment.get("PATH", DEFAULT_PATH).split(":")
    with docker.container(verb="true") as container:
        for folder in folders:
            if files := docker.read(container, f"{folder}/{verb}"):
                break
        else:
            yield (
                False,
                _("{verb} is on the PATH", verb=verb),
                _(
                    "not in {folders}: copy it to /opt/program and ENV PATH=/opt/program:$PATH",
                    folders=", ".join(folders),
                ),
            )
            return
    member, content = next(iter(files.values()))
    where = f"{folder}/{verb}"
    yield (
        bool(member.mode & 0o001),
        _("{where} is executable", where=where),
        _("in the Dockerfile: RUN chmod +x {where}", where=where),
    )
    first = content.partition(b"\n")[0]
    yield (
        not first.endswith(b"\r"),
        _("{where} has LF line ends", where=where),
        _("Linux looks for an interpreter whose name ends in a carriage return: save it with LF"),
    )


def _archive(test_dir: Path, data: bytes | None = None) -> bytes:
    """A tar of /opt/ml as SageMaker lays it out; `data` instead of every data file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:

        def add(name: str, content: bytes | None = None):
            member = tarfile.TarInfo(f"opt/ml/{name}")
            member.type, member.mode = (
                (tarfile.DIRTYPE, 0o755) if content is None else (tarfile.REGTYPE, 0o644)
            )
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))

        for folder in ("model", "output", "input/data"):
            add(folder)
        files = {
            path.relative_to(test_dir).as_posix(): path.read_bytes()
            for path in sorted((test_dir / "input").rglob("*"))
            if path.is_file()
        }
        if not any(name.startswith("input/data/") for name in files):
            files["input/data/training/iris.csv"] = (ROOT / "data" / "iris.csv").read_bytes()
        for name, content in files.items():
            add(name, data if data is not None and name.startswith("input/data/") else content)
    return out.getvalue()


def _model(test_dir: Path) -> dict:
    """The files of test_dir/model, for an image that only serves; as `Docker.read` gives them."""
    files = [path for path in sorted((test_dir / "model").rglob("*")) if path.is_file()]
    if not files:
        raise ImageCheckError(
            _(
                "{test_dir}/model is empty: an image that only serves needs a model to serve",
                test_dir=test_dir,
            )
        )
    found = {}
    for path in files:
        name = path.relative_to(test_dir).as_posix()
        member = tarfile.TarInfo(name)
        member.size, member.mode = path.stat().st_size, 0o644
        found[name] = (member, path.read_bytes())
    return found


def _training(docker: Docker, test_dir: Path, model: dict) -> Iterator[Finding]:
    """Without a network, as with EnableNetworkIsolation. Leaves the model's files in `model`."""
    with docker.container("--network=none", verb="train", files=_archive(test_dir)) as container:
        docker.run("start", container)
        code, log = docker.wait(container)
        model |= docker.read(container, "/opt/ml/model")
    yield (
        code == 0,
        _("train ends with exit code 0"),
        _("it was {code}; the end of its log:\n{log}", code=code, log=log[-1000:]),
    )
    yield (
        bool(model),
        _("train leaves a model in /opt/ml/model"),
        _("nothing is there: SageMaker takes it from there alone"),
    )

    broken = _archive(test_dir, b"\x00\xff no data\n")
    with docker.container("--network=none", verb="train", files=broken) as container:
        docker.run("start", container)
        code, _log = docker.wait(container)
        files = docker.read(container, "/opt/ml/output/failure")
    yield (
        code != 0,
        _("train on broken data ends with an exit code that is not 0"),
        _("SageMaker would call it Completed"),
    )
    reason = next(iter(files.values()))[1].decode("utf-8", "replace") if files else ""
    what = _("train writes the cause to /opt/ml/output/failure")
    yield bool(reason.strip()), what, _("it wrote none: FailureReason would not tell it")


def _serving(docker: Docker, test_dir: Path, model: dict) -> Iterator[Finding]:
    archive = io.BytesIO(_archive(test_dir))
    with tarfile.open(fileobj=archive, mode="a") as extended:
        for name, (member, content) in model.items():
            member.name = f"opt/ml/{name}"
            extended.addfile(member, io.BytesIO(content))
    with docker.container("--publish=127.0.0.1::8080", verb="serve", files=archive.getvalue()) as container:
        started = time.monotonic()
        docker.run("start", container)
        address = docker.run("port", container, "8080/tcp").stdout.decode().split("\n")[0]
        seconds = _await_ping(docker, container, address, started)
        log = docker.run("logs", "--tail", "10", container)
        said = (log.stdout + log.stderr).decode("utf-8", "replace")
        yield (
            seconds is not None,
            _("serve answers /ping with 200 after {seconds:.1f} s", seconds=seconds)
            if seconds
            else _("serve answers /ping with 200"),
            _(
                "not within {seconds} s on port 8080; the end of its log:\n{said}",
                seconds=PING_SECONDS,
                said=said,
            ),
        )
        if seconds is None:
            return
        started = time.monotonic()
        docker.run("stop", "--time", str(STOP_SECONDS), container)
        seconds = time.monotonic() - started
        code = int(docker.run("wait", container).stdout)
        yield (
            seconds < STOP_SECONDS,
            _("serve stops {seconds:.1f} s after SIGTERM", seconds=seconds),
            _("it had to be killed: forward SIGTERM; a shell script starts the server with exec"),
        )
        yield (
            code == 0,
            _("serve ends with exit code 0 after SIGTERM"),
            _("it was {code}; look at: docker logs", code=code),
        )


def _await_ping(docker: Docker, container: str, address: str, started: float) -> float | None:
    """Seconds until the first 200, or None when it does not come or the container ends."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while address and time.monotonic() - started < PING_SECONDS:
        try:
            with opener.open(f"http://{address}/ping", timeout=2) as answer:
                if answer.status == 200:
                    return time.monotonic() - started
        except (OSError, urllib.error.HTTPError):
            if docker.run("inspect", "--format", "{{.State.Running}}", container).stdout.strip() != b"true":
                return None
        time.sleep(0.1)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workshop.image_check", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help="an image that `docker images` lists")
    parser.add_argument(
        "--only", choices=("train", "serve"), help="for an image that is made for one of them"
    )
    parser.add_argument(
        "--test-dir",
        type=Path,
        default=TEST_DIR,
        help="like /opt/ml before training; default: container/local_test/test_dir",
    )
    arguments = parser.parse_args()
    verbs = (arguments.only,) if arguments.only else ("train", "serve")
    try:
        return 0 if check_image(arguments.image, arguments.test_dir, verbs) else 1
    except ImageCheckError as error:
        print(f"image_check: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
