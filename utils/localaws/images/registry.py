"""The image registry: the OCI distribution protocol over a folder of blobs.

Spoken by `docker push` and `pull`, skopeo and `builder.py`. Under ``HOME/registry``::

    blobs/HEX                          every blob and manifest, named by its SHA-256 or SHA-512: the length tells which
    repositories/NAME/_blobs/HEX       empty: this repository may serve that blob
    repositories/NAME/_manifests/HEX   {"mediaType", "pushed"}: this repository holds that image
    repositories/NAME/_tags/TAG        the digest that the tag points to
    repositories/NAME/_uploads/UUID    a blob on its way in

NAME, here and in what the protocol is asked, is that of ECR's repository, in another region than ours behind its region
(`placed`): ECR keeps the repositories of each region apart, and tells them by the host.

A file appears under its final name by a rename, and a tag is written last, so what is half pushed is never listed.
Names of repositories cannot begin with an underscore, so they never meet the folders.
Specification: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import fcntl
import gzip
import hashlib
import hmac
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

from werkzeug import Request, Response
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.utils import send_file

from localaws.state import locate
from localaws.state.processes import is_whole, write_whole

from . import archive

NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
DIGEST = r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})"
ALGORITHMS = {64: "sha256", 128: "sha512"}  # by their digests' hexadecimal digits: those that OCI registers
URI = re.compile(rf"(?:(?P<host>[^/]+)/)?(?P<name>{NAME})(?::(?P<tag>{TAG})|@(?P<digest>{DIGEST}))?")
# The registry's own address, and what programs compose, as ECR's is called on AWS.
OURS = re.compile(
    rf"(?:127\.0\.0\.1|localhost):\d+|{locate.ACCOUNT}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com"
)
PLACED = re.compile(r"region\.(?P<region>[a-z0-9-]+)/(?P<name>.+)")
UUID = r"[0-9a-f]{32}"
ROUTES = [
    (re.compile(rf"/v2/(?P<name>{NAME})/{tail}"), handler, methods)
    for tail, handler, methods in [
        (r"blobs/uploads/?", "_on_start_upload", ["POST"]),
        (rf"blobs/uploads/(?P<upload>{UUID})", "_on_upload", ["GET", "PATCH", "PUT", "DELETE"]),
        (r"blobs/(?P<digest>[^/]+)", "_on_blob", ["GET", "HEAD", "DELETE"]),
        (r"manifests/(?P<reference>[^/]+)", "_on_manifest", ["GET", "HEAD", "PUT", "DELETE"]),
        (r"tags/list", "_on_tags", ["GET"]),
        (r"referrers/(?P<digest>[^/]+)", "_on_referrers", ["GET"]),
    ]
]
INDEX = "application/vnd.oci.image.index.v1+json"
INDEXES = {
    INDEX,
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
MANIFESTS = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
}
MAX_MANIFEST = 4 * 1024 * 1024  # the distribution specification's own bound
MAX_NAME = 256  # ECR's
TOKEN_SECONDS = 12 * 3600  # as long as ECR's
ABANDONED_SECONDS = 24 * 3600  # an upload that nobody goes on with
CHUNK = 1024 * 1024


def placed(name: str, region: str) -> str:
    """Return what ECR's repository of a region is called here."""
    return name if region == locate.REGION else f"region.{region}/{name}"


def place(name: str) -> tuple[str, str]:
    """Return the region of a repository that is called so here, and its name there."""
    match = PLACED.fullmatch(name)
    return (match["region"], match["name"]) if match else (locate.REGION, name)


def repository(uri: str) -> str:
    """Return what the repository of an image's URI, or its own URI, is called here.

    Raises KeyError, with a sentence, where that is none of this registry's.
    """
    match = URI.fullmatch(uri)
    host = match and OURS.fullmatch(match["host"] or "127.0.0.1:0")
    if not host:
        raise KeyError(
            f"{uri} is not an image of this registry: its images are called 127.0.0.1:PORT/NAME:TAG, or "
            f"{locate.ACCOUNT}.dkr.ecr.{locate.REGION}.amazonaws.com/NAME:TAG"
        )
    return placed(match["name"], host["region"] or locate.REGION)


class RegistryError(ValueError):
    """An answer of the form ``{"errors": [{"code", "message"}]}``, with its HTTP status and headers."""

    def __init__(self, code: str, message: str, status: int = 400, headers: dict | None = None):
        super().__init__(message)
        self.code, self.message, self.status, self.headers = code, message, status, headers


class Registry:
    """The images under `home`.

    `describe` tells what ECR knows of a repository (its ``imageTagMutability``), None when there is none.
    """

    def __init__(self, home: Path, describe: Callable[[str], dict | None] = lambda name: {}):
        self.home = Path(home)
        self.root = self.home / "registry"
        self.blobs = self.root / "blobs"
        self.describe = describe
        self._lock = threading.RLock()  # names move under it; bytes are copied and hashed outside
        self.blobs.mkdir(parents=True, exist_ok=True)
        for upload in self.root.glob("repositories/**/_uploads/*"):
            if upload.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                upload.unlink()

    # What the control plane asks

    def resolve(self, uri: str) -> str:
        """Return the digest that an image URI (`HOST/NAME`, `:TAG` or `@sha256:…`) names now.

        Raises KeyError, with a sentence, when this registry has no such image.
        """
        name, match = repository(uri), URI.fullmatch(uri)
        digest = self._digest(name, match["digest"] or match["tag"] or "latest")
        if digest is None:
            raise KeyError(
                f"The image {uri} does not exist in the registry. Push it first, or check name and tag"
            )
        return digest

    def unpack(self, digest: str, whole: bool = False) -> Path:
        """Return a folder that holds the image's ``opt/program``, or the `whole` image, verified against every digest.

        Cached under ``HOME/unpacked``. Raises ValueError when the image cannot be run: an index, another
        platform, no /opt/program, what archive.py refuses, or bytes that do not have their digest.
        """
        target = self.home / "unpacked" / (_hex(digest) + ("-whole" if whole else ""))
        if target.is_dir():
            return target
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        try:
            manifest, config = self._described(digest)
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
                self._extract(layer["digest"], diff_id, temporary, whole)
            if not whole and not (temporary / "opt/program").is_dir():
                raise ValueError(
                    f"The image {digest} has no folder /opt/program: build it with this project's recipe"
                )
            with self._lock:
                if not target.is_dir():
                    temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def index_type(self, digest: str) -> str | None:
        """Return the media type of a manifest that lists images, None for one that is an image."""
        manifest = json.loads(self.read_manifest(digest))
        return manifest.get("mediaType", INDEX) if "manifests" in manifest else None

    def config(self, digest: str) -> dict:
        """Return what an image says of itself; under `config`, of how it is run. Raises ValueError as `unpack` does."""
        return self._described(digest)[1]

    def check(self, tell: Callable[[str], None]) -> None:
        """Put aside what is not there as it was pushed; tell each loss in words."""

        def put_aside(file: Path, what: str, why) -> None:
            kept = self.home / "aside" / f"{file.parent.name}-{file.name}"
            kept.parent.mkdir(exist_ok=True)
            file.replace(kept)
            tell(f"{what}: {why} (kept as {kept})")

        for blob in _files(self.blobs):
            if not is_whole(blob, blob.name, ALGORITHMS.get(len(blob.name), "sha256")):
                put_aside(blob, f"image blob {blob.name}", "its bytes are not those that were pushed")
        for entry in self.root.glob("repositories/**/_manifests/*"):
            name = entry.parent.parent.relative_to(self.root / "repositories").as_posix()
            try:
                kind, _ = (json.loads(entry.read_text())[key] for key in ("mediaType", "pushed"))
                if kind not in MANIFESTS | INDEXES:
                    raise ValueError(f"{kind} is no manifest's media type")
                self._check_parts(name, json.loads(self.read_manifest(_named(entry))), kind)
            except (ValueError, KeyError, TypeError, OSError, RegistryError) as error:
                put_aside(entry, f"image {name}@{entry.name}", error)
        for tag in self.root.glob("repositories/**/_tags/*"):
            name = tag.parent.parent.relative_to(self.root / "repositories").as_posix()
            with suppress(ValueError):
                if self._digest(name, tag.name):
                    continue
            digest = tag.read_bytes().decode(errors="replace")
            put_aside(tag, f"image {name}:{tag.name}", f"there is no {digest}")

    # What ECR's control plane asks

    def images(self, name: str) -> list[dict]:
        """Return the images of a repository: digest, tags, size in bytes, media type, seconds when pushed."""
        folder = self._repository(name)
        with self._lock:  # until the last manifest is read: a deletion takes them away
            tags = {file.name: file.read_text() for file in _files(folder / "_tags")}
            answer = []
            for file in _files(folder / "_manifests"):
                digest = _named(file)
                about = {
                    "digest": digest,
                    "tags": sorted(tag for tag, target in tags.items() if target == digest),
                    "size": sum(part["size"] for part in _parts(json.loads(self.read_manifest(digest)))),
                }
                answer.append(about | json.loads(file.read_text()))
        return answer

    def read_manifest(self, digest: str) -> bytes:
        """Return a manifest's bytes as they were pushed."""
        return self._blob(digest).read_bytes()

    def put_manifest(self, name: str, reference: str, body: bytes, media_type: str) -> str:
        """Take in a manifest under a tag or its digest and return the digest. Raises RegistryError."""
        by_digest = ":" in reference
        algorithm = _algorithm(reference) if by_digest else "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
        if by_digest and reference != digest:
            raise RegistryError("DIGEST_INVALID", f"The manifest's digest is {digest}, not {reference}")
        if not by_digest and not re.fullmatch(TAG, reference):
            message = f"{reference!r} is not a tag: letters, digits, `_.-`, at most 128"
            raise RegistryError("TAG_INVALID", message)
        manifest = _checked_manifest(body, media_type)
        folder = self._repository(name)
        with self._lock:
            self._check_parts(name, manifest, media_type)
            self._check_mutability(name, reference, digest)
            write_whole(self._blob(digest), body, synced=True)
            entry = folder / "_manifests" / _hex(digest)
            if not entry.exists():
                about = {"mediaType": media_type, "pushed": time.time()}
                write_whole(entry, json.dumps(about).encode(), synced=True)
            if not by_digest:
                write_whole(folder / "_tags" / reference, digest.encode(), synced=True)
        return digest

    def delete_image(self, name: str, reference: str) -> list[tuple[str, str | None]]:
        """Delete a tag, or by digest an image with all its tags; return (digest, tag) of what went.

        An image goes with its last tag, as in ECR. Raises RegistryError where an index of the repository lists it.
        """
        digest = self._digest(name, reference)
        if digest is None:
            return []
        folder = self._repository(name)
        with self._lock:
            tags = [tag for tag in _files(folder / "_tags") if tag.read_text() == digest]
            if reference != digest and len(tags) > 1:
                (folder / "_tags" / reference).unlink(missing_ok=True)
                return [(digest, reference)]
            if indexes := self._naming(name, digest):
                raise RegistryError(
                    "DENIED", f"{digest} is listed by {', '.join(indexes)}: delete that first", 405
                )
            for tag in tags:
                tag.unlink()
            (folder / "_manifests" / _hex(digest)).unlink(missing_ok=True)
            self._collect()
            return [(digest, tag.name) for tag in tags] or [(digest, None)]

    def delete_repository(self, name: str) -> None:
        """Delete a repository's images, and the blobs that no other repository shares."""
        with self._lock:
            folder = self._repository(name)
            for part in ("_tags", "_manifests", "_blobs", "_uploads"):
                shutil.rmtree(folder / part, ignore_errors=True)
            self._collect()

    def password(self) -> tuple[str, float]:
        """Return a password for `docker login` (the user is AWS) and the time when it ends."""
        expires = int(time.time()) + TOKEN_SECONDS
        return f"{expires}.{locate.token(self.home, f'registry {expires}')}", expires

    # The protocol

    def __call__(self, request: Request) -> Response:
        """Answer one request whose path begins with /v2/."""
        try:
            self._authenticate(request)
            response = self._route(request)
        except RegistryError as error:
            body = json.dumps({"errors": [{"code": error.code, "message": error.message}]})
            response = Response(body, error.status, error.headers, content_type="application/json")
        response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        return response

    def _route(self, request: Request) -> Response:
        if request.path in ("/v2", "/v2/"):
            return Response("{}", content_type="application/json")
        for pattern, handler, methods in ROUTES:
            if match := pattern.fullmatch(request.path):
                name = match["name"]
                if len(name) > MAX_NAME:
                    message = f"A repository's name has at most {MAX_NAME} characters"
                    raise RegistryError("NAME_INVALID", message)
                if self.describe(name) is None:
                    message = f"The repository with name '{name}' does not exist in the registry with id '{locate.ACCOUNT}'"
                    raise RegistryError("NAME_UNKNOWN", message, 404)
                if request.method not in methods:
                    allow = {"Allow": ", ".join(methods)}
                    raise RegistryError("UNSUPPORTED", f"{request.method} is not allowed here", 405, allow)
                return getattr(self, handler)(request, **match.groupdict())
        raise RegistryError("NAME_INVALID", f"{request.path} is no path of the distribution protocol", 404)

    def _on_start_upload(self, request: Request, name: str) -> Response:
        mount, source = request.args.get("mount", ""), request.args.get("from", "")
        if re.fullmatch(DIGEST, mount) and re.fullmatch(NAME, source):
            with self._lock:
                if self._held(source, mount).exists():
                    return self._link(name, mount)
        upload = self._repository(name) / "_uploads" / uuid.uuid4().hex
        upload.parent.mkdir(parents=True, exist_ok=True)
        upload.touch()
        if digest := request.args.get("digest"):
            return self._finish_upload(request, name, upload, digest)
        return _progress(name, upload, 202)

    def _on_upload(self, request: Request, name: str, upload: str) -> Response:
        file = self._repository(name) / "_uploads" / upload
        if not file.is_file():
            message = f"There is no upload {upload}: begin again with POST"
            raise RegistryError("BLOB_UPLOAD_UNKNOWN", message, 404)
        if request.method == "PUT":
            digest = request.args.get("digest")
            if not digest:
                raise RegistryError("DIGEST_INVALID", "PUT needs ?digest=sha256:… to end an upload")
            return self._finish_upload(request, name, file, digest)
        if request.method == "DELETE":
            file.unlink(missing_ok=True)
            return Response(status=204)
        if request.method == "PATCH":
            _append(request, name, file)
        return _progress(name, file, 202 if request.method == "PATCH" else 204)

    def _finish_upload(self, request: Request, name: str, file: Path, digest: str) -> Response:
        algorithm = _algorithm(digest)
        if request.content_length:
            _append(request, name, file)
        actual = _computed(file, algorithm)
        if actual != digest:
            file.unlink(missing_ok=True)
            message = f"The bytes that arrived have the digest {actual}, not {digest}"
            raise RegistryError("DIGEST_INVALID", message)
        with self._lock:
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.rename(self._blob(digest))
            return self._link(name, digest)

    def _on_blob(self, request: Request, name: str, digest: str) -> Response:
        if not re.fullmatch(DIGEST, digest) or not self._held(name, digest).exists():
            raise RegistryError("BLOB_UNKNOWN", f"The repository {name} has no blob {digest}", 404)
        if request.method == "DELETE":
            with self._lock:
                if images := self._naming(name, digest):
                    message = f"{digest} is part of {', '.join(images)}: delete that first"
                    raise RegistryError("DENIED", message, 405)
                self._held(name, digest).unlink(missing_ok=True)
                self._collect()
            return Response(status=202)
        try:
            response = send_file(
                self._blob(digest),
                request.environ,
                mimetype="application/octet-stream",
                conditional=True,
                etag=digest,
                max_age=None,
            )
        except RequestedRangeNotSatisfiable as error:
            message = f"{request.headers['Range']} is outside the blob"
            raise RegistryError("RANGE_INVALID", message, 416) from error
        response.headers["Docker-Content-Digest"] = digest
        return response

    def _on_manifest(self, request: Request, name: str, reference: str) -> Response:
        if request.method == "PUT":
            if (request.content_length or 0) > MAX_MANIFEST:
                raise RegistryError("MANIFEST_INVALID", f"A manifest has at most {MAX_MANIFEST:,} bytes", 413)
            digest = self.put_manifest(name, reference, request.get_data(), request.mimetype)
            created = _created(f"/v2/{name}/manifests/{digest}", digest)
            if subject := json.loads(self.read_manifest(digest)).get("subject"):
                created.headers["OCI-Subject"] = subject["digest"]
            return created
        digest = self._digest(name, reference)
        if digest is None:
            raise RegistryError("MANIFEST_UNKNOWN", f"Requested image not found: {name}, {reference}", 404)
        if request.method == "DELETE":
            if reference == digest:
                self.delete_image(name, digest)
            else:  # a tag alone, whatever else names the image
                (self._repository(name) / "_tags" / reference).unlink(missing_ok=True)
            return Response(status=202)
        entry = json.loads((self._repository(name) / "_manifests" / _hex(digest)).read_text())
        response = Response(self.read_manifest(digest), content_type=entry["mediaType"])
        response.headers["Docker-Content-Digest"] = digest
        response.set_etag(digest)
        return response

    def _on_tags(self, request: Request, name: str) -> Response:
        tags = {file.name: len(file.name) for file in _files(self._repository(name) / "_tags")}
        page, headers = _page(request, tags)
        return Response(
            json.dumps({"name": name, "tags": page}), 200, headers, content_type="application/json"
        )

    def _on_referrers(self, request: Request, name: str, digest: str) -> Response:
        """An index of the manifests whose subject a digest is; of one kind, where `artifactType` asks for it."""
        _algorithm(digest)
        wanted = request.args.get("artifactType")
        with self._lock:
            referrers = [
                _descriptor(one, content, manifest)
                for one, content, manifest in self._manifests(name)
                if manifest.get("subject", {}).get("digest") == digest
            ]
        if wanted:
            referrers = [one for one in referrers if one.get("artifactType") == wanted]
        page, headers = _page(request, {one["digest"]: len(json.dumps(one)) for one in referrers})
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        found = {one["digest"]: one for one in referrers}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [found[one] for one in page]}
        return Response(json.dumps(index), headers=headers, content_type=INDEX)

    def _authenticate(self, request: Request) -> None:
        user = request.authorization
        if user is None or user.type != "basic":
            challenge = f'Basic realm="{request.host_url}",service="ecr.amazonaws.com"'
            raise RegistryError("UNAUTHORIZED", "Log in first", 401, {"WWW-Authenticate": challenge})
        expires, _, signature = (user.password or "").partition(".")
        expected = locate.token(self.home, f"registry {expires}")
        if user.username != "AWS" or not hmac.compare_digest(signature.encode(), expected.encode()):
            raise RegistryError("DENIED", "Your authorization token is not valid. Log in again.", 403)
        if int(expires) < time.time():
            message = "Your authorization token has expired. Reauthenticate and try again."
            raise RegistryError("DENIED", message, 403)

    # Files

    def _repository(self, name: str) -> Path:
        if not re.fullmatch(NAME, name):
            raise RegistryError("NAME_INVALID", f"{name!r} is not a repository's name")
        return self.root / "repositories" / name

    def _blob(self, digest: str) -> Path:
        return self.blobs / _hex(digest)

    def _digest(self, name: str, reference: str) -> str | None:
        """Return the digest of a tag, or the digest itself, when the repository holds that image."""
        folder = self._repository(name)
        digest = reference
        if not re.fullmatch(DIGEST, reference):
            tag = folder / "_tags" / reference
            if not re.fullmatch(TAG, reference) or not tag.is_file():
                return None
            digest = tag.read_text()
        return digest if (folder / "_manifests" / _hex(digest)).is_file() else None

    def _manifests(self, name: str) -> Iterator[tuple[str, bytes, dict]]:
        """Give the digest, the bytes and what stands in them, of each manifest of a repository."""
        for entry in _files(self._repository(name) / "_manifests"):
            digest = _named(entry)
            content = self.read_manifest(digest)
            kind = json.loads(entry.read_text())["mediaType"]
            yield digest, content, {"mediaType": kind} | json.loads(content)

    def _naming(self, name: str, digest: str) -> list[str]:
        """The manifests of a repository that a blob or another manifest is a part of."""
        return [
            one
            for one, _, manifest in self._manifests(name)
            if any(part["digest"] == digest for part in _parts(manifest))
        ]

    def _held(self, name: str, digest: str) -> Path:
        """The file that is there where a repository may serve a blob."""
        return self._repository(name) / "_blobs" / _hex(digest)

    def _link(self, name: str, digest: str) -> Response:
        held = self._held(name, digest)
        held.parent.mkdir(parents=True, exist_ok=True)
        held.touch()
        return _created(f"/v2/{name}/blobs/{digest}", digest)

    def _check_parts(self, name: str, manifest: dict, media_type: str) -> None:
        kind, what = ("_manifests", "Images") if media_type in INDEXES else ("_blobs", "Layers")
        folder = self._repository(name) / kind
        # A foreign layer has addresses: by definition it is not in the registry.
        parts = [part for part in _parts(manifest) if not part.get("urls")]
        # The specification leaves it to a registry whether an index may come before its images: ECR's refuses it so.
        if missing := [part["digest"] for part in parts if not (folder / _hex(part["digest"])).exists()]:
            raise RegistryError(
                "MANIFEST_BLOB_UNKNOWN",
                f"{what} with digests '[{', '.join(missing)}]' required for pushing image into repository with name "
                f"'{place(name)[1]}' in the registry with id '{locate.ACCOUNT}' do not exist",
            )
        for part in parts:
            actual = self._blob(part["digest"]).stat().st_size
            if part["size"] != actual:
                message = f"{part['digest']} has {actual} bytes, not {part['size']}"
                raise RegistryError("SIZE_INVALID", message)

    def _check_mutability(self, name: str, reference: str, digest: str) -> None:
        held = self._digest(name, reference)
        mutability = (self.describe(name) or {}).get("imageTagMutability", "MUTABLE")
        if held not in (None, digest) and mutability.startswith("IMMUTABLE"):
            raise RegistryError(
                "TAG_INVALID",
                f"The image tag '{reference}' already exists in the '{name}' repository and cannot be "
                "overwritten because the repository is immutable.",
            )

    def _collect(self) -> None:
        """Remove the blobs that no repository names any more."""
        named = {
            file.name
            for kind in ("_blobs", "_manifests")
            for file in self.root.glob(f"repositories/**/{kind}/*")
        }
        for blob in _files(self.blobs):
            if blob.name not in named:
                blob.unlink()

    # Unpacking

    def _described(self, digest: str) -> tuple[dict, dict]:
        """Return an image's manifest and its configuration. Raises ValueError where SageMaker would not run it."""
        manifest = json.loads(self._verified(digest).read_bytes())
        if "manifests" in manifest:
            raise ValueError(
                f"The image {digest} is an image index, which SageMaker does not take: "
                "build with `--provenance=false` and for one platform, linux/amd64"
            )
        config = json.loads(self._verified(manifest["config"]["digest"]).read_bytes())
        platform = f"{config.get('os')}/{config.get('architecture')}"
        if platform != "linux/amd64":
            raise ValueError(
                f"exec format error: the image {digest} is for {platform}, SageMaker runs linux/amd64: "
                "build it with --platform linux/amd64"
            )
        return manifest, config

    def _verified(self, digest: str) -> Path:
        file = self._blob(digest)
        if not file.is_file() or _computed(file, _algorithm(digest)) != digest:
            raise ValueError(f"The blob {digest} is missing or damaged in {self.blobs}: push the image again")
        return file

    def _extract(self, layer: str, diff_id: str, target: Path, whole: bool) -> None:
        """Extract what lies under /opt/program, all that the process engine runs of an image made for it, or all."""
        with _uncompressed(self._verified(layer)) as content:
            if _computed(content, _algorithm(diff_id)) != diff_id:
                raise ValueError(
                    f"The content of layer {layer} is not the {diff_id} that the image's config names"
                )
            content.seek(0)
            if whole:
                archive.extract_whole(content, target)
            else:
                archive.extract(content, target, "r:", below="opt/program", layer=True)


def _parts(manifest: dict) -> list[dict]:
    """Return the descriptors that a manifest or an index refers to."""
    config = [manifest["config"]] if "config" in manifest else []
    return config + manifest.get("layers", []) + manifest.get("manifests", [])


def _checked_manifest(body: bytes, media_type: str) -> dict:
    """Return the manifest in a body. Raises RegistryError where it is none, or not what its media type says."""
    try:
        manifest = json.loads(body)
        parts, inner = _parts(manifest), manifest.get("mediaType", media_type)
        complete = ("manifests" if media_type in INDEXES else "config") in manifest
        subject = [manifest["subject"]] if "subject" in manifest else []
        described = all(
            re.fullmatch(DIGEST, part["digest"]) and isinstance(part["size"], int) for part in parts + subject
        )
        if media_type not in MANIFESTS | INDEXES:
            problem = f"The media type {media_type!r} is not a manifest's: {sorted(MANIFESTS | INDEXES)}"
        elif inner != media_type:
            problem = f"Content-Type is {media_type}, the manifest's mediaType {inner}"
        elif not (manifest["schemaVersion"] == 2 and complete and described):
            problem = "A manifest has schemaVersion 2 and descriptors with digest and size"
        else:
            return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"The manifest is not what its media type says: {error!r}"
    raise RegistryError("MANIFEST_INVALID", problem)


def _descriptor(digest: str, content: bytes, manifest: dict) -> dict:
    """What an index says of a manifest that refers to another: its kind is its own, or its configuration's."""
    kind = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType")
    about = {"mediaType": manifest["mediaType"], "digest": digest, "size": len(content), "artifactType": kind}
    about["annotations"] = manifest.get("annotations")
    return {name: value for name, value in about.items() if value}


def _page(request: Request, sizes: dict[str, int]) -> tuple[list[str], dict]:
    """Of what a list can name, each with its bytes there: what a request asks for by `n` and `last`, and is no more than a
    manifest may have, and the header that tells of the rest."""
    last, count = request.args.get("last", ""), request.args.get("n", "")
    if count and not count.isdecimal():
        raise RegistryError("PAGINATION_NUMBER_INVALID", f"n={count!r} is not a number")
    rest = [name for name in sorted(sizes, key=_lexical) if _lexical(name) > _lexical(last)]
    fit = (
        sum(total < MAX_MANIFEST for total in accumulate((sizes[name] + 4 for name in rest), initial=1024))
        - 1
    )
    page = rest[: min(int(count or len(rest)), max(fit, 1))]
    if not page or len(page) == len(rest):
        return page, {}
    query = urlencode({**request.args, "last": page[-1]})
    return page, {"Link": f'<{request.path}?{query}>; rel="next"'}


def _lexical(name: str) -> tuple[str, str]:
    """What lists are in order of: letters of either case alike."""
    return name.lower(), name


def _append(request: Request, name: str, file: Path) -> None:
    """Add the request's body to an upload; a Content-Range must begin where the upload ends."""
    with file.open("ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        size = out.seek(0, os.SEEK_END)
        if stated := request.headers.get("Content-Range"):
            match = re.fullmatch(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?", stated)
            length = request.content_length or 0
            if not match or int(match[1]) != size or int(match[2]) - int(match[1]) + 1 != length:
                message = f"Content-Range {stated} does not follow the {size} bytes here"
                headers = dict(_progress(name, file, 416).headers)
                raise RegistryError("BLOB_UPLOAD_INVALID", message, 416, headers)
        shutil.copyfileobj(request.stream, out, CHUNK)


def _progress(name: str, upload: Path, status: int) -> Response:
    size = upload.stat().st_size
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{upload.name}",
        "Docker-Upload-UUID": upload.name,
        "Range": f"0-{max(size - 1, 0)}",
        "Content-Length": "0",
    }
    return Response(status=status, headers=headers)


def _created(location: str, digest: str) -> Response:
    return Response(status=201, headers={"Location": location, "Docker-Content-Digest": digest})


def _algorithm(digest: str) -> str:
    """Return a digest's algorithm. Raises RegistryError where it is none that we have."""
    if not re.fullmatch(DIGEST, digest):
        words = "is neither sha256: and 64 hexadecimal digits nor sha512: and 128"
        raise RegistryError("DIGEST_INVALID", f"{digest!r} {words}")
    return digest.partition(":")[0]


def _hex(digest: str) -> str:
    """Return the hexadecimal part of a digest, which is safe as a file's name. Raises RegistryError."""
    return digest.removeprefix(f"{_algorithm(digest)}:")


def _named(file: Path) -> str:
    """Return the digest that a file is called by."""
    return f"{ALGORITHMS[len(file.name)]}:{file.name}"


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.glob("*")) if not file.name.startswith("."))


def _computed(content: Path | BinaryIO, algorithm: str) -> str:
    if isinstance(content, Path):
        with content.open("rb") as stream:
            return _computed(stream, algorithm)
    return f"{algorithm}:{hashlib.file_digest(content, algorithm).hexdigest()}"


@contextmanager
def _uncompressed(layer: Path):
    with layer.open("rb") as stream:
        magic = stream.peek(4)
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            raise ValueError(
                "A layer is compressed with zstd, which SageMaker does not take: build with gzip"
            )
        yield gzip.GzipFile(fileobj=stream) if magic.startswith(b"\x1f\x8b") else stream
