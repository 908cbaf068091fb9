"""moto behind the front, made durable: what it acknowledged is there again after a kill -9.

moto keeps everything in memory. So each request that changed something is written to a journal before its answer
goes out, and the journal is replayed at start. What moto makes up (identifiers, times) comes out the same in the
replay, because each recorded request runs with a seed and a time of its own, which are recorded with it.
"""

import datetime
import functools
import importlib
import io
import logging
import os
import re
import secrets
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, parse_qsl

import botocore.session
from botocore import xform_name
from werkzeug import Request, Response

from localaws import protocol
from localaws.errors import AwsError
from localaws.state import locate

from .journal import Journal

os.environ["MOTO_ACCOUNT_ID"] = locate.ACCOUNT
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"  # so that AmazonSageMakerFullAccess can be attached

import moto.core.utils

log = logging.getLogger("localaws")


class _Clock(datetime.datetime):
    """The time that moto sees: that of the recorded request that runs, else the real one."""

    at: float | None = None

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(time.time() if cls.at is None else cls.at, tz)


# Before the services' modules are imported, because they import the function by name.
if "moto.s3.models" in sys.modules:
    raise ImportError(
        "Import localaws.moto.backend before any of moto's services: it sets the clock that they import"
    )
moto.core.utils.utcnow = lambda: _Clock.now(datetime.UTC).replace(tzinfo=None)

import moto.s3.models  # noqa: E402
from moto.backends import get_backend  # noqa: E402
from moto.core.responses import BaseResponse  # noqa: E402
from moto.moto_api._internal import mock_random  # noqa: E402
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: E402

# S3 alone goes round moto's own random numbers (upload ids) and clock (a bucket's creation date).
moto.s3.models.os = SimpleNamespace(urandom=mock_random.randbytes, environ=os.environ)
moto.s3.models.datetime = SimpleNamespace(**{**vars(datetime), "datetime": _Clock})

MOTO_NAMES = {"monitoring": "cloudwatch"}  # where moto and botocore do not use the name that signs requests
READS = re.compile(
    r"(Batch)?(Get|List|Describe|Filter|Head|Simulate|Lookup|Query|Search|Test)[A-Z]|GenerateCredential"
)
# Enough for moto to take a recorded request for the same one.
RECORDED = {"REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "RAW_URI", "CONTENT_TYPE", "CONTENT_LENGTH"}
NOT_RECORDED = re.compile(r"HTTP_(USER_AGENT|CONNECTION|ACCEPT|ACCEPT_ENCODING|EXPECT|AMZ_SDK_.*)")


class Backend:
    """moto's own WSGI app: S3, STS, IAM, ECR's repositories, CloudWatch and Logs."""

    def __init__(self, home: Path):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.journal = Journal(home / "moto")
        # moto is not made for threads, and the journal must have the order in which things happened.
        self._lock = threading.Lock()

    def __call__(self, request: Request, region: str | None, service: str | None) -> Response:
        """Let moto answer; what changed something is on disk before this returns.

        Region and service are those that the request was signed for; unsigned requests are S3's.
        """
        # moto tells an encoded slash in a key from a plain one by the raw path, under gunicorn's name for it.
        environ = request.environ
        environ["RAW_URI"] = environ.get("REQUEST_URI", "")
        body = protocol.peek(request)
        operation = _operation(request, service, body)
        if _is_unanswered(request, service or "s3", operation):
            message = f"localaws does not serve {operation} of {service or 's3'}: run it against AWS."
            error = AwsError("NotServedByLocalaws", message, 501)
            if request.headers.get("X-Amz-Target") or service == "monitoring":
                return protocol.failure(error)
            return protocol.failure_xml(error, "Error" if service in ("s3", None) else "ErrorResponse")
        if not _changes(request, service, operation):
            with self._lock:
                return self._run(environ)
        entry = {
            "at": time.time(),
            "seed": secrets.randbits(63),
            "region": region,
            "service": service or "s3",
            "environ": {
                name: value
                for name, value in environ.items()
                if name in RECORDED or (name.startswith("HTTP_") and not NOT_RECORDED.fullmatch(name))
            },
        }
        kept = self.journal.keep(body)
        with self._lock:
            response = self._run(environ, entry["at"], entry["seed"])
            if response.status_code < 400:
                self.journal.append({**entry, **kept, **_upload_id(response)})
        return response

    def buckets(self) -> list[dict]:
        """Return name, creation (seconds since the epoch), number of objects and their bytes for each bucket.

        A client would have to list all objects for it, which takes moto half a millisecond for each.
        """
        with self._lock:
            sizes = [
                (
                    bucket,
                    [key.size for key in bucket.keys.values() if hasattr(key, "size")],
                )  # no delete marker
                for bucket in moto.s3.models.s3_backends[locate.ACCOUNT]["aws"].list_buckets(None, None, None)
            ]
        return [
            {
                "name": bucket.name,
                "created": bucket.creation_date.timestamp(),
                "objects": len(found),
                "bytes": sum(found),
            }
            for bucket, found in sizes
        ]

    def replay(self) -> int:
        """Run what the journal holds and return the number of requests."""
        began, count = time.monotonic(), 0
        for entry, body in self.journal.compacted():
            environ = {
                **entry["environ"],
                "SCRIPT_NAME": "",
                "SERVER_NAME": "127.0.0.1",
                "SERVER_PORT": "80",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "wsgi.url_scheme": "http",
                "CONTENT_LENGTH": str(len(body)),
                "wsgi.input": io.BytesIO(body),
                "wsgi.errors": sys.stderr,
            }
            what = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ.get('HTTP_X_AMZ_TARGET', '')}"
            try:
                with self._lock:
                    response = self._run(environ, entry["at"], entry["seed"])
            except Exception:  # whatever moto raises: the rest must come back all the same
                log.exception("Not brought back: %s", what)
                continue
            count += 1
            if response.status_code >= 400:
                log.warning("Not brought back: %s: %d %s", what, response.status_code, response.get_data())
        if count:
            log.info("Brought back %d requests in %.1f s", count, time.monotonic() - began)
        return count

    def _run(self, environ: dict, at: float | None = None, seed: int | None = None) -> Response:
        if seed is not None:
            mock_random.seed(seed)
        _Clock.at = at
        try:
            response = Response.from_app(self.app, environ)
            response.get_data()
        finally:
            _Clock.at = None
        for name in [name for name, _ in response.headers if name.lower().startswith("access-control-")]:
            del response.headers[name]
        return response


@functools.cache
def service_model(service: str):
    """botocore's model of a service that moto answers for, by the name that requests are signed for."""
    return botocore.session.get_session().get_service_model(MOTO_NAMES.get(service, service))


@functools.cache
def answered(service: str) -> set[str]:
    """Return the operations of a service that moto has: methods of its backend or of what reads its requests."""
    name = MOTO_NAMES.get(service, service)
    readers = [
        item
        for item in vars(importlib.import_module(f"moto.{name}.responses")).values()
        if isinstance(item, type) and issubclass(item, BaseResponse)
    ]
    places = [get_backend(name).backend, *readers]
    operations = service_model(service).operation_names
    return {one for one in operations if any(hasattr(place, xform_name(one)) for place in places)}


@functools.cache
def _s3_subresources() -> dict[tuple[str, bool, str], bool]:
    """Return for (method, of an object or a bucket, name in the query) whether moto answers it: it would ignore the
    name of one that it does not know, and take PutBucketRequestPayment for CreateBucket."""
    found: dict[tuple[str, bool, str], bool] = {}
    for operation in service_model("s3").operation_names:
        http = service_model("s3").operation_model(operation).http
        path, _, query = http["requestUri"].partition("?")
        for name, _ in parse_qsl(query, keep_blank_values=True):
            place = http["method"], "{Key" in path, name
            found[place] = found.get(place, False) or operation in answered("s3")
    return found


def _is_unanswered(request: Request, service: str, operation: str) -> bool:
    if service != "s3":
        return operation not in answered(service)
    of_object = bool(request.path.removeprefix("/").partition("/")[2])
    names = request.args.keys() - {"x-id"}
    return any(_s3_subresources().get((request.method, of_object, name)) is False for name in names)


def _operation(request: Request, service: str | None, body: bytes) -> str:
    """Return the name of the operation; S3's requests have none, so it is the request itself."""
    if service in ("s3", None):
        return f"{request.method} {request.full_path.rstrip('?')}"
    # The three protocols name it in a header, in the path, or in a form.
    return (
        request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        or request.path.partition("/operation/")[2]
        or parse_qs(body.decode("utf-8", "replace")).get("Action", [""])[0]
    )


def _changes(request: Request, service: str | None, operation: str) -> bool:
    """Tell whether a request may change moto's state."""
    if service in ("s3", None):
        return request.method not in ("GET", "HEAD", "OPTIONS")
    return service != "sts" and not READS.match(operation)  # sessions end with the server


def _upload_id(response: Response) -> dict:
    """Return the id of a multipart upload that just began: its parts name it."""
    match = re.search(rb"<InitiateMultipartUploadResult.*<UploadId>([^<]+)<", response.get_data(), re.DOTALL)
    return {"upload": match[1].decode()} if match else {}
