"""Draw README's picture from the executed lab 04: `make labs`, then `make picture`. Needs Chromium."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from PIL import Image, ImageChops

from . import ROOT
from .__main__ import OUTPUT

#: The cells that the picture shows, by a word of their source.
SHOWN = ("follow_training_job(job_name)", 'job["FinalMetricDataList"]', "plot_tree(")
PICTURE = ROOT / "labs" / "images" / "train.png"


def main() -> int:
    executed = OUTPUT / "04_train.ipynb"
    if not executed.exists():
        print(f"{executed.relative_to(ROOT)} is not there yet: run `make labs` first", file=sys.stderr)
        return 1
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("Chromium is needed: apt-get install chromium, or brew install chromium", file=sys.stderr)
        return 1
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and any(word in cell.source for word in SHOWN)
    ]
    page, _ = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="").from_notebook_node(notebook)
    with tempfile.TemporaryDirectory() as folder:
        html, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        html.write_text(page)
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={folder}/profile",
            "--window-size=1000,2400",
            f"--screenshot={shot}",
            html.as_uri(),
        ]
        subprocess.run([chromium, *options], check=True, capture_output=True, timeout=120)
        PICTURE.parent.mkdir(exist_ok=True)
        _without_margin(Image.open(shot).convert("RGB")).quantize(128).save(PICTURE, optimize=True)
    print(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


def _without_margin(picture: Image.Image) -> Image.Image:
    """The picture without the empty page around what is drawn on it."""
    blank = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    left, top, right, bottom = ImageChops.difference(picture, blank).getbbox()
    edge = 12
    return picture.crop((max(left - edge, 0), max(top - edge, 0), right + edge, bottom + edge))


if __name__ == "__main__":
    sys.exit(main())
