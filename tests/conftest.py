"""What holds for every test."""

import os
from importlib.metadata import distribution

import browser as chromium
import pytest

# onnxruntime reports its use to its makers, over the network, unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# What `make test ARGS=…` tells a make that it starts is none of a test's own.
for name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

# The files that take minutes. Two processes share the tests, a file at a time: one that came last would leave the other
# process with nothing to do.
LONGEST = ("test_jupyterlab.py", "test_labs.py", "test_algorithms.py", "test_histories.py")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also the tests that take minutes")
    parser.addoption(
        "--clients", action="store_true", help="also clients from elsewhere, which are installed"
    )
    parser.addoption(
        "--screenshots", help="the folder for the pictures of a walk through the labs in a browser"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow")
    config.addinivalue_line("markers", "root(why): only root can do what it does")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if (root := item.get_closest_marker("root")) and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason=f"only root {root.args[0]}"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The window of a real browser that the tests of a module share."""
    if chromium.CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("no chromium here: apt-get install chromium, or brew install chromium")
    assert chromium.CHROMIUM, "CI must see the page: apt-get install chromium"
    with chromium.opened(tmp_path_factory.mktemp("chromium")) as window:
        yield window


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which browser.violations() has a page checked by."""
    package = distribution("axe-playwright-python")
    return package.locate_file("axe_playwright_python/axe.min.js").read_text("utf-8")
