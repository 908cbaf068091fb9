"""Trains scikit-learn's decision tree on CSV files, the label first, and writes it as model.onnx."""

from sklearn.tree import DecisionTreeClassifier
from stack import onnx_model, tables


def train(hyperparameters, channels, model_dir):
    """The metrics of a tree that was fitted to channel `training`, and tried on `validation` where there is one."""
    training, validation = tables.read(channels, target="class")
    tree = onnx_model.fit(DecisionTreeClassifier(), training, hyperparameters)
    metrics = onnx_model.save(tree, training, validation, model_dir, agreement=1)
    return metrics | {"tree_depth": tree.get_depth(), "tree_leaves": tree.get_n_leaves()}
