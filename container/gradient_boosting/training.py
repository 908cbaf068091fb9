"""Trains XGBoost on CSV files, the label first, on one host or several, and writes its trees as model.onnx."""

from stack import onnx_model, tables
from xgboost import XGBClassifier


def train(hyperparameters, channels, model_dir, client):
    """The metrics of trees, each of which mends what those before it answer wrongly in channel `training`."""
    training, validation = tables.read(channels, target="class", client=client)
    trees = onnx_model.fit(XGBClassifier(), training, hyperparameters)
    return onnx_model.save(trees, training, validation, model_dir)
