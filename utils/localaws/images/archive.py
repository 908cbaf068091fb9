"""Unpacking what others have packed: model archives and the layers of images.

Of all that a tar can hold only regular files and folders, and of these only what lands below the target; all names are
looked at before the first of them is written. Nothing is asked of `tarfile` but to read: its extraction filters are
younger than Python 3.11.2, which Debian 12 has, and the first of them could be outwitted by links (CVE-2025-4517).
"""

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

HIDES = ".wh."  # begins the names of a layer's files that stand for what it hides of the layers below it
OPAQUE = ".wh..wh..opq"  # all of a folder


class UnsafeArchive(ValueError):
    """An archive holds what is not unpacked; the message names it and says why."""


class _Member(tarfile.TarInfo):
    def _block(self, count: int) -> int:
        if count < 0:  # tarfile would read the same header for ever (CVE-2025-8194)
            raise tarfile.ReadError(f"{self.name!r} has a negative size")
        return super()._block(count)


def extract(stream: BinaryIO, folder: Path, mode: str, below: str = "", layer: bool = False) -> None:
    """Write what a tar holds below `below` into `folder`, to the places that it has in the tar.

    `mode` is tarfile's. `layer`: it is an image's, and what it hides of the layers below it is deleted first. Raises
    UnsafeArchive, before anything is written or deleted, for a name that leads out of the folder or stands for a file
    and a folder, and for what is neither; then for what cannot be written. tarfile's errors, EOFError and zlib.error
    are those of a damaged archive.
    """
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_Member) as tar:
        members = _members(tar, below)
        hiding = [path for path, _ in members if layer and path.name.startswith(HIDES)]
        for path in hiding:
            _hide(folder / path)
        for path, member in members:
            if path not in hiding:
                _write(tar, member, folder / path)


def _members(tar: tarfile.TarFile, below: str) -> list[tuple[PurePosixPath, tarfile.TarInfo]]:
    found, folders, files = [], set(), set()
    for member in tar:
        path, name = PurePosixPath(member.name), repr(member.name)
        aside = not (path.name or member.isdir())
        if aside or path.is_absolute() or ".." in path.parts or "\0" in member.name:
            raise UnsafeArchive(f"{name} would land outside of its folder")
        if path.name in (HIDES, f"{HIDES}.", f"{HIDES}.."):
            raise UnsafeArchive(f"{path.name!r} hides no name")
        if not path.is_relative_to(below):
            continue
        if not (member.isreg() or member.isdir()):
            kind = "a link" if member.issym() or member.islnk() else "a device or the like"
            raise UnsafeArchive(f"{name} is {kind}; only regular files and folders are unpacked")
        folders.update([path, *path.parents] if member.isdir() else path.parents)
        files.update([] if member.isdir() else [path])
        if clash := files & {path, *path.parents} & folders:
            raise UnsafeArchive(f"{str(clash.pop())!r} is a file and a folder: {name} cannot be unpacked")
        found.append((path, member))
    return found


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a file or folder of an archive to `path`; it replaces what is there, but folders are merged.

    Files are readable by everybody, writable by their owner, and executable where they were for theirs. Raises
    UnsafeArchive, naming the member, where it cannot be written: too long a name, a full disk.
    """
    try:
        if path.is_dir() and not member.isdir():
            shutil.rmtree(path)
        elif path.exists() and not path.is_dir():
            path.unlink()
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tar.extractfile(member) as source, path.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    except OSError as error:
        raise UnsafeArchive(f"{member.name!r} cannot be unpacked: {error.strerror or error}") from error


def _hide(marker: Path) -> None:
    """Delete one name of the layers below, or all of its folder."""
    hidden = marker.parent if marker.name == OPAQUE else marker.with_name(marker.name.removeprefix(HIDES))
    if hidden.is_dir():
        shutil.rmtree(hidden)
    elif hidden.exists():
        hidden.unlink()
