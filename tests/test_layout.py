"""Who imports whom: labs -> workshop -> localaws; container/ nothing of the project, and nobody container/."""

import ast
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
