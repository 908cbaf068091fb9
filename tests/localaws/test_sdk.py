"""The sagemaker SDK v3 and the `aws` command line, as they come from PyPI, against localaws."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module", autouse=True)
def steps(account):
    """The steps of sdk_walk.py, running side by side: each spends 10 s on its imports."""
    script = str(Path(__file__).with_name("sdk_walk.py"))
    arguments = (account.role, account.bucket, account.image)
    running = {
        step: subprocess.Popen(
            [sys.executable, script, step, *arguments],
            env=account.aws.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for step in ("walk", "classes", "far")
    }
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


def said(process: subprocess.Popen) -> str:
    """All that a step has printed and logged, once it has succeeded."""
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    return out


def run(account, *command: str) -> str:
    done = subprocess.run(
        command, env=account.aws.env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_aws_command_line(account, tmp_path):
    endpoint = account.endpoint(account.config(account.model(word="by the command line")))
    aws = str(Path(sys.executable).with_name("aws"))
    answer = tmp_path / "answer"
    body = tmp_path / "body"
    body.write_text("tell")
    out = run(
        account,
        *(aws, "sagemaker-runtime", "invoke-endpoint", "--endpoint-name", endpoint),
        *("--content-type", "text/csv", "--body", f"fileb://{body}", str(answer)),
    )
    assert json.loads(out)["InvokedProductionVariant"] == "v0"
    assert json.loads(answer.read_text())["word"] == "by the command line"
    listed = json.loads(run(account, aws, "sagemaker", "list-endpoints", "--name-contains", endpoint))
    assert [item["EndpointStatus"] for item in listed["Endpoints"]] == ["InService"]
    run(account, aws, "sagemaker", "delete-endpoint", "--endpoint-name", endpoint)
    run(account, aws, "sagemaker", "wait", "endpoint-deleted", "--endpoint-name", endpoint)


def test_the_walk_as_the_labs_write_it(steps):
    out = said(steps["walk"])
    assert "TRAINED Completed {'depth': '5', 'model': 'by the SDK'} [('loss', 0.25)]" in out
    assert "host algo-1 of ['algo-1']" in out  # the log of the job, shown while it ran
    assert "INVOKED b'3,1\\n' AllTraffic by the SDK blue" in out
    assert "TRANSFORMED Completed b'7,2\\n8,2\\n'" in out
    assert "LEFT []" in out


def test_modelbuilder_transformer_and_tuner(steps):
    out = said(steps["classes"])
    assert "INVOKED b'3,1\\n'" in out
    assert "TRANSFORMED b'3,2\\n3,2\\n'" in out
    tuned = "['_tuning_objective_metric', 'criterion', 'depth', 'share']"
    assert any(f"TUNED 3 {tuned} {word}" in out for word in ("gini", "entropy"))


def test_a_function_that_runs_far_away(steps):
    assert "DIVIDED 2.5" in said(steps["far"])
