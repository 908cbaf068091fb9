"""Trains scikit-learn's random forest on CSV files, the number to predict first, and writes it as model.onnx."""

from sklearn.ensemble import RandomForestRegressor
from stack import onnx_model, tables


def train(hyperparameters, channels, model_dir):
    """The metrics of a forest that predicts a number: rmse, in its unit, and r2."""
    training, validation = tables.read(channels, target="number")
    forest = onnx_model.fit(RandomForestRegressor(), training, hyperparameters)
    return onnx_model.save(forest, training, validation, model_dir)
