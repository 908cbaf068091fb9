"""BentoML as its documentation shows it: a service with typed arrays in and out (as JSON), a worker process a core."""

import os
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from sklearn.tree import DecisionTreeClassifier


@bentoml.service(workers=int(os.environ["MODEL_SERVER_WORKERS"]), logging={"access": {"enabled": False}})
class IrisTree:
    def __init__(self):
        table = np.loadtxt(os.environ["BENCH_TRAINING"], delimiter=",", dtype=str)
        self.model = DecisionTreeClassifier(random_state=0).fit(table[:, 1:].astype(np.float32), table[:, 0])

    @bentoml.api
    def predict(self, rows: Annotated[np.ndarray, DType("float32")], /) -> np.ndarray:
        return self.model.predict(rows)
