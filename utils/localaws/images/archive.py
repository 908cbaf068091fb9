"""Unpacking what others have packed: model archives and the layers of images.

Of all that a tar can hold only regular files and folders, and of these only what lands below the target. Nothing is
asked of `tarfile` but to read: its extraction filters are younger than Python 3.11.2, which Debian 12 has, and the
first of them could be outwitted by links (CVE-2025-4517).
"""

import shutil
import tarfile
from pathlib import Path, PurePosixPath


class UnsafeArchive(ValueError):
    """An archive holds what is not unpacked; the message names it and says why."""


def members(tar: tarfile.TarFile, below: str = "/") -> list[tuple[PurePosixPath, tarfile.TarInfo]]:
    """All files and folders of an archive whose names begin with `below`, each with its path relative to the root.

    A leading `/` in a name does not count, as with tar itself. Raises UnsafeArchive, before anything is written, for a
    name that leads out of the target and for what is neither a regular file nor a folder.
    """
    found = []
    for member in tar:
        path = PurePosixPath("/", member.name)
        if not path.is_relative_to(below):
            continue
        if ".." in path.parts or (path.name == "" and not member.isdir()):
            raise UnsafeArchive(f"{member.name!r} would land outside of its folder")
        if not (member.isreg() or member.isdir()):
            kind = "a link" if member.issym() or member.islnk() else "a device or the like"
            raise UnsafeArchive(f"{member.name!r} is {kind}; only regular files and folders are unpacked")
        found.append((path.relative_to("/"), member))
    return found


def write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a file or folder of an archive to `path`; it replaces what is there, but folders are merged.

    Files are readable by everybody, writable by their owner, and executable where they were for theirs. Raises
    UnsafeArchive, naming the member, where it cannot be written: below a file, too long a name, a full disk.
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
