"""`fit` to a table that lies on several hosts, and a served model's answers to it: what XGBoost's workers run."""

import distributed
import numpy as np
from sklearn.base import BaseEstimator, clone
from xgboost import XGBClassifier, XGBRegressor, dask
from xgboost.collective import Config

from stack import cluster, onnx_model
from stack.errors import InputError
from stack.tables import Table

KINDS = {XGBClassifier: dask.DaskXGBClassifier, XGBRegressor: dask.DaskXGBRegressor}


def rehearse(estimator: BaseEstimator, table: Table) -> None:
    """Fit a copy to a row of each class, here: what is refused is so in the same words as on one host.

    (A worker that raised would take the others with it.) Raises InputError for an estimator of another kind.
    """
    if type(estimator) not in KINDS:
        raise InputError(
            f"{type(estimator).__name__} learns on one host; on several do "
            f"{' and '.join(kind.__name__ for kind in KINDS)}: set InstanceCount=1"
        )
    labels = np.arange(len(table.classes or "ab"))
    rounds = estimator.n_estimators
    rehearsal = clone(estimator).set_params(
        n_estimators=min(1, rounds) if isinstance(rounds, int) else rounds
    )
    rehearsal.fit(np.zeros((len(labels), table.X.shape[1]), np.float32), labels)


def fit(estimator: BaseEstimator, table: Table) -> BaseEstimator:
    """The estimator, fitted by xgboost.dask to rows that stay where they are."""
    client = distributed.get_client()
    tracker = distributed.comm.get_address_host(client.scheduler.address)
    ports = Config(tracker_host_ip=tracker, tracker_port=cluster.TRACKER)
    # Its warnings have been told once, by the rehearsal; here each host would, with one about coll_cfg.
    quiet = {"verbosity": 0, "coll_cfg": ports}
    spread = KINDS[type(estimator)](**estimator.get_params() | quiet)
    spread.fit(table.X, table.y)
    # The same trees in an estimator that needs no cluster.
    estimator.load_model(spread.get_booster().save_raw())
    return estimator


def served(content: bytes, rows: np.ndarray) -> np.ndarray:
    """On the host of these rows: what a model.onnx with this content answers, numbers of classes or numbers."""
    (answers,) = onnx_model.predict_fn(rows, onnx_model.loaded(content)).values()
    return getattr(answers, "codes", answers)
