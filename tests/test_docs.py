"""README and CONTRIBUTING against reality: tree, commands, variables, links, the lab table."""

import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from test_labs import isolated_environment, run_offline

from workshop import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def section(title: str) -> str:
    """README's text under a heading."""
    assert f"\n## {title}\n" in README, f"README has no section {title!r}"
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_tree_is_the_tree():
    block = re.search(r"```\n(.*?)```", section("The tree"), re.DOTALL).group(1)
    paths, parents = [], {}
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = parents.get(depth - 1, "") + name
        parents[depth] = path
        paths.append(path)
    for path in paths:
        assert (ROOT / path).exists(), f"README's tree has {path}, which does not exist"
    top = {name.split("/")[0] for name in tracked()}
    listed = {path.split("/")[0] for path in paths}
    assert {name for name in top if not name.startswith(".")} == listed, (
        "README's tree and the top level differ"
    )


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        # GitHub has a page of Codespaces two floors above a file of the repository, whoever's it is.
        if not target.startswith("http") and target != "../../codespaces":
            assert (path.parent / target).exists(), f"{document} links to {target}, which does not exist"


def test_make_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert named <= targets, f"documents name {named - targets}"


def test_every_target_is_explained_by_help():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE).group(1).split()
    for target in phony:
        assert f"make {target} " in shown, f"make help does not explain {target}"


OURS = re.compile(
    r"\b(?:WORKSHOP|LOCALAWS|MODEL_SERVER)_[A-Z_]*[A-Z]\b|\bSAGEMAKER_(?:BASE_DIR|BIND_TO_PORT|INFERENCE_OUTPUT)\b"
)


def test_variables_are_read_and_explained():
    table = set(re.findall(r"^\| `([A-Z_]+)`", section("Environment variables"), re.MULTILINE))
    code = "\n".join(
        (ROOT / name).read_text()
        for name in tracked("utils", "container", "Makefile")
        if not name.endswith((".md", ".png"))
    )
    for name in table:
        assert re.search(rf"\b{name}\b", code), f"README explains {name}, which nothing reads"
    missing = set(OURS.findall(code)) - table
    assert not missing, f"README does not explain {sorted(missing)}"


def test_the_lab_table_says_what_the_labs_say():
    rows = re.findall(
        r"^\| \[(\d\d) · ([^]]+)\]\((labs/[^)]+)\) \| (.+?) \| (\d+) \| (.+?) \|$",
        section("The labs"),
        re.MULTILINE,
    )
    labs = tracked(":(glob)labs/*.ipynb")
    assert [row[2] for row in rows] == labs
    for number, title, path, _, minutes, cost in rows:
        first = nbformat.read(ROOT / path, as_version=4).cells[0].source
        assert first.startswith(f"# {number} · {title}\n"), f"{path}: the table calls it {title!r}"
        assert f"**Minutes:** {minutes} ·" in first, f"{path}: the table says {minutes} minutes"
        assert f"**Cost on AWS:** {cost}" in first, f"{path}: the table says {cost!r}"


def test_nothing_names_a_registry_host_or_a_home_folder():
    for name in tracked():
        if name.endswith((".png", ".lock")):
            continue
        text = (ROOT / name).read_text(errors="replace")
        assert not re.search(r"/home/\w+/|/Users/\w+/", text), f"{name} has a path of some machine"


def test_the_lock_file_has_hashes_and_covers_what_is_asked_for():
    lock = (ROOT / "requirements.lock").read_text()
    for block in re.split(r"\n(?=\S)", lock):
        if re.match(r"[a-z0-9]", block):
            assert "--hash=sha256:" in block, f"no hash: {block.splitlines()[0]}"
    asked = re.findall(r'^    "([A-Za-z0-9-]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for package in asked:
        assert re.search(rf"^{package.lower()}(\[|==)", lock, re.MULTILINE), (
            f"{package} is not in the lock file"
        )


def test_the_rooms_of_the_stack_have_as_many_lines_as_said():
    table = re.findall(
        r"^\| \[(stack/\w*)/?\]\(.*?\) \| ([\d,]+) \|",
        (ROOT / "container/README.md").read_text(),
        re.MULTILINE,
    )
    found = Counter()
    for name in tracked("container/stack"):
        if not name.endswith(".txt"):
            room = Path(name).parent.relative_to("container").as_posix()
            found[room] += len((ROOT / name).read_text().splitlines())
    said = {room.removesuffix("/"): int(lines.replace(",", "")) for room, lines in table}
    assert set(said) == set(found)
    assert all(abs(said[room] - found[room]) <= 0.05 * found[room] for room in found), found


@pytest.mark.timeout(600)
def test_the_guide_ends_in_a_prediction(tmp_path):
    """Its last commands, in every language the same, once its labs have run."""
    (commands,) = re.findall(r"```\n(eval .*?aws sagemaker-runtime.*?)```", README, re.DOTALL)
    for path in ROOT.glob("README.*.md"):
        assert commands in path.read_text(encoding="utf-8"), path.name
    environment = isolated_environment(tmp_path, ROOT)
    del environment["WORKSHOP_LEARNER"]
    walk = "from workshop import catch_up, connect; connect(); catch_up('06_invoke')"
    for place, here in {"/tmp": tmp_path, ".venv/bin": Path(sys.executable).parent}.items():
        commands = commands.replace(f"{place}/", f"{shlex.quote(str(here))}/")
    script = f"set -e\n{shlex.quote(sys.executable)} -c {shlex.quote(walk)} >&2\n{commands}"
    run = run_offline(["sh", "-c", script], environment, ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    answered = run.stdout.partition("}")[2].split()  # behind what the aws command says itself
    assert Counter(answered) == {"setosa": 4, "versicolor": 3, "virginica": 3}, run.stdout
    for word in (
        "built sagemaker-byoa-decision-trees:latest",
        "training_accuracy=0.98",
        "InService",
    ):
        assert word in run.stderr
