"""The baseline's `train`, in the manner of AWS's sample: pandas reads every file, scikit-learn fits, one file is left.

The sample pickles the tree; here its arrays are saved as npz, which takes as long, since no pickle is in this project.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import tree

BASE = Path(os.environ["SAGEMAKER_BASE_DIR"])
files = sorted((BASE / "input/data/training").iterdir())
table = pd.concat([pd.read_csv(file, header=None) for file in files])
given = json.loads((BASE / "input/config/hyperparameters.json").read_text())
options = {name: int(value) for name, value in given.items() if name in ("max_leaf_nodes", "max_depth")}
fitted = tree.DecisionTreeClassifier(random_state=0, **options).fit(table.iloc[:, 1:], table.iloc[:, 0])
np.savez(BASE / "model/decision-tree-model.npz", **fitted.tree_.__getstate__())
print("Training complete.")
