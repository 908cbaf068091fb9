"""What goes on when JupyterLab has ended: `python -m workshop running`, which `make lab` calls at its end."""

import os

import localaws

from .costs import ledger
from .target import TargetError, connect


def tell() -> None:
    """Print what still runs, what it costs and how to end it; print nothing where nothing does, and start nothing."""
    aws = os.environ.get("WORKSHOP_TARGET", "local").strip().lower() == "aws"
    if not aws and localaws.status() is None:
        return
    try:
        target = connect(quiet=True)
    except TargetError as error:
        print(f"Whether anything still runs cannot be asked: {error}")
        return
    rows = ledger(target)
    going_on = rows[(rows["kind"] == "endpoint") | rows["status"].isin(["InProgress", "Stopping"])]
    if aws and len(going_on):
        print("Still running on AWS, and costing:")
    elif not aws:
        print(f"localaws goes on at {target.endpoint_url}" + (", with:" if len(going_on) else "."))
    for _, row in going_on.iterrows():
        print(
            f"  {row['kind']} {row['name']}, ${row['$ an hour']:.3f} an hour{'' if aws else ' on AWS, nothing here'}"
        )
    if aws and len(going_on):
        print("End it with labs/99_cleanup.ipynb.")
    elif not aws:
        print("Stop it, and all in it: .venv/bin/python -m localaws down")
