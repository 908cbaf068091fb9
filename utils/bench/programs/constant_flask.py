"""A limit: the same nginx and gunicorn, and a flask application that reads the body and answers one word."""

import encodings.idna  # noqa: F401  # flask imports it late, and a worker of nobody may not be able to read it

from flask import Flask, Response, request

application = Flask(__name__)


@application.get("/ping")
def ping():
    return Response()


@application.post("/invocations")
def invocations():
    request.get_data(cache=False)
    return Response(b"setosa\n", mimetype="text/csv")
