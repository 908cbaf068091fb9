"""The flask application: /ping, /invocations, /execution-parameters, and every error as one JSON object."""

import functools
import gzip
import io
import json
import sys
import traceback
import zlib
from concurrent.futures import ThreadPoolExecutor

from flask import Flask, Response, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.http import parse_accept_header

from stack import algorithm
from stack.errors import InputError, shown
from stack.server import settings
from stack.tables import fast, formats

app = Flask(__name__, static_folder=None)
# Bytes of a large body that a thread takes at a time; fast.c and onnxruntime let the others run meanwhile.
PIECE = 1 << 20
MAX_THREADS = 8

try:
    SETTINGS = settings.read()
    # Here, at import: gunicorn imports this before it forks, so that all workers share one model.
    PREDICTOR = algorithm.predictor()
    MODEL = algorithm.model(PREDICTOR, SETTINGS.model_dir)
except InputError as error:
    sys.exit(f"serve: {error}")
MAY_CUT = PREDICTOR.rows_are_independent and not PREDICTOR.own & {"input_fn", "output_fn"}

if fast.LIBRARY is None:
    print("serve: fast.c is not compiled here (compile.sh): large requests take longer", file=sys.stderr)
# One byte more than is taken: werkzeug ends a chunked body at its limit as if it had ended there.
app.config["MAX_CONTENT_LENGTH"] = SETTINGS.max_body + 1


def invoke(body: bytes, content_type: str, accept: str) -> tuple[bytes, list[tuple[str, str]]]:
    """The way of every invocation: request body to (reply body, reply headers). Raises InputError."""
    # JSON for JSON, where the client has no wish: mlflow's says none, and reads nothing else.
    is_json = content_type.partition(";")[0].strip().lower() == formats.JSON
    if is_json and accept in ("", "*/*") and formats.JSON in (PREDICTOR.replies or ()):
        accept = f"{formats.JSON}, */*;q=0.1"
    media = negotiate(accept)
    try:
        reply, media, rows = side_by_side(body, content_type, media) or answer(body, content_type, media)
    except InputError as error:
        if error.status != 406:
            raise
        try:  # the client's next wish
            media = negotiate(accept, impossible=media)
        except InputError:
            raise error from None
        reply, media, rows = answer(body, content_type, media)
    # X-Rows is for the access log; nginx keeps it from the client.
    return reply, [("Content-Type", media), ("Content-Length", str(len(reply))), ("X-Rows", str(rows))]


@functools.lru_cache(maxsize=256)
def negotiate(accept: str, impossible: str = "") -> str:
    """The media type of the reply to an Accept header: the predictor's first where the client has no wish. Raises 406.

    `impossible` is a type that cannot hold this reply. A predictor that does not say what it writes gets the wish.
    """
    parsed = parse_accept_header(accept or "*/*", MIMEAccept)
    wishes = MIMEAccept([(wish.partition(";")[0].strip(), quality) for wish, quality in parsed])
    if PREDICTOR.replies is None:
        return wishes.best or "*/*"
    types = [media for media in PREDICTOR.replies if media != impossible]
    best = wishes.best_match(types)
    if best is None:
        text = f"no reply is possible as {shown(accept)!r}; accept one of {', '.join(types)}"
        raise InputError(text, "not_acceptable", 406)
    return best


def answer(body: bytes, content_type: str, media: str) -> tuple[bytes, str, int | str]:
    """The reply to a body, its media type, and how many rows it has. Raises InputError."""
    try:
        data = PREDICTOR.input_fn(body, content_type)
    except InputError as error:
        raise with_label(error) from None
    prediction = PREDICTOR.predict_fn(data, MODEL)
    if "predict_fn" in PREDICTOR.own and not PREDICTOR.own & {"input_fn", "output_fn"}:
        algorithm.check_rows(prediction, len(data))
    reply = PREDICTOR.output_fn(prediction, media)
    return *algorithm.reply_body(reply, media), "-" if "input_fn" in PREDICTOR.own else len(data)


def with_label(error: InputError) -> InputError:
    """The error, after a question where its row seems to begin with the label that the model is to predict."""
    columns, features = error.columns, getattr(MODEL, "features", None)
    if columns and columns - 1 == features:
        ask = f"there are {columns} columns where {features} were expected: is the first one the label? Leave it out"
        error.args = (f"{ask}; {error}",)
    return error


def side_by_side(body: bytes, content_type: str, media: str) -> tuple[bytes, str, int] | None:
    """What `answer` gives, for a large CSV body: in pieces, by several threads.

    For a predictor that says that a row's answer does not depend on the rows around it, and leaves reading and writing
    to the stack. None where this is no such body, or something is wrong with it: only the whole knows the number of a row.
    """
    if len(body) <= PIECE or not MAY_CUT or media != formats.CSV:
        return None
    if formats.media_type(content_type) != (formats.CSV, False):
        return None
    pieces = formats.cut(body, PIECE)
    try:
        parts = list(threads().map(lambda piece: answer(body[piece], content_type, media), pieces))
    except InputError:
        return None
    return b"".join(reply for reply, _, _ in parts), media, sum(rows for _, _, rows in parts)


@functools.cache
def threads() -> ThreadPoolExecutor:
    """A worker's own, made when it is needed: threads do not survive the fork."""
    return ThreadPoolExecutor(min(settings.default_workers(), MAX_THREADS))


def rehearse() -> None:
    """One invocation with the algorithm's payload, where it has one: what is imported late is imported now.

    The workers, which give up root's rights, may not be able to read it. Ends the program where that fails, as each
    request would; a payload that is refused (InputError) may be one for another model: that is only said.
    """
    example = algorithm.payload()
    try:
        if example:
            invoke(*example, "*/*")
    except InputError as error:
        print(f"serve: the algorithm's own payload is refused: {error}", file=sys.stderr)
    except algorithm.BadAnswer as error:
        sys.exit(f"serve: predictor.py: {error}")
    except Exception as error:
        traceback.print_exc()
        said = f"{algorithm.where(error)}{type(error).__name__}: {error}"
        sys.exit(f"serve: the algorithm's own payload, tried before the first request, fails: {said}")


@app.get("/ping", provide_automatic_options=False)
def ping():
    return Response(status=200, mimetype="text/plain")


@app.get("/execution-parameters", provide_automatic_options=False)
def execution_parameters():
    return SETTINGS.execution_parameters


@app.post("/invocations", provide_automatic_options=False)
def invocations():
    if "invocation.error" in request.environ:
        raise request.environ["invocation.error"]
    body = request.get_data(cache=False)
    if len(body) > SETTINGS.max_body:
        raise RequestEntityTooLarge
    body = _decoded(body, request.headers.get("Content-Encoding", "identity"))
    reply, headers = invoke(body, request.headers.get("Content-Type", ""), request.headers.get("Accept", ""))
    return Response(reply, 200, headers)


def _decoded(body: bytes, encoding: str) -> bytes:
    """Undoes Content-Encoding, never to more than the payload limit. Raises 400, 413 and 415."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise InputError(
            "this Content-Encoding is not supported; send gzip or none", "unsupported_encoding", 415
        )
    try:
        inflated = gzip.GzipFile(fileobj=io.BytesIO(body)).read(SETTINGS.max_body + 1)
    except EOFError:
        raise InputError("the gzip body is cut off", "bad_gzip") from None
    except (OSError, zlib.error):
        raise InputError("the body is not gzip, as Content-Encoding says", "bad_gzip") from None
    if len(inflated) > SETTINGS.max_body:
        limit = SETTINGS.max_body >> 20
        raise InputError(f"the inflated body is larger than {limit} MB", "payload_too_large", 413)
    return inflated


@app.errorhandler(InputError)
def refused(error: InputError) -> Response:
    return _problem(error.status, error.code, str(error), **error.details)


@app.errorhandler(HTTPException)
def http_problem(error: HTTPException) -> Response:
    code = error.name.lower().replace(" ", "_")
    if error.code == 413:
        code = "payload_too_large"  # as nginx says
        # Without nginx: a client that is still sending reads no answer.
        while request.environ["wsgi.input"].read(1 << 20):
            pass
        message = f"the body is larger than {SETTINGS.max_body >> 20} MB"
    elif error.code == 404:
        message = "there are only /ping, /invocations and /execution-parameters"
    elif error.code == 405:
        message = f"this path takes only {', '.join(sorted(error.valid_methods or ()))}"
    else:
        message = error.name
    response = _problem(error.code, code, message)
    if error.code == 405:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return response


@app.errorhandler(Exception)
def crashed(error: Exception) -> Response:
    app.logger.exception("an invocation failed")
    return _problem(500, "internal_error", "the algorithm failed; the container's log says why")


def _problem(status: int, code: str, message: str, **details) -> Response:
    text = json.dumps({"error": {"code": code, "message": message, **details}}, ensure_ascii=False)
    # Half a surrogate pair, which JSON can say and UTF-8 cannot, goes back as it came.
    return Response(text.encode(errors="backslashreplace"), status, mimetype="application/json")
