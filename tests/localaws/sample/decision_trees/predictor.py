"""The web application: /ping and /invocations, CSV rows to a label each."""

import io
import json
import os

import flask
import pandas

app = flask.Flask(__name__)
loaded = []


def model():
    if not loaded:
        with open(os.path.join("/opt/ml/", "model/decision-tree.json")) as file:
            loaded.append(json.load(file))
    return loaded[0]


def label(row):
    tree, node = model(), 0
    while tree["left"][node] != -1:
        goes_left = row[tree["feature"][node]] <= tree["threshold"][node]
        node = tree["left" if goes_left else "right"][node]
    return tree["label"][node]


@app.route("/ping", methods=["GET"])
def ping():
    return flask.Response(response="\n", status=200 if model() else 404, mimetype="application/json")


@app.route("/invocations", methods=["POST"])
def invocations():
    if flask.request.content_type != "text/csv":
        return flask.Response("This predictor only supports CSV data", status=415, mimetype="text/plain")
    rows = pandas.read_csv(io.StringIO(flask.request.data.decode()), header=None)
    answer = "".join(f"{label(row)}\n" for row in rows.to_numpy())
    return flask.Response(response=answer, status=200, mimetype="text/csv")
