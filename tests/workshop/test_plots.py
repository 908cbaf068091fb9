"""Curves of a job's metrics: what is read from its log, and one picture that is replaced in place."""

import re

import matplotlib.pyplot as plt
import nbformat
from nbclient import NotebookClient

from workshop.plots import Curves, _drawn

LOG = [
    "train: on cpu",
    "epoch=1 training_loss=0.5 validation_loss=1e-1 seconds=2.0",
    "[algo-1] epoch=2 training_loss=0.4 validation_loss=nan",
    "train: goes on from epoch-00001.npz, after epoch 1 of 2",
    "[algo-1] epoch=2 training_loss=0.25 validation_loss=0.3",
    "training_loss=0.25",
]


def test_the_last_of_an_epoch_that_is_run_again_counts():
    curves = Curves(loss=["training_loss", "validation_loss"])
    assert curves.alt == "Curves: no epoch has ended yet."
    for line in LOG:
        curves(line)
    assert curves.values == {"training_loss": {1: 0.5, 2: 0.25}, "validation_loss": {1: 0.1, 2: 0.3}}
    assert curves.alt.startswith(
        "Curves: training_loss from 0.500 in epoch 1 to 0.250 in epoch 2; validation"
    )


def test_a_cell_keeps_one_picture_the_last_with_an_alternative_text():
    source = f"from workshop.plots import Curves\ncurves = Curves(loss=['training_loss'])\nfor line in {LOG}: curves(line)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    alt = "Curves: training_loss from 0.500 in epoch 1 to 0.250 in epoch 2."
    assert output["data"]["text/plain"] == alt
    assert output["data"]["text/html"].startswith(f'<svg role="img" aria-label="{alt}" ')


def test_a_picture_takes_the_pages_colours_and_keeps_its_own():
    figure, axes = plt.subplots()
    axes.bar(["a"], [2], color="#56B4E9")
    axes.bar_label(axes.containers[0], label_type="center")
    axes.set_title("A title")
    axes.legend(["one"])
    svg = _drawn(figure, 'with "quotes" & more')["text/html"]
    assert 'aria-label="with &quot;quotes&quot; &amp; more"' in svg
    assert "currentColor" in svg and "#56b4e9" in svg.lower()
    assert not re.search(r"fill: ?#fff", svg), "nothing is white by default"
    title, label = re.search(r"<text[^>]*>A title", svg)[0], re.search(r"<text[^>]*>2<", svg)[0]
    assert "#000" not in title, "a title is the page's"
    assert "#000" in label, "what stands on a bar is black on any page"
    again, axes = plt.subplots()
    axes.plot([1, 2])
    ids = [set(re.findall(r'id="([^"]+)"', one)) for one in (svg, _drawn(again, "another")["text/html"])]
    assert not ids[0] & ids[1], "two pictures of one page share an id"
