"""Answers a text with its length and that of the training data, as JSON."""

import json
from pathlib import Path

from stack.errors import InputError

REPLIES = ("application/json",)  # what output_fn writes; the stack answers 406 to who accepts none of it


def model_fn(model_dir):
    """What `train` wrote. It is called once, before the server's workers are made."""
    # TODO: read your model.
    return json.loads(Path(model_dir, "model.json").read_text())


def input_fn(body, content_type):
    """The body of a request as predict_fn wants it. What it raises as InputError is the client's, as a 400."""
    # TODO: your content types.
    if content_type.partition(";")[0].strip().lower() != "text/plain":
        raise InputError("send text/plain", "unsupported_media_type", 415)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8 at byte {error.start + 1}", "not_utf8") from None


def predict_fn(data, model):
    """The answer to one request."""
    # TODO: ask your model.
    return {"lines": len(data.splitlines()), "lines_of_training": model["lines"]}


def output_fn(prediction, accept):
    """The answer as `accept`, one of REPLIES: text or bytes."""
    return json.dumps(prediction)
