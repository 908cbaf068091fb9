"""The language that a learner is spoken to in: the lab's own, elsewhere WORKSHOP_LANG, English by default.

A language other than English is a catalogue, utils/languages/LANGUAGE.po, in which `_` looks up what helpers say. What
AWS and localaws answer stays English, as on AWS.
"""

import functools
import gettext
import io
import os
from pathlib import Path

from . import ROOT
from .errors import WorkshopError
from .notebook import in_notebook

CATALOGUES = ROOT / "utils" / "languages"
ENGLISH = "en"


class UnknownLanguage(WorkshopError):
    """There is no catalogue of this language."""


def others() -> list[str]:
    """The languages that there are beside English: one for each catalogue."""
    return sorted(path.stem for path in CATALOGUES.glob("*.po"))


def _of_the_lab() -> str | None:
    """The language of the folder that this began in, None where it is no folder of labs."""
    here = Path.cwd()
    if here.parent.name == "labs" and here.name in others():
        return here.name
    return ENGLISH if here.name == "labs" and in_notebook() else None


# Asked once: enter_labs() leaves the folder that tells it.
_LAB = _of_the_lab()


def language() -> str:
    """The language to speak, such as `es`. Raises UnknownLanguage where WORKSHOP_LANG names one without a catalogue."""
    if _LAB:
        return _LAB
    wanted = os.environ.get("WORKSHOP_LANG", "").strip().lower().partition("_")[0] or ENGLISH
    if wanted != ENGLISH and wanted not in others():
        there = ", ".join([ENGLISH, *others()])
        raise UnknownLanguage(f"WORKSHOP_LANG is {wanted!r}; there are: {there}")
    return wanted


def enter_labs() -> None:
    """Let the cells of a lab in any language run in labs/, as the English ones do, and what they start speak as they do."""
    if _LAB:
        os.environ["WORKSHOP_LANG"] = _LAB
    if Path.cwd().name == _LAB:
        os.chdir("..")


def labs_folder(of: str | None = None) -> Path:
    """The folder of the labs in a language, by default in the one that is spoken."""
    of = of or language()
    return ROOT / "labs" / ("" if of == ENGLISH else of)


@functools.cache
def translations(of: str) -> gettext.NullTranslations:
    """What a language's catalogue has, as gettext reads it; of English, nothing."""
    if of == ENGLISH:
        return gettext.NullTranslations()
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    compiled = io.BytesIO()
    with (CATALOGUES / f"{of}.po").open("rb") as file:
        write_mo(compiled, read_po(file))  # without what is fuzzy
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def _(message: str, **values: object) -> str:
    """The message in the learner's language, with the values in the place of their names in braces."""
    try:
        spoken = translations(language()).gettext(message)
    except UnknownLanguage:  # which is an error that must be said, too
        spoken = message
    return spoken.format(**values) if values else spoken
