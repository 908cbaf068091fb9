"""How fast the container and localaws are: against the well-known sample, against peers, and against the limit.

`make bench` runs it all and writes RESULTS.md, results.json and the pictures; `make bench QUICK=1` is the short form
that CI holds to three quarters of each goal. Every figure is a ratio of what was measured in turn, in one run.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What a run makes and needs again: the peers' packages, models, data, logs.
BUILD = ROOT / "build" / "bench"
PROGRAMS = Path(__file__).with_name("programs")
IRIS = ROOT / "data" / "iris.csv"


class BenchError(Exception):
    """Something that a bench needs is missing or answers wrongly; the message says how to mend it."""
