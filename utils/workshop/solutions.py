"""The answer key: `labs/solutions/LAB.ipynb`, written from what each lab folds below its "Your turn".

    python -m workshop.solutions

The lab is the one source; a test holds the answer key to it.
"""

import html
import re
import sys
from pathlib import Path

import nbformat

from . import ROOT
from .catch_up import LABS, NEEDS

SOLUTIONS = LABS / "solutions"
#: What the cell holds in which a learner writes.
PLACE = "# your code here"
TASK = re.compile(
    r"### Your turn\n\n(?P<task>.*?)\n\n<details>\s*<summary>Solution</summary>\s*<pre><code>(?P<code>.*?)</code></pre>"
    r"(?P<why>.*?)</details>",
    re.DOTALL,
)


def solution_of(notebook: Path) -> tuple[str, str, str]:
    """(the task, the code that solves it, what there is to say of it) of a lab. Raises ValueError where it has not one."""
    cells = nbformat.read(notebook, as_version=4).cells
    found = [match for cell in cells if cell.cell_type == "markdown" for match in TASK.finditer(cell.source)]
    if len(found) != 1:
        raise ValueError(
            f'{notebook.name}: expected one "Your turn" with a folded solution, found {len(found)}'
        )
    task, code, why = found[0].group("task", "code", "why")
    paragraphs = re.findall(r"<p>(.*?)</p>", why, re.DOTALL)
    words = "\n\n".join(re.sub(r"</?code>", "`", paragraph) for paragraph in paragraphs)
    return task, html.unescape(code), html.unescape(words)


def solution_notebook(lab: str) -> str:
    """The solution of one lab, as the text of a notebook."""
    first = nbformat.read(LABS / f"{lab}.ipynb", as_version=4).cells[0].source
    title = first.splitlines()[0].removeprefix("# ")
    task, code, why = solution_of(LABS / f"{lab}.ipynb")
    place = f"Goes into the cell `{PLACE}` of [{title}](../{lab}.ipynb), whose variables it uses."
    # A link that the lab has starts one folder further up.
    task = re.sub(r"\]\((?!https?:)", "](../", task)
    texts = [f"# Solution: {title}\n\n{task}\n\n{place}", code, f'check("{lab}", your_turn=True)', why]
    new = {False: nbformat.v4.new_markdown_cell, True: nbformat.v4.new_code_cell}
    cells = [new[number in (1, 2)](text) for number, text in enumerate(texts) if text]
    for number, cell in enumerate(cells):
        cell.id = f"{lab[:2]}-solution-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=kernel), indent=1) + "\n"


def main() -> int:
    SOLUTIONS.mkdir(exist_ok=True)
    for lab in NEEDS:
        (SOLUTIONS / f"{lab}.ipynb").write_text(solution_notebook(lab), encoding="utf-8")
    print(f"wrote {len(NEEDS)} notebooks to {SOLUTIONS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
