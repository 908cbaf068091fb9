"""Trains my_algorithm on CSV files, the target first, and writes it as model.onnx."""

from sklearn.tree import DecisionTreeClassifier
from stack import onnx_model, tables


def train(hyperparameters, channels, model_dir):
    """The metrics of an estimator that was fitted to channel `training`, and tried on `validation` if there is one."""
    # TODO: where the target is a number, target="number", and an estimator that ends in Regressor.
    training, validation = tables.read(channels, target="class")
    # TODO: your estimator; its package goes into requirements-train.txt.
    estimator = onnx_model.fit(DecisionTreeClassifier(), training, hyperparameters)
    return onnx_model.save(estimator, training, validation, model_dir)
