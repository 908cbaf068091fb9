"""S3 over loopback and the folders of a job: inputs in, artifacts out."""

import errno
import json
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from localaws.images import archive

PARALLEL = 8


class DataError(Exception):
    """Input or output in S3 that a job cannot use; the message names the object and the cause."""


def parse_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` -> (bucket, key). Raises DataError for another scheme."""
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc:
        raise DataError(f'"{uri}" is not an S3 URI: expected s3://BUCKET/KEY')
    query = f"?{parts.query}" if parts.query else ""  # a key may hold a question mark
    return parts.netloc, (parts.path + query).removeprefix("/")


def list_keys(s3, uri: str) -> list[str]:
    """Keys below an S3 prefix, sorted, without the empty "folder" objects that consoles make.

    Raises DataError if the bucket does not exist.
    """
    bucket, prefix = parse_uri(uri)
    keys = []
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            keys += [item["Key"] for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
    except ClientError as error:
        raise DataError(f'Cannot list "{uri}": {error.response["Error"]["Message"]}') from error
    return sorted(keys)


def relative_name(prefix: str, key: str) -> str:
    """Where a key lands below the folder that stands for `prefix`: a prefix may be a folder, a key or a part of names."""
    if prefix.endswith("/") or not prefix:
        return key[len(prefix) :]
    if key.startswith(prefix + "/"):
        return key[len(prefix) + 1 :]
    return key[prefix.rfind("/") + 1 :]


def list_objects(s3, data_type: str, uri: str) -> list[tuple[str, str, str]]:
    """(bucket, key, relative name) of each object of an S3DataSource, S3Prefix or ManifestFile, in order.

    A manifest is `[{"prefix": "s3://bucket/some/"}, "relative/name", ...]`. Raises DataError.
    """
    bucket, prefix = parse_uri(uri)
    if data_type == "S3Prefix":
        return [(bucket, key, relative_name(prefix, key)) for key in list_keys(s3, uri)]
    try:
        first, *names = json.loads(read(s3, uri))
        base = first["prefix"]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("names must be strings")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'"{uri}" is not a manifest: expected [{{"prefix": "s3://BUCKET/PREFIX"}}, "name", ...] ({error})'
        ) from error
    bucket, prefix = parse_uri(base)
    return [(bucket, prefix + name, name) for name in names]


def read(s3, uri: str) -> bytes:
    """An object's bytes. Raises DataError, naming it, if it cannot be read."""
    with open_object(s3, *parse_uri(uri)) as body:
        return body.read()


def open_object(s3, bucket: str, key: str):
    """An object's bytes as a stream to be closed. Raises DataError, naming it, if it cannot be read."""
    try:
        return s3.get_object(Bucket=bucket, Key=key)["Body"]
    except ClientError as error:
        raise DataError(f'Cannot read "s3://{bucket}/{key}": {error.response["Error"]["Message"]}') from error


def download(s3, objects: list[tuple[str, str, str]], folder: Path) -> None:
    """Fetch (bucket, key, relative name) into `folder`. Raises DataError for a name that would leave the folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(item):
        bucket, key, name = item
        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()) or not name:
            raise DataError(f'"s3://{bucket}/{key}" would be written outside its folder: rename the object')
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_object(s3, bucket, key) as body, open(target, "wb") as file:
                shutil.copyfileobj(body, file, 1 << 20)
        except OSError as error:
            raise DataError(f'Cannot write "{name}" from "s3://{bucket}/{key}": {error.strerror}') from error

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(fetch, objects))


@contextmanager
def opened(base: Path, name: str) -> Iterator[int]:
    """Give the descriptor of the file or folder that a program has left at `name` below `base`, which is ours.

    On the way down from it no link is followed and no device opened. Raises OSError where there is no file or folder.
    """
    found = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in Path(name).parts:
            mode = os.stat(part, dir_fd=found, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise OSError(errno.EINVAL, "neither a file nor a folder")
            # A moment later it may be something else.
            above, found = found, os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=found)
            os.close(above)
        yield found
    finally:
        os.close(found)


def left(
    base: Path, place: str, leave_out: Callable[[str], None], keys: bool = False
) -> Iterator[tuple[str, BinaryIO]]:
    """Name and content of each file that a program has left in the folder `place` below `base`, sorted.

    A link counts as the file or folder in `place` that it leads to. `leave_out` is told, in words, of what is left out:
    links that lead elsewhere, or to a folder from within a linked one, FIFOs, sockets, devices; and where the names are
    to be `keys` in S3, those that are no UTF-8.
    """
    inside = (base / place).resolve()
    # Real places below `base`, each with the name that its files get, and whether it was come to by a link.
    waiting = [(place, "", False)]
    while waiting:
        real, name, linked = waiting.pop()
        try:
            if keys and os.fsencode(name).decode("utf-8", "replace") != name:
                raise OSError(errno.EILSEQ, "its name is not UTF-8, as a key in S3 must be")
            with opened(base, real) as descriptor:
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    for one in sorted(os.listdir(descriptor), reverse=True):
                        waiting.append((f"{real}/{one}", f"{name}/{one}" if name else one, linked))
                else:
                    with open(descriptor, "rb", closefd=False) as file:
                        yield name, file
        except OSError as error:
            target = Path(os.path.realpath(base / real))  # it is opened as carefully as what was found
            if error.errno == errno.EILSEQ or not (base / real).is_symlink():
                leave_out(f"{name or place!r} is left out: {error.strerror}")
            elif (
                name
                and target.exists()
                and target.is_relative_to(inside)
                and not (linked and target.is_dir())
            ):
                waiting.append((f"{place}/{target.relative_to(inside)}", name, True))
            else:
                leave_out(
                    f"{name or place!r} is left out: a link out of its folder, to nothing, or in a linked folder"
                )


def upload(s3, files: Iterable[tuple[str, BinaryIO]], uri: str) -> None:
    """Put each file, by name and content, under the S3 prefix `uri`."""
    bucket, prefix = parse_uri(uri)
    for name, file in files:
        s3.upload_fileobj(file, bucket, f"{prefix.rstrip('/')}/{name}".lstrip("/"))


def upload_archive(s3, files: Iterable[tuple[str, BinaryIO]], uri: str, packed: Path) -> None:
    """Pack files, by name and content, as a .tar.gz (written to `packed` first) and put it at `uri`."""
    # Whole files for hard links: whoever unpacks this may take files alone.
    with tarfile.open(packed, "w:gz", compresslevel=6, dereference=True) as tar:
        for name, file in files:
            tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), file)
    bucket, key = parse_uri(uri)
    s3.upload_file(str(packed), bucket, key)
    packed.unlink()


def extract_model(s3, uri: str, folder: Path) -> None:
    """Fetch a model.tar.gz and unpack it into `folder`. Raises DataError in the service's words, with what is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    bucket, key = parse_uri(uri)
    packed = folder.parent / "model.tar.gz"
    download(s3, [(bucket, key, packed.name)], packed.parent)
    try:
        with packed.open("rb") as stream:
            archive.extract(stream, folder, "r:gz")
    except (archive.UnsafeArchive, tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f'Failed to extract model data archive from URL "{uri}". Please ensure that the object located at the '
            f"URL is a valid tar.gz archive. ({error})"
        ) from error
    finally:
        packed.unlink(missing_ok=True)
