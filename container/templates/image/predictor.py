"""Answers with the class whose mean colour is nearest to an image's: a PNG or JPEG to JSON."""

import json
from pathlib import Path

import images
import numpy as np
from stack.errors import InputError

REPLIES = ("application/json",)  # what output_fn writes; the stack answers 406 to who accepts none of it


def model_fn(model_dir):
    """What `train` wrote."""
    # TODO: read your model.
    return json.loads(Path(model_dir, "model.json").read_text())


def input_fn(body, content_type):
    """The body of a request as an array. What it raises as InputError is the client's, by default as a 400."""
    if content_type.partition(";")[0].strip().lower() not in ("image/png", "image/jpeg"):
        raise InputError("send image/png or image/jpeg", "unsupported_media_type", 415)
    return images.read(body, "the body")


def predict_fn(data, model):
    """The answer for one image: a label, and how far its mean colour is from that of the class."""
    # TODO: ask your model.
    colour = data.mean(axis=(0, 1))
    distances = {label: float(np.linalg.norm(colour - mean)) for label, mean in model.items()}
    label = min(distances, key=distances.get)
    return {"label": label, "distance": round(distances[label], 4)}


def output_fn(prediction, accept):
    """The answer as `accept`, one of REPLIES: text or bytes."""
    return json.dumps(prediction)
