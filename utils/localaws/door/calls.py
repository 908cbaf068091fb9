"""What was called lately, and by whom: for the page, in memory, bounded. No payload, no key and no name of an object."""

import re
import threading
import time
from collections import deque
from functools import cache
from urllib.parse import parse_qs, parse_qsl

from werkzeug import Request, Response

from localaws.moto.backend import service_model
from localaws.moto.kept import backend
from localaws.state import locate

KEPT = 300  # entries; a call like one of the newest is counted there
ALIKE = 4  # so far back: clients that wait ask the same two or three things over and over
SIGNED = "localaws.signed"  # in a request's environ, once its signature was found right
OWN = "localaws.own"  # what localaws asks of itself: for a job or an endpoint, for its page, for a state machine or a rule
JOBS, PAGE, MOTO = "jobs", "page", "moto"
FORM_BYTES = 1 << 16  # of a form that is read for the name of its operation
VERBS = {"invocations": "InvokeEndpoint", "async-invocations": "InvokeEndpointAsync"}
SERVICES = {"monitoring": "cloudwatch"}
# By a word of the user agent. The SDK's has boto3's in it, boto3's has botocore's.
AGENTS = (
    ("sagemaker-python-sdk", "SageMaker SDK"),
    ("lib/sagemaker", "SageMaker SDK"),
    ("aws-cli", "aws-cli"),
    ("boto3", "boto3"),
    ("botocore", "botocore"),
    ("docker", "docker"),
    ("skopeo", "skopeo"),
    ("mozilla", "a browser"),
)


class Calls:
    """The last calls, for many threads; `total` counts all since the start."""

    def __init__(self):
        self.total = 0
        self._lock = threading.Lock()
        self._kept: deque[dict] = deque(maxlen=KEPT)

    def note(self, request: Request, response: Response, code: str | None) -> None:
        """Remember a request of a client's; `code` is its error's, where it is known."""
        if request.environ.get(OWN):
            return
        identity, _, service = credential(request)
        status = response.status_code
        if status >= 400 and not code:
            code = _code(response)
        who = _name(identity) if request.environ.get(SIGNED) else "nobody known"
        if request.path.startswith("/v2"):
            service, who = "registry", "docker login" if status != 401 else who
        self.add(service, operation(request, service), who, _agent(request), status, code)

    def add(self, service: str, operation: str, who: str, agent: str, status: int, code: str | None) -> None:
        """Remember a call, or count it with one like it."""
        call = {"service": service, "operation": operation, "who": who, "agent": agent}
        call = {key: _short(text) for key, text in call.items()} | {"status": status, "code": _short(code)}
        with self._lock:
            self.total += 1
            count = 0
            for back in range(1, min(ALIKE, len(self._kept)) + 1):
                if self._kept[-back]["call"] == call:
                    count = self._kept[-back]["count"]
                    del self._kept[-back]
                    break
            self._kept.append({"call": call, "count": count + 1, "at": time.time()})

    def latest(self, count: int) -> list[dict]:
        """Return so many of them, the newest first."""
        with self._lock:
            kept = list(self._kept)[-count:]
        return [{**entry["call"], "count": entry["count"], "at": entry["at"]} for entry in reversed(kept)]

    def __len__(self) -> int:
        return len(self._kept)


def _short(text: str | None) -> str | None:
    return text and re.sub(r"[^\w .:/+-]", "", text)[:60]


def credential(request: Request) -> tuple[str, str, str]:
    """The id of the key that a request says it is signed with, and for which region and service."""
    header = request.headers.get("Authorization", "")
    found = re.search(r"Credential=([^,\s]+)", header)
    scope = (found[1] if found else request.args.get("X-Amz-Credential", "")).split("/")
    if len(scope) == 5:
        service = "sagemaker-runtime" if request.path.startswith("/endpoints/") else scope[3]
        return scope[0], scope[2], service
    return request.args.get("AWSAccessKeyId", ""), locate.REGION, "s3"


def _name(identity: str) -> str:
    """Whose a key is, in words."""
    if identity == locate.KEY:
        return "owner"
    if role := backend("sts").get_assumed_role_from_access_key(identity):
        return f"role {role.role_arn.rpartition('/')[2]}"
    key = backend("iam").access_keys.get(identity)
    return f"user {key.user_name}" if key and key.user_name else "another key"


def _agent(request: Request) -> str:
    said = request.headers.get("User-Agent", "")
    known = (name for word, name in AGENTS if word in said.lower())
    return next(known, said.split(" ")[0].split("/")[0])


def _code(response: Response) -> str | None:
    """The error's code in moto's answer, in either of AWS's forms."""
    if said := response.headers.get("x-amzn-errortype"):
        return said
    if response.is_sequence:
        start = response.get_data()[:4096].decode("utf-8", "replace")
        if found := re.search(r'<Code>([^<]+)</Code>|"__type": ?"(?:[^"#]*#)?([^"]+)"', start):
            return found[1] or found[2]
    return None


def operation(request: Request, service: str) -> str:
    """The name of the operation that a request asks for."""
    if service == "s3":
        return _s3_operation(request)
    if service == "registry":
        return f"{request.method} {next((w for w in ('manifests', 'blobs', 'tags') if w in request.path), 'login')}"
    if request.path.startswith("/endpoints/"):
        return VERBS.get(request.path.rpartition("/")[2], "?")
    named = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
    named = named or request.path.partition("/operation/")[2] or request.args.get("Action")
    if not named and (request.content_length or 0) <= FORM_BYTES:
        named = parse_qs(request.get_data().decode("utf-8", "replace")).get("Action", [""])[0]
    return named or "?"


@cache
def _s3_operations() -> dict[tuple[str, int, frozenset], str]:
    """S3's operations by method, how deep the path goes, and the names that their queries must have.

    Of several, such as PutObject and CopyObject, the plainest.
    """
    found: dict[tuple[str, int, frozenset], str] = {}
    for name in sorted(service_model("s3").operation_names, key=len, reverse=True):
        http = service_model("s3").operation_model(name).http
        path, _, query = http["requestUri"].partition("?")
        names = frozenset(key for key, _ in parse_qsl(query, keep_blank_values=True)) - {"x-id"}
        found[http["method"], 2 if "{Key" in path else int("{Bucket" in path), names] = name
    parts = frozenset({"uploadId"})
    found |= {
        ("PUT", 2, parts | {"partNumber"}): "UploadPart",
        ("POST", 2, parts): "CompleteMultipartUpload",
        ("DELETE", 2, parts): "AbortMultipartUpload",
        ("GET", 2, parts): "ListParts",
        ("GET", 1, frozenset()): "ListObjects",
        ("GET", 0, frozenset()): "ListBuckets",
        ("GET", 2, frozenset()): "GetObject",
        ("HEAD", 2, frozenset()): "HeadObject",
        ("HEAD", 1, frozenset()): "HeadBucket",
        ("PUT", 2, frozenset()): "PutObject",
        ("PUT", 1, frozenset()): "CreateBucket",
        ("POST", 1, frozenset()): "PostObject",
        ("DELETE", 2, frozenset()): "DeleteObject",
        ("DELETE", 1, frozenset()): "DeleteBucket",
    }
    return found


def _s3_operation(request: Request) -> str:
    bucket, _, key = request.path.strip("/").partition("/")
    depth, names = bool(bucket) + bool(key), request.args.keys()
    if depth == 2 and request.method == "PUT" and "x-amz-copy-source" in request.headers:
        return "UploadPartCopy" if "uploadId" in names else "CopyObject"
    known = [
        (len(needed), name)
        for (method, deep, needed), name in _s3_operations().items()
        if method == request.method and deep == depth and needed <= names
    ]
    return max(known)[1] if known else request.method
