"""Trains my_algorithm and asks it its payload: .venv/bin/python -m pytest container/my_algorithm"""

import json


def test_it_learns_and_answers(algorithm):
    # TODO: your data and your payload, and what they must bring.
    metrics = algorithm.train("data/colours")
    assert metrics["training_accuracy"] == 1
    assert json.loads(algorithm.ask("payload.png", "image/png"))["label"] == "red"
