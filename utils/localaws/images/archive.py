"""Unpacking what others have packed: model archives and the layers of images.

Of all that a tar can hold only regular files and folders, and of these only what lands below the target; all names are
looked at before the first of them is written. In a whole image links are kept as well, and followed by nobody but us,
within the image (`inside`). Nothing is asked of `tarfile` but to read: its extraction filters are
younger than Python 3.11.2, which Debian 12 has, and the first of them could be outwitted by links (CVE-2025-4517).
"""

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

HIDES = ".wh."  # begins the names of a layer's files that stand for what it hides of the layers below it
OPAQUE = ".wh..wh..opq"  # all of a folder
MAX_LINKS = 40  # on the way to one file, as in Linux


class UnsafeArchive(ValueError):
    """An archive holds what is not unpacked; the message names it and says why."""


class _Member(tarfile.TarInfo):
    def _block(self, count: int) -> int:
        if count < 0:  # tarfile would read the same header for ever (CVE-2025-8194)
            raise tarfile.ReadError(f"{self.name!r} has a negative size")
        return super()._block(count)


def inside(root: Path, path: PurePosixPath) -> Path:
    """The place of an image's path in the folder `root`, links on the way followed as if `root` were the root.

    Raises UnsafeArchive for links that lead in a circle.
    """
    place, left, links = root, list(reversed(path.parts)), 0
    while left:
        part = left.pop()
        if part == "/":
            place = root
        elif part == "..":
            place = place if place == root else place.parent
        elif (place / part).is_symlink():
            links += 1
            if links > MAX_LINKS:
                raise UnsafeArchive(f"{str(path)!r} leads in a circle of links")
            left += reversed(PurePosixPath(os.readlink(place / part)).parts)
        else:
            place /= part
    return place


def extract_whole(stream: BinaryIO, root: Path) -> None:
    """Write all that a layer holds into the folder `root`, over the layers below it.

    Links stay as they are, permissions and times too (of set-user-ID and the like nothing), owned by who unpacks;
    devices, which he cannot make, are left out. Raises UnsafeArchive for a name that leads out of the folder, a hard
    link to nothing, and what cannot be written; tarfile's errors are those of a damaged archive.
    """
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as tar:
        members = [(_path(member), member) for member in tar]
        for path, _ in members:
            if path.name.startswith(HIDES):
                _hide(inside(root, path.parent) / path.name)
        times = []
        for path, member in members:
            if path.name.startswith(HIDES) or not path.name:
                continue
            try:
                place = inside(root, path.parent) / path.name
                _put(tar, member, place, root)
            except OSError as error:
                raise UnsafeArchive(
                    f"{member.name!r} cannot be unpacked: {error.strerror or error}"
                ) from error
            if member.isdir():
                times.append((place, member.mtime))
        for place, mtime in reversed(times):  # after what is in it
            if place.is_dir() and not place.is_symlink():
                os.utime(place, (mtime, mtime))


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path, root: Path) -> None:
    if member.isdir() and place.is_dir() and not place.is_symlink():
        place.chmod(member.mode & 0o1777 | 0o700)
        return
    if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
        return
    linked = None
    if member.islnk():
        target = _path(member, member.linkname)
        linked = inside(root, target.parent) / target.name
        if not os.path.lexists(linked) or (linked.is_dir() and not linked.is_symlink()):
            raise UnsafeArchive(f"{member.name!r} is a link to {member.linkname!r}, which is no file")
        if linked == place:
            return
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove(place)
    if linked:
        os.link(linked, place, follow_symlinks=False)
    elif member.issym():
        place.symlink_to(member.linkname)
    elif member.isdir():
        place.mkdir()
        place.chmod(member.mode & 0o1777 | 0o700)
    else:
        with tar.extractfile(member) as source, place.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        place.chmod(member.mode & 0o777 | 0o600)
        # Byte code is good for a source of this time only.
        os.utime(place, (member.mtime, member.mtime))


def _path(member: tarfile.TarInfo, name: str | None = None) -> PurePosixPath:
    """The member's path (or that of what it links to), checked: it lies below the root and hides a name, if it hides."""
    name = member.name if name is None else name
    path = PurePosixPath(name)
    aside = not (path.name or member.isdir())
    if aside or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UnsafeArchive(f"{name!r} would land outside of its folder")
    if path.name in (HIDES, f"{HIDES}.", f"{HIDES}.."):
        raise UnsafeArchive(f"{path.name!r} hides no name")
    return path


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
        path, name = _path(member), repr(member.name)
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
    if marker.name == OPAQUE:
        for name in os.listdir(marker.parent) if marker.parent.is_dir() else ():
            _remove(marker.parent / name)
    else:
        _remove(marker.with_name(marker.name.removeprefix(HIDES)))


def _remove(path: Path) -> None:
    """Delete what is there, if it is; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
