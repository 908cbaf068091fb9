"""A limit: the same nginx and gunicorn, and an application that reads the body and answers one word."""

REPLY = b"setosa\n"


def application(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/csv"), ("Content-Length", str(len(REPLY)))])
    return [REPLY]
