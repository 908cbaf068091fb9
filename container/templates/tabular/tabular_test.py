"""Trains my_algorithm and asks it its payload: .venv/bin/python -m pytest container/my_algorithm"""


def test_it_learns_and_answers(algorithm):
    # TODO: your data and your payload, and what they must bring.
    metrics = algorithm.train("data/iris.csv")
    assert metrics["training_accuracy"] > 0.9
    answers = algorithm.ask("payload.csv", "text/csv").splitlines()
    assert answers[:2] == ["setosa", "setosa"]
