"""What a promise is, and what is found of it: rows of tables, which the functions below `@must` and `@should` are."""

import contextlib
import http.client
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import WorkshopError

TRACEBACK = re.compile(
    r'Traceback \(most recent call last\)|^  File ".+", line \d+|^\s+at [\w$.<>]+ ?\(.+:\d+|^goroutine \d+ \[|'
    r" at \S+\.p[lm] line \d+\.$|^stack backtrace:|panicked at ",
    re.MULTILINE,
)


class ContractError(WorkshopError):
    """There is nothing that could be checked: a file, a program or a port is not as it must be."""


class LeftOut(Exception):
    """A promise cannot be judged here; says why."""


class Finding(NamedTuple):
    """What came of one promise. `ok` is None where it was left out, and `found` then says why."""

    name: str
    level: str
    ok: bool | None
    expected: str
    found: str
    mend: str

    def __str__(self):
        verdict = {True: "ok", False: "broken", None: "left out"}[self.ok]
        line = f"{verdict:<8}  {self.level:<6}  {self.name}  "
        return line + (
            self.found
            if self.ok is not False
            else f"expected {self.expected}, found {self.found}: {self.mend}"
        )


@contextlib.contextmanager
def folded(say: Callable[[Finding], object]) -> Iterator[Callable[[Finding], None]]:
    """`say`, for which promises in a row that are left out for one reason are one line: else the reason hides the rest."""
    row: list[Finding] = []

    def end_row() -> None:
        if row:
            say(row[0] if len(row) == 1 else row[0]._replace(level="", name=f"{len(row)} promises"))
            row.clear()

    def hear(finding: Finding) -> None:
        if row and (finding.ok, finding.found) != (None, row[0].found):
            end_row()
        if finding.ok is None:
            row.append(finding)
        else:
            say(finding)

    try:
        yield hear
    finally:
        end_row()


class Promise(NamedTuple):
    """A row of a table: its function says (is it so, what was found) of the subject that it is given."""

    level: str
    vital: bool
    function: Callable

    def hold(self, subject) -> Finding:
        """Looks at it. A container that gives no answer breaks the promise."""
        try:
            ok, found = self.function(subject)
        except LeftOut as reason:
            return self.left_out(str(reason))
        except (OSError, http.client.HTTPException) as error:
            ok, found = False, f"no answer ({type(error).__name__}: {error})"
        return self.finding(ok, found)

    def left_out(self, because: str) -> Finding:
        return self.finding(None, because)

    def finding(self, ok: bool | None, found: str) -> Finding:
        name, _, rest = self.function.__doc__.partition("\n")
        expected, _, mend = " ".join(rest.split()).partition(": ")
        return Finding(name, self.level, ok, expected, " ".join(found.split()), mend)


def must(table: list[Promise], vital: bool = False) -> Callable:
    """Puts a function into a table: SageMaker breaks without what it promises. Without a vital one no other is looked at.

    The docstring is the promise; below it stand what is expected and, after a colon, how to mend it.
    """
    return lambda function: table.append(Promise("must", vital, function)) or function


def should(table: list[Promise]) -> Callable:
    """As `must`, for what SageMaker can do without and a good container does."""
    return lambda function: table.append(Promise("should", False, function)) or function


def some(files: list[str]) -> str:
    """Names to be shown; nothing where there are none."""
    shown = ", ".join(files[:3])
    return f"{shown} and {len(files) - 3} more" if len(files) > 3 else shown
