"""Answers requests with the decision tree in model.onnx, by the four functions of SageMaker's toolkits."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import formats
import numpy as np
from errors import InputError

# onnxruntime reads this when it is imported. Without it, it reports its use to its makers over the network,
# from a thread that does not survive the fork of a server's workers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

FILE = "model.onnx"
FORMAT = 1  # of the metadata that training.py writes
OUTPUTS = ("predicted_label", "probability", "probabilities", "labels")


class Model(NamedTuple):
    session: onnxruntime.InferenceSession
    features: int
    labels: list[str]
    outputs: list[str]


def model_fn(model_dir: Path) -> Model:
    """Loads model_dir/model.onnx, and what is to be answered from SAGEMAKER_INFERENCE_OUTPUT.

    Raises InputError that names the file, or the variable, and the cause.
    """
    wanted = os.environ.get("SAGEMAKER_INFERENCE_OUTPUT", OUTPUTS[0])
    outputs = [name.strip() for name in wanted.split(",")]
    if not set(outputs) <= set(OUTPUTS) or len(set(outputs)) < len(outputs):
        raise InputError(
            f"SAGEMAKER_INFERENCE_OUTPUT={wanted!r} must list some of {', '.join(OUTPUTS)}, each once"
        )
    file = model_dir / FILE
    options = onnxruntime.SessionOptions()
    # The workers are the parallelism; threads made here would not be there after the fork.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        content = read(file)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        metadata = {
            name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()
        }
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; has a training job written it?") from None
    except InputError:
        raise
    except Exception as error:  # onnxruntime has a dozen of its own
        raise InputError(f"{file} is not a model of this container: {str(error).splitlines()[0]}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{file} has format {metadata.get('format')}; this container reads {FORMAT}: train it anew"
        )
    return Model(session, metadata["features"], metadata["labels"], outputs)


def read(file: Path) -> bytes:
    return file.read_bytes()


def input_fn(body: bytes, content_type: str) -> np.ndarray:
    """A request as float32 (rows, features)."""
    return formats.decode(body, content_type)


def predict_fn(data: np.ndarray, model: Model) -> dict:
    """The answer's columns by name, in the order of SAGEMAKER_INFERENCE_OUTPUT."""
    if data.shape[1] != model.features:
        text = f"the rows have {data.shape[1]} columns; the model was trained on {model.features} features"
        raise InputError(text, "bad_columns")
    labels, probabilities = run(data, model)
    if model.outputs == ["predicted_label"]:
        return {"predicted_label": labels}
    columns = {
        "predicted_label": labels,
        "probability": probabilities.max(axis=1),
        "probabilities": probabilities,
        "labels": [model.labels] * len(data),
    }
    return {name: columns[name] for name in model.outputs}


def run(data: np.ndarray, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Labels, str objects (rows,), and probabilities, float32 (rows, classes)."""
    return model.session.run(None, {"features": data})


def output_fn(prediction: dict, accept: str) -> bytes:
    """The answer in the media type `accept`."""
    return formats.encode(prediction, accept)
