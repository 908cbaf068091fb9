"""What gunicorn runs: flask, with a shorter way for the invocation that nearly all are.

A body that is not compressed needs nothing that flask offers, and flask costs more than a small prediction.
Anything else, and anything that goes wrong, is flask's: it answers all the same, from the same functions.
"""

import contextlib
from wsgiref.util import setup_testing_defaults

import numpy as np

from stack.errors import InputError
from stack.server.app import SETTINGS, app, invoke, negotiate, rehearse
from stack.tables import formats


def application(environ, start_response):
    length = environ.get("CONTENT_LENGTH") or "0"
    if (
        environ["PATH_INFO"] == "/invocations"
        and environ["REQUEST_METHOD"] == "POST"
        and "HTTP_CONTENT_ENCODING" not in environ
        and 0 < int(length) <= SETTINGS.max_body
    ):
        body = environ["wsgi.input"].read(int(length))
        try:
            reply, headers = invoke(body, environ.get("CONTENT_TYPE", ""), environ.get("HTTP_ACCEPT", ""))
        except Exception as error:
            environ["invocation.error"] = error  # flask raises it again, and answers for it
        else:
            start_response("200 OK", headers)
            return [reply]
    try:
        return app(environ, start_response)
    finally:
        # It holds this frame and so the body, and would until the next collection of cycles.
        environ.pop("invocation.error", None)


def warm_up() -> None:
    """Has the formats and flask used once, before the fork.

    What Python and the libraries import late is imported now: the first clients do not wait for it, and the
    workers, which give up root's rights, may not be able to read it.
    """
    bodies = {
        formats.JSON_LINES: (b"[1]", b"x"),
        formats.NPY: (b"\x93NUMPY\x01\x00", formats.encode({"": np.ones((1, 1))}, formats.NPY)),
    }
    negotiate("*/*")
    for media in formats.TYPES:
        formats.encode({"label": formats.Categories(("a",), np.zeros(1, int))}, media)
        formats.encode({"share": np.ones(1, np.float32)}, media)
        for body in bodies.get(media, (b'{"instances": [[1]]}', b"1", b"\xff")):
            with contextlib.suppress(InputError):
                formats.decode(body, media)
    # The last one fails before it comes to the algorithm, which may not like strange requests.
    requests = [("GET", "/ping"), ("GET", "/"), ("PUT", "/ping"), ("POST", "/invocations")]
    for method, path in requests:
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_CONTENT_ENCODING": "unknown"}
        setup_testing_defaults(environ)
        for chunk in app(environ, lambda status, headers, exc_info=None: None):
            len(chunk)


# When gunicorn imports this, before it forks its workers (preload_app).
warm_up()
rehearse()
