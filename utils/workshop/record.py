"""What a learner has done: kept beside the walk's files, shown by `make progress` and by localaws' page.

One file a walk, `labs/progress/NAME.json` in localaws' home (`build/progress/` for AWS), which 99_cleanup leaves: what
was learned is not deleted with what was made.
"""

import fcntl
import json
import time
from pathlib import Path

from . import ROOT
from .language import _, labs_folder
from .target import Target

LABS = ROOT / "labs"  # the English ones, of which the others are translations


def note(target: Target, lab: str, what: str, value=True) -> None:
    """Keep that `what` of a lab is done: `checked`, `your_turn`, or a prediction's question with what was predicted."""
    file = _file(target)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two labs may be open, in two kernels.
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _kept(file)
        of_lab = kept.setdefault(lab, {"predictions": {}})
        if what in ("checked", "your_turn"):
            of_lab[what] = time.time()
        else:
            of_lab["predictions"][what] = value
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps(_shown(target, kept), indent=1), encoding="utf-8")
        beside.replace(file)


def prediction(target: Target, lab: str, question: str) -> str | None:
    """What the learner has predicted, None where nothing was written down."""
    return _kept(_file(target)).get(lab, {}).get("predictions", {}).get(question)


def progress(target: Target) -> dict:
    """What is done and what is next, as in the file: its `labs` in order, its `next`, None where all is done."""
    return _shown(target, _kept(_file(target)))


def show(target: Target) -> None:
    """Print a line for each lab, and what is next."""
    done = progress(target)
    rows = [["", _("check"), _("your turn"), _("predictions")]]
    for lab in done["labs"]:
        ticks = [_("done") if lab[what] else "-" for what in ("checked", "your_turn")]
        rows.append([lab["title"], *ticks, lab["predictions"] or "-"])
    # As wide as they are in English, or wider where a language has longer words.
    wide = [max(least, *(len(row[place]) for row in rows)) for place, least in enumerate((34, 7, 11))]
    for name, checked, your_turn, predictions in rows:
        print(f"{name:<{wide[0]}} {checked:<{wide[1]}} {your_turn:<{wide[2]}} {predictions}")
    print()
    if done["next"]:
        notebook = labs_folder() / f"{done['next']}.ipynb"
        print(_("Next: {notebook}", notebook=notebook.relative_to(ROOT).as_posix()))
    else:
        print(_("All labs are done."))


def _file(target: Target) -> Path:
    return target.folder.parent / "progress" / f"{target.name}.json"


def _kept(file: Path) -> dict:
    """By lab what is kept of it; {} where the file is damaged or not there: it is a convenience, not a result."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["labs"]
        return {lab["lab"]: {**lab, "predictions": dict(lab["predicted"])} for lab in found}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _shown(target: Target, kept: dict) -> dict:
    shown = []
    for notebook in sorted(LABS.glob("[0-9]*.ipynb")):
        of_lab = kept.get(notebook.stem, {})
        predicted = of_lab.get("predictions", {})
        shown.append(
            {
                "lab": notebook.stem,
                "title": title(labs_folder() / notebook.name),
                "checked": of_lab.get("checked"),
                "your_turn": of_lab.get("your_turn"),
                "predictions": len(predicted),
                "predicted": predicted,
            }
        )
    todo = (lab["lab"] for lab in shown if not lab["checked"])
    return {"name": target.name, "labs": shown, "next": next(todo, None)}


def title(notebook: Path) -> str:
    """What a lab is called, by its first cell."""
    first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"]
    return "".join(first).splitlines()[0].removeprefix("# ")
