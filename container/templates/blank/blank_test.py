"""Trains my_algorithm and asks it its payload: .venv/bin/python -m pytest container/my_algorithm"""

import json


def test_it_learns_and_answers(algorithm):
    # TODO: your data and your payload, and what they must bring.
    metrics = algorithm.train("data/iris.csv")
    assert metrics["training_lines"] == 150
    assert json.loads(algorithm.ask("payload.txt", "text/plain")) == {"lines": 1, "lines_of_training": 150}
