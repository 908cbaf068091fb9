"""`fit` to a table that lies on several hosts: what XGBoost's workers run."""

import distributed
import numpy as np
from sklearn.base import BaseEstimator, clone

from stack import cluster
from stack.errors import InputError
from stack.tables import Table

# XGBoost's class for one host: that for several.
KINDS = {"XGBClassifier": "DaskXGBClassifier", "XGBRegressor": "DaskXGBRegressor"}


def rehearse(estimator: BaseEstimator, table: Table) -> None:
    """Fit a copy to a row of each class, here: what is refused is so in the same words as on one host.

    (A worker that raised would take the others with it.) Raises InputError for an estimator of another kind.
    """
    if type(estimator).__name__ not in KINDS or not type(estimator).__module__.startswith("xgboost."):
        raise InputError(
            f"{type(estimator).__name__} learns on one host, and of several {' and '.join(KINDS)} know how: set "
            "InstanceCount=1, or set what it learns yourself, from sums over the tables' arrays, and save it"
        )
    labels = np.arange(len(table.classes or "ab"))
    rounds = estimator.n_estimators
    rehearsal = clone(estimator).set_params(
        n_estimators=min(1, rounds) if isinstance(rounds, int) else rounds
    )
    rehearsal.fit(np.zeros((len(labels), table.X.shape[1]), np.float32), labels)


def fit(estimator: BaseEstimator, table: Table) -> BaseEstimator:
    """The estimator, fitted by xgboost.dask to rows that stay where they are."""
    from xgboost import dask
    from xgboost.collective import Config

    client = distributed.get_client()
    tracker = distributed.comm.get_address_host(client.scheduler.address)
    ports = Config(tracker_host_ip=tracker, tracker_port=cluster.TRACKER)
    # Its warnings have been told once, by the rehearsal; here each host would, with one about coll_cfg.
    quiet = {"verbosity": 0, "coll_cfg": ports}
    spread = getattr(dask, KINDS[type(estimator).__name__])(**estimator.get_params() | quiet)
    spread.fit(table.X, table.y)
    # The same trees in an estimator that needs no cluster.
    estimator.load_model(spread.get_booster().save_raw())
    return estimator
