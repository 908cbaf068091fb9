"""AWS's JSON 1.1 protocol: requests in, answers and errors out; and errors for the services that speak XML."""

import json
import uuid
from xml.sax.saxutils import escape

from werkzeug import Request, Response

from localaws.errors import AwsError


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


def failure(error: AwsError) -> Response:
    """Answer with an error in AWS's form."""
    if not error.root:
        body = {"__type": error.code, "message": error.message, **error.fields}
        return answer(body, error.status, {"x-amzn-errortype": error.code})
    inner = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
    if error.root != "Error":
        inner = f"<Error><Type>Sender</Type>{inner}</Error>"
    return Response(f"<{error.root}>{inner}</{error.root}>", error.status, content_type="application/xml")


def bound(request: Request, limit: int) -> None:
    """Refuse a body of more than `limit` bytes."""
    if (request.content_length or 0) > limit:
        raise AwsError(
            "RequestEntityTooLargeException",
            f"The body has {request.content_length:,} bytes, localaws takes at most {limit:,} here",
            413,
        )
