"""The baseline's flask application, in the manner of AWS's sample: pandas in, scikit-learn, pandas out.

The model is loaded by whoever needs it first. The sample unpickles it; here the tree is fitted again from iris,
which takes as long (1 ms), since no pickle is in this project.
"""

import io
import os

import pandas as pd
from flask import Flask, Response, request
from sklearn.tree import DecisionTreeClassifier

app = Flask(__name__)


class Scoring:
    model = None

    @classmethod
    def get_model(cls):
        if cls.model is None:
            table = pd.read_csv(os.environ["BENCH_TRAINING"], header=None)
            cls.model = DecisionTreeClassifier(random_state=0).fit(table.iloc[:, 1:], table.iloc[:, 0])
        return cls.model


@app.route("/ping", methods=["GET"])
def ping():
    status = 200 if Scoring.get_model() is not None else 404
    return Response("\n", status, mimetype="application/json")


@app.route("/invocations", methods=["POST"])
def invocations():
    if request.content_type != "text/csv":
        return Response("This predictor only takes CSV", 415, mimetype="text/plain")
    rows = pd.read_csv(io.StringIO(request.data.decode("utf-8")), header=None)
    out = io.StringIO()
    pd.DataFrame({"results": Scoring.get_model().predict(rows)}).to_csv(out, header=False, index=False)
    return Response(out.getvalue(), 200, mimetype="text/csv")
