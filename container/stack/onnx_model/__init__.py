"""A fitted estimator as model.onnx: written by `fit` and `save`, read and asked by `model_fn` and `predict_fn`.

ONNX is data: loading it runs no code, and ONNX Runtime answers without scikit-learn.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from stack.errors import InputError
from stack.onnx_model import check
from stack.tables.formats import Categories

FILE = "model.onnx"
FORMAT = 2  # of the metadata that `save` writes
MAX_SIZE = 1 << 30
# What SAGEMAKER_INFERENCE_OUTPUT may list for a classifier, as SageMaker's own containers name it.
OUTPUTS = ("predicted_label", "probability", "probabilities", "labels")


class Model(NamedTuple):
    """A loaded model.onnx.

    features:      numbers that a row has
    labels:        of its classes, by number; None: it predicts numbers
    probabilities: it has those of the classes
    outputs:       what to answer with
    """

    session: onnxruntime.InferenceSession
    features: int
    labels: tuple[str, ...] | None
    probabilities: bool
    outputs: tuple[str, ...] = OUTPUTS[:1]


def model_fn(model_dir: Path) -> Model:
    """Loads model_dir/model.onnx, to answer with what SAGEMAKER_INFERENCE_OUTPUT lists.

    Raises InputError that names the variable or the file, and the cause.
    """
    model = load(Path(model_dir) / FILE)
    wanted = os.environ.get("SAGEMAKER_INFERENCE_OUTPUT")
    if wanted is None:
        return model
    outputs = tuple(name.strip() for name in wanted.split(","))
    possible = () if model.labels is None else OUTPUTS if model.probabilities else OUTPUTS[:1]
    if not set(outputs) <= set(possible) or len(set(outputs)) < len(outputs):
        must = (
            f"must list some of {', '.join(possible)}, each once"
            if possible
            else "must not be set: the model predicts numbers"
        )
        raise InputError(f"SAGEMAKER_INFERENCE_OUTPUT={wanted!r} {must}")
    return model._replace(outputs=outputs)


def predict_fn(data: np.ndarray, model: Model) -> dict:
    """The answer's columns by name: a label a row, or what SAGEMAKER_INFERENCE_OUTPUT lists; numbers of a regressor."""
    if data.shape[1] != model.features:
        text = f"the rows have {data.shape[1]} columns; the model was trained on {model.features} features"
        if data.shape[1] == model.features + 1:
            text += ": is the first one the label? Leave it out"
        raise InputError(text, "bad_columns")
    if model.labels is None:
        return {"prediction": model.session.run(["variable"], {"features": data})[0].reshape(len(data))}
    if model.outputs == OUTPUTS[:1]:
        return {
            "predicted_label": Categories(model.labels, model.session.run(["label"], {"features": data})[0])
        }
    codes, probabilities = model.session.run(["label", "probabilities"], {"features": data})
    columns = {
        "predicted_label": Categories(model.labels, codes),
        "probability": probabilities.max(axis=1),
        "probabilities": probabilities,
        "labels": [list(model.labels)] * len(data),
    }
    return {name: columns[name] for name in model.outputs}


def numbers(rows: np.ndarray, model: Model | bytes) -> np.ndarray:
    """The answers to rows, of a classifier its classes' numbers; of a model, or, on another host, of its file's bytes."""
    (answers,) = predict_fn(rows, model if isinstance(model, Model) else loaded(model)).values()
    return getattr(answers, "codes", answers)


def load(file: Path) -> Model:
    """The model in a file, whose first answer was tried. Raises InputError that names the file and the cause."""
    try:
        return loaded(read(file))
    except OSError as error:
        beside = (
            ", ".join(sorted(path.name for path in file.parent.glob("*") if path != file)) or "nothing else"
        )
        mend = (
            f"has a training job written it? There is {beside}; what is not {FILE}, a model_fn of yours reads"
        )
        raise InputError(f"{file} cannot be read: {error.strerror}; {mend}") from None
    except Exception as error:  # of ours, of json, and onnxruntime has a dozen of its own
        cause = str(error).splitlines()[0]
        raise InputError(f"{file} is not a model that can be served: {cause}") from None


def session(content: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime as forked workers need it: they are the parallelism, and threads made here would not be there."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # It would keep what a large request took, and be no faster.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


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


def loaded(content: bytes) -> Model:
    """The model that a file's bytes are, whose first answer was tried."""
    needed = check.graph(content)
    runtime = session(content)
    metadata = {name: json.loads(text) for name, text in runtime.get_modelmeta().custom_metadata_map.items()}
    if metadata.get("format") != FORMAT:
        made = metadata.get("versions", "unknown versions")
        raise ValueError(
            f"format {metadata.get('format')}, made with {made}; expected {FORMAT}: train it anew"
        )
    features, labels = metadata["features"], metadata["labels"]
    if features < needed:
        raise ValueError(f"its trees need {needed} features; its metadata says {features}")
    if labels is not None and not (labels and all(isinstance(label, str) for label in labels)):
        raise ValueError("its labels are not words")
    model = Model(runtime, features, labels and tuple(labels), bool(metadata["probabilities"]))
    # A first prediction shows that the parts fit, and leaves nothing for the first client to wait for.
    row = np.zeros((1, features), np.float32)
    (answer,) = predict_fn(row, model).values()
    if labels and not 0 <= answer.codes[0] < len(labels):
        raise ValueError(f"it predicts class {answer.codes[0]}; it has {len(labels)} labels")
    if labels and (found := runtime.run(["probabilities"], {"features": row})[0].shape[-1]) != len(labels):
        raise ValueError(f"{len(labels)} labels for {found} classes")
    return model


def __getattr__(name: str):
    """`fit` and `save`, which need the libraries that only training has."""
    if name in ("fit", "save"):
        from stack.onnx_model import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
