"""Make a site of the executed labs, to be published or read: `make labs`, then `make site`; it lands in build/site.

What is linked from a lab or a document comes along: another document as a page, a program as a page with its text. So
no link is dead, and nothing is fetched from elsewhere. The pages are made by Sphinx, in an environment of its own.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from workshop.language import ENGLISH, labs_folder, others, translations

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = ROOT / "build" / "labs"
STAGED, SITE = ROOT / "build" / "site-source", ROOT / "build" / "site"
HERE = Path(__file__).parent
PYTHON = ROOT / "build" / "site-env" / "bin" / "python"

#: README by language: each is the front page of its language, and a guide.
READMES = {ENGLISH: Path("README.md")} | {language: Path(f"README.{language}.md") for language in others()}

#: The pages beside the labs that are there in English alone, by their heading in the sidebar.
DOCUMENTS = {
    "More": ["labs/INSTRUCTORS.md", "container/README.md", "data/README.md", "CONTRIBUTING.md"],
    "How it is": ["utils/localaws/FIDELITY.md", "utils/bench/RESULTS.md", "utils/bench/FAULTS.md"],
}
PICTURES = (".png", ".svg", ".webp")
WIDGET = "application/vnd.jupyter.widget-view+json"
# A link or a picture of Markdown: what is before the address, the address, what is behind it.
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
# A block of code, in which nothing is a link or a heading.
CODE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+(?= )", re.MULTILINE)
# A lab's last line: the theme has a previous and a next of its own.
AROUND = re.compile(r"\n*^[^\n]*\]\([./]*/README[.\w]*\.md\)[^\n]*\s*\Z", re.MULTILINE)
# What README has for GitHub alone: a button to its Codespaces, and one picture for each colour scheme.
BUTTON = re.compile(r"^\[!\[[^\]]*\]\([^)]*\)\]\(\.\./\.\./codespaces\)\n\n", re.MULTILINE)
PICTURE = re.compile(r'<picture><source [^>]*srcset="([^"]+)"><img alt="([^"]+)" src="([^"]+)"></picture>')


class Stage:
    """The site's source: each file at the place that it has in the project, with its links led to pages."""

    def __init__(self, executed: Path, staged: Path):
        self.executed, self.staged = executed, staged
        self.glossaries = {language: _glossary(language) for language in READMES}
        self.documents = {name for names in DOCUMENTS.values() for name in names}
        self.documents |= {glossary.as_posix() for glossary in self.glossaries.values()}
        self.labs = {language: sorted(labs_folder(language).glob("[0-9]*.ipynb")) for language in READMES}
        self.solutions = sorted((ROOT / "labs" / "solutions").glob("*.ipynb"))
        self.programs: set[Path] = set()
        # Each README's sections but the labs': their pages by GitHub's name for each heading.
        self.guides: dict[Path, dict[str, str]] = {readme: {} for readme in READMES.values()}

    def lay(self) -> None:
        """Write everything. Raises FileNotFoundError for a lab that was not executed, in English at least."""
        shutil.rmtree(self.staged, ignore_errors=True)
        for language, notebooks in self.labs.items():
            for path in notebooks:
                place = path.relative_to(ROOT)
                executed = self.executed / place.relative_to("labs")
                if language == ENGLISH and not executed.exists():
                    raise FileNotFoundError(
                        f"{path.name} is not in {self.executed} yet: run `make labs` first"
                    )
                self._notebook(executed if executed.exists() else path, place)
        fronts = {language: self._index(language) for language in READMES}
        for path in self.solutions:
            self._notebook(path, path.relative_to(ROOT))
        for name in sorted(self.documents):
            self._write(Path(name), self.linked((ROOT / name).read_text(encoding="utf-8"), Path(name)))
        for language, text in fronts.items():
            self._write(_home(language) / "index.md", text)
        done: set[Path] = set()
        while todo := sorted(self.programs - done):  # a folder's page links to more
            for program in todo:
                self._program(program)
            done.update(todo)

    def linked(self, text: str, page: Path, origin: Path | None = None) -> str:
        """The text of a page with its links, those of the file `origin`, led to what the site has."""
        origin = origin or page

        def lead(match: re.Match) -> str:
            before, address, after = match.groups()
            file, mark, anchor = address.partition("#")
            if re.match(r"[a-z]+:", address) or (not file and origin not in self.guides):
                return match.group(0)
            target = Path(os.path.normpath(origin.parent / file)) if file else origin
            if not (ROOT / target).exists() and not (self.staged / target).exists():
                raise FileNotFoundError(f"{origin} links to {address}, which is not there")
            if before.startswith("!") or target.suffix in PICTURES:
                self._copy(target)
            elif target in self.guides:
                front = next(_home(language) for language, readme in READMES.items() if readme == target)
                target = Path(self.guides[target].get(anchor, front / "index.md"))
            elif target.as_posix() not in self.documents and target.suffix != ".ipynb":
                self.programs.add(target)
                target = _page_of(target)
            return f"{before}{os.path.relpath(target, page.parent)}{mark}{anchor}{after}"

        return _outside_code(lambda part: LINK.sub(lead, part), text)

    def _index(self, language: str) -> str:
        """The front page of a language. The English one leads to the others', and to what is English alone."""
        _ = translations(language).gettext
        page = _home(language) / "index.md"
        readme = (ROOT / READMES[language]).read_text(encoding="utf-8")
        readme = BUTTON.sub("", readme)
        readme = PICTURE.sub(lambda match: self._both_pictures(match, page), readme)
        readme, sections = self._parted(readme, language)
        trees = {
            _("Labs"): self.labs[language],
            _("Guide"): [ROOT / place for place in sections],
            _("Words"): [ROOT / self.glossaries[language]],
        }
        if language == ENGLISH:
            trees |= {title: [ROOT / name for name in names] for title, names in DOCUMENTS.items()}
            trees["Solutions"] = self.solutions
            fronts = [ROOT / _home(other) / "index.md" for other in others()]
            trees |= {"Other languages": fronts} if fronts else {}
        toctrees = [_toctree(title, paths, ROOT / page) for title, paths in trees.items()]
        return self.linked(readme, page, READMES[language]) + "\n" + "\n".join(toctrees)

    def _parted(self, readme: str, language: str) -> tuple[str, list[str]]:
        """README's beginning and its table of the labs, which comes first; its other sections, each on a page of its own."""
        _ = translations(language).gettext
        front, table, *sections = _sections(readme)
        start = os.path.relpath(self.labs[language][0].with_suffix(".html"), ROOT / _home(language))
        words = _("Start with the first lab")  # Babel looks into no f-string before Python 3.12
        front += f'<p class="start"><a href="{start}">{words}</a></p>\n\n{table}'
        pages, guide = {}, self.guides[READMES[language]]
        for text in sections:
            name = _slug(text.partition("\n")[0].lstrip("# "))
            page = (_home(language) / "guide" / f"{name}.md").as_posix()
            pages[page] = _outside_code(lambda part: HEADING.sub(lambda mark: mark[0][1:], part), text)
            headings = re.findall(r"^#+ (.+)", CODE.sub("", text), re.MULTILINE)
            guide |= {_slug(heading): page for heading in headings}
        for page, text in pages.items():
            self._write(Path(page), self.linked(text, Path(page), READMES[language]))
        return front, list(pages)

    def _both_pictures(self, match: re.Match, page: Path) -> str:
        dark, words, light = match.groups()
        shown = []
        for address, scheme in ((light, "light"), (dark, "dark")):
            self._copy(Path(address))
            there = os.path.relpath(address, page.parent)
            shown.append(f"```{{image}} {there}\n:alt: {words}\n:class: only-{scheme}\n```")
        return "\n\n".join(shown)

    def _notebook(self, path: Path, place: Path) -> None:
        notebook = json.loads(neutral(path.read_text(encoding="utf-8")))
        notebook["metadata"].pop("widgets", None)
        prose = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        levels = sorted({len(mark) for text in prose for mark in HEADING.findall(CODE.sub("", text))})

        def raised(text: str) -> str:
            # No level is left out, for who goes from heading to heading: labs have the third below the first.
            return HEADING.sub(lambda mark: "#" * (1 + levels.index(len(mark[0]))), text)

        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                source = AROUND.sub("", source) if cell is notebook["cells"][-1] else source
                source = _outside_code(raised, self.linked(source, place))
                cell["source"] = source
            for output in cell.get("outputs", ()):
                output.update(shown(output))
        notebook["cells"] = [cell for cell in notebook["cells"] if "".join(cell["source"]).strip()]
        self._write(place, json.dumps(notebook))

    def _program(self, path: Path) -> None:
        """A page with a file's text, or with what a folder has."""
        page, where = _page_of(path), ROOT / path
        if where.is_dir():
            tracked = subprocess.run(
                ["git", "-c", "safe.directory=*", "ls-files", "--", str(path)],
                cwd=ROOT,
                capture_output=True,
                text=True,
            ).stdout.splitlines()
            items = [f"- [{name}]({os.path.relpath(ROOT / name, (ROOT / page).parent)})" for name in tracked]
            text = self.linked("\n".join(items), page)
        else:
            language = {
                ".py": "python",
                ".sh": "bash",
                ".json": "json",
                ".yaml": "yaml",
                ".c": "c",
                ".md": "markdown",
            }
            content = neutral(where.read_text(encoding="utf-8", errors="replace")) or " "
            fence = "`" * 6
            text = f"{fence}{{code-block}} {language.get(path.suffix, 'text')}\n{content.rstrip()}\n{fence}"
        self._write(page, f"---\norphan: true\n---\n# {path.as_posix()}\n\n{text}\n")

    def _copy(self, path: Path) -> None:
        place = self.staged / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, place)

    def _write(self, place: Path, text: str) -> None:
        (self.staged / place).parent.mkdir(parents=True, exist_ok=True)
        (self.staged / place).write_text(text, encoding="utf-8")


def _sections(text: str) -> list[str]:
    """Markdown, parted before each heading of the second level."""
    parts, fenced = [[]], False
    for line in text.splitlines(keepends=True):
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("## ") and not fenced:
            parts.append([])
        parts[-1].append(line)
    return ["".join(part) for part in parts]


def _slug(heading: str) -> str:
    """What GitHub calls a heading in an address."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _outside_code(change: Callable[[str], str], text: str) -> str:
    """Markdown changed, its code left as it is."""
    parts = CODE.split(text)
    parts[::2] = map(change, parts[::2])
    return "".join(parts)


def _page_of(path: Path) -> Path:
    return Path("source") / path.with_name(f"{path.name}.md")


def _home(language: str) -> Path:
    """The folder of a language's front page and guide."""
    return Path("" if language == ENGLISH else language)


def _glossary(language: str) -> Path:
    return (labs_folder(language) / translations(language).gettext("glossary.md")).relative_to(ROOT)


def _toctree(title: str, pages: list[Path], page: Path) -> str:
    listed = (Path(os.path.relpath(path.with_suffix(""), page.parent)).as_posix() for path in pages)
    return "```{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(listed) + "\n```\n"


def neutral(text: str) -> str:
    """The text without paths of the machine that the labs ran on."""
    places = {
        str(ROOT): "~/workshop",
        sys.prefix: "~/workshop/.venv",
        sys.base_prefix: "/usr",
        str(Path.home()): "~",
    }
    for place, name in sorted(places.items(), key=lambda pair: -len(pair[0])):
        # As JSON writes it, too, where it has letters that are not ASCII.
        for written in {place, json.dumps(place)[1:-1]}:
            if len(written) > 1:
                text = text.replace(written, name)
    return text


def shown(output: dict) -> dict:
    """An output as a page can show it: without widgets, which need a kernel, and links to a localaws that has ended."""
    output = copy.deepcopy(output)
    data = output.get("data", {})
    if len(data) > 1:
        data.pop(WIDGET, None)
    if "text/html" in data:
        page = "".join(data["text/html"])
        data["text/html"] = re.sub(r'<a href="http://127\.0\.0\.1[^"]*"[^>]*>(.*?)</a>', r"\1", page)
    return output


def make(executed: Path, staged: Path, site: Path) -> int:
    """Make the site of the executed labs; return an exit status. `staged` is a folder for its source."""
    try:
        Stage(executed, staged).lay()
    except FileNotFoundError as error:
        print(f"site: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(site, ignore_errors=True)
    # A warning is a dead link, or a page that nothing leads to.
    command = [str(PYTHON), "-m", "sphinx", "-q", "-j", "auto", "-W", "--keep-going", "-c", str(HERE)]
    command += ["-d", str(staged.with_name(f"{staged.name}-doctrees")), str(staged), str(site)]
    return subprocess.run(command, cwd=ROOT).returncode


def main() -> int:
    status = make(EXECUTED, STAGED, SITE)
    if status == 0:
        print(f"site: {(SITE / 'index.html').as_uri()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
