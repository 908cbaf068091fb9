"""moto behind the front, made durable: what it acknowledged is there again after a kill -9.

moto keeps everything in memory. So what a request has changed is written to the database before its answer goes out
(kept.py), and the bodies of objects lie in files (bodies.py): moto never sees them.
"""

import functools
import importlib
import io
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl

import botocore.session
from botocore import xform_name
from werkzeug import Request, Response

from localaws import services
from localaws.errors import AwsError
from localaws.state import locate
from localaws.state.database import Database

os.environ["MOTO_ACCOUNT_ID"] = locate.ACCOUNT
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"  # so that AmazonSageMakerFullAccess can be attached

from moto.backends import get_backend
from moto.core.responses import BaseResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from . import bodies, gaps, kept

log = logging.getLogger("localaws")

#: Where moto and botocore do not use the name that signs requests.
MOTO_NAMES = {
    "monitoring": "cloudwatch",
    "application-autoscaling": "applicationautoscaling",
    "states": "stepfunctions",
}
BOTOCORE_NAMES = {"monitoring": "cloudwatch", "states": "stepfunctions"}
#: What moto serves well by itself, in memory alone: it lasts until the server ends.
PASSING = {
    *(
        "application-autoscaling",
        "dynamodb",
        "ec2",
        "events",
        "kms",
        "secretsmanager",
        "sns",
        "sqs",
        "ssm",
        "states",
    )
}
# What is ours of a service, and the requests that it refuses: read when the service is first asked for, since some of
# moto's take seconds.
OURS = {"cloudformation": "stacks", "events": "notices", "sns": "notices", "states": "workflows"}
# What leaves moto as it is: whatever reads, and what changes the registry alone.
READS = re.compile(
    r"(Batch)?(Get|List|Describe|Filter|Head|Simulate|Lookup|Query|Search|Test)[A-Z]|GenerateCredential"
    r"|(PutImage|BatchDeleteImage)$"
)


class Backend:
    """moto's own WSGI app: S3, STS, IAM, ECR's repositories, CloudWatch and Logs."""

    def __init__(self, home: Path, database: Database):
        self.app = DomainDispatcherApplication(create_backend_app)
        self._home = home
        self._kept = kept.Kept(database)
        gaps.keep = self._keep_outside
        bodies.folder = home / "bodies"
        self._lock = threading.Lock()  # moto is not made for threads

    def __call__(self, request: Request, region: str | None, service: str) -> Response:
        """Let moto answer; what changed something is on disk before this returns.

        Region and service are those that the request was signed for.
        """
        # moto tells an encoded slash in a key from a plain one by the raw path, under gunicorn's name for it.
        environ = request.environ
        environ["RAW_URI"] = environ.get("REQUEST_URI", "")
        is_upload = service == "s3" and _is_upload(request)
        if not is_upload:
            environ["wsgi.input"] = io.BytesIO(request.get_data())
        operation = _operation(request, service)
        if service in OURS:
            with self._lock:
                ours = importlib.import_module(f".{OURS[service]}", __package__)
                if service in kept.LATE and self._kept.take_up(service):
                    ours.taken_up()
            ours.check(operation, request)
        try:
            if _is_unanswered(request, service, operation):
                name, asked = services.asked(request, service)
                raise services.refused(name, asked, gaps.REFUSED.get(asked, services.MEND))
            if is_upload:
                _claim_body(request)
            with self._lock:
                response = self._run(environ)
                if response.status_code < 400 and _changes(request, service, operation):
                    self._keep(request, region, service, operation)
            return response
        except (OSError, sqlite3.Error) as error:
            message = f"localaws cannot write to its folder {self._home} ({error}), and did nothing: free some space there"
            raise AwsError("InternalError", message, 500) from error

    def _keep(self, request: Request, region: str | None, service: str, operation: str) -> None:
        """Write what the request has changed; where that is impossible, take it back."""
        bucket, _, key = request.path.removeprefix("/").partition("/") if service == "s3" else ("", "", "")
        try:
            self._kept.keep(MOTO_NAMES.get(service, service), region, operation, bucket, key)
        except (OSError, sqlite3.Error):
            self._kept.load()
            raise

    def _keep_outside(self, service: str, region: str) -> None:
        with self._lock:
            self._kept.keep(service, region, "", "", "")

    def buckets(self) -> list[dict]:
        """Return name, creation (seconds since the epoch), number of objects and their bytes for each bucket.

        A client would have to list all objects for it, which takes moto half a millisecond for each.
        """
        answer = []
        with self._lock:
            for name, bucket in kept.backend("s3").buckets.items():
                sizes = [key.size for key in bucket.keys.values() if hasattr(key, "size")]  # no delete marker
                created = bucket.creation_date.timestamp()
                answer.append({"name": name, "created": created, "objects": len(sizes), "bytes": sum(sizes)})
        return answer

    def recover(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Put back what is on disk; what cannot be is put aside and told."""
        with self._lock:
            self._kept.load(progress)
            bodies.sweep(self._home / "aside")

    def _run(self, environ: dict) -> Response:
        response = Response.from_app(self.app, environ)
        content = response.get_data()
        for name in [name for name, _ in response.headers if name.lower().startswith("access-control-")]:
            del response.headers[name]
        if claim := bodies.claimed(content):
            for digest, _, _ in claim.pieces:  # all, before the first byte goes out
                bodies.verified(digest)
            response.response = claim.blocks()
            response.headers["Content-Length"] = str(len(claim))
        return response


@functools.cache
def service_model(service: str):
    """botocore's model of a service that moto answers for, by the name that requests are signed for."""
    return botocore.session.get_session().get_service_model(BOTOCORE_NAMES.get(service, service))


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
    if service == "ec2":  # what SDKs look up; no machine of EC2's runs here
        operations = [one for one in operations if one.startswith("Describe")]
    has = {one for one in operations if any(hasattr(place, xform_name(one)) for place in places)}
    return has - gaps.REFUSED.keys()


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
        # Another service, which is signed for the same name, may have an operation of that name, too.
        prefix = services.said_by(request)[1]
        own = service_model(service).metadata.get("targetPrefix", prefix)
        return prefix not in ("", own) or operation not in answered(service)
    of_object = bool(request.path.removeprefix("/").partition("/")[2])
    names = request.args.keys() - {"x-id"}
    return any(_s3_subresources().get((request.method, of_object, name)) is False for name in names)


def _operation(request: Request, service: str) -> str:
    """Return the name of the operation; S3's requests have none, so it is the request itself."""
    if service == "s3":
        return f"{request.method} {request.full_path.rstrip('?')}"
    # The three protocols name it in a header, in the path, or in a form.
    return (
        request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        or request.path.partition("/operation/")[2]
        or parse_qs(request.get_data().decode("utf-8", "replace")).get("Action", [""])[0]
    )


def _changes(request: Request, service: str, operation: str) -> bool:
    """Tell whether a request may change moto's state."""
    if service == "s3":
        return request.method not in ("GET", "HEAD", "OPTIONS")
    return (
        service != "sts" and service not in PASSING and not READS.match(operation)
    )  # sessions end with the server


def _is_upload(request: Request) -> bool:
    """Whether a request's body is an object's, or a part's."""
    key = request.path.removeprefix("/").partition("/")[2]
    names = request.args.keys() - {"partNumber", "uploadId"}
    settings = any(("PUT", True, name) in _s3_subresources() for name in names)
    return request.method == "PUT" and bool(key) and not settings


def _claim_body(request: Request) -> None:
    """Store the body of an upload, and leave in its place the claim to it."""
    environ, trailers = request.environ, {}
    blocks = iter(functools.partial(request.stream.read, bodies.BLOCK), b"")
    if request.headers.get("X-Amz-Content-Sha256", "").startswith("STREAMING-"):
        blocks = bodies.unchunked(request.stream, trailers)
        environ["HTTP_X_AMZ_CONTENT_SHA256"] = "UNSIGNED-PAYLOAD"
    try:
        claim = bytes(bodies.store(blocks))
    except ValueError as error:
        raise AwsError("IncompleteBody", f"The body is not in the encoding aws-chunked: {error}") from error
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in trailers.items()}
    environ |= {"wsgi.input": io.BytesIO(claim), "CONTENT_LENGTH": str(len(claim))}
