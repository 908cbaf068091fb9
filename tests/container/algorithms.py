"""What the contract's tables must know of an algorithm: what it predicts, and hyperparameters that it takes and refuses.

BYOA_ALGORITHM=knn pytest tests/container/test_contract_*.py: the tables for container/knn (default: decision_trees).
Every row of the tables is four numbers and a species of data/iris.csv, or the number that stands for it.
"""

from typing import NamedTuple

# What a species is to an algorithm that predicts numbers.
NUMBERS = {"setosa": "-1.5", "versicolor": "2", "virginica": "5.25"}


class Algorithm(NamedTuple):
    """An algorithm of container/.

    data:    the file of data/ that its README trains it on, and from which its payload is
    numbers: it predicts numbers, not classes
    good:    hyperparameters that it takes
    bad:     by name: hyperparameters that it refuses, and words of its refusal
    """

    name: str
    data: str = "iris.csv"
    numbers: bool = False
    good: dict | None = None
    bad: dict | None = None

    def written(self, species: str) -> str:
        """A species as this algorithm's data have it."""
        return NUMBERS[species] if self.numbers else species

    def species(self, answer: str | float) -> str:
        """The species that an answer means: for a number, the nearest."""
        if not self.numbers:
            return answer
        return min(NUMBERS, key=lambda name: abs(float(NUMBERS[name]) - float(answer)))


TREES = Algorithm(
    "decision_trees",
    good={"max_depth": "2"},
    bad={
        "unknown name": ({"max_dept": "3"}, ["max_dept", "max_depth"]),
        "text for a number": ({"max_depth": "three"}, ["max_depth", "three"]),
        "boolean": ({"max_depth": "true"}, ["max_depth", "true"]),
        "unknown word": ({"criterion": "gin"}, ["criterion", "gin", "gini"]),
    },
)
KNN = Algorithm(
    "knn",
    good={"n_neighbors": "3"},
    bad={
        "unknown name": ({"k": "3"}, ["'k'", "n_neighbors"]),
        "text for a number": ({"n_neighbors": "three"}, ["n_neighbors", "three"]),
        "distances that ONNX Runtime has not": ({"p": "1"}, ["KNeighborsClassifier", "take other hyper"]),
        "more than there are rows": ({"n_neighbors": "151"}, ["n_neighbors", "151"]),
    },
)
PIPELINE = Algorithm(
    "logistic_regression",
    good={"logisticregression__C": "0.5", "logisticregression__class_weight": "balanced"},
    bad={
        "of no part": ({"C": "1"}, ["'C'", "logisticregression__C"]),
        "text for a number": ({"logisticregression__C": "much"}, ["C", "much"]),
    },
)
BOOSTING = Algorithm(
    "gradient_boosting",
    good={"n_estimators": "20", "max_depth": "3", "learning_rate": 0.5},
    bad={
        "unknown name": ({"max_dept": "3"}, ["max_dept", "max_depth"]),
        "text for a number": ({"max_depth": "three"}, ["max_depth", "three"]),
        "text for a count": ({"n_estimators": "many"}, ["n_estimators", "many"]),
        "none at all": ({"n_estimators": "0"}, ["XGBClassifier", "take other hyperparameters"]),
        "no trees": ({"booster": "gblinear"}, ["XGBClassifier", "take other hyperparameters"]),
    },
)
FOREST = Algorithm(
    "random_forest_regressor",
    data="diabetes.csv",
    numbers=True,
    good={"n_estimators": "10", "max_features": "sqrt"},
    bad={
        "unknown name": ({"trees": "3"}, ["'trees'", "n_estimators"]),
        "text for a number": ({"n_estimators": "many"}, ["n_estimators", "many"]),
    },
)
ALL = {each.name: each for each in (TREES, KNN, PIPELINE, BOOSTING, FOREST)}
