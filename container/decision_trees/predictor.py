"""Answers requests with the decision tree in model.onnx, by the four functions of SageMaker's toolkits."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import formats
import numpy as np
import onnx_check
from errors import InputError

# onnxruntime reads this when it is imported. Without it, it reports its use to its makers over the network,
# from a thread that does not survive the fork of a server's workers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

FILE = "model.onnx"
FORMAT = 1  # of the metadata that training.py writes
MAX_SIZE = 1 << 30
OUTPUTS = ("predicted_label", "probability", "probabilities", "labels")


class Model(NamedTuple):
    session: onnxruntime.InferenceSession
    features: int
    labels: tuple[str, ...]
    outputs: list[str]


def model_fn(model_dir: Path) -> Model:
    """Loads model_dir/model.onnx, to answer with what SAGEMAKER_INFERENCE_OUTPUT lists.

    Raises InputError that names the variable or the file, and the cause.
    """
    wanted = os.environ.get("SAGEMAKER_INFERENCE_OUTPUT", OUTPUTS[0])
    outputs = [name.strip() for name in wanted.split(",")]
    if not set(outputs) <= set(OUTPUTS) or len(set(outputs)) < len(outputs):
        raise InputError(
            f"SAGEMAKER_INFERENCE_OUTPUT={wanted!r} must list some of {', '.join(OUTPUTS)}, each once"
        )
    file = model_dir / FILE
    try:
        return load(file, outputs)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; has a training job written it?") from None
    except Exception as error:  # of ours, of json, and onnxruntime has a dozen of its own
        cause = str(error).splitlines()[0]
        raise InputError(f"{file} is not a model that can be served: {cause}") from None


def load(file: Path, outputs: list[str]) -> Model:
    content = read(file)
    needed, labels = onnx_check.one_tree(content)
    options = onnxruntime.SessionOptions()
    # The workers are the parallelism; threads made here would not be there after the fork.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    if metadata.get("format") != FORMAT:
        made = metadata.get("versions", "unknown versions")
        raise ValueError(
            f"format {metadata.get('format')}, made with {made}; expected {FORMAT}: train it anew"
        )
    model = Model(session, metadata["features"], tuple(labels), outputs)
    if metadata["features"] < needed:
        raise ValueError(f"its tree needs {needed} features; its metadata says {metadata['features']}")
    if metadata["labels"] != labels:
        raise ValueError("the labels of its tree and of its metadata differ")
    # A first prediction shows that the parts fit, and leaves nothing for the first client to wait for.
    (probabilities,) = scores(np.zeros((1, model.features), np.float32), model)
    if probabilities.shape[1] != len(model.labels):
        raise ValueError(f"{len(model.labels)} labels for {probabilities.shape[1]} classes")
    return model


def read(file: Path) -> bytes:
    """The bytes of a regular file that lies in its folder, and in reason."""
    real = file.resolve(strict=True)
    if not real.is_relative_to(file.parent.resolve()):
        raise ValueError("it is a link to another folder")
    if not real.is_file():
        raise ValueError("it is not a regular file")
    if not 0 < real.stat().st_size <= MAX_SIZE:
        raise ValueError(f"it has {real.stat().st_size} bytes; expected 1 to {MAX_SIZE}")
    return real.read_bytes()


def input_fn(body: bytes, content_type: str) -> np.ndarray:
    """A request as float32 (rows, features)."""
    return formats.decode(body, content_type)


def predict_fn(data: np.ndarray, model: Model) -> dict:
    """The answer's columns by name, in the order of SAGEMAKER_INFERENCE_OUTPUT.

    Each row is answered by itself: of a large body the server has some thousand rows predicted at a time.
    """
    if data.shape[1] != model.features:
        text = f"the rows have {data.shape[1]} columns; the model was trained on {model.features} features"
        raise InputError(text, "bad_columns")
    pieces = scores(data, model)
    if model.outputs == ["predicted_label"]:
        codes = np.concatenate([piece.argmax(axis=1) for piece in pieces])
        return {"predicted_label": formats.Categories(model.labels, codes)}
    probabilities = np.concatenate(list(pieces))
    columns = {
        "predicted_label": formats.Categories(model.labels, probabilities.argmax(axis=1)),
        "probability": probabilities.max(axis=1),
        "probabilities": probabilities,
        "labels": [list(model.labels)] * len(data),
    }
    return {name: columns[name] for name in model.outputs}


def scores(data: np.ndarray, model: Model) -> Iterator[np.ndarray]:
    """Probabilities, float32 (rows, classes), for some thousand rows at a time: several times as fast as all at once.

    The greatest one is the label's. The model's output `label` says the same, and takes ten times as long to make a
    string for each row.
    """
    for i in range(0, len(data), formats.PIECE):
        yield model.session.run(["probabilities"], {"features": data[i : i + formats.PIECE]})[0]


def output_fn(prediction: dict, accept: str) -> bytes:
    """The answer in the media type `accept`."""
    return formats.encode(prediction, accept)
