"""JupyterLab as `make lab` starts it, in a real browser: what is in front, and where each link of each lab leads."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from clones import clone, helpers
from waiting import wait_until

from workshop import ROOT
from workshop.catch_up import NEEDS
from workshop.language import others, translations
from workshop.solutions import PLACE, solution_of

LABS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "labs").glob("*.ipynb"))
OFFLINE = Path(__file__).parent / "offline"
#: README has a picture of it.
PICTURED = "04_train"
# Of another language one is enough: tests/test_translation.py looks where all of its links lead.
LABS += [f"labs/{language}/{PICTURED}.ipynb" for language in others()]
# A markdown link, no picture.
LINK = re.compile(r"(?<!!)\[[^]\n]*\]\(([^)\s]+)\)")

# The document that the user sees.
FRONT = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find((widget) => widget.isVisible)"
# The links of the notebook in front, without those that each heading has to itself.
LINKS = f"[...{FRONT}.node.querySelectorAll('.jp-RenderedMarkdown a[href]:not(.jp-InternalAnchorLink)')]"


@contextmanager
def jupyterlab(folder: Path, tree: Path, kernels: bool = True, **variables: str) -> Iterator[str]:
    """`make lab` in a clone, with settings that do not touch the user's, watched for calls that leave this machine.

    Its address; `kernels` tells whether a notebook that is opened gets one, or is all drawn at once, `variables` are further ones of its
    environment.
    """
    (folder / "config").mkdir()
    settings = {
        "ServerApp": {"open_browser": False, "port": 0},
        "LabApp": {"expose_app_in_browser": True, "notebook_starts_kernel": kernels},
    }
    (folder / "config" / "jupyter_lab_config.json").write_text(json.dumps(settings))
    if not kernels:
        # Else a cell is drawn when it comes into sight, or when there is nothing else to do.
        drawn = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
        drawn.parent.mkdir(parents=True)
        drawn.write_text('{"windowingMode": "none"}')
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "AWS_"))}
    environment |= {
        f"JUPYTER_{what.upper()}_DIR": str(folder / what) for what in ("config", "data", "runtime")
    }
    environment |= {
        f"JUPYTERLAB_{what.upper()}_DIR": str(folder / what) for what in ("settings", "workspaces")
    }
    calls = folder / "left-the-machine.log"
    watched = {"OFFLINE_LOG": str(calls), "PYTHONPATH": os.pathsep.join([str(OFFLINE), helpers(tree)])}
    environment |= watched | variables
    # The clone is set up, or this would not run.
    command = ["make", "--silent", "--old-file=.venv/ready", "lab"]
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=tree, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:

            def address():
                assert process.poll() is None, log.read_text()
                return re.search(r"http://127\.0\.0\.1:\S+\?token=\S+", log.read_text())

            yield wait_until(address, 60)[0]
        finally:
            end(process)
    assert not calls.exists(), calls.read_text()


def end(process: subprocess.Popen) -> None:
    """End `make lab` and all that it has started, and wait until all of it is gone."""

    def gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        try:
            wait_until(gone, 30)
        except AssertionError:
            # JupyterLab that is told to end while a page still loads waits for a thread of its own, for ever.
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on this clone."""
    with jupyterlab(tmp_path_factory.mktemp("jupyter"), ROOT, kernels=False) as address:
        yield address


def in_front(browser, path: str) -> None:
    """Wait until the document is the one that the user sees, with its content; Markdown is shown, not its source."""
    content = "front.node.textContent.trim().length > 20"
    if path.endswith(".md"):
        content = "front.node.querySelector('.jp-RenderedMarkdown h1')"
    seen = f"((front) => front?.context?.path === {json.dumps(path)} && front.context.isReady && {content})({FRONT})"
    try:
        browser.wait(f"Boolean({seen})")
    except AssertionError:
        shown = browser.ask(
            f"((front) => [front?.context?.path, front?.node.textContent.slice(0, 300)])({FRONT})"
        )
        raise AssertionError(f"{path} is not what is seen, but {shown}") from None


def show(browser, path: str) -> None:
    browser.ask(f"void jupyterapp.commands.execute('docmanager:open', {{path: {json.dumps(path)}}})")
    in_front(browser, path)


def links(lab: str) -> list[str]:
    cells = nbformat.read(ROOT / lab, as_version=4).cells
    return [link for cell in cells if cell.cell_type == "markdown" for link in LINK.findall(cell.source)]


@pytest.mark.parametrize("language", others())
def test_the_first_lab_is_in_front_in_the_language_that_is_wanted(language, tmp_path, browser):
    with jupyterlab(tmp_path, ROOT, kernels=False, WORKSHOP_LANG=language) as address:
        browser.command("Page.navigate", url=address)
        in_front(browser, f"labs/{language}/00_setup.ipynb")


def test_every_link_of_every_lab_opens_what_it_names(lab, browser):
    browser.command("Page.navigate", url=lab)
    in_front(browser, "labs/00_setup.ipynb")
    for path in LABS:
        show(browser, path)
        named = links(path)
        # JupyterLab finds out where a link leads after it has drawn it.
        drawn = f"{LINKS}.filter((link) => link.getAttribute('href').startsWith('http')).length"
        browser.wait(f"{drawn} === {len(named)}")
        for number, link in enumerate(named):
            if urlsplit(link).scheme:
                assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link), f"{path}: {link} is no address"
                continue
            browser.ask(f"{LINKS}[{number}].click()")
            in_front(browser, os.path.normpath(os.path.join(os.path.dirname(path), link)))
            show(browser, path)
    asked = {urlsplit(url) for url in browser.requests}
    assert {url.hostname for url in asked if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


# What a learner may write first. Where nothing is said, it is a line that does nothing.
FIRST_TRY = {
    "00_setup": 's3.list_buckets()["Buckets"]\nbuckets = s3.list_buckets()["Buckets"]',
    "01_build": 'names_of_mine = ["train", "predict"]',
    "02_local_test": 'run = subprocess.run(["true"], capture_output=True, text=True)',
    "05_deploy": "last = []",
    "06_invoke": 'with_header = "a,b,c,d"',
    "09_speed": "took = {}",
    "11_image_in_mask_out": "mask = threshold[0]",
    "99_cleanup": "ended = {}",
}


class Learner:
    """Works on the notebook in front, as a person does with keys and menus."""

    def __init__(self, browser):
        self.browser = browser

    def cell(self, source: str) -> int:
        """The number of the cell that begins with `source`."""
        numbers = f"{FRONT}.content.widgets.findIndex((cell) => cell.model.sharedModel.getSource().startsWith({json.dumps(source)}))"
        number = self.browser.ask(numbers)
        assert number >= 0, f"no cell begins with {source!r}"
        return number

    def run(self, command: str, seconds: float) -> None:
        """Run a command of JupyterLab's and wait for its end."""
        self.browser.ask(
            "window.ended = false; "
            f"jupyterapp.commands.execute({json.dumps(command)}).finally(() => {{ window.ended = true; }}); 0"
        )
        wait_until(lambda: self.browser.ask("window.ended"), seconds)

    def run_cell(self, number: int, seconds: float = 120) -> str:
        """Run one cell; the text below it."""
        self.browser.ask(f"{FRONT}.content.activeCellIndex = {number}; 0")
        self.run("notebook:run-cell", seconds)
        return self.browser.ask(
            f"{FRONT}.content.widgets[{number}].node.querySelector('.jp-OutputArea')?.textContent ?? ''"
        )

    def write(self, number: int, source: str) -> None:
        """Replace what a cell holds, by typing."""
        self.browser.ask(
            f"{FRONT}.content.activeCellIndex = {number}; "
            f"{FRONT}.content.activeCell.model.sharedModel.setSource(''); "
            f"{FRONT}.content.scrollToItem({number}, 'center').then(() => "
            "jupyterapp.commands.execute('notebook:enter-edit-mode')); 0"
        )
        editing = f"{FRONT}.content.mode === 'edit' && {FRONT}.content.activeCell.editor?.hasFocus()"
        self.browser.wait(f"Boolean({editing})")
        # All at once, as from the clipboard: typed line by line, the editor would indent by itself.
        self.browser.command("Input.insertText", text=source)
        written = f"{FRONT}.content.activeCell.model.sharedModel.getSource()"
        wait_until(lambda: self.browser.ask(written) == source)

    def errors(self) -> list[str]:
        """The errors that stand in the notebook, of cells that are not to fail."""
        return self.browser.ask(
            f"{FRONT}.content.widgets"
            ".filter((cell) => !(cell.model.getMetadata('tags') ?? []).includes('raises-exception'))"
            ".flatMap((cell) => (cell.model.outputs?.toJSON() ?? []))"
            ".filter((output) => output.output_type === 'error')"
            ".map((output) => output.ename + ': ' + output.evalue)"
        )

    def not_run(self) -> list[str]:
        """The code cells that have no number beside them."""
        return self.browser.ask(
            f"{FRONT}.content.widgets.filter((cell) => cell.model.type === 'code' "
            "&& cell.model.sharedModel.getSource().trim() && !cell.model.executionCount)"
            ".map((cell) => cell.model.sharedModel.getSource())"
        )

    def look_at_a_picture(self) -> None:
        """Scroll to the last picture that a cell has drawn, if there is one."""
        drawn = (
            f"{FRONT}.content.widgets.findLastIndex((cell) => (cell.model.outputs?.toJSON() ?? [])"
            ".some((output) => String(output.data?.['text/html'] ?? '').includes('<svg')))"
        )
        number = self.browser.ask(drawn)
        if number >= 0:
            # Cells above it are drawn as they come into sight, and move it: scroll until it stays in sight.
            top = f"{FRONT}.content.widgets[{number}].node.querySelector('svg[role=img]')?.getBoundingClientRect().top"
            self.browser.ask(
                f"{FRONT}.content.mode = 'command'; {FRONT}.content.activeCellIndex = {number}; 0"
            )
            self.browser.wait(
                f"(() => {{ void {FRONT}.content.scrollToItem({number}, 'center'); "
                f"const top = {top}; return top > 90 && top < 600; }})()"
            )

    def shoot(self, file: Path) -> None:
        picture = self.browser.command("Page.captureScreenshot", format="png")["data"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(picture))


@pytest.mark.timeout(1500)
def test_a_learner_walks_all_labs(tmp_path, browser, request):
    """Opens each lab, runs all of it, tries the exercise, sees the hint, solves it, sees the tick; in light and dark."""
    tree = clone(tmp_path / "clone")
    variables = {
        "LOCALAWS_HOME": str(tmp_path / "localaws"),
        "LOCALAWS_PORT": "0",
        "WORKSHOP_LEARNER": "browsing",
    }
    environment = os.environ | variables
    learner, seen = Learner(browser), {}
    pictures = request.config.getoption("--screenshots") or tmp_path / "screenshots"
    try:
        with jupyterlab(tmp_path, tree, **variables) as address:
            browser.command(
                "Emulation.setDeviceMetricsOverride",
                width=1280,
                height=900,
                deviceScaleFactor=1,
                mobile=False,
            )
            # A window that is not in front has no focus, and nobody types into it.
            browser.command("Emulation.setFocusEmulationEnabled", enabled=True)
            browser.command("Page.navigate", url=address)
            in_front(browser, "labs/00_setup.ipynb")
            for lab in os.environ.get("ONLY", "").split() or NEEDS:
                # One lab in every other language, where the English one has just been.
                languages = ["", *others()] if lab == PICTURED else [""]
                for language in languages:
                    seen[language, lab] = walk(learner, lab, Path(pictures), language)
        # Who closes JupyterLab is told what goes on without it.
        told = "localaws goes on at http://127.0.0.1:"
        wait_until(lambda: told in (tmp_path / "log").read_text())
    finally:
        subprocess.run(
            [sys.executable, "-m", "localaws", "down"], env=environment, capture_output=True, timeout=60
        )
    # Where a lab is walked once more, in another language, its exercise is done already.
    first = {lab: before for (language, lab), (before, _) in seen.items() if not language}
    assert all("[TODO]" in before for before in first.values()), seen
    assert all("[TODO]" not in after for _, after in seen.values()), seen


def walk(learner: Learner, lab: str, pictures: Path, language: str) -> tuple[str, str]:
    """Walk one lab; what the exercise's check has said of a first try, and of the solution."""
    path = Path("labs", language, f"{lab}.ipynb")
    place = translations(language).gettext(PLACE) if language else PLACE
    show(learner.browser, path.as_posix())
    learner.browser.ask(
        "void jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})"
    )
    learner.browser.wait(f"{FRONT}?.sessionContext?.session?.kernel?.status === 'idle'")
    looks = f'check("{lab}", your_turn=True)'
    learner.run("notebook:run-all-cells", 300)
    # The command ends with the first cell that fails, as those tagged raises-exception must; the others go on.
    wait_until(lambda: learner.errors() or not learner.not_run(), 300)
    assert learner.errors() == [], f"{lab}: {learner.errors()}, not run: {learner.not_run()}"
    said = []
    for source in (FIRST_TRY.get(lab, "pass"), solution_of(ROOT / "labs" / f"{lab}.ipynb")[1]):
        learner.write(learner.cell(place), source)
        here = learner.cell(source)
        assert "Traceback" not in learner.run_cell(here)
        said.append(learner.run_cell(learner.cell(looks)))
        learner.write(here, place)
    learner.look_at_a_picture()
    for theme in ("Light", "Dark"):
        learner.browser.ask(
            f"void jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
        )
        learner.browser.wait(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
        learner.browser.wait("!document.querySelector('#jupyterlab-splash')")
        learner.shoot(pictures / language / f"{lab}-{theme.lower()}.png")
    # Thirteen kernels at once would take gigabytes.
    learner.browser.ask(
        f"window.closed_lab = ''; (async (front) => {{ await front.context.save(); await front.sessionContext.shutdown(); "
        f"front.dispose(); window.closed_lab = '{path}'; }})({FRONT}); 0"
    )
    wait_until(lambda: learner.browser.ask(f"window.closed_lab === '{path}'"), 60)
    return said[0], said[1]
