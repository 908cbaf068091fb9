"""What gunicorn runs: flask, with a shorter way for the invocation that nearly all are.

A plain CSV body needs nothing that flask offers, and flask costs more than a small prediction. Anything
else, and anything that goes wrong, is flask's: it answers all the same, from the same functions.
"""

import io
import sys

import formats
import numpy as np
from app import SETTINGS, app, invoke


def application(environ, start_response):
    length = environ.get("CONTENT_LENGTH") or "0"
    if (
        environ["PATH_INFO"] == "/invocations"
        and environ["REQUEST_METHOD"] == "POST"
        and environ.get("CONTENT_TYPE", "").startswith("text/csv")
        and "HTTP_CONTENT_ENCODING" not in environ
        and 0 < int(length) <= SETTINGS.max_body
    ):
        body = environ["wsgi.input"].read(int(length))
        try:
            reply, headers = invoke(body, environ["CONTENT_TYPE"], environ.get("HTTP_ACCEPT", ""))
        except Exception as error:
            environ["invocation.error"] = error  # flask raises it again, and answers for it
        else:
            start_response("200 OK", headers)
            return [reply]
    return app(environ, start_response)


def warm_up() -> None:
    """Has every kind of request answered once, before the fork.

    What Python and the libraries import late is imported now: the first clients do not wait for it, and the
    workers, which give up root's rights, may not be able to read it.
    """
    for media in formats.TYPES:
        formats.encode({"label": np.array(["a"], object)}, media)
        formats.encode({"share": np.ones(1, np.float32)}, media)
    requests = [("GET", "/ping", "", b""), ("GET", "/", "", b""), ("PUT", "/ping", "", b"")]
    requests += [
        ("POST", "/invocations", media, body)
        for media in formats.TYPES
        for body in (b"1", b"\x93NUMPY\x01\x00")
    ]
    for method, path, media, body in requests:
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_TYPE": media,
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
        }
        for chunk in app(environ, lambda status, headers, exc_info=None: None):
            len(chunk)


warm_up()
