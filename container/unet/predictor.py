"""Answers a picture with its mask: image/png or application/x-npy in; PNG, probabilities as npy, or JSON out."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pictures
from stack import onnx_model
from stack.errors import InputError, shown
from stack.onnx_model import check
from stack.tables.formats import NPY, npy

PNG, JSON = "image/png", "application/json"
REPLIES = (PNG, NPY, JSON)
FORMAT = "unet 1"
MAX_DEPTH = 6  # of a network that is trained or served


class Model(NamedTuple):
    """A loaded model.onnx: channels of a picture, 1 or 3; classes; what height and width must be multiples of."""

    session: onnxruntime.InferenceSession
    channels: int
    classes: int
    multiple: int


def model_fn(model_dir):
    """What `train` wrote. Raises InputError for another model, or one that cannot be served."""
    file = Path(model_dir) / onnx_model.FILE
    try:
        content = onnx_model.read(file)
        check.graph(content)
        session = onnx_model.session(content)
        about = session.get_modelmeta().custom_metadata_map
        if about.get("format") != FORMAT:
            raise ValueError(f"its format is {about.get('format')!r}; expected {FORMAT!r}: train it anew")
        model = Model(session, *(int(about[name]) for name in ("channels", "classes", "multiple")))
        if model.channels not in pictures.MODES or model.multiple not in [
            2**depth for depth in range(1, MAX_DEPTH + 1)
        ]:
            raise ValueError(f"channels={model.channels}, multiple={model.multiple}: train it anew")
        # A first answer shows that the parts fit, and leaves nothing for the first client to wait for.
        size = (model.multiple, model.multiple)
        answer = predict_fn(np.zeros((*size, model.channels), np.uint8), model)
        if answer.shape != (model.classes, *size) or answer.dtype != np.float32:
            raise ValueError(
                f"it answers {answer.dtype} of {answer.shape} for {model.classes} classes: train it anew"
            )
        return model
    except Exception as error:  # of ours, and onnxruntime has a dozen of its own
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{file} is not a model that can be served: {cause}") from None


def input_fn(body, content_type):
    """A request's picture, uint8 of (height, width, channels). Raises InputError."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in (PNG, NPY):
        raise InputError(
            f"content type {shown(content_type)!r} is not supported; send {PNG}, or {NPY} of uint8",
            "unsupported_media_type",
            415,
        )
    if not body:
        raise InputError("the request has no body; send a picture", "empty_body")
    if media == PNG:
        return pictures.read(body, "the picture")
    array = npy(body)
    picture = pictures.shaped(array)
    if array.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in pictures.MODES:
        raise InputError(
            f"expected uint8 of shape (height, width) or (height, width, 3); got {array.dtype} of {shown(str(array.shape))}",
            "bad_npy",
        )
    return picture


def predict_fn(data, model):
    """The probability of each class at each pixel, float32 of (classes, height, width)."""
    height, width, channels = data.shape
    if channels != model.channels:
        trained, sent = pictures.MODES[model.channels], pictures.MODES[channels]
        mend = (
            'convert it, as by Pillow\'s convert("RGB"), if that is what you mean'
            if channels == 1
            else "convert it"
        )
        raise InputError(
            f"the picture is {sent}; the model was trained on {trained} pictures: {mend}", "bad_image"
        )
    pictures.check_work(height, width, model.multiple, model.classes, "the picture")
    picture = pictures.padded(data, model.multiple)
    (found,) = model.session.run(["probabilities"], {"pictures": picture[None]})
    return found[0, :, :height, :width]


def output_fn(prediction, accept):
    """The answer as `accept`, one of REPLIES."""
    if accept == NPY:
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(prediction), allow_pickle=False)
        return stream.getvalue()
    classes, height, width = prediction.shape
    mask = most_likely(prediction)
    if accept == PNG:
        return pictures.png(mask, classes)
    shares = np.bincount(mask.ravel(), minlength=classes) / mask.size
    return json.dumps(
        {"width": width, "height": height, "classes": classes, "shares": shares.round(6).tolist()}
    )


def most_likely(probabilities: np.ndarray) -> np.ndarray:
    """The class of each pixel, uint8 of (height, width); the first of those that are equally likely."""
    if len(probabilities) == 2:  # the same, a millisecond quicker for 256 x 256 pixels
        return (probabilities[1] > probabilities[0]).view(np.uint8)
    return probabilities.argmax(axis=0).astype(np.uint8)
