"""Who may call: the signatures of requests, verified as AWS does, and refused with its codes and words.

Version 4, in a header or in a presigned URL, and S3's forms with a signed policy; of S3's URLs and forms version 2 as
well, which is what boto3 makes unless it is told otherwise. botocore computes the signature that is expected; here it
is only told what was signed. The keys are the owner's, and those that IAM and STS have given out.
"""

import hmac
import json
import re
import time
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import UNSIGNED_PAYLOAD, HmacV1QueryAuth, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from werkzeug import Request

from localaws.errors import AwsError
from localaws.moto.gaps import Key

from . import proxy

NEEDED = "it needs Credential=KEY/DATE/REGION/SERVICE/aws4_request, SignedHeaders, Signature, X-Amz-Date of that DATE."
MISMATCH = "The request signature we calculated does not match the signature you provided. Check your"
INVALID = "The security token included in the request is invalid."
SKEWED = "Signature expired, or not yet current: the clocks differ by more than 5 minutes."
UNSIGNED = (
    "There were headers present in the request which were not signed: Host and each X-Amz- header must be."
)
# What S3 answers, and the other services that speak XML; those that speak JSON have other names for the same.
OF_S3 = {
    "anonymous": ("AccessDenied", "Access Denied."),
    "malformed": ("AuthorizationHeaderMalformed", f"The authorization header is malformed; {NEEDED}"),
    "key": ("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
    "token": ("InvalidToken", "The provided token is malformed or otherwise invalid."),
    "ended": ("ExpiredToken", "The provided token has expired."),
    "signature": ("SignatureDoesNotMatch", f"{MISMATCH} key and signing method."),
    "time": (
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    ),
    "expired": ("AccessDenied", "Request has expired."),
    "unsigned": ("AccessDenied", UNSIGNED),
}
OF_OTHERS = {
    "anonymous": ("MissingAuthenticationToken", "Missing Authentication Token."),
    "malformed": ("IncompleteSignature", f"The authorization is incomplete; {NEEDED}"),
    "key": ("InvalidClientTokenId", INVALID),
    "token": ("InvalidClientTokenId", INVALID),
    "ended": ("ExpiredToken", "The security token included in the request is expired."),
    "signature": ("SignatureDoesNotMatch", f"{MISMATCH} AWS Secret Access Key and signing method."),
    "time": ("SignatureDoesNotMatch", SKEWED),
    "expired": ("SignatureDoesNotMatch", "Signature expired."),
    "unsigned": ("SignatureDoesNotMatch", UNSIGNED),
}
JSON_NAMES = {"InvalidClientTokenId": "UnrecognizedClient", "SignatureDoesNotMatch": "InvalidSignature"}
BAD_REQUESTS = ("AuthorizationHeaderMalformed", "IncompleteSignature", "InvalidToken")
MEND = " localaws takes its own keys: python -m localaws env"
SKEW, S3_SKEW, WEEK = 300, 900, 604_800  # seconds
TIME, DIGEST = re.compile(r"\d{8}T\d{6}Z"), re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"[0-9]{1,11}")
UNCHECKED = {"policy", "signature", "x-amz-signature", "awsaccesskeyid"}  # fields that no policy names


class _V4(SigV4Auth):
    """botocore's signer for a request whose headers are those that were signed, and whose data is its payload's digest."""

    def headers_to_sign(self, request):
        return request.headers

    def payload(self, request):
        return request.data


class _S3V4(_V4):
    _normalize_url_path = S3SigV4Auth._normalize_url_path


class _V2(HmacV1QueryAuth):
    def _get_date(self):
        return self._expires


class Signatures:
    """Verifies requests; `find` gives the key that an access key id belongs to, or None."""

    def __init__(self, find: Callable[[str], Key | None]):
        self._find = find

    def verify(self, request: Request) -> tuple[str | None, str]:
        """Return the region and the service that a request is signed for. Raises AwsError, as that service would."""
        header, query = request.headers.get("Authorization"), request.args
        if header or "X-Amz-Signature" in query:
            return self._version_4(request, header)
        if {"AWSAccessKeyId", "Signature", "Expires"} <= query.keys():
            return self._version_2(request)
        alone = not query and "X-Amz-Target" not in request.headers  # else it might pass for another request
        if alone and request.method == "POST" and request.mimetype == "multipart/form-data":
            return self._form(request)
        raise _refusal(request, None, "anonymous")

    def _version_4(self, request: Request, header: str | None) -> tuple[str, str]:
        if header:
            kind, _, rest = header.partition(" ")
            stated = dict(part.strip().partition("=")[::2] for part in rest.split(","))
            stated |= {name: request.headers.get(f"X-Amz-{name}") for name in ("Date", "Security-Token")}
        else:
            stated = {name.removeprefix("X-Amz-"): value for name, value in request.args.items()}
            kind = stated.get("Algorithm")
        identity, day, region, service, date = _scope(stated)
        signed, environ = (stated.get("SignedHeaders") or "").split(";"), request.environ
        if kind != "AWS4-HMAC-SHA256" or not day or not stated.get("Signature"):
            raise _refusal(request, service, "malformed")
        key = self._key(request, service, identity, stated.get("Security-Token"))
        _check_time(request, service, date, None if header else stated.get("Expires", ""))
        sent = {name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_X_AMZ_")}
        if not sent | {"host"} <= {*signed}:
            raise _refusal(request, service, "unsigned")
        headers, body = HTTPHeaders(), request.headers.get("X-Amz-Content-Sha256")
        for name in signed:
            headers[name] = request.headers.get(name, "")
        if "host" in headers and proxy.HOST in environ:
            headers.replace_header("host", environ[proxy.HOST])
        payload = body or (UNSIGNED_PAYLOAD if service == "s3" and not header else _digest(environ))
        query = parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
        parameters = [(name, value) for name, value in query if name != "X-Amz-Signature"]
        url = "http://localaws" + environ.get(proxy.PATH, environ["REQUEST_URI"]).partition("?")[0]
        asked = AWSRequest(request.method, url, headers, payload, parameters)
        asked.context["timestamp"] = date
        signer = (_S3V4 if service == "s3" else _V4)(key, service, region)
        expected = signer.signature(signer.string_to_sign(asked, signer.canonical_request(asked)), asked)
        _compare(request, service, expected, stated["Signature"])
        if body and DIGEST.fullmatch(body) and body != _digest(environ):
            if service != "s3":
                raise _refusal(request, service, "signature")
            words = "The provided 'x-amz-content-sha256' header does not match what was computed."
            raise AwsError("XAmzContentSHA256Mismatch", words)
        return region, service

    def _version_2(self, request: Request) -> tuple[None, str]:
        query, counted = request.args, ("x-amz-", "content-type", "content-md5")
        stated = {name.lower(): value for name, value in (*query.items(), *request.headers.items())}
        headers = HTTPHeaders.from_dict({name: stated[name] for name in stated if name.startswith(counted)})
        key = self._key(request, "s3", query["AWSAccessKeyId"], headers.get("x-amz-security-token"))
        if not NUMBER.fullmatch(query["Expires"]) or int(query["Expires"]) < time.time():
            raise _refusal(request, "s3", "expired")
        signer, url = _V2(key, query["Expires"]), urlsplit("http://localaws" + request.environ["REQUEST_URI"])
        _compare(request, "s3", signer.get_signature(request.method, url, headers), query["Signature"])
        return None, "s3"

    def _form(self, request: Request) -> tuple[str | None, str]:
        posted = Request(request.environ, populate_request=False)
        fields = {name.lower(): value for name, value in posted.form.items()}
        size = max((file.seek(0, 2) or file.tell() for file in posted.files.values()), default=0)
        request.environ["wsgi.input"].seek(0)
        fields["bucket"], policy = request.path.strip("/"), fields.get("policy", "")
        stated = {"Credential": fields.get("x-amz-credential"), "Date": fields.get("x-amz-date")}
        identity, day, region, _, date = _scope(stated)
        if not (day or "awsaccesskeyid" in fields):
            raise _refusal(request, "s3", "anonymous")
        token = fields.get("x-amz-security-token")
        key = self._key(request, "s3", identity if day else fields["awsaccesskeyid"], token)
        if day:
            asked = SimpleNamespace(context={"timestamp": date})
            signature, expected = "x-amz-signature", _V4(key, "s3", region).signature(policy, asked)
        else:
            signature, expected = "signature", _V2(key).sign_string(policy)
        _compare(request, "s3", expected, fields.get(signature, ""))
        if wrong := _breach(json.loads(b64decode(policy)), fields, size):
            raise AwsError("AccessDenied", f"Invalid according to Policy: {wrong}", 403)
        return region, "s3"

    def _key(self, request: Request, service: str, identity: str, token: str | None) -> Key:
        key = self._find(identity)
        if key is None:
            raise _refusal(request, service, "key")
        if not hmac.compare_digest((token or "").encode(), (key.token or "").encode()):
            raise _refusal(request, service, "token")
        if key.ends < time.time():
            raise _refusal(request, service, "ended")
        return key


def _scope(stated: dict) -> tuple:
    """Key id, day, region, service and time that a signature of version 4 is for; `day` is "" where they do not fit."""
    identity, *scope = (stated.get("Credential") or "").rsplit("/", 4)
    day, region, service, end = scope if len(scope) == 4 else [""] * 4
    date = stated.get("Date") or ""
    fits = end == "aws4_request" and TIME.fullmatch(date) and date.startswith(day)
    return identity, day if fits else "", region, service or None, date


def _check_time(request: Request, service: str, date: str, expires: str | None) -> None:
    """A signature is good for minutes, one in a URL for as long as that says."""
    try:
        age = time.time() - datetime.fromisoformat(date).timestamp()
    except ValueError:
        raise _refusal(request, service, "malformed") from None
    skew = S3_SKEW if service == "s3" else SKEW
    if expires is not None and not (NUMBER.fullmatch(expires) and 0 < int(expires) <= WEEK):
        words = f"X-Amz-Expires is {expires!r}: it must be a number of seconds up to a week, {WEEK}."
        raise AwsError("AuthorizationQueryParametersError", words)
    if age > int(expires or skew):
        raise _refusal(request, service, "expired" if expires else "time")
    if age < -skew:
        raise _refusal(request, service, "time")


def _breach(policy: dict, fields: dict[str, str], size: int) -> str | None:
    """What of a form its policy does not allow."""
    if datetime.fromisoformat(policy["expiration"]).timestamp() < time.time():
        return "Policy expired."
    named = {*UNCHECKED}
    for condition in policy["conditions"]:
        # {"name": "value"} is short for ["eq", "$name", "value"].
        short = condition.items() if isinstance(condition, dict) else ()
        for operator, what, value in [("eq", *pair) for pair in short] or [condition]:
            have = fields.get(str(what).removeprefix("$").lower(), "")
            named.add(str(what).removeprefix("$").lower())
            if operator == "content-length-range":
                fits = int(what) <= size <= int(value)
            else:
                fits = have == value or (operator == "starts-with" and have.startswith(value))
            if not fits:
                return f"Policy Condition failed: {json.dumps(condition)}"
    extra = sorted(name for name in fields.keys() - named if not name.startswith("x-ignore-"))
    return f"Extra input fields: {', '.join(extra)}" if extra else None


def _compare(request: Request, service: str, expected: str, given: str) -> None:
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise _refusal(request, service, "signature")


def _digest(environ: dict) -> str:
    """SHA-256 of a body, which is left to be read again."""
    stream = environ["wsgi.input"]
    start, digest = stream.tell(), sha256()
    while piece := stream.read(1 << 20):
        digest.update(piece)
    stream.seek(start)
    return digest.hexdigest()


def _refusal(request: Request, service: str | None, what: str) -> AwsError:
    target = "X-Amz-Target" in request.headers
    if service is None and not target:  # the request's form tells
        form = request.mimetype == "application/x-www-form-urlencoded"
        service = "iam" if form else "sagemaker" if request.path.startswith("/endpoints/") else "s3"
    code, words = (OF_S3 if service == "s3" else OF_OTHERS)[what]
    if target or service not in ("s3", "iam", "sts", "monitoring"):
        return AwsError(f"{JSON_NAMES.get(code, code)}Exception", words + MEND, 400 if target else 403)
    return AwsError(code, words + MEND, 400 if code in BAD_REQUESTS else 403)
