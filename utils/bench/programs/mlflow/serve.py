"""`mlflow models serve` on a model saved by mlflow itself; the port is argv[1].

The model is written when it starts, in BENCH_RUN, in skops' format: of those that mlflow has, the one that is no pickle.
"""

import os
import shutil
import sys
from pathlib import Path

import mlflow.sklearn
import pandas
from sklearn.tree import DecisionTreeClassifier

table = pandas.read_csv(os.environ["BENCH_TRAINING"], names=["label", "a", "b", "c", "d"])
model = DecisionTreeClassifier(random_state=0).fit(table[["a", "b", "c", "d"]], table["label"])
folder = Path(os.environ["BENCH_RUN"], "model")
shutil.rmtree(folder, ignore_errors=True)
mlflow.sklearn.save_model(
    model,
    folder,
    serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
    skops_trusted_types=["sklearn.tree._tree.Tree"],  # refused unless named: its node numbers are not checked
    pip_requirements=[],  # else it starts a process that finds them out
)
program = Path(sys.executable).with_name("mlflow")
serve = [program, "models", "serve", "--model-uri", folder, "--env-manager", "local", "--host", "127.0.0.1"]
os.execv(program, [*serve, "--port", sys.argv[1], "--workers", os.environ["MODEL_SERVER_WORKERS"]])
