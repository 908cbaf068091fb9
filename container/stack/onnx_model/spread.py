"""`fit` to a table that lies on several hosts: xgboost.dask's, with the ports of cluster.py."""

import distributed
import numpy as np
import xgboost
from sklearn.base import BaseEstimator, clone
from xgboost import XGBClassifier, XGBRegressor, dask
from xgboost.collective import Config

from stack import cluster
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
    spread = KINDS[type(estimator)](**estimator.get_params(), coll_cfg=ports)
    # Its warnings have been told once by the rehearsal; here each host would tell them, and one about coll_cfg.
    with xgboost.config_context(verbosity=0):
        spread.fit(table.X, table.y)
    # The same trees in an estimator that needs no cluster.
    estimator.load_model(spread.get_booster().save_raw())
    return estimator
