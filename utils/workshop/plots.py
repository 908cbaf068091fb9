"""Pictures: colours and marks that a colour-blind reader tells apart, and alternative texts for who cannot see them."""

import html
import io
import re

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.colors import to_hex, to_rgba
from matplotlib.legend import Legend
from matplotlib.text import Text

from .language import _
from .notebook import in_notebook

#: Okabe and Ito's colours, each with a shape of its own: https://jfly.uni-koeln.de/color/
MARKERS = {
    "setosa": {"color": "#0072B2", "marker": "o"},
    "versicolor": {"color": "#E69F00", "marker": "^"},
    "virginica": {"color": "#009E73", "marker": "s"},
}


# What matplotlib draws in this is drawn in the page's own colour of text.
_INK = "#000000"
# As dark, but not the page's: text that stands on a colour of the picture.
_BLACK = "#000001"


def show(figure, alt: str) -> None:
    """Display a matplotlib figure with `alt` as its alternative text, legible on light and on dark, and close it."""
    display(_drawn(figure, alt), raw=True)


def _drawn(figure, alt: str) -> dict[str, str]:
    _let_the_page_through(figure)
    drawn = io.StringIO()
    # Text as text, a tenth of the size of its outlines; and the same names in it whenever it is drawn again.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(
            drawn, format="svg", dpi=100, bbox_inches="tight", transparent=True, metadata={"Date": None}
        )
    plt.close(figure)
    # As a part of the page, since only that can have the page's colours, in JupyterLab, VS Code and nbconvert alike.
    picture = drawn.getvalue()[drawn.getvalue().index("<svg") :]
    picture = re.sub(r"<metadata>.*?</metadata>", "", picture, flags=re.DOTALL)
    picture = re.sub(r'<g id="[^"]*">', "<g>", picture)  # many pictures on one page, all with a figure_1
    picture = picture.replace(_INK, "currentColor").replace(_BLACK, "#000")
    style = "max-width: 100%; height: auto; fill: currentColor"
    picture = picture.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}" style="{style}"', 1)
    return {"text/html": picture, "text/plain": alt}


def _let_the_page_through(figure) -> None:
    """Make what is white by default transparent, and leave text black that stands on a colour of the picture."""
    for legend in figure.findobj(Legend):
        legend.get_frame().set(facecolor="none", edgecolor="#808080")
    figure.draw_without_rendering()
    for axes in figure.axes:
        grounds = [patch.get_window_extent() for patch in axes.patches if patch.get_fill()]
        grounds += [image.get_window_extent() for image in axes.images]
        for text in axes.findobj(Text):
            box, middle = text.get_bbox_patch(), text.get_window_extent()
            middle = (middle.x0 + middle.x1) / 2, (middle.y0 + middle.y1) / 2
            on_colour = box.get_fill() and to_rgba(box.get_facecolor())[3] if box else None
            if on_colour is None:
                on_colour = any(ground.contains(*middle) for ground in grounds)
            if on_colour and to_hex(text.get_color()) == _INK:
                text.set_color(_BLACK)


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
            axes.set(title=_("{label}, epoch by epoch", label=label), xlabel=_("epoch"), ylabel=label)
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
                    _(
                        "{name} from {before:.3f} in epoch {first} to {after:.3f} in epoch {last}",
                        name=name,
                        before=values[first],
                        first=first,
                        after=values[last],
                        last=last,
                    )
                )
        return _("Curves: {said}.", said="; ".join(said)) if said else _("Curves: no epoch has ended yet.")
