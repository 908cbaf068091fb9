"""Trains my_algorithm on images, a folder for each class, and writes model.json: the mean colour of each class."""

import json

import images
import numpy as np
from predictor import predict_fn
from stack.errors import InputError


def train(hyperparameters, channels, model_dir):
    """The metrics of channel `training`, whose files are CLASS/NAME.png or .jpg."""
    # TODO: hyperparameters of your own, checked; and a channel for validation.
    if hyperparameters:
        raise InputError(f"hyperparameter {next(iter(hyperparameters))!r} is unknown; there are none")
    if list(channels) != ["training"]:
        raise InputError(f"expected one channel, 'training'; found: {', '.join(channels) or 'none'}")
    pictures, labels = [], []
    for name, stream in channels["training"].open_files():
        if name.count("/") < 2:
            raise InputError(f"{name} lies in no folder of a class; expected training/red/1.png, say")
        labels.append(name.split("/")[-2])
        pictures.append(images.read(stream.read(), name))
    if len(set(labels)) < 2:
        raise InputError(f"channel training has {len(set(labels))} classes; expected folders of 2 at least")
    # TODO: what your model learns. Write it as data (.onnx, .npz, .json), never as a pickle, which runs code when read.
    colours = np.array([picture.mean(axis=(0, 1)) for picture in pictures], np.float64)
    names = np.array(labels)
    model = {label: colours[names == label].mean(axis=0).tolist() for label in sorted(set(labels))}
    (model_dir / "model.json").write_text(json.dumps(model))
    answers = [predict_fn(picture, model)["label"] for picture in pictures]
    return {"training_accuracy": np.mean(np.array(answers) == names), "training_images": len(pictures)}
