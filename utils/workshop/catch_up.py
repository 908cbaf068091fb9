"""Bring about what a lab needs from earlier ones, by running those labs' own cells: nothing is written twice."""

import builtins
import json
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

from . import ROOT
from .checks import findings, passed
from .errors import UnknownLab, WorkshopError
from .image import changed_files
from .language import _, labs_folder
from .target import connect, quietly

LABS = ROOT / "labs"  # the English ones, of which the others are translations

#: What each lab needs of the labs before it, in the order in which they run.
NEEDS = {
    "00_setup": [],
    "01_build": [],
    "02_local_test": [],
    "03_push": ["01_build"],
    "04_train": ["00_setup", "01_build", "03_push"],
    "05_deploy": ["00_setup", "01_build", "03_push", "04_train"],
    "06_invoke": ["00_setup", "01_build", "03_push", "04_train", "05_deploy"],
    "07_batch_transform": ["00_setup", "01_build", "03_push", "04_train"],
    "08_tune": ["00_setup", "01_build", "03_push"],
    "09_speed": [],
    "10_bring_your_own": ["00_setup", "01_build", "03_push"],
    "11_image_in_mask_out": ["00_setup"],
    "12_what_goes_wrong": ["00_setup", "01_build", "03_push", "04_train", "05_deploy"],
    "13_outgrow_one_machine": ["00_setup"],
    "99_cleanup": [],
}


class CatchUpFailed(WorkshopError):
    """An earlier lab's cells did not bring about what they should."""


def catch_up(lab: str) -> None:
    """Bring about what `lab` needs from earlier labs; say for each what is done, and do nothing where it is there.

    Runs those cells of an earlier lab's notebook that are tagged `catch-up`, in a name space of their own. Raises
    CatchUpFailed, naming the lab to open, where that does not help, and UnknownLab for a lab that does not exist.
    """
    if lab not in NEEDS:
        raise UnknownLab(lab, NEEDS)
    target = connect(quiet=True)
    for needed in NEEDS[lab]:
        missing = next((what for there, what, _hint in findings(needed, target) if not there), None)
        # A built image is only needed on the way to a pushed one, unless it is of files that have changed since.
        pushed = needed == "01_build" and lab != "03_push" and passed("03_push", target)
        if missing is None or (pushed and not changed_files(target)):
            print(_("{needed}: there already", needed=needed))
            continue
        cells = tagged_cells(labs_folder() / f"{needed}.ipynb")
        print(
            _(
                "{needed}: not done yet, running {count} of its cells, for: {missing}",
                needed=needed,
                count=len(cells),
                missing=missing,
            )
        )
        with quietly():
            run_cells(needed, cells)
        if not passed(needed, target):
            raise CatchUpFailed(
                _(
                    "{needed} did not bring about what {lab} needs. Open {needed}.ipynb and run it.",
                    needed=needed,
                    lab=lab,
                )
            )


def tagged_cells(notebook: Path, tag: str = "catch-up") -> list[str]:
    """The sources of the notebook's code cells that have a tag, in order."""
    # By json, not nbformat, whose import takes two seconds: each lab would start with them.
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and tag in cell["metadata"].get("tags", [])
    ]


def run_cells(lab: str, cells: list[str], given: dict | None = None) -> None:
    """Run cells with IPython's syntax (`!command`) in a fresh name space, away from the learner's variables.

    They have the names that are `given`. Raises CatchUpFailed where one fails.
    """
    shell = InteractiveShell.instance()  # the notebook's own where there is one
    names = {"__name__": f"lab_{lab}", "get_ipython": lambda: shell, "__builtins__": builtins} | (given or {})
    transform = TransformerManager().transform_cell
    for number, source in enumerate(cells, 1):
        print(f"  {source.splitlines()[0]}")
        try:
            exec(compile(transform(source), f"<{lab}, cell {number}>", "exec"), names)
        except WorkshopError:
            raise
        except Exception as error:
            raise CatchUpFailed(
                _(
                    "{lab}, cell {number}: {kind}: {error}\nOpen {lab}.ipynb and run its cells.",
                    lab=lab,
                    number=number,
                    kind=type(error).__name__,
                    error=error,
                )
            ) from error
