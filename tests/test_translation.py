"""The labs in other languages: nothing is left to translate, the code is the same, and they run."""

import ast
import html
import io
import json
import os
import re
from itertools import zip_longest
from pathlib import Path

import nbformat
import pytest
from babel.messages.catalog import Catalog
from clones import clone
from test_labs import FILES, PLACE, cells_of, validate

from workshop import ROOT, translate
from workshop.catch_up import NEEDS
from workshop.language import CATALOGUES, labs_folder, others

each_language = pytest.mark.parametrize("language", others())
each_lab = pytest.mark.parametrize("lab", list(NEEDS))


def spoken() -> dict[str, translate.Speak]:
    return {language: translate.speaks(translate.catalogue(language)) for language in others()}


def translated(lab: str, language: str) -> Path:
    return labs_folder(language) / f"{lab}.ipynb"


@each_language
def test_nothing_is_left_to_translate_and_nothing_in_the_catalogue_is_unused(language):
    catalog = translate.catalogue(language)
    before = translate.written(catalog, language)
    translate.renew(catalog, translate.template())
    assert translate.missing(catalog) == []
    assert before == translate.written(catalog, language), "run `make translate`"
    assert before == (CATALOGUES / f"{language}.po").read_text(encoding="utf-8"), "run `make translate`"


def test_what_is_in_the_tree_is_what_the_command_makes():
    made = translate.made(spoken())
    for place, text in made.items():
        assert (ROOT / place).read_text(encoding="utf-8") == text, f"{place}: run `make translate`"
    for language in others():
        there = {
            path.relative_to(ROOT)
            for path in labs_folder(language).rglob("*.*")
            if path.suffix in translate.MADE
        }
        assert {place for place in there if ".ipynb_checkpoints" not in place.parts} <= set(made)


def code_cells(lab: str, language: str) -> tuple[list, list]:
    """The cells of code of a lab, in English and in another language."""
    return tuple(cells_of(labs_folder(one) / f"{lab}.ipynb", "code") for one in (translate.ENGLISH, language))


# A shell's line, told in another way than the command does.
SHELL = re.compile(r"^(\s*(?:\w+ = )?)([!%](?:.*\\\n)*.*)$", re.MULTILINE)


def skeleton(source: str) -> str:
    """A cell's code without its comments and without the words in its strings."""
    python = SHELL.sub(lambda line: line[1] + f"shell({', '.join(map(repr, line[2].encode()))})", source)
    tree = ast.parse(python)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
        elif isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
            node.values = sorted(parts, key=lambda part: ast.dump(part.value))
    return ast.dump(tree)


@each_language
@each_lab
def test_the_code_is_the_same(lab, language):
    english, other = code_cells(lab, language)
    assert [cell.id for cell in english] == [cell.id for cell in other]
    for one, two in zip(english, other, strict=True):
        assert one.metadata == two.metadata and one.execution_count == two.execution_count
        if one.source != PLACE:
            assert skeleton(one.source) == skeleton(two.source), one.id
        said = [line for output in one.outputs for line in output.get("text", "").splitlines()]
        says = [line for output in two.outputs for line in output.get("text", "").splitlines()]
        assert len(said) == len(says)
        # Figures are compared as they are; words may be others.
        assert re.findall(r"\d+", "".join(said)) == re.findall(r"\d+", "".join(says)), one.id


@each_language
@each_lab
def test_the_solution_is_the_same(lab, language):
    def solutions(path: Path) -> list[str]:
        prose = "\n".join(cell.source for cell in cells_of(path, "markdown"))
        return [
            html.unescape(code) for code in re.findall(r"<pre><code>(.*?)</code></pre>", prose, re.DOTALL)
        ]

    pairs = zip_longest(solutions(ROOT / "labs" / f"{lab}.ipynb"), solutions(translated(lab, language)))
    assert all(skeleton(one) == skeleton(two) for one, two in pairs)


@each_language
@each_lab
def test_every_cell_of_text_is_in_the_other_language(lab, language):
    notebook = nbformat.read(translated(lab, language), as_version=4)
    nbformat.validate(notebook)
    english = nbformat.read(ROOT / "labs" / f"{lab}.ipynb", as_version=4)
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in english.cells]
    for one, two in zip(english.cells, notebook.cells, strict=True):
        if one.cell_type == "markdown":
            assert one.source != two.source, one.id
            # A sentence that stayed would be found in both; what AWS says, in quotes, stays.
            own = re.sub(r'"[^"\n]*"', "", one.source)
            sentences = set(re.findall(r"(?<=\. )[A-Z][^.`]{40,}\.", own))
            assert not [sentence for sentence in sentences if sentence in two.source], one.id
            shown = re.sub(r"<details>.*?</details>", "", two.source, flags=re.DOTALL)
            assert len(shown.split()) <= 150, f"a wall of text:\n{two.source}"


@each_language
def test_links_lead_somewhere_from_one_folder_further_down(language):
    pages = [place for place in translate.made(spoken()) if place.suffix in (".ipynb", ".md")]
    for place in pages:
        text = (ROOT / place).read_text(encoding="utf-8")
        if place.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for address in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = address.partition("#")
            if re.match(r"[a-z]+:", address) or "codespaces" in address:
                continue
            target = (ROOT / place.parent / file).resolve() if file else ROOT / place
            assert target.exists(), f"{place} links to {address}"
            if anchor and target.suffix == ".md":
                headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {
                    re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
                }
                assert anchor in slugs, f"{place} links to {address}; there are {sorted(slugs)}"


def test_every_page_leads_to_its_other_languages():
    for origin, places in translate.pages(spoken()).items():
        if origin.suffix == ".svg":
            continue
        for language, place in places.items():
            text = (ROOT / place).read_text(encoding="utf-8")
            (bar,) = re.findall(rf".*{translate.BAR.pattern}", text)
            assert ("written by make translate" in bar) is (language != translate.ENGLISH)
            for other, page in places.items():
                leads = f"]({Path(os.path.relpath(page, place.parent)).as_posix()})" in bar
                assert leads == (other != language), f"{place}: {bar}"


# How the command tells what is read.


def texts(source: str) -> list[str]:
    return [source[start:end] for start, end in translate.spans(source)]


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("x = 1  # why it is one\n", ["# why it is one"]),
        ('print("two words")', ["two words"]),
        ('print(f"{sum(x)} of {n}, überall")', ["{sum(x)} of {n}, überall"]),
        ('ask["key"] = "value"', []),
        ('axes.set(ylabel="rows", xlim=(0, 1))', ["rows"]),
        ('p = predict("04 why", "one", "two")', ["04 why", "one", "two"]),
        ('!aws s3 ls "a bucket"  # no comment of ours', []),
        (
            'if x:\n    !python run "{a}" \\\n      --more two words\n    print("after it all")',
            ["after it all"],
        ),
        ('lines = !{train}\nprint("as said", lines)', ["as said"]),
        ('%%writefile ../x.py\n"""What it is."""\nx = 1  # one', ["What it is.", "# one"]),
        ("# only a comment", ["# only a comment"]),
    ],
)
def test_what_a_learner_reads_of_a_cell(source, read):
    assert texts(source) == read


def test_a_string_in_pieces_is_refused_by_name():
    with pytest.raises(translate.CannotTranslate, match=r'in one piece: "two words" " and more"'):
        texts('print("two words" " and more")')


# What becomes of a change in English.


def catalog_of(**pairs: str) -> Catalog:
    catalog = Catalog(locale="es")
    for english, spanish in pairs.items():
        catalog.add(english.replace("_", " "), spanish, locations=[("labs/00_setup.ipynb#00-01", None)])
    return catalog


def test_a_changed_cell_is_fuzzy_and_stays_english_and_a_deleted_one_goes():
    catalog = catalog_of(
        The_bucket_is_made_by_this_cell="Esta celda crea el bucket", Gone_for_good="Nunca más"
    )
    template = Catalog()
    template.add("The bucket is made by that cell", locations=[("labs/00_setup.ipynb#00-13", None)])
    template.add("Altogether new", locations=[("labs/01_build.ipynb#01-02", None)])
    translate.renew(catalog, template)
    assert translate.missing(catalog) == [
        "fuzzy: labs/00_setup.ipynb#00-13: The bucket is made by that cell",
        "untranslated: labs/01_build.ipynb#01-02: Altogether new",
    ]
    speak = translate.speaks(catalog)
    assert speak("The bucket is made by that cell") == "The bucket is made by that cell"
    # What it was stays at hand while something is missing, and goes when nothing is.
    assert '#~ msgstr "Nunca más"' in translate.written(catalog, "es")
    for message in catalog:
        message.string, message.flags = message.string or "Nuevo", set()
    translate.renew(catalog, template)
    assert translate.missing(catalog) == [] and "#~" not in translate.written(catalog, "es")


@pytest.mark.parametrize("meanwhile", ["The bucket is made by that cell", "Whatever"])
def test_a_change_that_is_taken_back_has_its_translation_again(meanwhile):
    catalog = catalog_of(The_bucket_is_made_by_this_cell="Esta celda crea el bucket")
    for english in (meanwhile, "The bucket is made by this cell"):
        template = Catalog()
        template.add(english)
        translate.renew(catalog, template)
        # As its file has it, since between the two somebody edits.
        text = translate.written(catalog, "es").encode()
        catalog = translate.read_po(io.BytesIO(text))
    assert translate.speaks(catalog)("The bucket is made by this cell") == "Esta celda crea el bucket"
    assert not catalog.obsolete


def test_a_value_that_the_translation_does_not_know_is_named():
    catalog = Catalog()
    catalog.add("{needed}: there already", "{necesita}: ya está", locations=[("utils/workshop/x.py", None)])
    (line,) = translate.missing(catalog)
    assert line.startswith("values differ, ['necesita', 'needed']: utils/workshop/x.py: {needed}")


def test_a_file_that_is_no_catalogue_is_named_with_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(translate, "CATALOGUES", tmp_path)
    monkeypatch.setattr(translate, "ROOT", tmp_path)
    monkeypatch.setattr(translate, "others", lambda: ["es"])
    (tmp_path / "es.po").write_text('msgid "one"\nmsgstr ""\nuno"\n')
    assert translate.main() == 1
    assert (said := capsys.readouterr().err).startswith("translate: es.po: ") and "on 2" in said, said


def test_a_third_language_is_one_more_catalogue():
    french = {"English": "Français", "glossary.md": "GLOSSAIRE.md"}
    made = translate.made(spoken() | {"fr": lambda text: french.get(text, text)})
    assert {"README.fr.md", "labs/fr/GLOSSAIRE.md", "labs/fr/99_cleanup.ipynb"} <= {
        place.as_posix() for place in made
    }
    first = json.loads(made[Path("labs/00_setup.ipynb")])["cells"][0]["source"]
    assert "[Français](fr/00_setup.ipynb) <!-- languages -->\n" in "".join(first)
    assert len([place for place in made if place.parent.name == "fr" and place.suffix == ".ipynb"]) == len(
        FILES
    )


def strings(source: str) -> list[str]:
    """The strings of a cell, those within f-strings left out, in order."""
    tree = ast.parse(SHELL.sub(lambda line: f"{line[1]}0", source))
    inner = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
    }
    found = [
        node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [node.value for node in found if id(node) not in inner]


@each_language
@each_lab
def test_what_can_be_predicted_is_called_the_same_wherever_it_is_compared(lab, language):
    english, other = code_cells(lab, language)
    speak, chosen = spoken()[language], set()
    for cell in english:
        calls = [
            node
            for node in ast.walk(ast.parse(SHELL.sub(r"\g<1>0", cell.source)))
            if isinstance(node, ast.Call)
        ]
        for call in (call for call in calls if getattr(call.func, "id", "") == "predict"):
            chosen |= {choice.value for choice in call.args[1:]}
    assert chosen
    for one, two in zip(english, other, strict=True):
        for said, says in zip(strings(one.source), strings(two.source), strict=True):
            assert says == speak(said) or said not in chosen, f"{one.id}: {said!r} stayed, and is a choice"
            # What a service or a helper is asked for, or says, is not a word.
            if f'== "{said}"' in one.source or (f'["{said}"]' in one.source and " " not in said):
                assert says == said or said in chosen, f"{one.id}: {said!r} is compared with"


# Its cells are those of the English walk, which is offline; that they run in Spanish `make labs WORKSHOP_LANG=es` shows in CI.
@pytest.mark.slow
@each_language
@pytest.mark.timeout(900)
def test_the_labs_run_in_order_and_never_leave_this_machine(language, tmp_path):
    validate(list(NEEDS), tmp_path, clone(tmp_path / "clone"), language)
