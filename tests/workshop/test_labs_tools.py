"""check, catch_up, preflight and the runner: what they say, and that they fail where they should."""

import os
import shutil
import signal
import subprocess
import sys

import boto3
import nbformat
import pytest

import localaws
from localaws import images
from workshop import ROOT, CheckFailed, catch_up, check, left_over, preflight
from workshop.catch_up import LABS, NEEDS
from workshop.checks import findings
from workshop.errors import UnknownLab


def test_a_check_fails_with_a_hint_where_nothing_was_done(target, capsys):
    for lab in ("00_setup", "03_push", "04_train", "05_deploy", "07_batch_transform"):
        with pytest.raises(CheckFailed, match=f"{lab}: missing results: 1"):
            check(lab)
        shown = capsys.readouterr().out
        assert "[FAIL]" in shown and len(shown.splitlines()) == 2, shown
    check("99_cleanup")
    assert "[OK]   nothing of the walk is left" in capsys.readouterr().out


def test_catching_up_does_what_is_missing_once(target, capsys):
    catch_up("04_train")
    first = capsys.readouterr().out
    assert "00_setup: not done yet, running 2 of its cells" in first
    assert "03_push: not done yet" in first
    assert all(there for there, _, _ in findings("03_push", target))
    catch_up("04_train")
    assert set(capsys.readouterr().out.splitlines()) == {f"{lab}: there already" for lab in NEEDS["04_train"]}
    assert sorted(left_over(target)) == [f"ECR repository {target.name}", f"bucket {target.bucket}"]
    with pytest.raises(CheckFailed, match="99_cleanup"):
        check("99_cleanup")


def test_catching_up_builds_and_pushes_again_what_has_changed(target, tmp_path, monkeypatch, capsys):
    """An image of another training.py stands for one that was built before the learner changed it."""
    catch_up("08_tune")
    shutil.copytree(ROOT / "container", tmp_path / "container")
    training = tmp_path / "container/decision_trees/training.py"
    training.write_text(training.read_text() + "# before\n")
    with monkeypatch.context() as patch:
        patch.setattr(localaws.state.locate, "ROOT", tmp_path)
        images.build("decision_trees", target.name)
    uri = boto3.client("ecr").describe_repositories(repositoryNames=[target.name])["repositories"][0]
    images.push(target.name, uri["repositoryUri"])
    capsys.readouterr()
    catch_up("08_tune")
    shown = capsys.readouterr().out
    assert f"for: image {target.name} is older than container/decision_trees/training.py" in shown
    assert "03_push: not done yet" in shown and "is not the one that was built last" in shown
    assert "00_setup: there already" in shown


@pytest.mark.parametrize("function", [check, catch_up])
def test_an_unknown_lab_is_answered_with_the_labs_there_are(target, function):
    with pytest.raises(UnknownLab, match="there is no lab '42_answer'; there are 00_setup, 01_build"):
        function("42_answer")


def test_preflight_knows_what_is_pinned(capsys):
    assert preflight()
    shown = capsys.readouterr().out
    assert "[OK]   sagemaker 3" in shown and "[OK]   boto3" in shown
    assert "tested with" not in shown, "this environment is not the pinned one"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "workshop", *arguments], capture_output=True, text=True, timeout=200
    )


def test_the_runner_writes_a_page_and_a_line_for_a_lab(tmp_path):
    before = (LABS / "00_setup.ipynb").read_bytes()
    done = run("run", "00_setup", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] 00_setup" in done.stdout and "ok" in done.stdout
    page = (tmp_path / "00_setup.html").read_text()
    assert "[OK]" in page and 'aria-label="Petal width over petal length' in page
    for elsewhere in ("cdnjs", "unpkg", "jsdelivr"):
        assert elsewhere not in page, "the page would load something from the network"
    assert (LABS / "00_setup.ipynb").read_bytes() == before


def test_ctrl_c_ends_the_runner_in_a_word(tmp_path):
    command = [sys.executable, "-m", "workshop", "run", "09_speed", "--output", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        shown = b""
        while b"." not in shown:  # the first cells are done
            shown += process.stdout.read1()
            assert process.poll() is None, shown
        os.killpg(process.pid, signal.SIGINT)
        shown += process.stdout.read()
    assert process.returncode == 130, shown.decode()
    assert shown.endswith(b"interrupted; its localaws is stopped\n") and b"Traceback" not in shown, (
        shown.decode()
    )


def test_the_runner_says_which_lab_failed_and_why(tmp_path, monkeypatch):
    from workshop import __main__ as runner

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "00_setup.ipynb")
    monkeypatch.setattr(runner, "labs_folder", lambda: tmp_path)
    problem, _ = runner._execute("00_setup", tmp_path)
    assert problem == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in (tmp_path / "00_setup.html").read_text()


def test_the_runner_stores_what_is_compared_by_its_tag(tmp_path, monkeypatch):
    from workshop import __main__ as runner

    cell = nbformat.v4.new_code_cell
    cells = [cell("print(1)"), cell("print(2)", metadata={"tags": ["nbval-check-output"]}), cell("print(3)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_setup.ipynb")
    monkeypatch.setattr(runner, "labs_folder", lambda: tmp_path)
    (tmp_path / "pages").mkdir()
    problem, _ = runner._execute("00_setup", tmp_path / "pages")
    assert problem is None
    runner._store("00_setup", tmp_path / "pages")
    stored = nbformat.read(tmp_path / "00_setup.ipynb", as_version=4).cells
    assert [[output.text for output in cell.outputs] for cell in stored] == [[], ["2\n"], []]


def test_the_runner_refuses_a_lab_that_is_not_there():
    done = run("run", "42_answer")
    assert done.returncode == 2
    assert "there is no lab '42_answer'" in done.stderr


def test_an_output_folder_that_cannot_be_written_is_refused_by_name():
    done = run("run", "00_setup", "--output", "/dev/null/pages")
    assert done.returncode == 2
    assert "cannot write to /dev/null/pages (Not a directory): name another folder" in done.stderr
    assert "Traceback" not in done.stderr
