"""Build an algorithm's image without Docker, and push it: what the `process` engine runs.

The image is a real OCI image with one layer, /opt/program, laid out as the Dockerfile lays it out. It has no
operating system in it, so it runs only here. Images are kept in an OCI image layout under ``HOME/images``, which
skopeo reads as well (``oci:HOME/images:NAME:TAG``).
Specification: https://github.com/opencontainers/image-spec/blob/main/spec.md
"""

import fcntl
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from localaws.state import locate
from localaws.state.processes import write_json, write_whole

from . import environments
from .registry import NAME, OURS, TAG, URI, Registry, repository

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PROGRAM = "opt/program"
LOCK = r"requirements-(train|serve)\.lock"
TARGET = "localaws.target"
REF_NAME = "org.opencontainers.image.ref.name"
CREATED = "1970-01-01T00:00:00Z"  # the same files give the same image
PATH = "/opt/program:/opt/program/stack:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """A local image: `name` with its tag, the manifest's digest, bytes of config and layers, files in /opt/program."""

    name: str
    digest: str
    size: int
    files: tuple[str, ...]


def build(
    algorithm: str, name: str, progress: Callable[[str], None] = lambda line: None, target: str = "both"
) -> Image:
    """Build container/stack and container/ALGORITHM, or a FOLDER, into the image NAME[:TAG]; replace what had that name.

    A folder, which a slash or a dot tells from an algorithm's name, is the image's /opt/program itself, with `train` or
    `serve` in it.
    `target` is what the image is for: both, train or serve. In one that only trains, `serve` says so, and what only
    `serve` imports is not there; the other way round the same.
    The same files give the same digest. The environment that its programs run with is made as well, so that the first
    job does not wait for it; `progress` is told of that. Raises ValueError when a folder, `train` or `serve` is
    missing, the algorithm has a `stack` of its own, a script has CRLF line ends, a list of packages was not locked, or the
    algorithm's modules cannot be imported; RuntimeError when its packages cannot be installed.
    """
    name = _tagged(name)
    program = sources(algorithm, target)
    # Of a folder its name alone, so that the same files give the same image wherever they lie.
    title = f"./{Path(algorithm).resolve().name}" if _is_folder(algorithm) else algorithm
    environments.check_syntax(program)
    if locks := [file for path, file in program.items() if re.fullmatch(LOCK, path)]:
        environments.check_imports(environments.python(locks, progress), program, algorithm, target)
    plain = _layer(program)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {
            "Env": [f"PATH={PATH}", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
            "WorkingDir": f"/{PROGRAM}",
            "Labels": {
                "org.opencontainers.image.title": title,
                "org.opencontainers.image.description": "One layer, /opt/program, for localaws' process engine",
                "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
                TARGET: target,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
        "history": [{"created": CREATED, "created_by": f"localaws build {title}"}],
    }
    return _kept(name, config, plain)


def _kept(name: str, config: dict, plain: bytes) -> Image:
    """Keep the image with this config and this tar for a layer under a name."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _store(CONFIG, _json(config)),
        "layers": [_store(LAYER, gzip.compress(plain, mtime=0))],
    }
    body = _json(manifest)
    descriptor = _store(MANIFEST, body) | {"annotations": {REF_NAME: name}}
    with _index() as entries:
        entries[:] = [entry for entry in entries if entry["annotations"][REF_NAME] != name] + [descriptor]
    return inspect(name)


def derive(base: str, name: str, command: str) -> Image:
    """Make the image NAME[:TAG] of the local image BASE by a shell command: `FROM BASE` and `RUN command`, without Docker.

    The command runs on this machine, in a folder with the files of BASE's /opt/program. Raises ValueError when BASE was
    not built, or the command fails.
    """
    name, manifest = _tagged(name), _read_json(inspect(base).digest)
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(blob(manifest["layers"][0]["digest"])) as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                path = Path(temporary, member.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
                path.chmod(member.mode)
        folder = Path(temporary, PROGRAM)
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            raise ValueError(f"{command}: exit code {done.returncode}: {done.stderr.strip()}")
        files = {
            path.relative_to(folder).as_posix(): (
                0o755 if path.stat().st_mode & 0o100 else 0o644,
                path.read_bytes(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    plain, config = _tar(files), _read_json(manifest["config"]["digest"])
    config["rootfs"]["diff_ids"] = [_digest(plain)]
    config["history"].append({"created": CREATED, "created_by": f"RUN {command}"})
    return _kept(name, config, plain)


def inspect(name: str) -> Image:
    """Return a local image. Raises ValueError when it was not built."""
    name = _tagged(name)
    with _index() as entries:
        found = [entry for entry in entries if entry["annotations"][REF_NAME] == name]
        known = sorted(entry["annotations"][REF_NAME] for entry in entries)
    if not found:
        raise ValueError(
            f"There is no local image {name} (there are: {', '.join(known) or 'none'}). "
            f"Build it: python -m localaws build ALGORITHM -t {name}"
        )
    manifest = _read_json(found[0]["digest"])
    size = sum(part["size"] for part in [manifest["config"], *manifest["layers"]])
    return Image(name, found[0]["digest"], size, tuple(_contents(manifest)))


def size(name: str) -> int:
    """Return the bytes of a local image and of the packages that its lock files name: what it would bring along.

    Without Docker an image has no packages in it. Raises ValueError when it was not built, RuntimeError when its
    environment has gone and cannot be made.
    """
    image = inspect(name)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in _contents(_read_json(image.digest)).items():
            if re.fullmatch(r"requirements-\w+(\.cuda)?\.lock", path):
                Path(folder, path).write_bytes(content)
        locks = environments.locks(Path(folder))
        packages = environments.size(environments.python(locks, lambda line: None)) if locks else 0
    return image.size + packages


def changed(name: str) -> list[str]:
    """Return the files that are not as they were when a local image was built of them, as paths in the repository.

    Of one whose algorithm's folder is not here there are none. Raises ValueError when the image was not built.
    """
    manifest = _read_json(inspect(name).digest)
    labels = _read_json(manifest["config"]["digest"])["config"]["Labels"]
    try:
        program = sources(labels["org.opencontainers.image.title"], labels.get(TARGET, "both"))
    except ValueError:
        return []
    built = _contents(manifest)
    now = {path: file.read_bytes() for path, file in program.items()}
    paths = sorted(path for path in built.keys() | now.keys() if built.get(path) != now.get(path))
    return [str(environments.named(program[path])) if path in program else path for path in paths]


def listed() -> list[Image]:
    """Return the local images, by name."""
    with _index() as entries:
        names = sorted(entry["annotations"][REF_NAME] for entry in entries)
    return [inspect(name) for name in names]


def push(name: str, uri: str, progress: Callable[[str], None] = lambda line: None) -> str:
    """Push a local image to `uri`, a repositoryUri with or without :TAG (default: the image's own), return its digest.

    `progress` is told a line for each blob. Blobs that the repository has are skipped. Raises ValueError when the
    URI is not one of localaws' registry, RuntimeError when the registry refuses.
    """
    image = inspect(name)
    match = URI.fullmatch(uri)
    if not match or not OURS.fullmatch(match["host"] or "") or match["digest"]:
        raise ValueError(
            f"{uri} is not in localaws' registry (127.0.0.1:PORT/NAME[:TAG], or what ECR calls it on AWS, "
            f"{locate.ACCOUNT}.dkr.ecr.{locate.REGION}.amazonaws.com/NAME[:TAG]). An image built here has no operating "
            "system in it: for AWS build with Docker"
        )
    tag = match["tag"] or image.name.rpartition(":")[2]
    manifest = _read_json(image.digest)
    composed = match["host"].endswith(".amazonaws.com")  # where that is on AWS, nothing is ever sent
    client = _Client(locate.required().address if composed else match["host"], repository(uri))
    with client.session:
        for part in [manifest["config"], *manifest["layers"]]:
            short = f"{part['digest'][7:19]}: {part['size']:>9,} bytes "
            progress(short + ("pushed" if client.push_blob(part, blob(part["digest"])) else "already there"))
        body, headers = blob(image.digest).read_bytes(), {"Content-Type": MANIFEST}
        client.send("PUT", f"manifests/{tag}", {201}, data=body, headers=headers)
    progress(f"{tag}: digest {image.digest}")
    return image.digest


class _Client:
    """Pushes to one repository, logged in as `docker login` would be."""

    def __init__(self, host: str, repository: str):
        import requests  # here, not above: only a push needs it, and it takes a tenth of a second

        self.host, self.repository = host, repository
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy stands between
        self.session.auth = ("AWS", Registry(locate.home()).password()[0])

    def push_blob(self, part: dict, file: Path) -> bool:
        """Push a blob unless the repository has it; return whether it was pushed."""
        if self.send("HEAD", f"blobs/{part['digest']}", {200, 404}).status_code == 200:
            return False
        upload = self.send("POST", "blobs/uploads/", {202}).headers["Location"]
        with file.open("rb") as body:
            self.send("PUT", upload, {201}, data=body, params={"digest": part["digest"]})
        return True

    def send(self, method: str, path: str, expected: set[int], **options):
        """Send one request; raise RuntimeError with the registry's own words when its answer is not `expected`."""
        url = urljoin(f"http://{self.host}/v2/{self.repository}/", path)
        try:
            response = self.session.request(method, url, timeout=60, **options)
        except OSError as error:
            raise RuntimeError(
                f"{self.host} does not answer ({error}). Start it: python -m localaws up"
            ) from error
        if response.status_code not in expected:
            raise RuntimeError(f"{method} {url}: {response.status_code} {self._reason(response.text)}")
        return response

    def _reason(self, text: str) -> str:
        try:
            error = json.loads(text)["errors"][0]
        except (ValueError, KeyError, IndexError, TypeError):
            return text
        mend = ""
        if error["code"] == "NAME_UNKNOWN":
            mend = f". Create it: aws ecr create-repository --repository-name {self.repository}"
        return f"{error['code']}: {error['message']}{mend}"


def sources(algorithm: str, target: str = "both") -> dict[str, Path]:
    """Return what goes into the /opt/program of an image that is for `target`: the path there -> the file here.

    Raises ValueError where it cannot be built, as `build` says.
    """
    container = locate.ROOT / "container"
    if _is_folder(algorithm):
        return _of_folder(Path(algorithm), target)
    folders = [container / "stack", container / algorithm]
    if not locate.has_workshop():
        raise ValueError(
            f"{algorithm}: algorithms by name come with the workshop, which is not here. Give a folder with `train` and "
            f"`serve` of your own: localaws build ./{algorithm}"
        )
    if Path(algorithm).name != algorithm or algorithm == "stack" or not folders[1].is_dir():
        known = sorted(file.parent.name for file in container.glob("*/training.py"))
        raise ValueError(f"container/{algorithm} is not an algorithm's folder; there are: {', '.join(known)}")
    found: dict[str, Path] = {}
    for folder, place in ((folders[0], "stack"), (folders[1], "")):
        for file in sorted(folder.rglob("*")):
            path = Path(place, file.relative_to(folder))
            if not file.is_file() or file.suffix == ".pyc" or any(_skipped(part) for part in path.parts):
                continue
            if not place and path.parts[0] in ("stack", "stack.py"):
                raise ValueError(
                    f"container/{algorithm}/{path.parts[0]} has the name of what every image has, container/stack: rename it"
                )
            found[path.as_posix()] = file
    for program in ("train", "serve"):
        if not {program, f"stack/{program}"} & set(found):
            raise ValueError(
                f"container/stack/{program} is missing: SageMaker starts a container with that command"
            )
        lock = f"requirements-{program}.lock"
        if f"requirements-{program}.txt" in found and lock not in found:
            raise ValueError(
                f"container/{algorithm}/{lock} is missing: make it with container/lock.sh {algorithm}"
            )
    if target != "both":
        other = "serve" if target == "train" else "train"
        found = {path: file for path, file in found.items() if not path.startswith(f"requirements-{other}.")}
        found[f"stack/{other}"] = container / "refuse.sh"
    return dict(sorted(found.items()))


def _is_folder(algorithm: str) -> bool:
    return Path(algorithm).name != algorithm or algorithm.startswith(".")


def _of_folder(folder: Path, target: str) -> dict[str, Path]:
    """What of somebody's own folder goes into /opt/program."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name one with a program `train` or `serve` in it")
    files = ((file, file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file())
    found = {
        path.as_posix(): file.resolve()
        for file, path in files
        if file.suffix != ".pyc" and not any(_skipped(part) for part in path.parts)
    }
    wanted = ("train", "serve") if target == "both" else (target,)
    if not {*wanted} & {*found}:
        raise ValueError(
            f"{folder} has no {' and no '.join(wanted)}: SageMaker starts a container with that command. Put a program of "
            "that name there, with #! in its first line"
        )
    return found


def _skipped(part: str) -> bool:
    """What container/.dockerignore leaves out, too."""
    return part.startswith(".") or part in ("__pycache__", "labs.json") or part.endswith("_test.py")


def _layer(sources: dict[str, Path]) -> bytes:
    """Return a tar of the files, those executable that are scripts."""
    files = {}
    for path, file in sources.items():
        content = file.read_bytes()
        script = content.startswith(b"#!")
        if script and b"\r\n" in content:
            raise ValueError(f"{file} has CRLF line ends, so Linux cannot start it: save it with LF")
        files[path] = (0o755 if script else 0o644, content)
    return _tar(files)


def _tar(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return a tar of files in /opt/program, whose bytes depend on nothing but their names, modes and contents."""
    folders = {parent.as_posix() for path in files for parent in Path(PROGRAM, path).parents} - {"."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in sorted(folders):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for path, (mode, content) in files.items():
            member = tarfile.TarInfo(f"{PROGRAM}/{path}")
            member.mode, member.size = mode, len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _tagged(name: str) -> str:
    base, _, tag = name.partition(":")
    tag = tag or "latest"
    if not re.fullmatch(NAME, base) or not re.fullmatch(TAG, tag):
        raise ValueError(
            f"{name!r} is not NAME[:TAG]: lower-case letters, digits, `._-/`, as in sagemaker-trees:latest"
        )
    return f"{base}:{tag}"


def _folder() -> Path:
    return locate.private_home() / "images"


def blob(digest: str) -> Path:
    """The file that holds a blob of a local image: a manifest, a config or a layer."""
    return _folder() / "blobs/sha256" / digest.removeprefix("sha256:")


def _store(media_type: str, content: bytes) -> dict:
    """Keep a blob and return its descriptor."""
    digest = _digest(content)
    write_whole(blob(digest), content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


@contextmanager
def _index():
    """Give the layout's list of manifests, to read or to change in place, while no other program changes it."""
    folder = _folder()
    folder.mkdir(exist_ok=True)
    file = folder / "index.json"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = json.loads(file.read_text()) if file.exists() else {"schemaVersion": 2, "manifests": []}
        entries = list(before["manifests"])
        yield entries
        if entries != before["manifests"]:
            write_json(folder / "oci-layout", {"imageLayoutVersion": "1.0.0"})
            write_json(file, {**before, "manifests": entries})


def _contents(manifest: dict) -> dict[str, bytes]:
    """Return the files in an image's /opt/program, by their paths there."""
    with tarfile.open(blob(manifest["layers"][0]["digest"])) as archive:
        files = [member for member in archive if member.isfile()]
        return {file.name.removeprefix(f"{PROGRAM}/"): archive.extractfile(file).read() for file in files}


def _read_json(digest: str) -> dict:
    return json.loads(blob(digest).read_bytes())


def _json(value: dict) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
