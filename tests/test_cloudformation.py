"""The templates for AWS: as written, linted, held to our rules, created by moto's CloudFormation; what an instance runs.

cfn-lint and cfn-guard have an environment of their own, build/cloudformation, which the first test makes in some ten
seconds. What moto does not know is left out there, and named: AWS::Budgets::Budget.
"""

import base64
import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest
import waiting
import yaml

from workshop import ROOT

HERE = ROOT / "utils" / "cloudformation"
ENVIRONMENT = ROOT / "build" / "cloudformation"
TOOLS = ["cfn-lint==1.58.0", "cfn-guard-rs==0.3.3"]
specification = importlib.util.spec_from_file_location("write", HERE / "write.py")
write = importlib.util.module_from_spec(specification)
specification.loader.exec_module(write)
NAMES = sorted(write.templates())

#: A template with its Fn::ForEach written out, and the rules that it breaks, by the tools' own Python.
CHECK = """
import json, sys
from cfn_guard_rs.cfn_guard_rs import run_checks_rs
from cfnlint.decode import decode
from cfnlint.template import Template

what, rules = sys.argv[1:]
template, problems = decode(what)
assert not problems, problems
whole = Template(what, template, ["us-west-2"])
assert not whole.transform()
whole = json.loads(json.dumps(whole.template))
report = run_checks_rs(json.dumps(whole), open(rules).read(), False)
print(json.dumps({"template": whole, "report": json.loads(report)}))
"""


@pytest.fixture(scope="session")
def tools(tmp_path_factory) -> Path:
    """The Python of an environment that has cfn-lint and cfn-guard."""
    python = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / "ready"
    if not ready.exists() or ready.read_text() != str(TOOLS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *TOOLS]
        done = subprocess.run(install, capture_output=True, text=True, timeout=240)
        if done.returncode and "CI" not in os.environ:
            pytest.skip(f"pip cannot install {TOOLS}: the templates are not linted: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr
        ready.write_text(str(TOOLS))
    return python


def checked(tools: Path, file: Path) -> dict:
    done = subprocess.run(
        [tools, "-c", CHECK, str(file), str(HERE / "rules.guard")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_what_write_writes(name):
    assert (HERE / name).read_text() == write.text(write.templates()[name]), (
        "run utils/cloudformation/write.py"
    )
    # What is given to CloudFormation itself, and not by S3, has at most so many bytes.
    assert (HERE / name).stat().st_size <= 51_200


def test_iam_and_sagemaker_take_what_is_long():
    """A managed policy has at most 6144 characters without blanks, a lifecycle script 16384 in base64."""
    assert len(json.dumps(write.policy(), separators=(",", ":"))) <= 6144
    assert len(base64.b64encode(script().encode())) <= 16_384


def lint(tools: Path, file: Path) -> subprocess.CompletedProcess:
    # Not its script, whose first line the kernel cannot read where the path to build/ has a blank in it.
    program = "import sys; from cfnlint.runner import main; sys.exit(main())"
    command = [tools, "-c", program, "--regions", "us-west-2", "eu-central-1", "--", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", NAMES)
def test_cfn_lint_finds_nothing(tools, name):
    done = lint(tools, HERE / name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(400)
def test_cfn_lint_finds_a_slip(tools, tmp_path):
    template = write.templates()["learner.yaml"]
    template["Resources"]["Notebook"]["Properties"]["VolumeSize"] = 20
    (tmp_path / "slip.yaml").write_text(write.text(template))
    done = lint(tools, tmp_path / "slip.yaml")
    assert done.returncode != 0 and "VolumeSize" in done.stdout


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", NAMES)
def test_a_template_keeps_our_rules(tools, name):
    report = checked(tools, HERE / name)["report"]
    assert report["status"] == "PASS", report["not_compliant"]
    rules = set(re.findall(r"^rule (\w+)", (HERE / "rules.guard").read_text(), re.MULTILINE))
    assert set(report["compliant"]) == rules - {"buckets_are_closed_and_encrypted"}, "a rule looks at nothing"


def _statement(resources: dict) -> dict:
    """The policy's last statement, of one action. (What guard says of many is no JSON any more.)"""
    return resources["Policy"]["Properties"]["PolicyDocument"]["Statement"][-1]


def _every_action(resources):
    _statement(resources)["Action"] = ["sagemaker:*"]


def _every_resource(resources):
    _statement(resources)["Resource"] = ["*"]


def _without_boundary(resources):
    del resources["Role"]["Properties"]["PermissionsBoundary"]


def _policy_of_its_own(resources):
    resources["Role"]["Properties"]["Policies"] = [{"PolicyName": "more", "PolicyDocument": {}}]


def _nobodys(resources):
    resources["Role"]["Properties"]["Tags"] = [{"Key": "workshop", "Value": "x"}]


def _never_stops(resources):
    del resources["Notebook"]["Properties"]["LifecycleConfigName"]


def _root_for_nothing(resources):
    del resources["Notebook"]["Metadata"]


def _open_bucket(resources):
    resources["Bucket"] = {"Type": "AWS::S3::Bucket", "Properties": {}}


def _no_alarm(resources):
    del resources["Alarm"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (_every_action, "no_action_is_a_wildcard"),
        (_every_resource, "what_changes_things_names_them"),
        (_without_boundary, "roles_have_a_boundary"),
        (_policy_of_its_own, "roles_have_a_boundary"),
        (_nobodys, "each_thing_says_whose_it_is"),
        (_never_stops, "notebooks_stop_by_themselves"),
        (_root_for_nothing, "root_has_a_reason"),
        (_open_bucket, "buckets_are_closed_and_encrypted"),
        (_no_alarm, "money_has_an_alarm"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else value,
)
def test_each_rule_can_be_broken(tools, tmp_path, harm, rule):
    template = copy.deepcopy(write.templates()["learner.yaml"])
    harm(template["Resources"])
    broken = tmp_path / "broken.yaml"
    broken.write_text(write.text(template))
    found = checked(tools, broken)
    assert found["report"]["status"] == "FAIL"
    assert {one["Rule"]["name"] for one in found["report"]["not_compliant"]} == {rule}


def values(**more: str) -> list[dict]:
    given = {"Email": "somebody@example.com", "Repository": "https://example.com/workshop.git"} | more
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "given", "learners"),
    [
        ("learner.yaml", {"Learner": "ana"}, ["ana"]),
        ("class.yaml", {}, [f"l{number:02}" for number in range(1, 31)]),
    ],
    ids=NAMES[::-1],
)
def test_moto_creates_it_for_each_learner(tools, monkeypatch, name, given, learners):
    """Written out by cfn-lint, since moto has no Fn::ForEach; without the budget, which it passes over."""
    from moto import mock_aws

    body = checked(tools, HERE / name)["template"]
    body.pop("Transform", None)
    for variable in [one for one in os.environ if one.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    boto3.setup_default_session()
    with mock_aws(), pytest.warns(UserWarning, match="AWS::Budgets::Budget"):
        cloudformation = boto3.client("cloudformation")
        cloudformation.create_stack(
            StackName="workshop",
            TemplateBody=json.dumps(body),
            Parameters=values(**given),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        made = cloudformation.list_stack_resources(StackName="workshop")["StackResourceSummaries"]
        kinds = {one["LogicalResourceId"]: one["ResourceType"] for one in made}
        assert set(body["Resources"]) - set(kinds) == {"Alarm"}
        sagemaker, iam = boto3.client("sagemaker"), boto3.client("iam")
        listed = sagemaker.get_paginator("list_notebook_instances").paginate().search("NotebookInstances[]")
        # Under names of its own: of an instance moto takes the kind and the role.
        instances = [
            sagemaker.describe_notebook_instance(NotebookInstanceName=one["NotebookInstanceName"])
            for one in listed
        ]
        assert {one["InstanceType"] for one in instances} == {"ml.t3.medium"}
        policy = iam.list_policies(Scope="Local")["Policies"][0]
        roles = {one["RoleName"]: one for one in iam.list_roles()["Roles"]}
        assert sorted(roles) == [f"sagemaker-byoa-{learner}" for learner in learners]
        assert sorted(one["RoleArn"] for one in instances) == sorted(one["Arn"] for one in roles.values())
        for learner, name in zip(learners, sorted(roles), strict=True):
            role = iam.get_role(RoleName=name)["Role"]
            assert {"Key": "learner", "Value": learner} in role["Tags"]
            assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == policy["Arn"]
        lifecycle = next(one for one in made if one["LogicalResourceId"] == "WhenItStarts")
        described = sagemaker.describe_notebook_instance_lifecycle_config(
            NotebookInstanceLifecycleConfigName=lifecycle["PhysicalResourceId"].rpartition("/")[2]
        )
        started = base64.b64decode(described["OnStart"][0]["Content"]).decode()
        assert started == script(REPOSITORY="https://example.com/workshop.git")
    boto3.setup_default_session()


def script(**given: str) -> str:
    """What an instance runs, with the parameters' defaults and those that are given."""
    parameters = write.parameters(1)
    text = ""
    for piece in write.script()["Fn::Base64"]["Fn::Join"][1]:
        if isinstance(piece, str):
            text += piece
        elif piece["Ref"] == "AWS::Region":
            text += "us-west-2"
        else:
            variable = re.search(r"(\w+)='$", text)[1]
            text += given.get(variable, str(parameters[piece["Ref"]].get("Default", "")))
    return text


def test_the_scripts_are_clean(tmp_path):
    whole = tmp_path / "on_start.sh"
    whole.write_text(script(REPOSITORY="https://example.com/workshop.git"))
    if subprocess.run(["sh", "-c", "command -v shellcheck"], capture_output=True).returncode:
        pytest.skip("shellcheck is not installed: the lifecycle script is not checked")
    done = subprocess.run(
        ["shellcheck", str(HERE / "on_start.sh"), str(whole)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


STANDS_IN = {
    "dnf": 'echo "dnf $*"',
    "systemctl": 'echo "systemctl $*"',
    "sudo": 'shift 3; exec "$@"',  # --user ec2-user --set-home
    "make": "mkdir -p .venv/bin; printf '#!/bin/sh\\necho kernel \"$@\"\\n' >.venv/bin/python; chmod +x .venv/bin/python",
}


def test_an_instance_that_starts_has_the_workshop_and_its_kernel(tmp_path):
    """The script itself, with stand-ins for what only a notebook instance has; git is git."""
    bin_, home = tmp_path / "bin", tmp_path / "home"
    for folder in (bin_, home / "SageMaker", tmp_path / "usr/local/lib", tmp_path / "etc/cron.d"):
        folder.mkdir(parents=True)
    for name, body in STANDS_IN.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_ / name).chmod(0o755)
    origin = tmp_path / "origin"
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(origin)], check=True)
    (origin / "README.md").write_text("the workshop\n")
    subprocess.run(["git", "-C", str(origin), "add", "."], check=True)
    subprocess.run(["git", "-C", str(origin), *identity, "commit", "--quiet", "-m", "first"], check=True)
    (tmp_path / "metadata.json").write_text('{"ResourceName": "sagemaker-byoa-ana"}')
    (tmp_path / "on_start.sh").write_text(script(REPOSITORY=str(origin)))
    environment = {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "HOME": str(home),
        "PREFIX": str(tmp_path),
        "LOG": str(tmp_path / "setup.log"),
        "METADATA": str(tmp_path / "metadata.json"),
    }
    command = ["bash", str(tmp_path / "on_start.sh")]
    for _ in range(2):  # the second time the clone is there
        (tmp_path / "setup.log").unlink(missing_ok=True)
        subprocess.run(command, env=environment, check=True, timeout=60)
        log = waiting.wait_until(lambda: _ready(tmp_path / "setup.log"), 60)
    assert (home / "SageMaker/sagemaker-byoa/README.md").read_text() == "the workshop\n"
    kernel = next(line for line in log.splitlines() if line.startswith("kernel -m ipykernel install"))
    for pair in ("WORKSHOP_TARGET aws", "WORKSHOP_LEARNER ana", "WORKSHOP_ROLE sagemaker-byoa-ana"):
        assert f"--env {pair}" in kernel
    assert "--env AWS_DEFAULT_REGION us-west-2" in kernel
    cron = (tmp_path / "etc/cron.d/stop-when-idle").read_text()
    idle = tmp_path / "usr/local/lib/stop_when_idle.py"
    assert f"/usr/bin/python3 {idle} sagemaker-byoa-ana us-west-2 60 " in cron
    assert idle.read_text() == (HERE / "stop_when_idle.py").read_text()


def _ready(log: Path) -> str | None:
    text = log.read_text() if log.exists() else ""
    return text if "ready: open" in text else None


@pytest.fixture
def jupyter():
    """A server that says of kernels and terminals what the test says."""
    says: dict[str, list] = {"/api/kernels": [], "/api/terminals": []}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(says[self.path]).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield says, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


LONG_AGO, SOME_DAY = "2026-01-01T00:00:00.000000Z", "2999-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("kernels", "terminals", "remembered", "stops"),
    [
        ([], [], None, False),
        ([], [], 0, True),
        ([{"execution_state": "idle", "last_activity": LONG_AGO}], [], 0, True),
        ([{"execution_state": "busy", "last_activity": LONG_AGO}], [], 0, False),
        ([{"execution_state": "idle", "last_activity": SOME_DAY}], [], 0, False),
        ([], [{"name": "1", "last_activity": SOME_DAY}], 0, False),
        (None, None, 0, True),
    ],
    ids=["just-started", "empty", "idle", "busy", "active", "terminal", "jupyter-silent"],
)
def test_an_idle_instance_stops_and_a_busy_one_does_not(
    jupyter, tmp_path, kernels, terminals, remembered, stops
):
    says, url = jupyter
    if kernels is None:
        url = "http://127.0.0.1:9"  # nobody listens there
    else:
        says["/api/kernels"], says["/api/terminals"] = kernels, terminals
    (tmp_path / "aws").write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/called"\n')
    (tmp_path / "aws").chmod(0o755)
    memory = tmp_path / "active"
    if remembered is not None:
        memory.write_text(str(remembered))
    done = subprocess.run(
        [sys.executable, HERE / "stop_when_idle.py", "sagemaker-byoa-ana", "us-west-2", "60", url, memory],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "called").read_text() if (tmp_path / "called").exists() else ""
    stop = "sagemaker stop-notebook-instance --notebook-instance-name sagemaker-byoa-ana --region us-west-2\n"
    assert called == (stop if stops else ""), done.stdout


def test_the_budget_tells_at_half_at_four_fifths_and_at_all():
    for name in NAMES:
        alarm = yaml.safe_load((HERE / name).read_text())["Resources"]["Alarm"]["Properties"]
        notices = alarm["NotificationsWithSubscribers"]
        assert [one["Notification"]["Threshold"] for one in notices] == [50, 80, 100]
        assert all(one["Subscribers"][0]["SubscriptionType"] == "EMAIL" for one in notices)
