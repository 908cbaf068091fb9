"""Prints how many answers of a model.onnx differ from XGBoost's on rows with a value on a threshold, and beside it.

Run by the Python of container/gradient_boosting's packages, in the folder container/.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path.cwd()))
from stack import onnx_model
from stack.tables import Table
from xgboost import XGBClassifier

random = np.random.default_rng(0)
for classes in (2, 3):
    features = random.normal(size=(1000, 6)).astype(np.float32)
    targets = np.digitize(features[:, 0] + features[:, 1] ** 2, np.arange(1, classes)).astype(np.int32)
    table = Table(features, targets, tuple("abc"[:classes]))
    model = onnx_model.fit(XGBClassifier(n_estimators=30), table, {})
    with tempfile.TemporaryDirectory() as folder:
        onnx_model.save(model, table, None, folder, agreement=1)
        served = onnx_model.load(Path(folder) / onnx_model.FILE)
    edges = []
    for tree in model.get_booster().get_dump():
        for condition in (part.partition("]")[0] for part in tree.split("[")[1:]):
            column, threshold = condition.split("<")
            middle = np.float32(threshold)
            for value in (middle, *(np.nextafter(middle, np.float32(to)) for to in (-np.inf, np.inf))):
                edges.append(features[len(edges) % len(features)].copy())
                edges[-1][int(column[1:])] = value
    edges = np.array(edges)
    labels, probabilities = served.session.run(["label", "probabilities"], {"features": edges})
    assert np.allclose(probabilities, model.predict_proba(edges), atol=1e-5)
    print(len(edges), "rows", int((labels != model.predict(edges)).sum()), "differ")
