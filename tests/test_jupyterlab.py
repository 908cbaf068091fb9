"""JupyterLab as `make lab` starts it, in a real browser: what is in front, and where each link of each lab leads."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from waiting import wait_until

from workshop import ROOT

LABS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "labs").glob("*.ipynb"))
OFFLINE = Path(__file__).parent / "offline"
# A markdown link, no picture.
LINK = re.compile(r"(?<!!)\[[^]\n]*\]\(([^)\s]+)\)")

# The document that the user sees.
FRONT = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find((widget) => widget.isVisible)"
# The links of the notebook in front, without those that each heading has to itself.
LINKS = f"[...{FRONT}.node.querySelectorAll('.jp-RenderedMarkdown a[href]:not(.jp-InternalAnchorLink)')]"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """`make lab` with settings that do not touch the user's, watched for calls that leave this machine: its address."""
    folder = tmp_path_factory.mktemp("jupyter")
    (folder / "config").mkdir()
    settings = {
        "ServerApp": {"open_browser": False, "port": 0},
        "LabApp": {"expose_app_in_browser": True, "notebook_starts_kernel": False},
    }
    (folder / "config" / "jupyter_lab_config.json").write_text(json.dumps(settings))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JUPYTER")}
    environment |= {
        f"JUPYTER_{what.upper()}_DIR": str(folder / what) for what in ("config", "data", "runtime")
    }
    environment |= {
        f"JUPYTERLAB_{what.upper()}_DIR": str(folder / what) for what in ("settings", "workspaces")
    }
    calls = folder / "left-the-machine.log"
    environment |= {"OFFLINE_LOG": str(calls), "PYTHONPATH": str(OFFLINE)}
    # The clone is set up, or this would not run.
    command = ["make", "--silent", "--old-file=.venv/ready", "lab"]
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:

            def address():
                assert process.poll() is None, log.read_text()
                return re.search(r"http://127\.0\.0\.1:\S+\?token=\S+", log.read_text())

            yield wait_until(address, 60)[0]
        finally:
            os.killpg(process.pid, signal.SIGTERM)
    assert not calls.exists(), calls.read_text()


def in_front(browser, path: str) -> None:
    """Wait until the document is the one that the user sees, with its content; Markdown is shown, not its source."""
    content = "front.node.textContent.trim().length > 100"
    if path.endswith(".md"):
        content = "front.node.querySelector('.jp-RenderedMarkdown h1')"
    seen = f"((front) => front?.context.path === {json.dumps(path)} && front.context.isReady && {content})({FRONT})"
    try:
        browser.wait(f"Boolean({seen})")
    except AssertionError:
        shown = browser.ask(
            f"((front) => [front?.context.path, front?.node.textContent.slice(0, 300)])({FRONT})"
        )
        raise AssertionError(f"{path} is not what is seen, but {shown}") from None


def show(browser, path: str) -> None:
    browser.ask(f"void jupyterapp.commands.execute('docmanager:open', {{path: {json.dumps(path)}}})")
    in_front(browser, path)


def links(lab: str) -> list[str]:
    cells = nbformat.read(ROOT / lab, as_version=4).cells
    return [link for cell in cells if cell.cell_type == "markdown" for link in LINK.findall(cell.source)]


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
            in_front(browser, os.path.normpath(os.path.join("labs", link)))
            show(browser, path)
    asked = {urlsplit(url) for url in browser.requests}
    assert {url.hostname for url in asked if url.scheme not in ("data", "blob")} == {"127.0.0.1"}
