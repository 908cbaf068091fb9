"""Curves of a job's metrics: what is read from its log, and one picture that is replaced in place."""

import nbformat
from nbclient import NotebookClient

from workshop.plots import Curves

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
    assert output["data"]["text/html"].startswith(f'<img alt="{alt}" src="data:image/png;base64,')
