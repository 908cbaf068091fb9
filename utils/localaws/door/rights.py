"""What IAM would be asked for each call: who, which action on which resource, with which condition keys.

LOCALAWS_RECORD names the file that it is appended to (a relative name lies in the home), JSON lines, each question once:

    {"caller": "owner", "action": "s3:PutObject", "resource": "arn:aws:s3:::bucket/key", "context": {}}

`caller` is the owner, the ARN of a user or a role, or `sagemaker.amazonaws.com` for what a job or an endpoint does with
its execution role; what the policy simulator is asked of a role counts as the role's own. Actions and resources are those of AWS's Service Authorization Reference. Of a service that is not
told of here the resource is `*`.
"""

import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

from werkzeug import Request, Response

from localaws.images.registry import ROUTES
from localaws.moto.kept import backend
from localaws.sagemaker.context import ARN_PARTS
from localaws.state import locate

from . import calls

log = logging.getLogger("localaws")

SAGEMAKER = "sagemaker.amazonaws.com"
# Where the action has another name than the operation.
S3_ACTIONS = {
    "HeadObject": "GetObject",
    "SelectObjectContent": "GetObject",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "ListBuckets": "ListAllMyBuckets",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListParts": "ListMultipartUploadParts",
    "DeleteObjects": "DeleteObject",
    "DeleteBucketTagging": "PutBucketTagging",
    "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    **dict.fromkeys(
        (
            "CopyObject",
            "CreateMultipartUpload",
            "UploadPart",
            "UploadPartCopy",
            "CompleteMultipartUpload",
            "PostObject",
        ),
        "PutObject",
    ),
    **{
        f"{verb}Bucket{what}": f"{verb.replace('Delete', 'Put')}{right}"
        for verb in ("Get", "Put", "Delete")
        for what, right in (
            ("Cors", "BucketCORS"),
            ("Encryption", "EncryptionConfiguration"),
            ("Lifecycle", "LifecycleConfiguration"),
            ("LifecycleConfiguration", "LifecycleConfiguration"),
            ("NotificationConfiguration", "BucketNotification"),
            ("Replication", "ReplicationConfiguration"),
        )
    },
}
REGISTRY_ACTIONS = {
    ("POST", "_on_start_upload"): "InitiateLayerUpload",
    ("PATCH", "_on_upload"): "UploadLayerPart",
    ("PUT", "_on_upload"): "CompleteLayerUpload",
    ("HEAD", "_on_blob"): "BatchCheckLayerAvailability",
    ("GET", "_on_blob"): "GetDownloadUrlForLayer",
    ("HEAD", "_on_manifest"): "BatchGetImage",
    ("GET", "_on_manifest"): "BatchGetImage",
    ("PUT", "_on_manifest"): "PutImage",
    ("DELETE", "_on_manifest"): "BatchDeleteImage",
    ("GET", "_on_tags"): "ListImages",
}
# What Application Auto Scaling asks of CloudWatch, by a role of its own that AWS makes.
OF_SCALING = {"PutMetricAlarm", "DeleteAlarms", "SetAlarmState", "GetMetricStatistics"}
OF_STREAMS = {"CreateLogStream", "DeleteLogStream", "GetLogEvents", "PutLogEvents"}

Question = tuple[str, str, dict]  # action, resource, condition keys


class Rights:
    """Writes the questions of every call that was let in to a file, for many threads."""

    def __init__(self, file: Path):
        self._file = file.open("a", buffering=1)
        self._lock = threading.Lock()
        self._written: set[str] = set()

    def note(self, request: Request, response: Response) -> None:
        """Write what IAM would be asked for a request, whatever came of it."""
        try:
            self._note(request, response)
        except Exception:  # such as a body that is not what its operation takes: it is answered all the same
            log.exception("not recorded: %s %s", request.method, request.path)

    def _note(self, request: Request, response: Response) -> None:
        if request.path.startswith("/v2"):
            questions = _of_registry(request) if response.status_code != 401 else ()
            self._write("owner", questions)
        elif request.environ.get(calls.SIGNED):
            identity, region, service = calls.credential(request)
            operation = calls.operation(request, service)
            questions = list(_questions(request, region, service, operation))
            own = request.environ.get(calls.OWN)
            if not own:
                self._write(_caller(identity), questions)
            elif own == calls.JOBS and service != "iam" and operation not in OF_SCALING:
                self._write(SAGEMAKER, questions)
            if own != calls.PAGE and operation == "SimulatePrincipalPolicy":
                self._write(*_simulated(request))

    def _write(self, caller: str, questions) -> None:
        for action, resource, context in questions:
            question = {"caller": caller, "action": action, "resource": resource, "context": context}
            line = json.dumps(question, sort_keys=True)
            with self._lock:
                if line not in self._written:
                    self._written.add(line)
                    self._file.write(line + "\n")


def _caller(identity: str) -> str:
    if identity == locate.KEY:
        return "owner"
    if role := backend("sts").get_assumed_role_from_access_key(identity):
        return role.role_arn
    key = backend("iam").access_keys.get(identity)
    return f"arn:aws:iam::{locate.ACCOUNT}:user/{key.user_name}" if key and key.user_name else "owner"


def _simulated(request: Request) -> tuple[str, Iterator[Question]]:
    """What is asked of a role before a job is to do it, by localaws or by the SDK."""
    form = parse_qsl(request.get_data().decode())

    def listed(name: str) -> list[str]:
        return [value for key, value in form if key.startswith(f"{name}.")]

    asked = ((action, one, {}) for action in listed("ActionNames") for one in listed("ResourceArns") or ["*"])
    return dict(form)["PolicySourceArn"], asked


def _questions(request: Request, region: str, service: str, operation: str) -> Iterator[Question]:
    if service == "s3":
        yield from _of_s3(request, operation)
        return
    body = request.get_data()
    if request.headers.get("X-Amz-Target"):
        asked = json.loads(body or b"{}")
        asked = asked if isinstance(asked, dict) else {}
    else:
        asked = dict(parse_qsl(body.decode("utf-8", "replace"))) | dict(request.args)
    prefix = {"monitoring": "cloudwatch", "sagemaker-runtime": "sagemaker"}.get(service, service)
    if prefix == "sagemaker" and (match := re.match(r"/endpoints/([^/]+)/", request.path)):
        asked = {"EndpointName": unquote(match[1])}
    place = f"arn:aws:{prefix}:{region}:{locate.ACCOUNT}"
    resources = list(RESOURCES.get(prefix, lambda *_: ())(place, operation, asked)) or ["*"]
    tags = _tag_keys(asked.get("Tags") or asked.get("tags"))
    if prefix == "application-autoscaling" and resources != ["*"]:
        tags[f"{prefix}:service-namespace"] = asked["ServiceNamespace"]
    for resource in resources:
        yield f"{prefix}:{operation}", resource, tags
    # Tags that are given at creation want the right to tag as well.
    if tags and operation.startswith("Create"):
        yield f"{prefix}:{'AddTags' if prefix == 'sagemaker' else 'TagResource'}", resources[0], tags
    if prefix == "sagemaker":
        for role in _roles(asked):
            yield "iam:PassRole", role, {"iam:PassedToService": SAGEMAKER}


def _of_sagemaker(place: str, operation: str, asked: dict) -> Iterator[str]:
    """What a request names itself; of CreateEndpoint and UpdateEndpoint the configuration, too."""
    if isinstance(arn := asked.get("ResourceArn"), str):
        yield arn
    created = operation.removeprefix("Create")
    kinds = [kind for kind in ARN_PARTS if isinstance(asked.get(f"{kind}Name"), str)]
    for kind in sorted(kinds, key=lambda kind: kind != created):
        if not (operation == "CreateTransformJob" and kind == "Model"):
            yield f"{place}:{ARN_PARTS[kind]}/{asked[f'{kind}Name'].lower()}"


def _of_ecr(place: str, operation: str, asked: dict) -> Iterator[str]:
    if arn := asked.get("resourceArn"):
        yield arn
    elif operation != "GetAuthorizationToken":
        names = asked.get("repositoryNames") or [asked.get("repositoryName", "*")]
        yield from (f"{place}:repository/{name}" for name in names)


def _of_logs(place: str, operation: str, asked: dict) -> Iterator[str]:
    group = asked.get("logGroupName") or asked.get("logGroupIdentifier") or asked.get("resourceArn")
    if group:
        group = group if group.startswith("arn:") else f"{place}:log-group:{group}"
        stream = f":log-stream:{asked.get('logStreamName', '*')}" if operation in OF_STREAMS else ""
        yield group.removesuffix(":*") + stream


def _of_iam(place: str, operation: str, asked: dict) -> Iterator[str]:
    if arn := asked.get("PolicySourceArn") or asked.get("PolicyArn"):
        yield arn
    if name := asked.get("RoleName"):
        known = (
            role.arn for role in backend("iam").roles.values() if role.name == name
        )  # it may have a path
        yield next(known, f"arn:aws:iam::{locate.ACCOUNT}:role/{name}")


def _of_sts(place: str, operation: str, asked: dict) -> Iterator[str]:
    if arn := asked.get("RoleArn"):
        yield arn


def _of_scaling(place: str, operation: str, asked: dict) -> Iterator[str]:
    """AWS names a target by an id of its own, which says nothing of the endpoint."""
    if not operation.startswith("Describe"):
        yield f"{place}:scalable-target/ID"


RESOURCES = {
    "application-autoscaling": _of_scaling,
    "sagemaker": _of_sagemaker,
    "ecr": _of_ecr,
    "logs": _of_logs,
    "iam": _of_iam,
    "sts": _of_sts,
}


def _of_s3(request: Request, operation: str) -> Iterator[Question]:
    bucket, _, key = request.path.removeprefix("/").partition("/")
    if not bucket:
        yield "s3:ListAllMyBuckets", "*", {}
        return
    keys = [key] if key else []
    if operation == "DeleteObjects":
        tree = ElementTree.fromstring(request.get_data())
        keys = [item.text or "" for item in tree.iterfind(".//{*}Object/{*}Key")]
    elif operation == "PostObject":
        keys = [request.form.get("key", "*")]
    action = S3_ACTIONS.get(operation, operation)
    context = (
        {"s3:prefix": prefix} if action == "ListBucket" and (prefix := request.args.get("prefix")) else {}
    )
    for resource in [f"{bucket}/{key}" for key in keys] or [bucket]:
        yield f"s3:{action}", f"arn:aws:s3:::{resource}", context
    if source := request.headers.get("X-Amz-Copy-Source"):
        yield "s3:GetObject", f"arn:aws:s3:::{unquote(source).removeprefix('/').partition('?')[0]}", {}
    if "X-Amz-Tagging" in request.headers:
        yield "s3:PutObjectTagging", f"arn:aws:s3:::{bucket}/{key}", {}


def _of_registry(request: Request) -> Iterator[Question]:
    """The actions behind `docker push` and `docker pull`."""
    routes = ((pattern.fullmatch(request.path), handler) for pattern, handler, _ in ROUTES)
    match, handler = next((route for route in routes if route[0]), (None, ""))
    if action := REGISTRY_ACTIONS.get((request.method, handler)):
        yield f"ecr:{action}", f"arn:aws:ecr:{locate.REGION}:{locate.ACCOUNT}:repository/{match['name']}", {}


def _tag_keys(tags) -> dict:
    """The condition keys that tell of a request's tags."""
    tags = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    pairs = {str(tag.get("Key", tag.get("key"))): tag.get("Value", tag.get("value", "")) for tag in tags}
    named = {f"aws:RequestTag/{key}": value for key, value in pairs.items()}
    return named | ({"aws:TagKeys": sorted(pairs)} if pairs else {})


def _roles(asked) -> Iterator[str]:
    """The roles that a request hands on, wherever it names them."""
    if isinstance(asked, dict):
        for name, value in asked.items():
            if name in ("RoleArn", "ExecutionRoleArn") and isinstance(value, str):
                yield value
            else:
                yield from _roles(value)
    elif isinstance(asked, list):
        for item in asked:
            yield from _roles(item)
