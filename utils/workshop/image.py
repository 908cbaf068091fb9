"""What is in an image that was built on this machine, by Docker or by localaws: the same answer for both."""

import json
import subprocess
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from localaws import images

from . import ROOT
from .errors import WorkshopError
from .language import _
from .target import Target

#: The files of /opt/program, as `mode bytes name` lines, by a shell in the image.
LIST = "cd /opt/program && find * -type f ! -name '*.pyc' -exec stat -c '%a %s %n' {} +"
DIGESTS = "cd /opt/program && find * -type f -exec sha256sum {} +"


class NoImage(WorkshopError):
    """The image was not built on this machine."""


@dataclass(frozen=True)
class LocalImage:
    """A local image: its layers (bytes, what made it), its config, the files in /opt/program (mode, bytes, name)."""

    layers: list[tuple[int, str]]
    config: dict
    files: list[tuple[str, int, str]]
    digests: list[str]  # as registries name it: known after a build without Docker, after a push with Docker


def inspect_image(target: Target) -> LocalImage:
    """Look into the walk's image. Raises NoImage where there is none."""
    try:
        return _of_docker(target.name) if target.docker else _of_localaws(target.name)
    except (ValueError, OSError, subprocess.CalledProcessError):  # OSError: a part of it was deleted
        raise NoImage(
            _("There is no image {name} on this machine: run the build cell of 01_build.", name=target.name)
        ) from None


def image_size(target: Target, name: str) -> int:
    """The bytes of an image on this machine, `NAME:TAG`, with the packages that its programs need. Raises NoImage.

    Docker's has them in it; of one that localaws built they are beside it, in the environment that it runs with.
    """
    try:
        return (
            json.loads(_docker("image", "inspect", name))[0]["Size"] if target.docker else images.size(name)
        )
    except (ValueError, OSError, subprocess.CalledProcessError):
        raise NoImage(
            _("There is no image {name} on this machine: run this lab's build cell.", name=name)
        ) from None


def changed_files(target: Target) -> list[str]:
    """The files of container/ that have changed since the walk's image was built of them; none where that is not known."""
    try:
        return _changed_in_docker(target) if target.docker else images.changed(target.name)
    except (ValueError, OSError, subprocess.CalledProcessError):  # it was not built, or is damaged
        return []


def _changed_in_docker(target: Target) -> list[str]:
    listed = _docker("run", "--rm", "--network", "none", target.name, "sh", "-c", DIGESTS)
    built = {path: digest for digest, path in (line.split(maxsplit=1) for line in listed.splitlines())}
    now = {
        path: (file, sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest())  # as the recipe has them
        for path, file in images.sources(target.algorithm).items()
        if not path.endswith((".c", ".txt"))
    }
    changed = [file for path, (file, digest) in now.items() if built.get(path) not in (digest, _digest(file))]
    gone = sorted(path for path in built.keys() - now.keys() if not path.endswith((".pyc", ".txt")))
    return [*(str(file.relative_to(ROOT)) for file in changed), *gone]


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def _of_localaws(name: str) -> LocalImage:
    image = images.inspect(name)
    manifest = json.loads(images.blob(image.digest).read_text())
    config = json.loads(images.blob(manifest["config"]["digest"]).read_text())
    made_by = [step["created_by"] for step in config["history"]]
    files = []
    for layer in manifest["layers"]:
        with tarfile.open(images.blob(layer["digest"])) as archive:
            files += [
                (f"{m.mode:o}", m.size, m.name.removeprefix(f"{images.PROGRAM}/"))
                for m in archive
                if m.isfile()
            ]
    sizes = [layer["size"] for layer in manifest["layers"]]
    return LocalImage(list(zip(sizes, made_by, strict=True)), config["config"], files, [image.digest])


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def _of_docker(name: str) -> LocalImage:
    found = json.loads(_docker("image", "inspect", name))[0]
    history = _docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", name)
    steps = [line.split("\t", 1) for line in reversed(history.splitlines())]
    listed = _docker("run", "--rm", "--network", "none", name, "sh", "-c", LIST)
    rows = sorted((line.split(" ", 2) for line in listed.splitlines()), key=lambda row: row[2])
    return LocalImage(
        layers=[(int(size), made_by) for size, made_by in steps if int(size)],
        config=found["Config"],
        files=[(mode, int(size), file) for mode, size, file in rows],
        digests=[digest.split("@")[1] for digest in found["RepoDigests"]],
    )
