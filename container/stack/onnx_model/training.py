"""`fit` and `save`: what training needs of model.onnx, and of the libraries that a server has not.

How exact a model.onnx is, tried with rows on every threshold and one float32 step to either side:
    trees of scikit-learn and XGBoost   take the same way for every row
    sums over trees, linear models      differ in the last digits: where two classes are level, the other may win
    LightGBM                            rounds its thresholds: a row one step beside one may go the other way
    nearest neighbours                  of rows that are equally near, others may be taken; weights="distance" fails where
                                        a row lies on a neighbour, so `save` refuses it for most data
"""

import difflib
import functools
import json
import platform
import warnings
from pathlib import Path

import numpy as np
import onnx
import sklearn
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.base import BaseEstimator, is_classifier

from stack import onnx_model
from stack.errors import InputError
from stack.onnx_model import check
from stack.tables import Table

OPSETS = {"": 17, "ai.onnx.ml": 3}
FEW = 10_000  # rows whose probabilities are compared
# Those of onnxmltools for estimators that come from elsewhere than scikit-learn.
CONVERTERS = {
    "xgboost": "onnxmltools.convert.xgboost.operator_converters.XGBoost.convert_xgboost",
    "lightgbm": "onnxmltools.convert.lightgbm.operator_converters.LightGbm.convert_lightgbm",
}


def fit(estimator: BaseEstimator, table: Table, hyperparameters: dict) -> BaseEstimator:
    """Set an estimator's hyperparameters, by the names of its get_params(), and fit it to a table.

    A random_state that nobody set is 0: the same data give the same model. Raises InputError for a hyperparameter that
    the estimator has not, or whose value it does not take, and for an estimator that cannot become ONNX, or that cannot
    learn a table which lies on several hosts.
    """
    for part in [estimator, *estimator.get_params().values()]:
        if isinstance(part, BaseEstimator):
            _check_convertible(type(part))
    if is_classifier(estimator) != (table.classes is not None):
        kind, target = ("classifier", "class") if is_classifier(estimator) else ("regressor", "number")
        raise InputError(f"{type(estimator).__name__} is a {kind}: read its tables with target={target!r}")
    default = {
        name: 0
        for name, value in estimator.get_params().items()
        if name.endswith("random_state") and value is None
    }
    estimator.set_params(**default | _accepted(hyperparameters, estimator.get_params()))
    spread = None
    if not isinstance(table.X, np.ndarray):
        from stack.onnx_model import spread
    try:
        if spread:
            spread.rehearse(estimator, table)
        else:
            estimator.fit(table.X, table.y)
            estimator.predict(table.X[:1])  # some look at a hyperparameter only now
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        # The data are checked: this is the estimator's word on a hyperparameter, and XGBoost's has a stack under it.
        cause = str(error).partition("\nStack trace")[0].strip()
        if not any(name in cause for name in hyperparameters):
            given = ", ".join(f"{name}={json.dumps(value)}" for name, value in hyperparameters.items())
            cause += f"; given were {given}" if given else ""
        raise InputError(f"hyperparameters: {cause}") from None
    return spread.fit(estimator, table) if spread else estimator


def save(
    model: BaseEstimator, training: Table, validation: Table | None, model_dir: Path, agreement: float = 0.99
) -> dict[str, float]:
    """Write a fitted estimator as model_dir/model.onnx, load it as a server does, and return the metrics.

    Accuracies are fractions of a table's rows; of a regressor it is rmse, in the target's unit, and r2. `agreement` is the
    fraction of the training rows that the file must answer as the estimator does: floats are rounded otherwise there, so
    of few models it is 1. Raises InputError where it is less, where the estimator, as it was fitted, cannot become ONNX,
    and for a model that no server would load.
    """
    answers = [
        (name, table, _each(model.predict, table.X))
        for name, table in (("training", training), ("validation", validation))
        if table
    ]
    metrics = {}
    for name, table, predicted in answers:
        metrics |= {f"{name}_{metric}": value for metric, value in _scores(table, predicted).items()}
    metrics |= {"features": training.X.shape[1]} | (
        {"classes": len(training.classes)} if training.classes else {}
    )
    try:
        content = _to_onnx(model, training, metrics)
    except Exception as error:  # each converter has its own
        raise InputError(
            f"{type(model).__name__} cannot become ONNX as it was fitted; take other hyperparameters: "
            f"{type(error).__name__}: {error}"
        ) from None
    try:
        check.graph(content)
    except ValueError as error:
        raise InputError(f"the model cannot be served: {error}") from None
    file = Path(model_dir) / onnx_model.FILE
    file.write_bytes(content)
    try:
        served, problem = onnx_model.load(file), None
    except InputError as error:
        raise InputError(
            f"{type(model).__name__} cannot be served as it was fitted; take other hyperparameters: {error}"
        ) from None
    here = isinstance(training.X, np.ndarray)
    metrics["agreement"] = _agreement(served if here else content, training, answers[0][2])
    if metrics["agreement"] < agreement:
        problem = (
            f"answers {metrics['agreement']:.4f} of the training rows as {type(model).__name__} does, and {agreement} "
            "was asked for"
        )
    elif served.probabilities and not _same_probabilities(served, model, np.asarray(training.X[:FEW])):
        problem = f"gives other probabilities than {type(model).__name__}"
    if problem:
        file.unlink()
        raise InputError(f"model.onnx {problem}; no model is written: take other hyperparameters")
    return metrics


def _check_convertible(kind: type) -> None:
    """Raise InputError for an estimator without a converter; make those of other libraries known."""
    library = kind.__module__.partition(".")[0]
    if library in CONVERTERS and kind not in sklearn_operator_name_map:
        module, _, function = CONVERTERS[library].rpartition(".")
        try:
            convert = getattr(__import__(module, fromlist=[function]), function)
        except ImportError:
            raise InputError(
                f"{kind.__name__} becomes ONNX by onnxmltools; list it in requirements-train.txt"
            ) from None
        classifier = issubclass(kind, sklearn.base.ClassifierMixin)
        shapes = (
            calculate_linear_classifier_output_shapes
            if classifier
            else calculate_linear_regressor_output_shapes
        )
        options = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifier else None
        update_registered_converter(kind, f"{library}{kind.__name__}", shapes, convert, options=options)
    if kind not in sklearn_operator_name_map and kind.__module__ != "sklearn.pipeline":
        raise InputError(
            f"{kind.__name__} has no ONNX form that skl2onnx knows: take another estimator, or write model and answers "
            "yourself (train and the four functions of predictor.py)"
        )


def _accepted(hyperparameters: dict, known: dict) -> dict:
    """Hyperparameters as the estimator takes them; InputError where a name or the kind of a value is wrong."""
    # Those that are estimators themselves, or that write to the disk, are none that a string could say.
    names = [
        n
        for n, value in known.items()
        if not isinstance(value, BaseEstimator | list) and n.rpartition("_")[2] != "memory"
    ]
    taken = {}
    for name, value in hyperparameters.items():
        if name not in names:
            near = [full for full in names if full.endswith(f"__{name}")] or difflib.get_close_matches(
                name, names, 1
            )
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"hyperparameter {name!r} is unknown; {meant}allowed are {', '.join(sorted(names))}"
            )
        if isinstance(known[name], tuple) and isinstance(value, str):
            raise InputError(f"hyperparameter {name}={value} is a list; it is written as JSON, as in [16, 8]")
        if isinstance(value, list) and isinstance(known[name], tuple):
            value = tuple(value)
        elif not isinstance(value, int | float | str | None) or isinstance(value, bool) > isinstance(
            known[name], bool
        ):
            raise InputError(f"hyperparameter {name}={json.dumps(value)} must be a number, a word or null")
        if isinstance(value, int) and abs(value) >= 2**31:
            raise InputError(f"hyperparameter {name}={value} is too large; at most 2147483647")
        if name.endswith("random_state") and value is None:
            raise InputError(f"hyperparameter {name}=null would make each model another; give a number")
        taken[name] = value
    return taken


def _each(function, rows: np.ndarray) -> np.ndarray:
    """The function's value for each of these rows; where they lie on several hosts, there."""
    if isinstance(rows, np.ndarray):
        return function(rows)
    return rows.map_blocks(function, dtype=np.float64, drop_axis=1).persist()


def _scores(table: Table, predicted: np.ndarray) -> dict[str, float]:
    # Counted, where NumPy and Dask do the same: each row that was answered.
    rows = int((predicted == predicted).sum())
    if table.classes is not None:
        return {"accuracy": float(np.mean(predicted == table.y)), "rows": rows}
    errors = predicted.astype(np.float64).ravel() - table.y
    spread = float(np.mean((table.y - table.y.mean(dtype=np.float64)) ** 2))
    squares = float(np.mean(errors**2))
    return {"rmse": squares**0.5, "r2": 1 - squares / spread if spread else 0.0, "rows": rows}


def _agreement(model, training: Table, predicted: np.ndarray) -> float:
    """The fraction of rows that a served model, or its file's bytes, answers as the estimator has."""
    answers = _each(functools.partial(onnx_model.numbers, model=model), training.X)
    if training.classes is not None:
        return float(np.mean(answers == predicted))
    predicted = predicted.astype(np.float64).ravel()
    return float(np.mean(np.abs(answers - predicted) <= 1e-4 * (np.abs(predicted) + predicted.std())))


def _same_probabilities(served, model: BaseEstimator, rows: np.ndarray) -> bool:
    """On the average: that of some rows is another with the neighbours of a row, not that of all."""
    found = served.session.run(["probabilities"], {"features": rows})[0]
    return bool(np.abs(found - model.predict_proba(rows)).mean() < 0.01)


def _to_onnx(model: BaseEstimator, training: Table, metrics: dict) -> bytes:
    """The fitted estimator as ONNX with its metadata, the same bytes for the same model.

    Input `features`, float32 (rows, features). Outputs of a classifier: `label`, int64 (rows,), and `probabilities`,
    float32 (rows, classes); of a regressor `variable`, float32 (rows, 1).
    """
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    options = {"zipmap": False} if is_classifier(model) else {}
    if "Neighbors" in type(last).__name__:
        options["optim"] = "cdist"  # an operator of its own for distances, in the place of a loop
    features = training.X.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of future versions
        proto = to_onnx(
            model, initial_types=[("features", FloatTensorType([None, features]))], target_opset=OPSETS,
            options={id(last): options} if options else None,
        )  # fmt: skip
    opsets = sorted(proto.opset_import, key=lambda opset: opset.domain)  # they come in any order
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    versions |= {"scikit-learn": sklearn.__version__, "onnx": onnx.__version__}
    metadata = {
        "format": onnx_model.FORMAT,
        "features": features,
        "labels": training.classes,
        "probabilities": hasattr(model, "predict_proba"),
        "hyperparameters": {
            n: v for n, v in model.get_params().items() if isinstance(v, int | float | str | None) and v == v
        },
        "metrics": metrics,
        "versions": versions,
    }
    texts = {name: json.dumps(value, ensure_ascii=False, sort_keys=True) for name, value in metadata.items()}
    onnx.helper.set_model_props(proto, texts)
    return proto.SerializeToString(deterministic=True)
