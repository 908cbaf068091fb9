"""Pictures: colours and marks that a colour-blind reader tells apart, and alternative texts for who cannot see them."""

import base64
import html
import io
import re

import matplotlib.pyplot as plt
from IPython.display import display

from .notebook import in_notebook

#: Okabe and Ito's colours, each with a shape of its own: https://jfly.uni-koeln.de/color/
MARKERS = {
    "setosa": {"color": "#0072B2", "marker": "o"},
    "versicolor": {"color": "#E69F00", "marker": "^"},
    "virginica": {"color": "#009E73", "marker": "s"},
}


def show(figure, alt: str) -> None:
    """Display a matplotlib figure with `alt` as its alternative text, and close it."""
    display(_drawn(figure, alt), raw=True)


def _drawn(figure, alt: str) -> dict[str, str]:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    picture = base64.b64encode(drawn.getvalue()).decode()
    # As HTML, since a PNG output cannot carry an alternative text through JupyterLab and nbconvert.
    tag = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
    return {"text/html": tag, "text/plain": alt}


class Curves:
    """A job's metrics, drawn as its log lines come: `follow_training_job(name, Curves(loss=["training_loss"]))`.

    Takes lines such as `epoch=3 training_loss=0.208 seconds=1.8`; of an epoch that is run again the last one counts. The
    picture is replaced in place, so a cell keeps one; in a terminal, where there are none, only `values` is filled.
    """

    def __init__(self, **panels: list[str]):
        """A panel by what its y-axis shows: the names of its metrics."""
        self.panels = panels
        self.values = {name: {} for names in panels.values() for name in names}
        self.place = None
        self.draw()

    def __call__(self, line: str) -> None:
        found = dict(re.findall(r"\b(\w+)=(-?[0-9.]+(?:e[+-]?\d+)?)\b", line))
        if "epoch" not in found or not self.values.keys() & found.keys():
            return
        for name in self.values.keys() & found.keys():
            self.values[name][int(found["epoch"])] = float(found[name])
        self.draw()

    def draw(self) -> None:
        if not in_notebook():
            return
        figure, row = plt.subplots(1, len(self.panels), figsize=(5 * len(self.panels), 3), squeeze=False)
        for axes, (label, names) in zip(row[0], self.panels.items(), strict=True):
            for name, style in zip(names, MARKERS.values(), strict=False):
                points = sorted(self.values[name].items())
                axes.plot(*zip(*points, strict=True) if points else ([], []), label=name, **style)
            axes.set(title=f"{label}, epoch by epoch", xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
        picture = _drawn(figure, self.alt)
        if self.place:
            self.place.update(picture, raw=True)
        else:
            self.place = display(picture, raw=True, display_id=True)

    @property
    def alt(self) -> str:
        """The picture in words: of each metric its first value and its last."""
        said = []
        for name, values in self.values.items():
            if values:
                first, last = min(values), max(values)
                said.append(
                    f"{name} from {values[first]:.3f} in epoch {first} to {values[last]:.3f} in epoch {last}"
                )
        return f"Curves: {'; '.join(said) or 'no epoch has ended yet'}."
