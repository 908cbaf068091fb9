"""`python -m workshop run [LAB …]` executes labs and writes them as HTML; `preflight` looks around;
`clean` shows what a walk has made on AWS or here, what it costs, and deletes it."""

import argparse
import copy
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, unquote

from botocore.exceptions import ClientError

from . import ROOT, connect, preflight, record, running
from .catch_up import NEEDS
from .errors import WorkshopError
from .language import ENGLISH, _, labs_folder, language

OUTPUT = ROOT / "build" / "labs"
#: The tag of a cell whose output is stored and compared: nbval's.
COMPARED = "nbval-check-output"
#: The longest ones need little of the others: here they run beside them, one at a time.
BESIDE = ("11_image_in_mask_out", "13_outgrow_one_machine", "10_bring_your_own")
WIDGET = "application/vnd.jupyter.widget-view+json"
INDEX = """<!doctype html>
<html lang="{language}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ font: 1.1rem/1.9 system-ui, sans-serif; margin: 3rem auto; max-width: 36rem; padding: 0 1rem }}
ul {{ list-style: none; padding: 0 }} body {{ background: #fff; color: #1b2330 }} a {{ color: #1f5fbf }}
@media (prefers-color-scheme: dark) {{ body {{ background: #10151c; color: #e6eaf0 }} a {{ color: #7fb2ff }} }}</style>
<h1>{title}</h1>
<ul>{items}</ul>
<p>{more}</p>
</html>
"""
# nbclient takes Ctrl-C for itself: it shuts the kernel down, goes on, and fails at whatever comes next. It has this then.
SIGNALLED = "_async_cleanup_kernel_future"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workshop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="execute labs in order, each in a kernel of its own, and write them as HTML"
    )
    run.add_argument("labs", nargs="*", metavar="LAB", help=f"of {', '.join(NEEDS)}; default: all")
    run.add_argument(
        "--output", type=Path, default=OUTPUT, help="the folder for the pages (default: build/labs)"
    )
    run.add_argument(
        "--store",
        action="store_true",
        help="put the outputs of the compared cells (tagged nbval-check-output) into labs/ and strip all others",
    )
    run.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # what _start_beside calls
    commands.add_parser("preflight", help="say what this machine has for the labs and what is missing")
    commands.add_parser("progress", help="say which labs are done and which is next")
    commands.add_parser("running", help="say what still runs, as `make lab` does at its end")
    cleaning = commands.add_parser(
        "clean", help="show what the walk made and delete it, after a yes, as lab 99 does"
    )
    cleaning.add_argument("--yes", action="store_true", help="delete without asking")
    cleaning.add_argument(
        "--expired", action="store_true", help="only what has expired, of any learner of the account"
    )
    arguments = parser.parse_args()
    try:
        language()
    except WorkshopError as error:
        parser.error(str(error))
    if arguments.command == "running":
        running.tell()
        return 0
    if arguments.command == "progress":
        try:
            record.show(connect(quiet=True))
        except WorkshopError as error:
            parser.exit(1, f"{error}\n")
        return 0
    if arguments.command == "preflight":
        return 0 if preflight() else 1
    if arguments.command == "clean":
        from .cleanup import clean

        try:
            return clean(arguments.expired, arguments.yes)
        except (WorkshopError, ClientError) as error:
            parser.exit(1, f"{error}\n")
    unknown = [lab for lab in arguments.labs if lab not in NEEDS]
    if unknown:
        parser.error(_("there is no lab {lab!r}; there are {labs}", lab=unknown[0], labs=", ".join(NEEDS)))
    if arguments.store and language() != ENGLISH:
        parser.error(_("--store is for the English labs; `make translate` writes the others from them"))
    output = arguments.output.resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        parser.error(
            _(
                "cannot write to {output} ({error}): name another folder with --output",
                output=output,
                error=error.strerror,
            )
        )
    try:
        if arguments.one:
            return 0 if run_one(*arguments.labs, pages_of(output)) else 1
        return run_labs(arguments.labs or list(NEEDS), output, arguments.store)
    except RuntimeError as error:  # localaws', which says what to do
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\n" + _("interrupted; its localaws is stopped") + "\n")


def pages_of(output: Path) -> Path:
    """Where the pages of the labs in the learner's language lie: as the labs do, those of Spanish in es/."""
    return output / labs_folder().relative_to(labs_folder(ENGLISH))


def run_labs(labs: list[str], output: Path = OUTPUT, store: bool = False) -> int:
    """Execute the labs with a progress line each and write their pages below `output`; return the exit status.

    Unless WORKSHOP_TARGET is `aws`, they get a localaws of their own in build/, so that a learner's own walk, which
    the last lab would delete, is left alone. It is stopped at the end.
    """
    import localaws

    started = time.monotonic()
    aws = os.environ.get("WORKSHOP_TARGET") == "aws"
    if not aws:
        os.environ["LOCALAWS_HOME"] = str(output.parent / "localaws")
        os.environ["LOCALAWS_PORT"] = "0"
        localaws.stop()
        shutil.rmtree(os.environ["LOCALAWS_HOME"], ignore_errors=True)
    pages = pages_of(output)
    pages.mkdir(parents=True, exist_ok=True)
    failed, beside = [], {}
    try:
        for number, lab in enumerate(labs, 1):
            print(f"[{number}/{len(labs)}] {lab:<20}", end="", flush=True)
            if lab in beside:
                while part := beside[lab].stdout.read(1):  # its dots, as they come
                    print(part, end="", flush=True)
                done = beside[lab].wait() == 0
            else:
                done = run_one(lab, pages)
            if not done:
                failed.append(lab)
                break  # every later lab would only fail for want of this one
            if store:
                _store(lab, pages)
            if not aws and all(process.poll() is not None for process in beside.values()):
                _start_beside(beside, labs[:number], labs[number:], output)
    finally:
        for process in beside.values():
            process.terminate()
            process.wait()
        if not aws:
            localaws.stop()
    if failed:
        print(
            _(
                "{lab} failed; its cells and their output: {page}",
                lab=failed[0],
                page=(pages / f"{failed[0]}.html").as_uri(),
            )
        )
        return 1
    print(
        _(
            "{count} of {count} labs, {seconds:.0f} s. Read them, in a browser:",
            count=len(labs),
            seconds=time.monotonic() - started,
        )
    )
    print(_index(pages).as_uri())
    return 0


def _start_beside(beside: dict, done: list[str], to_do: list[str], output: Path) -> None:
    """Start a lab in a process of its own whose turn comes later, and that needs none of those before it."""
    for lab in BESIDE:
        if lab in to_do and lab not in beside and set(NEEDS[lab]) <= set(done):
            command = [sys.executable, "-m", "workshop", "run", lab, "--output", str(output), "--one"]
            beside[lab] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            return


def run_one(lab: str, pages: Path) -> bool:
    """Execute a lab on the localaws that runs, print its dots and how it went; return whether it went well."""
    problem, seconds = _execute(lab, pages)
    went = _("FAILED") if problem else "ok"
    print(f" {seconds:5.1f} s  {went}", flush=True)
    if problem:
        print(problem)
    return problem is None


def _execute(lab: str, pages: Path) -> tuple[str | None, float]:
    """Execute one notebook, write its HTML, return (what went wrong or None, seconds)."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbconvert import HTMLExporter

    started = time.monotonic()
    notebook = nbformat.read(labs_folder() / f"{lab}.ipynb", as_version=4)
    dots = iter("." * 10)
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    done = 0

    def progress(**_cell):
        # Ten dots a lab, however many cells it has.
        nonlocal done
        done += 1
        if done * 10 // code_cells > (done - 1) * 10 // code_cells:
            print(next(dots, ""), end="", flush=True)

    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        # A kernel that is asked to end may have an error of its own to show about that.
        shutdown_kernel="immediate",
        # A kernel warns that its own connection is not encrypted; that would stand in the middle of the progress.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(labs_folder())}},
        on_cell_executed=progress,
    )
    problem = None
    try:
        client.execute()
    except CellExecutionError as error:
        # Its own text is the whole traceback, which the page has; the terminal gets the last words.
        problem = f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        problem = str(error)
    except Exception:  # of any kind, where a signal has taken the kernel away
        if not hasattr(client, SIGNALLED):
            raise
    if hasattr(client, SIGNALLED):
        raise KeyboardInterrupt
    # No script or font from elsewhere: the page is complete without a network.
    elsewhere = {name: "" for name in HTMLExporter.class_trait_names() if name.endswith("_url")}
    exporter = HTMLExporter(embed_images=True, language_code=language(), **elsewhere)
    readable = copy.deepcopy(notebook)
    readable.metadata.pop("widgets", None)
    for cell in readable.cells:
        for data in (one["data"] for one in cell.get("outputs", ()) if len(one.get("data", ())) > 1):
            data.pop(WIDGET, None)  # nothing without a kernel; beside it stands what a page can show
    page, _resources = exporter.from_notebook_node(readable, resources={"metadata": {"name": lab}})
    # nbconvert has one theme a page; here the browser's scheme chooses.
    dark = next(
        file for place in exporter.template_paths if (file := Path(place, "static/theme-dark.css")).exists()
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{\n{dark.read_text(encoding='utf-8')}\n}}</style>"
    page = _led(page.replace("</head>", f"{style}</head>", 1), pages)
    (pages / f"{lab}.html").write_text(page, encoding="utf-8")
    nbformat.write(notebook, pages / f"{lab}.ipynb")
    return problem, time.monotonic() - started


def _led(page: str, pages: Path) -> str:
    """The page with its links led from where it lies: to the other labs' pages, and to the project's files."""

    def lead(match: re.Match) -> str:
        file, mark, anchor = match[2].partition("#")
        if not file or re.match(r"[a-z]+:|/", file):
            return match[0]
        lab = Path(unquote(file))
        # Of another language's labs there is a page where they were run, too.
        if lab.stem in NEEDS and (lab.parent == Path() or (pages / lab.with_suffix(".html")).exists()):
            return f'{match[1]}="{file.removesuffix(".ipynb")}.html{mark}{anchor}"'
        there = quote(os.path.relpath(labs_folder() / lab, pages))
        return f'{match[1]}="{there}{mark}{anchor}"'

    # A localaws of make labs has ended when its pages are read.
    page = re.sub(r'<a href="http://127\.0\.0\.1[^"]*"[^>]*>(.*?)</a>', r"\1", page)
    return re.sub(r'(href|src)="([^"]*)"', lead, page)


def _index(pages: Path) -> Path:
    """Write a page that leads to each lab's, of this run or an earlier one; return its path."""
    first = {
        lab: record.title(labs_folder() / f"{lab}.ipynb") for lab in NEEDS if (pages / f"{lab}.html").exists()
    }
    items = "".join(f'<li><a href="{lab}.html">{html.escape(title)}</a></li>' for lab, title in first.items())
    readme = "README.md" if language() == ENGLISH else f"README.{language()}.md"
    readme = quote(os.path.relpath(ROOT / readme, pages))
    more = _(
        '<a href="{readme}">README</a>. To make a site of them, with search: <code>make site</code>',
        readme=readme,
    )
    page = INDEX.format(items=items, language=language(), title=_("The labs, executed"), more=more)
    (pages / "index.html").write_text(page, encoding="utf-8")
    return pages / "index.html"


def _store(lab: str, pages: Path) -> None:
    """Give the lab's notebook the outputs of its compared cells, and no others."""
    import nbformat

    notebook = nbformat.read(labs_folder() / f"{lab}.ipynb", as_version=4)
    executed = nbformat.read(pages / f"{lab}.ipynb", as_version=4)
    for cell, done in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            compared = COMPARED in cell.metadata.get("tags", [])
            cell.outputs = done.outputs if compared else []
            # nbval takes a cell without a count for one that was never run, and refuses its outputs.
            cell.execution_count = done.execution_count if compared else None
    (labs_folder() / f"{lab}.ipynb").write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
