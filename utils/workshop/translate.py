"""Makes the labs of every other language, and what goes with them, from the English ones and one catalogue a language.

    make translate

utils/languages/es.po has everything that a reader meets, English and Spanish: cells, the comments and strings of a code
cell that are read, drawings, README, what the helpers say. What is changed in English comes out as untranslated or fuzzy,
is left English in the notebooks, and is named here, by lab and cell. An empty file fr.po begins a third language.
"""

import ast
import html
import io
import json
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import PoFileError, read_po, write_po

from . import ROOT
from .language import CATALOGUES, ENGLISH, others

#: What is translated beside the labs: Markdown, by where it lies, and drawings.
README, GLOSSARY = Path("README.md"), Path("labs/glossary.md")
#: Where Python says something to a reader: by `_("…")`.
SPEAKING = ("utils/workshop", "utils/site")
HEADER = 'msgid ""\nmsgstr ""\n"Language: {language}\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n\n'
#: What is written in the folder of a language; README's pictures of a screen are taken, and kept.
MADE = (".ipynb", ".svg", ".md")
#: What ends the line that leads to a page's other languages; a reader does not see it.
BAR = re.compile(r"<!-- languages.*? -->")
WRITTEN = "; written by make translate: a change goes into utils/languages/{language}.po"
#: How a language calls itself: what a catalogue has for this.
ITSELF = "English"
WORD = r"[^\W\d_]{2,}"
# Of a string that is read, not sent or run.
TWO_WORDS = re.compile(rf"^(?=.*{WORD}).*\w[,:;]? \w", re.DOTALL)
# A file, a program, a key: read by nobody as a word.
A_NAME = re.compile(r"\S*[/._]\S*")
# What shows its strings to the learner, however short they are.
SHOWING = {"print", "predict", "held_against", "set", "legend", "show"}
SHOWN = {"label", "title", "xlabel", "ylabel"}
# A command for the shell, over as many lines as it continues on, or one for IPython.
SHELL = re.compile(r"^([ \t]*(?:\w+ = )?)([!%](?:[^\n]*\\\n)*[^\n]*)$", re.MULTILINE)
SVG_TEXT = re.compile(r'(?<= aria-label=")[^"]+(?=")|(?<=>)[^<>\n]+(?=</(?:text|title)>)')
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

#: What is looked up: English in, the other language out, English again where there is nothing.
Speak = Callable[[str], str]


class CannotTranslate(ValueError):
    """A cell whose strings cannot be told from the rest, or a file that is no catalogue."""


def english_labs() -> list[Path]:
    return sorted((ROOT / "labs").glob("*.ipynb"))


def drawings() -> list[Path]:
    """The drawings of the labs that have words in them."""
    used = "".join(path.read_text(encoding="utf-8") for path in english_labs())
    return [
        path for path in sorted((ROOT / "labs" / "images").glob("*.svg")) if f"images/{path.name}" in used
    ]


# What there is to translate.


def entries() -> Iterator[tuple[str, str]]:
    """(where it is, the English text) of everything that is translated, in the order in which it is read."""
    yield "", ITSELF
    for document in (README, GLOSSARY):
        for block in blocks((ROOT / document).read_text(encoding="utf-8")):
            yield document.as_posix(), block
    yield GLOSSARY.as_posix(), GLOSSARY.name
    for path in english_labs():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            where = f"{path.relative_to(ROOT).as_posix()}#{cell['id']}"
            for text in _texts_of(cell):
                yield where, text
    for path in drawings():
        for match in SVG_TEXT.finditer(path.read_text(encoding="utf-8")):
            if re.search(WORD, match[0]):
                yield path.relative_to(ROOT).as_posix(), html.unescape(match[0])
    for room in SPEAKING:
        found = extract_from_dir(ROOT / room, [("**.py", "python")], keywords={"_": None})
        yield from ((f"{room}/{name}", message) for name, _, message, _, _ in found)


def _texts_of(cell: dict) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield without_bar(source)
        return
    found = spans(source)
    yield from (source[start:end] for start, end in found)
    if any(not source.startswith("#", start) for start, _ in found):
        yield from (line for output in cell["outputs"] for line in _lines_to_read(output))


def _lines_to_read(output: dict) -> list[str]:
    return [line.rstrip("\n") for line in output.get("text", ()) if re.search(WORD, line)]


def blocks(text: str) -> list[str]:
    """A document in parts between which there are blank lines, its blocks of code whole."""
    kept = FENCE.sub(lambda match: match[0].replace("\n\n", "\n\0"), without_bar(text))
    return [block.replace("\0", "\n") for block in kept.strip("\n").split("\n\n")]


def without_bar(text: str) -> str:
    return re.sub(rf"^.*{BAR.pattern}\n\n", "", text, flags=re.MULTILINE)


def spans(source: str) -> list[tuple[int, int]]:
    """Where in a code cell there is something that a learner reads: comments, and what is in the quotes of strings.

    A string is read that has two words beside each other, or is shown by a picture or a question. Raises CannotTranslate.
    """
    # A line of the shell's is a statement of the same length here; %%writefile has a program below it.
    python = SHELL.sub(lambda line: line[1] + "0" + re.sub(r"[^\n]", " ", line[2])[1:], source)
    lines = python.splitlines(keepends=True)
    begins = [sum(map(len, lines[:number])) for number in range(len(lines))]

    def place(line: int, byte: int) -> int:  # ast counts bytes
        return begins[line - 1] + len(lines[line - 1].encode()[:byte].decode())

    found = []
    for token in tokenize.generate_tokens(io.StringIO(python).readline):
        if token.type == tokenize.COMMENT:
            found.append(
                (begins[token.start[0] - 1] + token.start[1], begins[token.end[0] - 1] + token.end[1])
            )
    for node in _read(ast.parse(python)):
        start, end = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
        literal = re.fullmatch(r"""([fFrRbBuU]*)("{3}|'{3}|"|')(.*)\2""", source[start:end], re.DOTALL)
        if literal is None or re.search(r"(?<!\\)" + literal[2], literal[3]):
            raise CannotTranslate(f"write this string in one piece: {source[start:end]}")
        found.append((start + literal.start(3), start + literal.end(3)))
    return sorted(found)


def _read(tree: ast.AST, shown: bool = False) -> Iterator[ast.expr]:
    """The strings of a program that a learner reads."""
    for node in ast.iter_child_nodes(tree):
        inside = shown
        if isinstance(node, ast.Call):
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            inside = function in SHOWING
        elif isinstance(node, ast.keyword):
            inside = shown or node.arg in SHOWN
        elif isinstance(node, ast.Subscript):
            inside = False
        elif isinstance(node, ast.Compare):  # with what a helper or a service has said
            continue
        words = _words(node)
        if words is None:
            yield from _read(node, inside)
        elif TWO_WORDS.search(words) or (inside and re.search(WORD, words) and not A_NAME.fullmatch(words)):
            yield node


def _words(node: ast.AST) -> str | None:
    """A string's text; of an f-string that has words outside its braces the same, a value being a word; else None."""
    if isinstance(node, ast.JoinedStr):
        outside = [part.value if isinstance(part, ast.Constant) else "" for part in node.values]
        return "".join(part or "value" for part in outside) if re.search(WORD, "".join(outside)) else ""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


# The catalogues.


def catalogue(language: str) -> Catalog:
    """What a language's file has. Raises CannotTranslate, with the line, for one that is no catalogue."""
    file = CATALOGUES / f"{language}.po"
    try:
        with file.open("rb") as lines:
            return read_po(lines, locale=language, abort_invalid=True)
    except (PoFileError, ValueError) as error:
        raise CannotTranslate(f"{file.relative_to(ROOT)}: {error}") from None


def template() -> Catalog:
    """All that there is to translate, and where it is."""
    made = Catalog()
    for where, text in entries():
        made.add(text, locations=[(where or CATALOGUES.name, None)])
    return made


def renew(catalog: Catalog, wanted: Catalog) -> None:
    """Give the catalogue the entries that are wanted now. What falls out stays below, to be taken up or come back."""
    kept = {
        message.id: message for message in [*catalog.obsolete.values(), *catalog] if is_translated(message)
    }
    catalog.update(wanted, update_creation_date=False)
    catalog.obsolete.clear()
    for text, message in kept.items():
        now = catalog.get(text)
        if now is None:
            catalog.obsolete[text] = message
        elif not is_translated(now):
            now.string = message.string
            now.flags.discard("fuzzy")
    if not missing(catalog):
        catalog.obsolete.clear()


def is_translated(message: Message) -> bool:
    return bool(message.id and message.string and not message.fuzzy)


def written(catalog: Catalog, language: str) -> str:
    """The catalogue as its file has it: in the order in which it is read, without a date that would change by itself."""
    file = io.BytesIO()
    write_po(file, catalog, width=110, omit_header=True)
    return HEADER.format(language=language) + file.getvalue().decode()


def missing(catalog: Catalog) -> list[str]:
    """A line for everything that cannot be taken: what is wrong with it, where it is, how it begins."""
    lines = []
    for message in catalog:
        if not message.id:
            continue
        wrong = "fuzzy" if message.fuzzy else "" if message.string else "untranslated"
        if not wrong and (names := _values(message.id)) != (said := _values(message.string)):
            wrong = f"values differ, {sorted(names ^ said)}"
        if wrong:
            where = ", ".join(file for file, _ in message.locations)
            begins = next(line for line in message.id.splitlines() if line.strip("` "))
            lines.append(f"{wrong}: {where}: {begins[:70]}")
    return lines


def _values(text: str) -> set[str]:
    """What is put into a line at the places in braces."""
    return set(re.findall(r"\{([^{}]+)\}", text)) if "\n\n" not in text else set()


def speaks(catalog: Catalog) -> Speak:
    def speak(text: str) -> str:
        message = catalog.get(text)
        return message.string if message and is_translated(message) else text

    return speak


# What is made of them.


def pages(languages: dict[str, Speak]) -> dict[Path, dict[str, Path]]:
    """Where each English page or drawing lies in every language, from ROOT on."""
    there = {
        path.relative_to(ROOT): {ENGLISH: path.relative_to(ROOT)} for path in [*english_labs(), *drawings()]
    }
    there |= {path: {ENGLISH: path} for path in (README, GLOSSARY)}
    for language, speak in languages.items():
        folder = Path("labs") / language
        for origin, place in there.items():
            place[language] = (
                folder / origin.relative_to("labs") if origin != README else Path(f"README.{language}.md")
            )
        there[GLOSSARY][language] = folder / speak(GLOSSARY.name)
    return there


def made(languages: dict[str, Speak]) -> dict[Path, str]:
    """The text of everything there is in every language, by its place from ROOT on; of English, that which leads to the others."""
    there, texts = pages(languages), {}
    names = {ENGLISH: ITSELF}
    for language, speak in languages.items():
        names[language] = language if speak(ITSELF) == ITSELF else speak(ITSELF)
    for origin, places in there.items():
        text = (ROOT / origin).read_text(encoding="utf-8")
        for language, place in places.items():
            to = {page: by_language[language] for page, by_language in there.items()}
            speak = languages.get(language, str)

            def said(words: str, origin=origin, place=place, to=to, speak=speak) -> str:
                return LINK.sub(
                    lambda link: link[1] + _led(link[2], origin, place, to) + link[3], speak(words)
                )

            if origin.suffix == ".svg":
                if language != ENGLISH:
                    texts[place] = SVG_TEXT.sub(
                        lambda match, speak=speak: html.escape(speak(html.unescape(match[0]))), text
                    )
                continue
            bar = " · ".join(
                name
                if other == language
                else f"[{name}]({Path(os.path.relpath(places[other], place.parent)).as_posix()})"
                for other, name in names.items()
            )
            bar += f" <!-- languages{'' if language == ENGLISH else WRITTEN.format(language=language)} -->"
            if origin.suffix == ".ipynb":
                texts[place] = _notebook(text, speak, said, bar)
            else:
                texts[place] = _with_bar("\n\n".join(map(said, blocks(text))), bar) + "\n"
    return texts


def _with_bar(text: str, bar: str) -> str:
    title, rest = text.split("\n\n", 1)
    return f"{title}\n\n{bar}\n\n{rest}"


def _led(address: str, origin: Path, place: Path, to: dict[Path, Path]) -> str:
    """A link of the English page `origin`, from `place` on, to the same thing in the other language where there is one."""
    file, mark, anchor = address.partition("#")
    if not file or re.match(r"[a-z]+:|/", file):
        return address
    target = Path(os.path.normpath(origin.parent / file))
    return Path(os.path.relpath(to.get(target, target), place.parent)).as_posix() + mark + anchor


def _notebook(text: str, speak: Speak, said: Callable[[str], str], bar: str) -> str:
    notebook = json.loads(text)
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = said(without_bar(source))
            source = source if number else _with_bar(source, bar)
        else:
            for start, end in reversed(spans(source)):
                source = source[:start] + speak(source[start:end]) + source[end:]
            for output in cell["outputs"]:
                read = set(_lines_to_read(output))
                if "text" in output:
                    output["text"] = [
                        speak(line.rstrip("\n")) + "\n" * line.endswith("\n")
                        if line.rstrip("\n") in read
                        else line
                        for line in output["text"]
                    ]
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    try:
        catalogs, wanted = {language: catalogue(language) for language in others()}, template()
    except CannotTranslate as error:
        print(f"translate: {error}", file=sys.stderr)
        return 1
    lacking = 0
    for language, catalog in catalogs.items():
        renew(catalog, wanted)
        (CATALOGUES / f"{language}.po").write_text(written(catalog, language), encoding="utf-8")
        for line in (lines := missing(catalog)):
            print(f"{language}: {line}")
        lacking += len(lines)
    texts = made({language: speaks(catalog) for language, catalog in catalogs.items()})
    for language in catalogs:
        for path in (ROOT / "labs" / language).rglob("*.*"):
            if path.suffix in MADE and path.relative_to(ROOT) not in texts:
                path.unlink()  # of a lab that is no more
    for place, text in texts.items():
        (ROOT / place).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / place).write_text(text, encoding="utf-8")
    print(f"translate: {len(texts)} files, in {', '.join([ENGLISH, *catalogs])}; not translated: {lacking}")
    if lacking:
        print(
            "What is not translated stays English. Write it into utils/languages/, take `#, fuzzy` away, run this again. What "
            "was there before stands at the end of the catalogue, behind #~."
        )
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
