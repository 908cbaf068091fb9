"""Trains a pipeline on CSV files, the label first: scaling, then logistic regression, both in model.onnx."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from stack import onnx_model, tables


def train(hyperparameters, channels, model_dir):
    """The metrics of a pipeline that was fitted to channel `training`; its hyperparameters begin with a part's name."""
    training, validation = tables.read(channels, target="class")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    onnx_model.fit(pipeline, training, hyperparameters)
    return onnx_model.save(pipeline, training, validation, model_dir)
