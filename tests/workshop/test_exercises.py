"""Each lab's "Your turn": what is missing or wrong gets a hint, what is there a tick. Solved ones: tests/test_labs.py."""

import json
import subprocess
import sys
import time
from collections import Counter

import boto3
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from workshop import check, exercises, notebook, record
from workshop.catch_up import NEEDS


@pytest.fixture
def given(monkeypatch):
    """The notebook's variables."""
    names = {}
    monkeypatch.setattr(exercises, "names", lambda: names)
    return names


@pytest.fixture
def shown(capsys):
    def run(lab: str) -> str:
        capsys.readouterr()
        check(lab, your_turn=True)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("lab", NEEDS)
def test_an_exercise_that_nobody_has_begun_gets_a_hint_and_stops_nothing(target, given, shown, lab):
    lines = shown(lab).splitlines()
    todo = next(number for number, line in enumerate(lines) if line.startswith("[TODO] "))
    hint = lines[todo + 1]
    assert hint.startswith("       ") and len(hint.split()) > 3, lines
    labs = {entry["lab"]: entry for entry in record.progress(target)["labs"]}
    assert labs[lab]["your_turn"] is None


def ended(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


#: Jobs of one host and of two, an hour each.
BILLED = {hosts: {"BillableTimeInSeconds": 3600} for hosts in (1, 2)}
WRONG = [
    ("00_setup", {"buckets": [{"Name": "a"}]}, '["Name"]'),
    ("00_setup", {"buckets": []}, '"Buckets"'),
    ("00_setup", {"buckets": ["nobodys"]}, "Expected ["),
    ("01_build", {"names_of_mine": ["train", "model_fn"]}, "3 more are called"),
    ("01_build", {"names_of_mine": ["train", "fit"]}, "None of yours is called 'fit'"),
    ("02_local_test", {"run": ended("print(1)")}, "Expected one above 0"),
    ("02_local_test", {"run": ended("raise SystemExit('another error')")}, "capture_output=True"),
    ("05_deploy", {"last": [{"message": "a"}]}, '["message"]'),
    ("05_deploy", {"last": ["a"] * 3}, "[-10:]"),
    ("06_invoke", {"with_header": '{"error": {}}'}, "header=present"),
    ("06_invoke", {"with_header": b"setosa\n"}, "none for the header"),
    ("09_speed", {"took": {"1": 2.0}}, "Measure both"),
    ("09_speed", {"took": {"1": 2.0, "2": None}}, "perf_counter"),
    ("11_image_in_mask_out", {"mask": np.ones((250, 130)) > 0}, "changed places"),
    ("11_image_in_mask_out", {"mask": np.ones((130, 250)) > 0}, "ground between them"),
    ("13_outgrow_one_machine", {"jobs": {}, "dollars": {}}, "train(2)"),
    ("13_outgrow_one_machine", {"jobs": BILLED, "dollars": {1: 0.115, 2: 0.115}}, "one instance's"),
    ("13_outgrow_one_machine", {"jobs": BILLED, "dollars": {2: 0.23}}, "each of 1, 2 hosts"),
    ("99_cleanup", {"ended": Counter(Completed=3)}, "walk all pages"),
]


@pytest.mark.parametrize(("lab", "names", "hint"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_gets_a_hint_of_its_own(target, given, shown, lab, names, hint, request):
    if lab == "05_deploy":
        request.getfixturevalue("logged")
    boto3.client("s3").create_bucket(
        Bucket=target.bucket, CreateBucketConfiguration={"LocationConstraint": target.region}
    )
    given |= names
    said = shown(lab)
    assert "[TODO]" in said and hint in said


@pytest.fixture
def logged(target):
    """A log of the endpoint, of twelve lines."""
    logs, group = boto3.client("logs"), {"logGroupName": f"/aws/sagemaker/Endpoints/{target.name}"}
    logs.create_log_group(**group)
    logs.create_log_stream(**group, logStreamName="AllTraffic/i-1")
    events = [{"timestamp": int(time.time() * 1000), "message": f"line {n}"} for n in range(12)]
    logs.put_log_events(**group, logStreamName="AllTraffic/i-1", logEvents=events)
    yield
    logs.delete_log_group(**group)


def test_the_last_lines_of_a_log_that_goes_on(target, given, shown, logged):
    given["last"] = [f"line {n}" for n in range(2, 12)]
    assert shown("05_deploy").startswith("[OK]")
    given["last"] = [f"line {n}" for n in range(1, 11)]
    assert shown("05_deploy").startswith("[OK]"), "another line came since"
    given["last"] = [f"line {n}" for n in (*range(1, 10), 11)]
    assert shown("05_deploy").startswith("[TODO]")


def test_what_is_solved_is_ticked_and_kept(target, given, shown):
    given["took"] = {"1": 2.0, "2": 1.1}
    said = shown("09_speed")
    assert "[TODO]" not in said and said.count("[OK]") == 2
    kept = {entry["lab"]: entry for entry in record.progress(target)["labs"]}["09_speed"]
    assert kept["your_turn"] and not kept["checked"]


def test_what_several_hosts_cost_is_ticked(target, given, shown):
    given |= {"jobs": BILLED, "dollars": {1: 0.115, 2: 0.23}}
    said = shown("13_outgrow_one_machine")
    assert "[TODO]" not in said and said.count("[OK]") == 2


def test_progress_says_what_is_next_and_survives_a_damaged_file(target, capsys):
    assert record.progress(target)["next"] == "00_setup"
    record.note(target, "00_setup", "checked")
    record.note(target, "00_setup", "00 a question", "an answer")
    done = record.progress(target)
    assert done["next"] == "01_build"
    assert done["labs"][0]["predictions"] == 1 and done["labs"][0]["title"] == "00 · Set up"
    record.show(target)
    shown = capsys.readouterr().out
    assert "Next: labs/01_build.ipynb" in shown and "00 · Set up" in shown
    file = record._file(target)
    assert json.loads(file.read_text())["name"] == target.name
    file.write_text("{")
    assert record.progress(target)["next"] == "00_setup"
    for lab in NEEDS:
        record.note(target, lab, "checked")
    assert record.progress(target)["next"] is None


def test_outside_a_notebook_there_are_no_variables(monkeypatch):
    monkeypatch.setattr(InteractiveShell, "_instance", None)  # a test before this one may have caught up
    assert notebook.names() == {} and not notebook.in_notebook()
