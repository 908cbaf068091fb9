"""AWS's protocols: JSON requests in, answers out; and errors in whichever form the caller reads."""

import json
import struct
import uuid
from xml.sax.saxutils import escape

from werkzeug import Request, Response

from localaws import services
from localaws.errors import AwsError

# Error's envelopes. S3 has none, EC2 one of its own.
XML = {
    "s3": "<Error>{error}<RequestId>{id}</RequestId></Error>",
    "ec2": "<Response><Errors><Error>{error}</Error></Errors><RequestID>{id}</RequestID></Response>",
    "query": "<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{id}</RequestId></ErrorResponse>",
}
XML["rest-xml"] = XML["query"]


def parse(request: Request) -> dict:
    """Return the object in a request's body. Raises AwsError SerializationException when it is none."""
    try:
        value = json.loads(request.get_data() or b"{}")
    except ValueError as error:
        raise AwsError("SerializationException", f"The request's body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AwsError("SerializationException", "The request's body is not a JSON object")
    return value


def answer(value, status: int = 200, headers: dict | None = None) -> Response:
    """Answer with a JSON value."""
    response = Response(json.dumps(value), status, headers, content_type="application/x-amz-json-1.1")
    response.headers["x-amzn-RequestId"] = str(uuid.uuid4())
    return response


def failure(error: AwsError, request: Request) -> Response:
    """Answer a request with an error in the form that its protocol has for it."""
    form = services.protocol(request)
    if form in XML:
        inner = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        body = XML[form].format(error=inner, id=uuid.uuid4())
        return Response(body, error.status, content_type="application/xml")
    if form == "cbor":
        body = b"\xa2" + b"".join(map(_text, ("__type", error.code, "message", error.message)))
        return Response(
            body, error.status, {"smithy-protocol": "rpc-v2-cbor"}, content_type="application/cbor"
        )
    body = {"__type": error.code, "message": error.message, **error.fields}
    return answer(body, error.status, {"x-amzn-errortype": error.code})


def _text(text: str) -> bytes:
    """A text string in CBOR, its length in four bytes (RFC 8949, section 3.1); 0xa2 begins a map of two pairs."""
    content = text.encode()
    return struct.pack(">BI", 0x7A, len(content)) + content


def bound(request: Request, limit: int) -> None:
    """Refuse a body of more than `limit` bytes."""
    if (request.content_length or 0) > limit:
        raise AwsError(
            "RequestEntityTooLargeException",
            f"The body has {request.content_length:,} bytes, localaws takes at most {limit:,} here",
            413,
        )
