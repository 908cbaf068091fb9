"""Which operation of which AWS service a request asks for, and in which protocol: told by botocore's models.

A request is signed for a name that several services may share (`sagemaker` has nine). Its operation stands in a header
(JSON), in a form (query, EC2), in the path (CBOR), or is the one that has such a method and path (REST).
"""

import gzip
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl

import botocore.loaders
import botocore.session
from werkzeug import Request

from localaws.errors import AwsError, NotServed

#: Their requests bear a token or a signature of version 2, or nothing: they tell by their operation whose they are.
UNSIGNED = ("account-access-runtime", "codecatalyst", "importexport", "sdb", "sso", "sso-oidc")
MEND = "run it against AWS"
MODEL = "service-2"
HEAD = 8192  # bytes of a model in which its metadata lie
FORM = "application/x-www-form-urlencoded"
S3_CONTROL = re.compile(r"/v20180820/")  # the version that S3 Control's paths begin with


@cache
def model(service: str):
    """botocore's model of a service, by botocore's name for it."""
    return botocore.session.get_session().get_service_model(service)


@cache
def known() -> dict[str, dict]:
    """Return the metadata of each service's model by botocore's name for it.

    Read from the heads of the files: to read them whole takes seconds, and one request waits for it.
    """
    loader, found = botocore.loaders.create_loader(), {}
    for name in loader.list_available_services(MODEL):
        version = loader.determine_latest_version(name, MODEL)
        files = (Path(folder, name, version, f"{MODEL}.json.gz") for folder in loader.search_paths)
        file = next((file for file in files if file.exists()), None)
        if file:
            with gzip.open(file, "rt", encoding="utf-8") as text:
                head = text.read(HEAD)
            found[name] = json.JSONDecoder().raw_decode(head.partition('"metadata":')[2].lstrip())[0]
    return found


def asked(request: Request, signed_for: str | None) -> tuple[str, str]:
    """Return botocore's name of the service and the operation's, of a request that is signed for a name.

    Where no model has it: the name it is signed for; what the request calls it, or its method and path.
    """
    sharing = (
        ["s3control" if is_s3_control(request) else "s3"] if signed_for == "s3" else _sharing(signed_for)
    )
    said, prefix = said_by(request)
    of_prefix = [name for name in sharing if prefix and known()[name].get("targetPrefix") == prefix]
    found = _found(request, of_prefix or sharing or UNSIGNED)
    return found or ((sharing or [signed_for])[0], said or f"{request.method} {request.path}")


def unsigned(request: Request) -> tuple[str, str] | None:
    """Return the service and operation of a request that bears no signature where its service wants none."""
    return None if signing_name(request) else _found(request, UNSIGNED)


def refused(service: str, operation: str, mend: str = MEND) -> AwsError:
    """Return the error for an operation that AWS has and localaws has not, or for one that nobody has."""
    if service in known() and " " not in operation and operation not in model(service).operation_names:
        return AwsError("UnknownOperationException", f"{service} has no operation {operation}")
    return NotServed(f"{operation} of {service}", mend)


def protocol(request: Request) -> str:
    """Return what a request speaks: json, rest-json, query, ec2, rest-xml, s3 (rest-xml of its own) or cbor."""
    signed_for = signing_name(request)
    if request.headers.get("smithy-protocol") == "rpc-v2-cbor":
        return "cbor"
    if "X-Amz-Target" in request.headers:
        return "json"
    if said_by(request)[0]:
        return "ec2" if signed_for == "ec2" else "query"
    if not signed_for and (request.path.startswith("/endpoints/") or unsigned(request)):
        return "rest-json"
    if signed_for in (None, "s3"):
        return "rest-xml" if is_s3_control(request) else "s3"
    spoken = [known()[name]["protocol"] for name in _sharing(signed_for)]
    if request.mimetype == FORM and {"query", "ec2"} & {*spoken}:
        return "query"  # one without an Action
    return next((name for name in spoken if name.startswith("rest")), "rest-json")


def signing_name(request: Request) -> str | None:
    """Return the name that a request says it is signed for; None where it says none."""
    found = re.search(r"Credential=([^,\s]+)", request.headers.get("Authorization", ""))
    scope = (found[1] if found else request.args.get("X-Amz-Credential", "")).split("/")
    return scope[-2] if len(scope) >= 5 else None


def is_s3_control(request: Request) -> bool:
    """Whether a request is S3 Control's, which is signed as S3's are."""
    return bool(S3_CONTROL.match(request.path)) and "X-Amz-Account-Id" in request.headers


@cache
def _sharing(signed_for: str | None) -> list[str]:
    """The services whose requests are signed for a name, the one of that name first."""
    of_name = [name for name, about in known().items() if _signing_name(about) == signed_for]
    return sorted(of_name, key=lambda name: (name != signed_for, name))


def _signing_name(about: dict) -> str:
    return about.get("signingName", about["endpointPrefix"])


def said_by(request: Request) -> tuple[str, str]:
    """The operation that a request itself names, and what stands before it in X-Amz-Target or in the path."""
    prefix, _, operation = request.headers.get("X-Amz-Target", "").rpartition(".")
    if not operation and (found := re.fullmatch(r"/service/([^/]+)/operation/([^/]+)", request.path)):
        prefix, operation = found[1], found[2]
    if not operation and request.mimetype == FORM:
        operation = parse_qs(request.get_data().decode("utf-8", "replace")).get("Action", [""])[0]
    return operation or request.args.get("Action", ""), prefix


@cache
def _routes(service: str) -> list[tuple[str, re.Pattern, frozenset, str]]:
    """Method, path, needed names in the query and name of a REST service's operations, the most particular first."""
    routes = []
    for name in model(service).operation_names:
        http = model(service).operation_model(name).http
        path, _, query = http["requestUri"].partition("?")
        literal = re.sub(r"\{[^}]+\}", "", path)
        pattern = re.sub(
            r"\\\{[^}]+?(\\\+)?\\\}", lambda found: ".+" if found[1] else "[^/]+", re.escape(path)
        )
        needed = frozenset(key for key, _ in parse_qsl(query, keep_blank_values=True)) - {"x-id"}
        routes.append((len(needed), len(literal), http["method"], re.compile(pattern), needed, name))
    routes.sort(key=lambda route: route[:2], reverse=True)
    return [route[2:] for route in routes]


def _matched(service: str, request: Request) -> str:
    """The operation of a REST service that has a request's method and path, "" for none."""
    path = request.environ.get("REQUEST_URI", request.path).partition("?")[0]
    for method, pattern, needed, name in _routes(service):
        if method == request.method and needed <= request.args.keys() and pattern.fullmatch(path):
            return name
    return ""


def _found(request: Request, names: Iterable[str]) -> tuple[str, str] | None:
    """The first of some services that has the operation of a request, and that operation."""
    said, _ = said_by(request)
    for name in names:
        if known()[name]["protocol"].startswith("rest"):
            operation = "" if said else _matched(name, request)
        else:
            operation = said if said in model(name).operation_names else ""
        if operation:
            return name, operation
    return None
