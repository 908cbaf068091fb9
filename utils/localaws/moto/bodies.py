"""The bodies of S3's objects: files named by their SHA-256, of which moto gets claims.

moto works on bytes: it copies, cuts and joins them in memory, for each reader anew. Here it gets in their place a claim,
a short text that names pieces of files. A copy copies the claim, a range is a slice of it, the parts of an upload are
joined by joining theirs; what has to be read (to send it, to hash it) is read piece by piece from disk.
"""

import base64
import hashlib
import io
import os
import re
import secrets
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import moto.s3.models
import moto.s3.responses

from localaws.errors import AwsError
from localaws.state.processes import is_whole

BLOCK = 1 << 20
MAGIC = secrets.token_hex(16)  # so that no client can send a claim
PIECE = re.compile(rf"{MAGIC}([0-9a-f]{{64}})([0-9a-f]{{16}})([0-9a-f]{{16}})".encode())
CLAIM = re.compile(b"(?:" + PIECE.pattern + b")+")

folder = Path()  # where the bodies lie; moto's state is one for a process, and so is this
named: set[str] = set()  # the digests of what came back at the start
_damaged: set[str] = set()


class DamagedBody(AwsError):
    """A body is not there, or not what was stored under its name."""

    def __init__(self, message: str):
        super().__init__("InternalError", message, 500)


class Claim(bytes):
    """Stands for (digest, start, size) of files, one after another; its length is that of the bytes it stands for."""

    pieces: tuple[tuple[str, int, int], ...]

    def __new__(cls, pieces: Iterable[tuple[str, int, int]]):
        pieces = tuple(pieces)
        text = "".join(f"{MAGIC}{digest}{start:016x}{size:016x}" for digest, start, size in pieces)
        claim = super().__new__(cls, text.encode())
        claim.pieces = pieces
        return claim

    def __len__(self) -> int:
        return sum(size for _, _, size in self.pieces)

    def __getitem__(self, span: slice) -> "Claim":
        begin, end, _ = span.indices(len(self))
        pieces, at = [], 0
        for digest, start, size in self.pieces:
            low, high = max(begin - at, 0), min(end - at, size)
            if low < high:
                pieces.append((digest, start + low, high - low))
            at += size
        return Claim(pieces)

    def __reduce__(self):
        return Claim, (self.pieces,)

    def blocks(self) -> Iterator[bytes]:
        """Give the bytes that it stands for. Raises DamagedBody before the first of a file that has changed."""
        for digest, start, size in self.pieces:
            with verified(digest).open("rb") as file:
                file.seek(start)
                while size > 0 and (block := file.read(min(size, BLOCK))):
                    size -= len(block)
                    yield block


def claimed(value: bytes) -> Claim | None:
    """Return the claim that bytes are, or None. Some parts of moto hand on the bytes, and not the object."""
    if isinstance(value, Claim):
        return value
    if not CLAIM.fullmatch(value):
        return None
    pieces = PIECE.findall(value)
    return Claim((digest.decode(), int(start, 16), int(size, 16)) for digest, start, size in pieces)


def store(blocks: Iterable[bytes]) -> Claim:
    """Write a body, in memory never more than a block of it; the same bytes are stored once."""
    digest, size = hashlib.sha256(), 0
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        try:
            for block in blocks:
                digest.update(block)
                size += file.write(block)
            file.close()
            if size == 0:
                return Claim(())
            os.utime(file.name, (0, 0))  # see is_whole: this was read
            os.replace(file.name, folder / digest.hexdigest())
        finally:
            Path(file.name).unlink(missing_ok=True)
    return Claim([(digest.hexdigest(), 0, size)])


def verified(digest: str) -> Path:
    """Return the file of a body. Raises DamagedBody."""
    file = folder / digest
    try:
        if not is_whole(file, digest):
            _damaged.add(digest)
            raise DamagedBody(f"the bytes of {file} have changed since they were stored")
    except FileNotFoundError:
        raise DamagedBody(f"{file} is missing") from None
    return file


def sweep(aside: Path) -> None:
    """Delete the bodies that nothing names any more, and what a killed server left half written; put damaged ones aside."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name in _damaged:
            aside.mkdir(exist_ok=True)
            file.replace(aside / f"body-{file.name}")
        elif file.name not in named:
            file.unlink()


def unchunked(stream, trailers: dict[str, str]) -> Iterator[bytes]:
    """Give the body of an upload in the encoding aws-chunked, each chunk after its size; fill `trailers` at its end."""
    lines = io.BufferedReader(stream)
    while size := int(lines.readline().split(b";")[0], 16):
        while size > 0 and (block := lines.read(min(size, BLOCK))):
            size -= len(block)
            yield block
        lines.readline()
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        if value:
            trailers[name.strip().lower()] = value.strip()


def _set_value(key, value: bytes | str) -> None:
    value = value.encode() if isinstance(value, str) else value
    claim = claimed(value)
    key._value_buffer = store([value]) if claim is None else claim
    key.contentsize = len(key._value_buffer)


def _etag(key) -> str:
    if key._etag is None:
        key._etag = _digest("md5", key.value.blocks()).hexdigest()
    return f'"{key._etag}"'


def _digest(algorithm: str, blocks: Iterable[bytes]):
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for block in blocks:
        digest.update(block)
    return digest


def _checksum(body: bytes, algorithm: str, encode_base64: bool = True) -> bytes:
    """moto's compute_checksum, by blocks. Like it, CRC32 stands for the CRCs that have no library here."""
    claim = claimed(body)
    blocks = [body] if claim is None else claim.blocks()
    if algorithm.startswith("CRC"):
        value = 0
        for block in blocks:
            value = zlib.crc32(block, value)
        found = value.to_bytes(4, "big")
    else:
        found = _digest("sha1" if algorithm == "SHA1" else "sha256", blocks).digest()
    return base64.b64encode(found) if encode_base64 else found


def _copy_object(s3, source, bucket_name: str, key_name: str, *rest, **names) -> None:
    """moto's, which gives the copy of an object of many parts the checksum of their checksums, as if it were its own."""
    _moto_copy_object(s3, source, bucket_name, key_name, *rest, **names)
    if source.checksum_type == "COMPOSITE":
        copy = s3.get_object(bucket_name, key_name)
        copy.checksum_value = _checksum(copy.value, source.checksum_algorithm).decode()


_moto_copy_object = moto.s3.models.S3Backend.copy_object
moto.s3.models.S3Backend.copy_object = _copy_object
moto.s3.models.FakeKey.value = property(lambda key: key._value_buffer, _set_value)
moto.s3.models.FakeKey.etag = property(_etag)
moto.s3.models.FakeKey.dispose = lambda *_, **__: None  # nothing is open
moto.s3.models.tempfile = SimpleNamespace(SpooledTemporaryFile=lambda *_, **__: None)
moto.s3.models.compute_checksum = moto.s3.responses.compute_checksum = _checksum
