"""Predictions that are written down before a cell runs, and held against what came of it."""

import html
import textwrap

import ipywidgets

from . import record
from .catch_up import NEEDS
from .errors import WorkshopError
from .language import _
from .notebook import in_notebook
from .target import connect


class Prediction:
    """One question of a lab, with the answers to choose from. What is chosen is kept, also when the kernel ends."""

    def __init__(self, lab: str, question: str, choices: tuple[str, ...]):
        self.lab, self.question, self.choices = lab, question, choices
        self.target = connect(quiet=True)

    def choose(self, choice: str) -> None:
        """Write a choice down, as a click does. Raises WorkshopError where it is none of them."""
        if choice not in self.choices:
            raise WorkshopError(
                _(
                    "{choice!r} is none of the choices: {choices}",
                    choice=choice,
                    choices=", ".join(self.choices),
                )
            )
        record.note(self.target, self.lab, self.question, choice)

    def held_against(self, outcome) -> None:
        """Print what came, and what was predicted."""
        predicted = record.prediction(self.target, self.lab, self.question)
        if predicted is None:
            print(_("It was: {outcome}. (You have not written a prediction down.)", outcome=outcome))
        elif predicted == str(outcome):
            print(_("It was: {outcome}, as you have predicted.", outcome=outcome))
        else:
            print(
                _(
                    "It was: {outcome}. You have predicted: {predicted}. What is behind it?",
                    outcome=outcome,
                    predicted=predicted,
                )
            )

    def shown(self) -> dict:
        """Buttons where a kernel is behind the page; a list of the choices where the page is all there is."""
        items = "".join(f"<li>{html.escape(choice)}</li>" for choice in self.choices)
        bundle = {
            "text/plain": "\n".join(f"( ) {choice}" for choice in self.choices),
            "text/html": f"<ul>{items}</ul>",
        }
        buttons = ipywidgets.RadioButtons(
            options=self.choices,
            value=record.prediction(self.target, self.lab, self.question),
            layout={"width": "max-content"},
        )
        buttons.observe(lambda change: self.choose(change["new"]), "value")
        return buttons._repr_mimebundle_() | bundle


def predict(question: str, *choices: str) -> Prediction:
    """Ask for a prediction in a lab: `predict("04 the longest station", "Downloading", "Training")`.

    `question` begins with the lab's number. The answer is an object whose `held_against(outcome)` a later cell calls.
    """
    lab = next((lab for lab in NEEDS if question.startswith(lab[:2] + " ")), None)
    if lab is None or len(choices) < 2:
        raise WorkshopError(
            textwrap.shorten(
                _(
                    "predict({question!r}, …) needs a lab's number first, and two choices or more",
                    question=question,
                ),
                200,
            )
        )
    prediction = Prediction(lab, question, choices)
    if in_notebook():
        from IPython.display import display

        display(prediction.shown(), raw=True)
    return prediction
