"""What goes on when JupyterLab has ended: `python -m workshop running`, which `make lab` calls at its end."""

import os

import localaws

from . import ROOT
from .costs import ledger
from .errors import WorkshopError
from .language import _, labs_folder
from .target import connect


def tell() -> None:
    """Print what still runs, what it costs and how to end it; print nothing where nothing does, and start nothing."""
    aws = os.environ.get("WORKSHOP_TARGET", "local").strip().lower() == "aws"
    if not aws and localaws.status() is None:
        return
    try:
        target = connect(quiet=True)
    except WorkshopError as error:
        print(_("Whether anything still runs cannot be asked: {error}", error=error))
        return
    rows = ledger(target)
    going_on = rows[(rows["kind"] == "endpoint") | rows["status"].isin(["InProgress", "Stopping"])]
    if aws and len(going_on):
        print(_("Still running on AWS, and costing:"))
    elif not aws:
        print(
            _("localaws goes on at {address}, with:", address=target.endpoint_url)
            if len(going_on)
            else _("localaws goes on at {address}.", address=target.endpoint_url)
        )
    for _number, row in going_on.iterrows():
        thing, price = f"{row['kind']} {row['name']}", row["$ an hour"]
        if aws:
            cost = _("{thing}, ${price:.3f} an hour", thing=thing, price=price)
        else:
            cost = _("{thing}, ${price:.3f} an hour on AWS, nothing here", thing=thing, price=price)
        print(f"  {cost}")
    if aws and len(going_on):
        notebook = (labs_folder() / "99_cleanup.ipynb").relative_to(ROOT).as_posix()
        print(_("End it with {notebook}.", notebook=notebook))
    elif not aws:
        print(_("Stop it, and all in it: .venv/bin/python -m localaws down"))
