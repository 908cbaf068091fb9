"""The language that helpers speak: everything that they say can be looked up, and which one it is."""

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from workshop import ROOT, catch_up, language, record
from workshop.language import CATALOGUES, UnknownLanguage, _, enter_labs, labs_folder
from workshop.translate import TWO_WORDS

WORKSHOP = ROOT / "utils" / "workshop"
#: What only a developer runs; and what cannot look up its own messages.
ENGLISH_MODULES = {"solutions.py", "translate.py", "language.py"}
#: What has two words in it and is not looked up, by why.
ENGLISH = {
    # what AWS, docker or a shell says or reads
    "Could not find",
    "status=200 method=POST",
    "chmod 644 stack/train",
    "Requested resource not found",
    "docker create {} {}: {}",
    "make setup",
    "FROM {}\nWORKDIR /opt/program\nRUN {}\n",
    "(echo 'import seaborn'; cat training.py) > t && cat t > training.py",
    "{} && rm t && {}",
    "docker cp: {}",
    "docker save {}: {}",
    "POST /invocations HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {}\r\n\r\n",
    'run = subprocess.run([program, target.algorithm, "serve"], env=os.environ | {…}, capture_output=True, text=True)',
    # names and keys
    "ECR repository",
    "log group",
    "log stream",
    "training job",
    "transform job",
    "tuning job",
    "$ an hour",
    "rows a second",
    "same answers",
    "an AWS access key",
    "an AWS secret",
    "a password in an address",
    "a password or token",
    "a private key",
    # what contract says of a promise, as its --help has it
    "left out",
    # the value of a tag
    "this machine",
    # a figure and its unit
    "250 ms",
    # of a picture and a page
    "max-width: 100%; height: auto; fill: currentColor",
    '<svg role="img" aria-label="{}" style="{}"',
    "<style>@media (prefers-color-scheme: dark) {\n{}\n}</style>",
    # for whoever writes a lab
    "what is {}; it is 'training', 'tuning', 'transform', 'endpoint' or 'image'",
}
TAG = re.compile(r"<[^>]*>")
#: The usage of a command is English.
ARGPARSE = {"ArgumentParser", "add_argument", "add_parser"}

MODULES = sorted(path for path in WORKSHOP.rglob("*.py") if path.name not in ENGLISH_MODULES)
each_module = pytest.mark.parametrize(
    "module", MODULES, ids=lambda path: path.relative_to(WORKSHOP).as_posix()
)


def called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", None) or getattr(function, "id", "")


def words(node: ast.AST) -> str | None:
    """The text of a string, with {} for what an f-string puts in; None for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def unwrapped(node: ast.AST, in_function: bool = False) -> Iterator[tuple[int, str]]:
    """(line, text) of the strings of two words that a function has and does not look up."""
    for child in ast.iter_child_nodes(node):
        is_docstring = isinstance(child, ast.Expr) and words(child.value) is not None
        if is_docstring or isinstance(child, ast.Assert) or called(child) in {"_", *ARGPARSE}:
            values = child.keywords if called(child) == "_" else ()
            for value in values:
                yield from unwrapped(value, in_function)
            continue
        text = words(child)
        if in_function and text and TWO_WORDS.search(TAG.sub("", text)) and text not in ENGLISH:
            yield child.lineno, text
        inside = in_function or isinstance(child, ast.FunctionDef | ast.Lambda)
        for part in child.values if isinstance(child, ast.JoinedStr) else (child,):
            if not isinstance(part, ast.Constant):
                yield from unwrapped(part, inside)


def looked_up(tree: ast.AST, later: bool = False) -> Iterator[tuple[ast.Call, bool]]:
    """Every call of _, and whether it happens in a function: later than the module's import."""
    for child in ast.iter_child_nodes(tree):
        if called(child) == "_":
            yield child, later
        if isinstance(child, ast.FunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from looked_up(part, later)
            for part in child.body:
                yield from looked_up(ast.Module([part], []), True)
        else:
            yield from looked_up(child, later or isinstance(child, ast.Lambda))


def placeholders(message: str) -> set[tuple]:
    return {part[1:] for part in Formatter().parse(message) if part[1] is not None}


def messages() -> dict[str, set[str]]:
    """Everything that helpers say, with the names of the values in it."""
    calls = (call for path in MODULES for call, _later in looked_up(ast.parse(path.read_text())))
    return {call.args[0].value: {value.arg for value in call.keywords} for call in calls}


@each_module
def test_what_is_said_is_looked_up(module):
    left = list(unwrapped(ast.parse(module.read_text())))
    assert not left, f"wrap these in _(), or say in ENGLISH why not: {left}"


def test_a_string_that_is_not_looked_up_is_seen():
    said = 'def f(x):\n    """A docstring."""\n    print(_("one {x}", x="two words"), f"three {x} are four")\n    {}'
    assert list(unwrapped(ast.parse(said))) == [(3, "two words"), (3, "three {} are four")]
    assert [later for _call, later in looked_up(ast.parse('A = _("a")\ndef f(a=_("b")): _("c")'))] == [
        False,
        False,
        True,
    ]


@each_module
def test_a_message_is_one_literal_that_names_its_values_and_is_looked_up_when_it_is_said(module):
    tree = ast.parse(module.read_text())
    for call, later in looked_up(tree):
        where = f"{module.name}:{call.lineno}"
        assert later, f"{where}: the language is not known at import"
        [message] = call.args
        assert isinstance(message, ast.Constant) and isinstance(message.value, str), (
            f"{where}: no message that can be extracted"
        )
        values = {value.arg for value in call.keywords}
        if values and None not in values:
            assert {name for name, *_format in placeholders(message.value)} == values, where
    names = [
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    names += [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
    assert "_" not in names, "_ is what looks messages up"


def test_every_message_is_found_by_who_extracts_them():
    """Babel does not look into the braces of an f-string."""
    found = {message for _file, _line, message, *_rest in extract_from_dir(WORKSHOP, keywords={"_": None})}
    assert found == set(messages())


@pytest.mark.parametrize("path", sorted(CATALOGUES.glob("*.po")), ids=lambda path: path.stem)
def test_a_translation_has_the_placeholders_of_its_message(path):
    with path.open("rb") as file:
        catalog = read_po(file, locale=path.stem)
    for message, values in messages().items():
        entry = catalog.get(message)
        if values and entry and entry.string:
            assert placeholders(entry.string) == placeholders(message), message


@pytest.fixture
def languages(tmp_path, monkeypatch, environment) -> Path:
    """A clone with labs in English and two languages more, outside of any lab."""
    for name in ("xa", "xb"):
        (tmp_path / "labs" / name).mkdir(parents=True)
        text = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
        text += f'msgid "Region {{name}}"\nmsgstr "{{name}}, región de {name}"\n'
        (tmp_path / f"{name}.po").write_text(text, encoding="utf-8")
    monkeypatch.setattr(language, "CATALOGUES", tmp_path)
    monkeypatch.setattr(language, "ROOT", tmp_path)
    monkeypatch.setattr(language, "_LAB", None)
    monkeypatch.chdir(tmp_path)
    language.translations.cache_clear()
    yield tmp_path
    language.translations.cache_clear()


def test_english_is_spoken_where_nobody_wants_another_language(languages):
    assert language.language() == "en" and _("Region {name}", name="here") == "Region here"
    assert labs_folder() == languages / "labs"


@pytest.mark.parametrize("wanted", ["xa", "XA", " xa_XA.UTF-8 "])
def test_the_language_that_is_wanted_is_spoken(languages, wanted):
    os.environ["WORKSHOP_LANG"] = wanted
    assert language.language() == "xa" and labs_folder() == languages / "labs" / "xa"
    assert _("Region {name}", name="aquí") == "aquí, región de xa"
    assert _("What has no {name} yet", name="translation") == "What has no translation yet"


def test_an_unknown_language_is_named_with_what_there_is_and_what_is_said_is_english(languages):
    os.environ["WORKSHOP_LANG"] = "de"
    with pytest.raises(UnknownLanguage, match=r"WORKSHOP_LANG is 'de'; there are: en, xa, xb"):
        language.language()
    assert _("Region {name}", name="here") == "Region here"


def test_a_lab_speaks_its_own_language_and_so_does_what_it_starts(languages, monkeypatch):
    os.environ["WORKSHOP_LANG"] = "xa"
    monkeypatch.chdir(languages / "labs" / "xb")
    monkeypatch.setattr(language, "_LAB", language._of_the_lab())
    assert language.language() == "xb"
    enter_labs()
    assert Path.cwd() == languages / "labs" and os.environ["WORKSHOP_LANG"] == "xb"
    enter_labs()
    assert Path.cwd() == languages / "labs" and language.language() == "xb"


def test_a_folder_that_is_none_of_labs_says_nothing_of_the_language(languages, monkeypatch):
    (languages / "xa").mkdir()
    for place in (languages, languages / "xa", languages / "labs"):  # in labs/ a terminal may be
        monkeypatch.chdir(place)
        assert language._of_the_lab() is None


def test_progress_and_catching_up_take_the_labs_of_the_language(target, monkeypatch, tmp_path, capsys):
    for lab in record.LABS.glob("[0-9]*.ipynb"):
        cells = [
            {"cell_type": "markdown", "source": ["# Laboratorio"]},
            {"cell_type": "code", "metadata": {"tags": ["catch-up"]}, "source": [f"# {lab.stem}"]},
        ]
        (tmp_path / lab.name).write_text(json.dumps({"cells": cells}))
    catching_up = sys.modules["workshop.catch_up"]  # in the package the name is the function's
    ran = []
    for module in (record, catching_up):
        monkeypatch.setattr(module, "labs_folder", lambda: tmp_path)
    monkeypatch.setattr(catching_up, "run_cells", lambda lab, cells: ran.append((lab, cells)))
    monkeypatch.setattr(record, "ROOT", tmp_path)
    record.show(target)
    shown = capsys.readouterr().out
    assert shown.count("Laboratorio") == len(list(record.LABS.glob("[0-9]*.ipynb")))
    assert shown.endswith("\nNext: 00_setup.ipynb\n")
    with pytest.raises(catching_up.CatchUpFailed, match="00_setup did not bring about what 11_image"):
        catch_up("11_image_in_mask_out")
    assert ran == [("00_setup", ["# 00_setup"])]
