"""Clients of AWS for localaws itself, which need neither a socket nor a thread of its server.

Jobs, endpoints and the control plane use S3, IAM, ECR, Logs and CloudWatch as any client does, by signed requests of
boto3's. Over HTTP each would wait for a second thread of the server, and when all threads wait so, none is left.
"""

import io
from collections.abc import Callable
from urllib.parse import unquote_to_bytes, urlsplit

import boto3
import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from werkzeug import Response
from werkzeug.test import EnvironBuilder


class _Body:
    """What a WSGI app answers, as urllib3 reads it: bit by bit, never all of it unless that is asked for."""

    closed = False

    def __init__(self, response: Response):
        self._parts, self._rest = filter(None, response.iter_encoded()), memoryview(b"")
        self._end = response.close

    def close(self) -> None:
        self.closed = True
        self._end()

    def read(self, size: int | None = None) -> bytes:
        if size is None:
            return b"".join([self._rest, *self._parts])
        self._rest = self._rest or memoryview(next(self._parts, b""))
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


def client(service: str, region: str, url: str, app: Callable):
    """Return boto3's client of a service whose requests `app`, which calls itself `url`, answers in the caller's thread."""
    config = Config(s3={"addressing_style": "path"})
    made = boto3.client(service, region_name=region, endpoint_url=url, config=config)

    def send(request: AWSPreparedRequest, **_) -> AWSResponse:
        answer = Response.from_app(app, _environ(request))
        code, headers = answer.status_code, dict(answer.headers)
        options = {"preload_content": False, "decode_content": False, "auto_close": False}
        return AWSResponse(
            request.url, code, headers, urllib3.HTTPResponse(_Body(answer), headers, code, **options)
        )

    made.meta.events.register("before-send", send)
    return made


def _environ(request: AWSPreparedRequest) -> dict:
    """The request as a WSGI server hands it on."""
    url, body = urlsplit(request.url), request.body or b""
    body = body.encode() if isinstance(body, str) else body
    headers = {k: v.decode("latin-1") if isinstance(v, bytes) else v for k, v in request.headers.items()}
    base = f"{url.scheme}://{url.netloc}"
    environ = EnvironBuilder(url.path, base, url.query, request.method, headers=headers).get_environ()
    return environ | {
        "PATH_INFO": unquote_to_bytes(url.path).decode("latin-1"),
        "REQUEST_URI": f"{url.path}?{url.query}" if url.query else url.path,
        "REMOTE_ADDR": url.hostname,
        "CONTENT_LENGTH": headers.get("Content-Length", ""),
        "wsgi.input": body if hasattr(body, "read") else io.BytesIO(body),
        "wsgi.input_terminated": True,
    }
