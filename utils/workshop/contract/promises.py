"""What a promise is, and what is found of it: rows of tables, which the functions below `@must` and `@should` are."""

import contextlib
import http.client
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import WorkshopError
from ..language import _

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
        found = self.found
        if self.ok is False:
            found = _(
                "expected {expected}, found {found}: {mend}",
                expected=self.expected,
                found=self.found,
                mend=self.mend,
            )
        return f"{verdict:<8}  {self.level:<6}  {self.name}  {found}"


@contextlib.contextmanager
def folded(say: Callable[[Finding], object]) -> Iterator[Callable[[Finding], None]]:
    """`say`, for which promises in a row that are left out for one reason are one line: else the reason hides the rest."""
    row: list[Finding] = []

    def end_row() -> None:
        if row:
            say(
                row[0]
                if len(row) == 1
                else row[0]._replace(level="", name=_("{count} promises", count=len(row)))
            )
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
    """A row of a table: its function says (is it so, what was found) of the subject that it is given.

    `words` says, when it is asked, so in the learner's language: the promise, what is expected, how to mend it.
    """

    level: str
    words: Callable[[], tuple[str, str, str]]
    vital: bool
    function: Callable

    def hold(self, subject) -> Finding:
        """Looks at it. A container that gives no answer breaks the promise."""
        try:
            ok, found = self.function(subject)
        except LeftOut as reason:
            return self.left_out(str(reason))
        except (OSError, http.client.HTTPException) as error:
            ok, found = False, _("no answer ({kind}: {error})", kind=type(error).__name__, error=error)
        return self.finding(ok, found)

    def left_out(self, because: str) -> Finding:
        return self.finding(None, because)

    def finding(self, ok: bool | None, found: str) -> Finding:
        name, expected, mend = self.words()
        return Finding(name, self.level, ok, expected, " ".join(found.split()), mend)


def must(table: list[Promise], words: Callable[[], tuple[str, str, str]], vital: bool = False) -> Callable:
    """Puts a function into a table: SageMaker breaks without what it promises. Without a vital one no other is looked at.

    `words` are the promise, what is expected, and how to mend it.
    """
    return lambda function: table.append(Promise("must", words, vital, function)) or function


def should(table: list[Promise], words: Callable[[], tuple[str, str, str]]) -> Callable:
    """As `must`, for what SageMaker can do without and a good container does."""
    return lambda function: table.append(Promise("should", words, False, function)) or function


def some(files: list[str]) -> str:
    """Names to be shown; nothing where there are none."""
    shown = ", ".join(files[:3])
    return _("{files} and {count} more", files=shown, count=len(files) - 3) if len(files) > 3 else shown
