"""Pictures: colours and marks that a colour-blind reader tells apart, and alternative texts for who cannot see them."""

import base64
import html
import io

import matplotlib.pyplot as plt
from IPython.display import display

#: Okabe and Ito's colours, each with a shape of its own: https://jfly.uni-koeln.de/color/
MARKERS = {
    "setosa": {"color": "#0072B2", "marker": "o"},
    "versicolor": {"color": "#E69F00", "marker": "^"},
    "virginica": {"color": "#009E73", "marker": "s"},
}


def show(figure, alt: str) -> None:
    """Display a matplotlib figure with `alt` as its alternative text, and close it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    picture = base64.b64encode(drawn.getvalue()).decode()
    # As HTML, since a PNG output cannot carry an alternative text through JupyterLab and nbconvert.
    tag = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
    display({"text/html": tag, "text/plain": alt}, raw=True)
