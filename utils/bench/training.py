"""What is measured of training: the whole process, less the fit, and its memory."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from . import BUILD, IRIS, PROGRAMS, ROOT, BenchError
from .contenders import BASELINE, OURS, TREES, Contender, python

ROWS, COLUMNS = 1_000_000, 20
# Runs a program with the time that scikit-learn's fit takes printed as soon as it has ended. It wraps fit when the program imports
# it, and not before: how the program imports scikit-learn is a part of what is measured.
TIMED = """
import importlib.util, runpy, sys, time

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name != "sklearn.tree":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            fit = module.DecisionTreeClassifier.fit
            def timed(*values, **options):
                started = time.perf_counter()
                try:
                    return fit(*values, **options)
                finally:
                    print(f"fit_seconds={time.perf_counter() - started:.3f}", flush=True)
            module.DecisionTreeClassifier.fit = timed
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hook())
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PROGRAM = {OURS: ROOT / "container/stack/train", BASELINE: PROGRAMS / "baseline/train.py"}
# Starts a program and prints how long it took and the most memory it had. It stands between, small, because Linux
# counts to a program the memory of the process that it was forked from.
CLOCK = """
import os, sys, time
started = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(f"seconds={time.perf_counter() - started:.4f} peak={usage.ru_maxrss}", flush=True)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Run(NamedTuple):
    """A training: seconds of the whole process, seconds in scikit-learn's fit (0 if not asked for), peak bytes."""

    seconds: float
    fit: float
    peak: int


def folder(name: str, training: Path, **hyperparameters) -> Path:
    """SageMaker's folders with one training file (a link to it), and empty model and output folders."""
    base = BUILD / "ml" / name
    shutil.rmtree(base, ignore_errors=True)
    for part in ("input/data/training", "input/config", "model", "output"):
        (base / part).mkdir(parents=True)
    os.link(training, base / "input/data/training" / training.name)
    (base / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))
    return base


def train(contender: Contender, base: Path, timed: bool = False, program: Path | None = None) -> Run:
    """One training from exec to exit, by the contender's own Python or `program`. Raises BenchError when it fails."""
    command = [str(program or python(contender)), *(["-c", TIMED] if timed else []), str(PROGRAM[contender])]
    if contender is OURS:
        command.append("train")
    return process(command, SAGEMAKER_BASE_DIR=base, ALGORITHM_DIR=TREES)


def process(command: list[str], **variables) -> Run:
    """A program as a whole process, its output at hand only if it fails. Raises BenchError."""
    env = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    clock = [sys.executable, "-S", "-c", CLOCK, *command]
    done = subprocess.run(clock, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BenchError(f"{command[-1]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-600:]}")
    seconds, peak = re.search(r"seconds=([\d.]+) peak=(\d+)", done.stdout).groups()
    fits = re.findall(r"fit_seconds=([\d.]+)", done.stdout)
    scale = 1 if sys.platform == "darwin" else 1024
    return Run(float(seconds), sum(map(float, fits)), int(peak) * scale)


def iris(rounds: int) -> dict[str, list[Run]]:
    """Whole trainings on iris in turn."""
    results: dict = {"ours": [], "baseline": []}
    for _ in range(rounds):
        for contender in (OURS, BASELINE):
            results[contender.name].append(train(contender, folder(contender.name, IRIS)))
    return results


def large(rounds: int) -> dict[str, list[Run]]:
    """Whole trainings on 1,000,000 x 20 in turn: a tree of three levels, so that little of it is the fit."""
    data = table()
    results: dict = {"ours": [], "baseline": []}
    for _ in range(rounds):
        for contender in (OURS, BASELINE):
            base = folder(contender.name, data, max_depth="3")
            results[contender.name].append(train(contender, base, timed=True))
    return results


def table() -> Path:
    """The large table as CSV, label first: made once, the same each time."""
    import numpy as np

    file = BUILD / "data" / "large.csv"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        with file.with_suffix(".part").open("w") as out:
            for _ in range(ROWS // 100_000):
                values = random.integers(0, 100_000, (100_000, COLUMNS))
                names = np.array(["low", "middle", "high"])[(values[:, 0] // 33_334)]
                for name, row in zip(names, values.tolist(), strict=True):
                    out.write(f"{name}," + ",".join([f"{value / 10_000:.4f}" for value in row]) + "\n")
        file.with_suffix(".part").rename(file)
    return file
