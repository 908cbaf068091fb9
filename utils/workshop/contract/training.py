"""What train promises."""

import functools
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..language import _
from .program import Program, changes, how, snapshot
from .promises import TRACEBACK, LeftOut, Promise, must, should, some

TRAIN = 3600  # seconds that a training may take here
STOP, STOP_SOON = 120, 20  # seconds from SIGTERM to SIGKILL, and what is polite
FAILURE = 1024  # characters of output/failure that FailureReason shows

PROMISES: list[Promise] = []


class Run(NamedTuple):
    """How one run of train ended; `code` is None where it had to be killed, `stopping` counts from SIGTERM."""

    base: Path
    code: int | None
    seconds: float
    log: str
    left: str
    changed: list[str]
    stopping: float | None = None

    @property
    def files(self) -> list[str]:
        """What is under model/."""
        return sorted(
            str(path.relative_to(self.base)) for path in (self.base / "model").rglob("*") if path.is_file()
        )

    @property
    def failure(self) -> bytes:
        path = self.base / "output" / "failure"
        return path.read_bytes() if path.is_file() else b""


class Training:
    """The runs of train that the promises speak of; each is made when it is first asked for."""

    def __init__(
        self, command: list[str], folder: Path, channels: Mapping[str, Path], hyperparameters: Mapping
    ):
        self.command, self.folder = command, folder
        self.channels, self.hyperparameters = channels, hyperparameters

    def run(self, name: str, channels: Mapping[str, Path | None], seconds: float, stop: bool = False) -> Run:
        """A run in a folder of its own, which may take so many seconds; then it is killed, or told to stop."""
        base = lay_out(self.folder / name, channels, self.hyperparameters)
        before, started, stopping = snapshot(base), time.monotonic(), None
        job = {"TRAINING_JOB_NAME": f"contract-{name}"}
        job["TRAINING_JOB_ARN"] = f"arn:aws:sagemaker:us-west-2:123456789012:training-job/contract-{name}"
        with Program(self.command, base, **job) as program:
            code = program.wait(seconds)
            seconds = time.monotonic() - started
            if code is None and stop:
                program.terminate()
                code = program.wait(STOP)
                stopping = time.monotonic() - started - seconds
            left = program.left(1) if code is not None else ""
        return Run(base, code, seconds, program.log_end, left, changes(before, snapshot(base)), stopping)

    @functools.cached_property
    def learned(self) -> Run:
        return self.run("train", self.channels, TRAIN)

    @functools.cached_property
    def starved(self) -> dict[str, Run]:
        """Runs that have nothing to learn from."""
        seconds = 60 + 2 * self.learned.seconds
        empty = self.run("empty", dict.fromkeys(self.channels), seconds)
        return {_("an empty channel"): empty, _("no channel"): self.run("missing", {}, seconds)}

    @functools.cached_property
    def cut_short(self) -> Run:
        # The first run may have been slow only because nothing was in the disk's cache.
        shortest = min(run.seconds for run in (self.learned, *self.starved.values()))
        return self.run("stopped", self.channels, shortest / 2, stop=True)

    @property
    def stopped(self) -> Run:
        """A run that SIGTERM has reached."""
        if self.cut_short.stopping is None:
            raise LeftOut(_("it had ended before SIGTERM could reach it"))
        return self.cut_short


def lay_out(base: Path, channels: Mapping[str, Path | None], hyperparameters: Mapping) -> Path:
    """The folders and config files that SageMaker makes for a training job; a channel without a source is empty."""
    for folder in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (base / folder).mkdir(parents=True)
    for channel, source in channels.items():
        (base / "input/data" / channel).mkdir()
        if source and source.is_dir():
            shutil.copytree(source, base / "input/data" / channel, dirs_exist_ok=True)
        elif source:
            shutil.copy(source, base / "input/data" / channel)
    one = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    for name, document in {
        "hyperparameters": {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in hyperparameters.items()
        },
        "inputdataconfig": dict.fromkeys(channels, one),
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
    }.items():
        (base / "input/config" / f"{name}.json").write_text(json.dumps(document))
    return base


@must(
    PROMISES,
    lambda: (
        _("train ends with exit code 0 on the data, every hyperparameter being a string"),
        _("exit code 0"),
        _("the end of its log says why; SageMaker calls every other exit code Failed"),
    ),
    vital=True,
)
def it_learns(training):
    run = training.learned
    return run.code == 0, how(run.code) if run.code == 0 else _(
        "{end}; its log ends: {log}", end=how(run.code), log=run.log
    )


@must(
    PROMISES,
    lambda: (
        _("train leaves a model under model/"),
        _("a file"),
        _("write the model to model/: SageMaker packs what is there, and nothing else"),
    ),
    vital=True,
)
def it_leaves_a_model(training):
    files = training.learned.files
    return bool(files), some(files) or _("no file")


@should(
    PROMISES,
    lambda: (
        _("train leaves everything under input/ as it was"),
        _("no change"),
        _("write to model/, output/data or /tmp: a FastFile channel is read-only"),
    ),
)
def it_reads_only(training):
    changed = [path for path in training.learned.changed if path.startswith("input/")]
    return not changed, some(changed) or _("no change")


@should(
    PROMISES,
    lambda: (
        _("train writes to model/, output/ and checkpoints/ alone"),
        _("no other file"),
        _("write to model/, output/data, checkpoints/ or /tmp: the rest is thrown away"),
    ),
)
def it_writes_where_it_may(training):
    changed = [path for path in training.learned.changed if not path.startswith("input/")]
    return not changed, some(changed) or _("no other file")


@should(
    PROMISES,
    lambda: (
        _("train leaves no process behind when it ends"),
        _("none"),
        _("wait for every process that train starts"),
    ),
)
def it_takes_all_along(training):
    return not training.learned.left, training.learned.left or _("none")


@must(
    PROMISES,
    lambda: (
        _("train ends with an exit code that is not 0 when its channel is empty, or missing"),
        _("another exit code than 0"),
        _("exit 1 where there is nothing to learn: 0 is Completed to SageMaker"),
    ),
)
def it_fails_without_data(training):
    return all(run.code for run in training.starved.values()), told(
        training.starved, lambda run: how(run.code)
    )


@should(
    PROMISES,
    lambda: (
        _("train writes output/failure when it fails"),
        _("the cause in output/failure"),
        _("write the cause to output/failure: it becomes FailureReason"),
    ),
)
def it_says_why(training):
    return all(run.failure.strip() for run in training.starved.values()), told(
        training.starved, lambda run: _("{count:,} bytes", count=len(run.failure))
    )


@should(
    PROMISES,
    lambda: (
        _("output/failure is UTF-8, of at most 1,024 characters, without a traceback"),
        _("a sentence"),
        _("begin with the cause, and send the traceback to stderr, which becomes the log"),
    ),
)
def it_says_why_in_words(training):
    if not all(run.failure.strip() for run in training.starved.values()):
        raise LeftOut(_("there is none"))
    return not any(unreadable(run.failure) for run in training.starved.values()), told(
        training.starved, lambda run: unreadable(run.failure) or f"“{run.failure.decode()[:80].strip()}”"
    )


def unreadable(failure: bytes) -> str:
    """What is wrong with the bytes of output/failure; nothing where all is well."""
    try:
        text = failure.decode()
    except UnicodeDecodeError as error:
        return _("not UTF-8 at byte {number}", number=error.start)
    if TRACEBACK.search(text):
        return _("a traceback")
    return _("{count:,} characters", count=len(text)) if len(text) > FAILURE else ""


@must(
    PROMISES,
    lambda: (
        _("train ends within 120 s of SIGTERM"),
        _("the end within 120 s"),
        _("let SIGTERM reach the program: exec it, and do not ignore the signal"),
    ),
)
def it_stops(training):
    run = training.stopped
    return run.code is not None, _(
        "{end}, {seconds:.1f} s after SIGTERM", end=how(run.code), seconds=run.stopping
    )


@should(
    PROMISES,
    lambda: (
        _("train ends within 20 s of SIGTERM, with nothing of it left"),
        _("the end within 20 s"),
        _("stop between two steps, and leave the clean-up short"),
    ),
)
def it_stops_soon(training):
    run = training.stopped
    found = _("{end}, {seconds:.1f} s after SIGTERM", end=how(run.code), seconds=run.stopping)
    if run.left:
        found = _("{found}, and left {left}", found=found, left=run.left)
    return run.code is not None and run.stopping <= STOP_SOON and not run.left, found


def told(runs: Mapping[str, Run], what: Callable[[Run], str]) -> str:
    return "; ".join(f"{name}: {what(run)}" for name, run in runs.items())
