"""The site of the executed labs: made from the labs with outputs put into them that a real run leaves."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pages
import pytest
from browser import violations

from workshop import ROOT
from workshop.catch_up import LABS, NEEDS
from workshop.language import labs_folder

spec = importlib.util.spec_from_file_location("build", ROOT / "utils" / "site" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

PICTURE = (
    '<svg role="img" aria-label="a line" viewBox="0 0 9 9"><path d="M0 0L9 9" stroke="currentColor"/></svg>'
)
OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": f"a file at {ROOT}/container/run\n"},
    {"output_type": "display_data", "metadata": {}, "data": {"text/html": PICTURE, "text/plain": "a line"}},
    {
        "output_type": "display_data",
        "metadata": {},
        "data": {
            build.WIDGET: {"model_id": "0"},
            "text/plain": "( ) a choice",
            "text/html": "<ul><li>a choice</li></ul>",
        },
    },
    {
        "output_type": "execute_result",
        "execution_count": 1,
        "metadata": {},
        "data": {
            "text/html": '<a href="http://127.0.0.1:4571/_localaws/?ticket=ab#job/x">job x</a>',
            "text/plain": "HTML",
        },
    },
    {
        "output_type": "error",
        "ename": "NoSuchBucket",
        "evalue": "it is not there",
        "traceback": ["line 1 of the cell:  s3.list()", "\x1b[31mNoSuchBucket\x1b[0m: it is not there"],
    },
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "labs").mkdir()
    for lab in NEEDS:
        notebook = json.loads((LABS / f"{lab}.ipynb").read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for cell, output in zip(code, OUTPUTS, strict=False):
            cell["outputs"], cell["execution_count"] = [output], 1
        (folder / "labs" / f"{lab}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    subprocess.run(
        ["make", "--silent", "--old-file=.venv/ready", "build/site-env/ready"], cwd=ROOT, check=True
    )
    assert build.make(folder / "labs", folder / "source", folder / "pages") == 0
    return folder / "pages"


def test_every_link_leads_somewhere_and_nothing_comes_from_elsewhere(site):
    read = pages.read(site)
    assert len(read) > 50
    assert pages.dead(read) == []
    assert pages.from_elsewhere(read) == []


def test_what_belongs_to_one_machine_is_not_published(site):
    for file in (*site.rglob("*.html"), *site.rglob("*.js")):
        text = file.read_text(encoding="utf-8")
        assert str(ROOT) not in text and sys.prefix not in text, file
        assert "http://127.0.0.1:4571/_localaws/?ticket" not in text, file


def test_outputs_are_those_that_a_page_can_show(site):
    page = (site / "labs" / "04_train.html").read_text(encoding="utf-8")
    assert "a file at ~/workshop/container/run" in page
    assert "<li>a choice</li>" in page and build.WIDGET not in page
    assert PICTURE in page
    assert "job x" in page and "NoSuchBucket" in page and "\x1b" not in page


def test_the_labs_follow_each_other(site):
    for before, after in pairwise(NEEDS):
        text = (site / "labs" / f"{before}.html").read_text(encoding="utf-8")
        assert re.search(rf'class="next-page" href="{after}.html"', text), before
        text = (site / "labs" / f"{after}.html").read_text(encoding="utf-8")
        assert re.search(rf'class="prev-page" href="{before}.html"', text), after


@pytest.mark.parametrize(("language", "readme"), build.READMES.items())
def test_readme_is_the_front_page_and_a_guide(site, language, readme):
    home = site / build._home(language)
    front = (home / "index.html").read_text(encoding="utf-8")
    first = os.path.relpath(
        site / labs_folder(language).relative_to(ROOT) / f"{next(iter(NEEDS))}.html", home
    )
    (begin,) = re.findall(rf'<p class="start"><a href="{first}">(.+?)</a>', front)
    assert ("Start" in begin) is (language == "en")
    assert re.search(rf'<html[^>]* lang="{language}"', front)
    table, *sections = re.findall(r"^## (.+)$", (ROOT / readme).read_text(encoding="utf-8"), re.MULTILINE)
    assert f"<h2>{table}<a" in front and len(list((home / "guide").iterdir())) == len(sections)
    for title in sections:
        name = build._slug(title)
        page = (home / "guide" / f"{name}.html").read_text(encoding="utf-8")
        assert re.search(rf"<h1>{re.escape(title)}<a", page), title
        assert f'href="guide/{name}.html"' in unquote(front), title


def test_a_link_to_a_section_of_readme_leads_to_its_page():
    """From another section of README as well."""
    stage = build.Stage(LABS, Path("source"))
    stage.guides[Path("README.md")] = {"on-aws": "guide/on-aws.md"}
    led = {
        origin: stage.linked(f"[it]({origin}#on-aws)", Path("guide/x.md"), Path("README.md"))
        for origin in ("", "README.md")
    }
    assert set(led.values()) == {"[it](on-aws.md#on-aws)"}
    assert stage.linked("[it](../README.md#on-aws)", Path("labs/x.md")) == "[it](../guide/on-aws.md#on-aws)"
    assert stage.linked("```\n[it](nowhere)\n```", Path("labs/x.md")) == "```\n[it](nowhere)\n```"


def test_no_level_of_heading_is_left_out(site):
    for lab in NEEDS:
        levels = [
            int(one)
            for one in re.findall(r"<h([1-6])", (site / "labs" / f"{lab}.html").read_text(encoding="utf-8"))
        ]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), (lab, levels)


def test_it_can_be_searched(site, browser):
    browser.command("Page.navigate", url=f"{(site / 'search.html').as_uri()}?q=agreement")
    browser.wait("document.querySelectorAll('#search-results li a').length > 2")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 390)])
@pytest.mark.parametrize(
    "page",
    ["index", "labs/04_train", "labs/12_what_goes_wrong", "labs/glossary", "es/index", "labs/es/04_train"],
)
def test_axe_finds_nothing_serious(site, browser, axe, page, scheme, width):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.command("Emulation.setEmulatedMedia", features=features)
    browser.command("Emulation.setDeviceMetricsOverride", **size)
    browser.command("Page.navigate", url=(site / f"{page}.html").as_uri())
    browser.wait(f"document.readyState === 'complete' && location.pathname.endsWith('{page}.html')")
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128) is (scheme == "light"), ground
    assert violations(browser, axe) == []


def test_a_lab_that_was_not_executed_is_named(tmp_path, capsys):
    assert build.make(tmp_path, tmp_path / "source", tmp_path / "pages") == 1
    assert "00_setup.ipynb is not in" in (said := capsys.readouterr().err) and "make labs" in said
