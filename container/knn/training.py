"""Trains scikit-learn's nearest neighbours on CSV files, the label first, and writes them as model.onnx."""

from sklearn.neighbors import KNeighborsClassifier
from stack import onnx_model, tables


def train(hyperparameters, channels, model_dir):
    """The metrics of a classifier that asks the rows of channel `training` that are nearest."""
    training, validation = tables.read(channels, target="class")
    neighbours = onnx_model.fit(KNeighborsClassifier(), training, hyperparameters)
    # Of rows that are equally near, scikit-learn and ONNX Runtime may take different ones.
    return onnx_model.save(neighbours, training, validation, model_dir, agreement=0.9)
