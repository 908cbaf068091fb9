"""The labs: that they run, with no way out of this machine, and that each has the shape that a learner relies on."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import iam_policies
import nbformat
import pages
import pytest
import yaml
from clones import clone, helpers

from workshop import ROOT
from workshop.__main__ import COMPARED
from workshop.catch_up import LABS, NEEDS, tagged_cells
from workshop.solutions import PLACE, SOLUTIONS, solution_notebook, solution_of

OFFLINE = Path(__file__).parent / "offline"
# In the place of a look that lets a learner go on: every finding must be there.
SOLVED = """from workshop import exercises
found = list(exercises.findings("{lab}", connect(quiet=True)))
assert all(there for there, _, _ in found), found"""
# The scripts of container/ and the clean-up of a walk, where `docker push` is localaws' own push.
SCRIPTS = """python -m localaws up
eval "$(python -m localaws env)"
python -m localaws build knn -t "$NAME"
container/build_and_push.sh "$NAME" --algorithm knn
python -m workshop clean --yes
python -m workshop clean --expired --yes
"""
DOCKER = f"""#!/bin/sh
case $1 in
push) exec "{sys.executable}" -m localaws push "$NAME" "$2" ;;
build) echo --secret --build-context ;;
login) cat >/dev/null ;;
esac
"""
FILES = sorted(LABS.glob("*.ipynb"))
each_lab = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def isolated_environment(tmp_path: Path, tree: Path) -> dict:
    """This environment with a localaws of its own and every Python process watched for calls that leave the machine.

    `tree` is the clone whose labs are run.
    """
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "WORKSHOP_"))},
        "LOCALAWS_HOME": str(tmp_path / "localaws"),
        "LOCALAWS_PORT": "0",
        "WORKSHOP_LEARNER": "learner8",  # the longest there is: every name that a lab makes must still fit
        "OFFLINE_LOG": str(tmp_path / "left-the-machine.log"),
        "PYTHONPATH": os.pathsep.join([str(OFFLINE), helpers(tree)]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


def run_offline(
    command: list[str], environment: dict, tree: Path, timeout: float = 900
) -> subprocess.CompletedProcess:
    """Run the command where there is only loopback, and stop that localaws afterwards, from inside, by its own `down`."""
    script = f'"$@"; status=$?; "{sys.executable}" -m localaws down >/dev/null; exit $status'
    return subprocess.run(
        [sys.executable, str(OFFLINE / "run.py"), "sh", "-c", script, "sh", *command],
        env=environment,
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def validate(labs: list[str], tmp_path: Path, tree: Path, language: str = "", **variables: str) -> str:
    """Run labs of a clone under nbval, each in a kernel of its own, offline; return what nbval printed."""
    environment, folder = isolated_environment(tmp_path, tree) | variables, tree / "labs" / language
    nbval = [
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--timeout=0",
        "--nbval-lax",
        "--nbval-cell-timeout=300",
    ]
    run = run_offline(
        [sys.executable, *nbval, *(str(folder / f"{lab}.ipynb") for lab in labs)], environment, tree
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    cells = sum(len(cells_of(folder / f"{lab}.ipynb", "code")) for lab in labs)
    assert f"{cells} passed" in run.stdout, run.stdout[-2000:]
    left = Path(environment["OFFLINE_LOG"])
    assert not left.exists(), "something tried to leave this machine:\n" + left.read_text()
    return run.stdout


@pytest.mark.timeout(600)
def test_a_lab_runs_alone_because_it_catches_up(tmp_path):
    validate(["06_invoke"], tmp_path, clone(tmp_path / "clone"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> list[dict]:
    """A walk through all labs with every solution in its place, then the script that builds and pushes, and the command
    that cleans up; what IAM would have been asked."""
    tmp_path = tmp_path_factory.mktemp("walk")
    tree = clone(tmp_path / "clone")
    for path in FILES:
        notebook = nbformat.read(path, as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.source == PLACE]
        cell.source = solution_of(path)[1]
        (looks,) = [cell for cell in notebook.cells if cell.source == f'check("{path.stem}", your_turn=True)']
        looks.source = SOLVED.format(lab=path.stem)
        nbformat.write(notebook, tree / "labs" / path.name)
    record, docker = tmp_path / "rights.jsonl", tmp_path / "docker"
    validate(list(NEEDS), tmp_path, tree, LOCALAWS_RECORD=str(record))
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    own = {"LOCALAWS_RECORD": str(record), "DOCKER": str(docker), "NAME": "sagemaker-byoa-learner8-knn"}
    run = run_offline(["sh", "-euc", SCRIPTS], isolated_environment(tmp_path, tree) | own, tree)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    return [json.loads(line) for line in record.read_text().splitlines()]


@pytest.mark.timeout(1200)
def test_the_labs_run_in_order_with_every_solution_and_never_leave_this_machine(recorded):
    """No exercise changes what a later cell or lab shows. `make labs` runs them as they are, with nothing solved."""
    assert recorded


# What a walk asks for on purpose, or here alone, and no learner may: resource of this account -> actions, and why.
REFUSED = {
    # connect() makes the role, on localaws alone.
    "role/sagemaker-byoa": {"iam:CreateRole", "iam:PutRolePolicy"},
    # Lab 12 makes one where its user may make roles, and else says that it cannot.
    "role/sagemaker-byoa-learner8-decision-trees-wrong": {
        "iam:CreateRole",
        "iam:PutRolePolicy",
        "iam:DeleteRole",
        "iam:DeleteRolePolicy",
    },
}
# What of a policy no recorded call needs: statement -> actions, and why they are there all the same.
KEPT = {
    # connect() asks who it is on AWS alone.
    "WhoAmI": {"sts:GetCallerIdentity"},
    # `docker push` sends a layer in parts, localaws' own push in one.
    "Images": {"ecr:UploadLayerPart"},
    # Lab 99 stops what runs, and nothing does at the end of a walk.
    "TrainDeployTransformTune": {
        "sagemaker:StopHyperParameterTuningJob",
        "sagemaker:StopTrainingJob",
        "sagemaker:StopTransformJob",
    },
    # AWS makes a policy's alarms with the rights of who asks for the policy, and the first time in an account its role.
    "AlarmsThatScale": {
        "cloudwatch:DeleteAlarms",
        "cloudwatch:DescribeAlarms",
        "cloudwatch:PutMetricAlarm",
        "arn:aws:cloudwatch:*:*:alarm:TargetTracking-endpoint/sagemaker-byoa*",
    },
    "TheRoleThatScales": {
        "iam:CreateServiceLinkedRole",
        "arn:aws:iam::*:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/*",
    },
    # Of AWS's own list of what an execution role needs; localaws does without.
    "ReadDataWriteModels": {"s3:GetBucketLocation"},
    "WriteLogs": {"logs:DescribeLogStreams"},
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["learner", "execution"])
def test_a_policy_allows_what_a_walk_does_and_no_more(recorded, name):
    """Of the learner's calls, and of what jobs and endpoints do with their role; resources and conditions included."""
    policy = json.loads((ROOT / "utils" / "iam" / f"{name}-policy.json").read_text())
    calls = [call for call in recorded if (call["caller"] == "owner") == (name == "learner")]
    verdict = iam_policies.judge(policy, calls, "arn:aws:iam::000000000000:user/learner8")
    assert verdict.refused == (REFUSED if name == "learner" else {})
    assert verdict.unused == {
        sid: KEPT[sid] for sid in KEPT if sid in {one["Sid"] for one in policy["Statement"]}
    }


@pytest.mark.timeout(1200)
def test_the_templates_policy_allows_what_a_walk_does(recorded):
    """There one role is the learner's and SageMaker's, and its tag says which names are its own."""
    template = yaml.safe_load((ROOT / "utils" / "cloudformation" / "learner.yaml").read_text())
    policy = template["Resources"]["Policy"]["Properties"]["PolicyDocument"]
    own = "role/sagemaker-byoa-learner8"
    calls = [call | {"resource": re.sub("role/sagemaker-byoa$", own, call["resource"])} for call in recorded]
    tagged = {"aws:PrincipalTag/learner": "learner8"}
    verdict = iam_policies.judge(policy, calls, f"arn:aws:iam::000000000000:{own}", **tagged)
    assert verdict.refused.pop(own) == REFUSED["role/sagemaker-byoa"]
    # Nor may it look at a role that is not its own, or hand it on.
    more = {"role/sagemaker-byoa-learner8-decision-trees-wrong": {"iam:GetRole", "iam:PassRole"}}
    assert verdict.refused == {
        resource: actions | more.get(resource, set())
        for resource, actions in REFUSED.items()
        if resource != "role/sagemaker-byoa"
    }


@pytest.mark.timeout(900)
@pytest.mark.skipif(not (LABS.parent / "container" / "knn").is_dir(), reason="there is no container/knn")
def test_the_labs_walk_with_another_algorithm(tmp_path):
    """Nothing in them needs a tree, but for what they compare with one."""
    # 09 looks into a tree whatever is said; 10, 11 and 13 bring algorithms of their own.
    left_out = ("09_speed", "10_bring_your_own", "11_image_in_mask_out", "13_outgrow_one_machine")
    tree = clone(tmp_path / "clone")
    environment = isolated_environment(tmp_path, tree) | {"WORKSHOP_ALGORITHM": "knn"}
    labs = [lab for lab in NEEDS if lab not in left_out]
    output = tmp_path / "build" / "labs"
    command = [sys.executable, "-m", "workshop", "run", *labs, "--output", str(output)]
    run = run_offline(command, environment, tree)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == (output / "index.html").as_uri()
    read = pages.read(output)
    assert len(read) == len(labs) + 1
    assert {Path(link.split(": ")[1]).stem for link in pages.dead(read)} <= {*left_out}
    assert pages.from_elsewhere(read) == []
    built = nbformat.read(output / "01_build.ipynb", as_version=4)
    assert "container/knn" in str(built.cells) and "sagemaker-byoa-learner8-knn" in str(built.cells)
    left = Path(environment["OFFLINE_LOG"])
    assert not left.exists(), "something tried to leave this machine:\n" + left.read_text()


@each_lab
def test_the_answer_key_is_the_labs_own(path):
    written = (SOLUTIONS / path.name).read_text(encoding="utf-8")
    assert written == solution_notebook(path.stem), "run `.venv/bin/python -m workshop.solutions`"


def test_the_answer_key_has_nothing_else():
    assert sorted(file.name for file in SOLUTIONS.iterdir()) == [path.name for path in FILES]


@each_lab
def test_a_prediction_is_held_against_what_came(path):
    sources = [cell.source for cell in cells_of(path, "code")]
    asked = [
        (number, name, question)
        for number, source in enumerate(sources)
        for name, question in re.findall(r'^(\w+) = predict\(\s*"([^"]+)"', source, re.MULTILINE)
    ]
    assert len(asked) == sum(source.count('predict("') for source in sources) >= 1
    for number, name, question in asked:
        assert question.startswith(path.stem[:2] + " ")
        assert any(f"{name}.held_against(" in source for source in sources[number:]), f"{name}: never held"
    questions = [question for _, _, question in asked]
    assert len(set(questions)) == len(questions), "two predictions would share what was chosen"


def test_every_lab_is_known_to_catch_up():
    assert [path.stem for path in FILES] == list(NEEDS)


def cells_of(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@each_lab
def test_shape(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    assert first.startswith(f"# {path.stem.split('_')[0]} · ")
    for word in ("**Goal:**", "**Minutes:**", "**Cost on AWS:**", "**Before:**"):
        assert word in first, f"{path.name}: the first cell lacks {word}"
    prose = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    assert prose.count("\n# ") == 0, "the title is the only H1"
    for part in ("**Predict:**", "### Break it", "### Your turn", "<summary>Solution</summary>", "### Check"):
        assert part in prose, f"{path.name}: no {part}"
    code = [cell.source for cell in cells_of(path, "code")]
    assert f'check("{path.stem}")' in code[-1]
    assert code[code.index(PLACE) + 1] == f'check("{path.stem}", your_turn=True)'
    assert "[Home](../README.md)" in last


def test_previous_and_next():
    for before, after in pairwise(FILES):
        assert re.search(rf"next: \[[^]]+\]\({after.name}\)$", last_cell(before)), (
            f"{before.name} does not lead on"
        )
        assert re.match(rf"Previous: \[[^]]+\]\({before.name}\)", nav(after)), (
            f"{after.name} does not lead back"
        )
    assert "Previous" not in last_cell(FILES[0])
    assert "next:" not in last_cell(FILES[-1])


def last_cell(path: Path) -> str:
    return cells_of(path, "markdown")[-1].source


def nav(path: Path) -> str:
    return last_cell(path).split("\n\n")[-1]


@each_lab
def test_cells_are_short(path):
    for cell in cells_of(path, "code"):
        assert len(cell.source.splitlines()) <= 12, f"{path.name}: a long cell:\n{cell.source}"
    for cell in cells_of(path, "markdown"):
        shown = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL)
        assert len(shown.split()) <= 120, f"{path.name}: a wall of text:\n{cell.source}"


@each_lab
def test_only_compared_outputs_are_stored(path):
    for cell in cells_of(path, "code"):
        compared = COMPARED in cell.metadata.get("tags", [])
        assert bool(cell.outputs) == compared, (
            f"{path.name}: outputs and the tag {COMPARED} do not match:\n{cell.source}"
        )
        stored = json.dumps(cell.outputs)
        assert not re.search(r"\b\d{12}\b", stored), "an account number is stored"
        assert not re.search(r"/(home|Users|root|tmp|work)/", stored), "a path of some machine is stored"
        assert not re.search(r"localaws-[0-9a-f]{48}|token=[0-9a-f]{64}", stored), "a home's secret is stored"
        assert "Traceback" not in stored
        assert bool(cell.execution_count) == compared


@each_lab
def test_cells_for_catching_up_stand_alone(path):
    for source in tagged_cells(path):
        assert "catch_up(" not in source and "check(" not in source
