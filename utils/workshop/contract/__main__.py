"""`python -m workshop.contract`: see --help."""

import argparse
import functools
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from .. import ROOT
from ..errors import WorkshopError
from ..language import _
from ..target import algorithms, said, sample
from . import ContractError, __doc__, check


def fill_in(given: argparse.Namespace) -> None:
    """What the command does not name, from the folder container/ALGORITHM. Raises WorkshopError where there is none."""
    folder = ROOT / "container" / given.algorithm
    if not (folder / "training.py").exists():
        raise ContractError(
            _(
                "there is no container/{algorithm} with a training.py; there are: {there}",
                algorithm=given.algorithm,
                there=", ".join(algorithms()),
            )
        )
    for verb in ("train", "serve"):
        command = shlex.join([str(ROOT / "container/run"), given.algorithm, verb])
        setattr(given, verb, getattr(given, verb) or command)
    data, payload, content_type = sample(folder)
    if not given.training:
        channels = data if isinstance(data, dict) else {"training": data}
        given.training = [f"{channel}={ROOT / path}" for channel, path in channels.items()]
        make_data(folder)
    given.hyperparameters = said(folder, "hyperparameters") | given.hyperparameters
    given.content_type = given.content_type or (None if given.payload else content_type)
    given.payload = given.payload or payload


def make_data(folder: Path) -> None:
    """Runs the program that makes the data, where labs.json names one. Raises ContractError where it fails."""
    if not (command := said(folder, "made_by")):
        return
    made = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise ContractError(
            _(
                "the data cannot be made, by python {command}: {error}",
                command=command,
                error=made.stderr.strip()[-400:],
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workshop.contract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--algorithm", metavar="NAME", help="a folder of container/, in place of the commands"
    )
    parser.add_argument("--train", metavar="COMMAND", help="the command that trains")
    parser.add_argument("--serve", metavar="COMMAND", help="the command that serves")
    parser.add_argument("--url", help="a server that runs already, in place of the commands")
    parser.add_argument(
        "--training",
        metavar="[CHANNEL=]PATH",
        nargs="+",
        action="extend",
        default=[],
        help="what a channel holds (default: training)",
    )
    parser.add_argument(
        "--hyperparameter",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="for the training",
    )
    parser.add_argument("--model", metavar="FOLDER", help="a model to serve, where nothing is trained")
    parser.add_argument("--payload", metavar="FILE", help="the body of a request that must be answered")
    parser.add_argument("--content-type", metavar="TYPE", help="the payload's")
    parser.add_argument("--accept", metavar="TYPE", help="what the answer shall be")
    parser.add_argument("--port", type=int, help="where serve listens whatever it is told")
    parser.add_argument(
        "--patience", type=float, default=60, metavar="SECONDS", help="to be ready; SageMaker has 480"
    )
    given = parser.parse_args()
    for pair in given.hyperparameter:
        if "=" not in pair:
            parser.error(_("--hyperparameter {pair}: expected NAME=VALUE", pair=pair))
    given.hyperparameters = dict(pair.split("=", 1) for pair in given.hyperparameter)
    try:
        if given.algorithm is not None:
            fill_in(given)
    except WorkshopError as error:
        print(f"contract: {error}", file=sys.stderr)
        return 2
    channels = [pair.partition("=") if "=" in pair else ("training", "=", pair) for pair in given.training]
    words = vars(given) | {"training": {name: path for name, _mark, path in channels}}
    del words["algorithm"], words["hyperparameter"]
    used = words | {
        name: " ".join(f"{n}={v}" for n, v in words[name].items()) for name in ("training", "hyperparameters")
    }
    for name in ("train", "serve", "url", "training", "hyperparameters", "model", "payload", "content_type"):
        if used[name]:
            print(f"{name.replace('_', ' '):<16}  {used[name]}", flush=True)
    print(flush=True)

    def interrupted(*_signal):
        for number in endings:
            signal.signal(number, signal.SIG_IGN)  # what was started is ended first
        raise KeyboardInterrupt

    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in endings:
        signal.signal(number, interrupted)
    try:
        findings = check(**words, say=functools.partial(print, flush=True))
    except ContractError as error:
        print(f"contract: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("contract: " + _("interrupted; what was started is stopped"), file=sys.stderr)
        return 130
    counts = {ok: sum(finding.ok is ok for finding in findings) for ok in (True, False, None)}
    broken = sum(finding.ok is False and finding.level == "must" for finding in findings)
    print()
    print(
        _(
            "{ok} ok, {broken} broken ({must} of them must), {left_out} left out",
            ok=counts[True],
            broken=counts[False],
            must=broken,
            left_out=counts[None],
        )
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
