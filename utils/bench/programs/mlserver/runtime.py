"""MLServer as its documentation shows it: a custom runtime, arrays in and out by its own codecs (the V2 protocol).

Its ready-made scikit-learn runtime loads pickles only, and answers numbers, not labels.
"""

import os

import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args
from sklearn.tree import DecisionTreeClassifier


class IrisTree(MLModel):
    async def load(self) -> bool:
        table = np.loadtxt(os.environ["BENCH_TRAINING"], delimiter=",", dtype=str)
        self.model = DecisionTreeClassifier(random_state=0).fit(table[:, 1:].astype(np.float32), table[:, 0])
        return True

    @decode_args
    async def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(rows)
