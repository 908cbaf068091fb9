"""Who imports whom: labs -> workshop -> localaws; container/ nothing of the project, and nobody container/.

In localaws, whose rooms are floors of a house, imports run down.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from workshop import ROOT

PROGRAMS = [ROOT / "container" / name for name in ("environment", "stack/train", "stack/serve")]
# A learner's own algorithm, which git does not track, may be what it likes.
TRACKED = subprocess.run(
    ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
CONTAINER = {Path(name).stem for name in TRACKED if name.startswith("container/")}

# From the top. A module is on the floor of the longest of these names that its own begins with.
FLOORS = [
    "localaws.__main__",
    "localaws.pytest_plugin",
    "localaws.fidelity",
    "localaws",  # what others import: start, stop, status
    "localaws.door",
    "localaws.sagemaker.control_plane",
    "localaws.sagemaker.jobs",
    "localaws.sagemaker.hosting",
    "localaws.sagemaker",
    "localaws.engines",
    "localaws.moto",
    "localaws.images",
    "localaws.state",
    "localaws.loopback",
    "localaws.prices",
    "localaws.protocol",
    "localaws.services",
    "localaws.errors",
]


def imported(source: str) -> set[str]:
    """The top-level names of what Python source imports, relative imports left out."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def sources(folder: str) -> list[Path]:
    return [ROOT / name for name in TRACKED if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("path", [*sources("container"), *PROGRAMS], ids=lambda path: path.name)
def test_the_container_imports_nothing_of_the_project(path):
    assert not imported(path.read_text()) & {"workshop", "localaws", "tests"}


@pytest.mark.parametrize("path", sources("utils/localaws"), ids=lambda path: path.name)
def test_localaws_imports_neither_the_workshop_nor_the_container(path):
    assert not imported(path.read_text()) & {"workshop", "tests"}
    assert not imports_of_container(path)


@pytest.mark.parametrize("path", sources("utils/workshop"), ids=lambda path: path.name)
def test_the_workshop_imports_nothing_of_the_container(path):
    assert "tests" not in imported(path.read_text())
    assert not imports_of_container(path)


def imports_of_container(path: Path) -> set[str]:
    """Names of container/ modules that the file imports; those that the standard library has too do not count."""
    return imported(path.read_text()) & CONTAINER - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted((ROOT / "labs").glob("*.ipynb")), ids=lambda path: path.stem)
def test_labs_import_the_workshop_and_no_more_of_the_project(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = "\n".join(TransformerManager().transform_cell(cell) for cell in cells)
    assert not imported(code) & ({"localaws", "tests"} | CONTAINER - set(sys.stdlib_module_names))


def modules() -> dict[str, Path]:
    """localaws' modules by name; a package is its __init__.py."""
    paths = {".".join(path.relative_to(ROOT / "utils").with_suffix("").parts): path for path in LOCALAWS}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


LOCALAWS = sources("utils/localaws")
MODULES = modules()


def needs(name: str) -> set[str]:
    """The modules of localaws that a module of it imports, at its top or later."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, (above, node.module)))
            named = {f"{origin}.{alias.name}" for alias in node.names}
            found |= named & MODULES.keys() or {origin}
    return (found & MODULES.keys()) - {name}


def floor(name: str) -> int:
    on = [one for one in FLOORS if f"{name}.".startswith(f"{one}.") and (one != "localaws" or name == one)]
    assert on, f"{name} is on no floor: give its room a place in FLOORS"
    return FLOORS.index(max(on, key=len))


@pytest.mark.parametrize("name", MODULES)
def test_imports_in_localaws_run_down(name):
    up = {other for other in needs(name) if floor(other) < floor(name)}
    assert not up, f"{name} imports from a floor above it"


def test_no_two_modules_of_localaws_need_each_other():
    graphlib.TopologicalSorter({name: needs(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("path", sources("utils/workshop"), ids=lambda path: path.name)
def test_the_workshop_needs_no_more_of_localaws_than_its_door(path):
    tree = ast.walk(ast.parse(path.read_text()))
    named = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name for name in named if name.startswith("localaws.")}
