"""connect(): which target, what it sets, and what it says where that cannot be."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import boto3
import nbformat
import pytest
from nbclient import NotebookClient

import localaws
from workshop import TargetError, connect, left_over
from workshop.checks import findings
from workshop.target import _execution_role

# What `localaws env` has that leads to it.
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
LEADING = ("AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", *PROXIES)


def test_local_is_the_default_and_every_client_talks_to_it(target, capsys):
    again = connect()
    assert again == target
    assert target.local and target.account == "000000000000"
    shown = capsys.readouterr().out
    for value in (target.endpoint_url, target.account, target.region, target.role, target.bucket):
        assert value in shown
    assert boto3.client("sts").get_caller_identity()["Account"] == target.account
    command = subprocess.run(
        [
            os.path.join(os.path.dirname(sys.executable), "aws"),
            "sts",
            "get-caller-identity",
            "--query",
            "Account",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert command.stdout.strip() == f'"{target.account}"', command.stderr


def test_the_role_has_what_readme_gives_it_on_aws(target):
    role = boto3.client("iam").get_role(RoleName="sagemaker-byoa")["Role"]
    assert role["Arn"] == target.role
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {
        "Service": "sagemaker.amazonaws.com"
    }
    policy = boto3.client("iam").get_role_policy(RoleName="sagemaker-byoa", PolicyName="workshop")
    assert "ecr:BatchGetImage" in str(policy["PolicyDocument"])


def test_learners_are_set_apart(home, environment):
    environment["WORKSHOP_LEARNER"] = "ana1"
    ana = connect(quiet=True)
    assert ana.name == "sagemaker-byoa-ana1-decision-trees"
    assert ana.bucket == "sagemaker-byoa-ana1-us-west-2-000000000000"
    assert re.fullmatch(r"[a-z0-9-]{3,63}", ana.bucket)


def test_an_algorithm_has_names_of_its_own_that_every_service_takes(home, environment, tmp_path, monkeypatch):
    tree = connect(quiet=True)
    assert tree.algorithm == "decision_trees" and (tree.source / "training.py").is_file()
    folder = tmp_path / "clone" / "container" / "Gradient_boosting_of_many_trees"
    folder.mkdir(parents=True)
    (folder / "training.py").touch()
    monkeypatch.setattr("workshop.target.ROOT", tmp_path / "clone")
    environment["WORKSHOP_LEARNER"] = "learner8"
    environment["WORKSHOP_ALGORITHM"] = folder.name
    other = connect(quiet=True)
    assert other.name == "sagemaker-byoa-learner8-gradient-boosting"
    # The longest ending that a lab puts behind it.
    assert len(f"{other.name}-20261231235959-broken") <= 63
    assert len(f"{other.unet}-20261231235959") <= 63
    assert other.folder != tree.folder and other.source == folder and other.hyperparameters == {}
    with pytest.raises(TargetError, match=r"Where should a search look .* of Gradient.*/labs\.json, as in"):
        _ = other.searched
    environment["WORKSHOP_ALGORITHM"] = "knm"
    with pytest.raises(TargetError, match=f"is 'knm'.* no training.py. There are: {folder.name}; `make new"):
        connect()


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORKSHOP_TARGET", "azure"), ("WORKSHOP_LEARNER", "Ana"), ("WORKSHOP_LEARNER", "a-b")],
)
def test_a_bad_variable_is_named_with_what_is_allowed(environment, name, value):
    environment[name] = value
    with pytest.raises(TargetError, match=rf"{name} is '{value}'; it is "):
        connect()


def test_aws_without_credentials_says_what_to_do(environment, tmp_path):
    environment["WORKSHOP_TARGET"] = "aws"
    environment["AWS_CONFIG_FILE"] = environment["AWS_SHARED_CREDENTIALS_FILE"] = str(tmp_path / "none")
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    with pytest.raises(TargetError, match="no credentials were found"):
        connect()


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SAGEMAKER"])
def test_aws_with_an_endpoint_of_elsewhere_left_in_the_environment_is_refused(environment, name):
    environment["WORKSHOP_TARGET"] = "aws"
    environment[name] = "http://127.0.0.1:4571"
    with pytest.raises(TargetError, match=rf"unset {name}$"):
        connect()


@pytest.mark.parametrize("name", [*PROXIES, "AWS_CONFIG_FILE"])
def test_aws_by_what_else_leads_to_localaws_is_refused(target, environment, name):
    """Else the account that answers, by the proxy or the profile, would pass for AWS's."""
    left = {variable: environment.pop(variable) for variable in LEADING}
    environment |= {"WORKSHOP_TARGET": "aws", name: left[name]}
    with pytest.raises(TargetError, match=rf"unset {name}$"):
        connect()


def stand_in(environment, tmp_path, url: str) -> None:
    """Let `url` stand in for AWS's STS and IAM, which connect() asks, by the configuration that a learner may have."""
    for name in LEADING:
        environment.pop(name, None)
    services = "".join(f"{name} =\n  endpoint_url = {url}\n" for name in ("sts", "iam"))
    (tmp_path / "config").write_text(
        f"[default]\nregion = us-west-2\nservices = stand-in\n[services stand-in]\n{services}"
    )
    environment["AWS_CONFIG_FILE"] = str(tmp_path / "config")
    environment["WORKSHOP_TARGET"] = "aws"
    environment["WORKSHOP_ROLE"] = "sagemaker-byoa"


def test_on_aws_the_same_names_and_the_named_role(target, environment, tmp_path):
    stand_in(environment, tmp_path, target.endpoint_url)
    # AWS's own endpoint in somebody's VPC leads nowhere else.
    environment["AWS_ENDPOINT_URL_S3"] = "https://bucket.vpce-1.s3.us-west-2.vpce.amazonaws.com"
    aws = connect(quiet=True)
    assert (aws.kind, aws.endpoint_url) == ("aws", "")
    assert (aws.name, aws.bucket, aws.role) == (target.name, target.bucket, target.role)
    environment["WORKSHOP_ROLE"] = "nobody"
    with pytest.raises(TargetError, match=r"'nobody' cannot be looked up \(NoSuchEntity"):
        connect(quiet=True)


def test_aws_out_of_reach_says_what_failed_and_how_to_go_on_here(environment, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        stand_in(environment, tmp_path, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        environment.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
        with pytest.raises(
            TargetError, match=r"cannot be reached from here: .*http://127.0.0.1:\d+.*unset WORKSHOP"
        ):
            connect()


def test_a_folder_that_cannot_be_written_is_named(environment):
    environment["LOCALAWS_HOME"] = "/dev/null/localaws"
    with pytest.raises(
        TargetError, match=r"cannot write to its folder /dev/null/localaws .*export LOCALAWS_HOME="
    ):
        connect()


def test_learners_share_a_localaws_and_nothing_else(home, environment):
    """Each from a program of their own, at once and from the first connect() on, as in a class on one machine."""
    program = """
        from workshop import catch_up, check, connect
        target = connect(quiet=True)
        catch_up("04_train")
        check("03_push")
        print(target.name, target.bucket, sep="\\n")
    """
    learners = ["ana", "ben", "ana1"]
    with ThreadPoolExecutor(len(learners)) as pool:

        def walk(learner):
            return subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program)],
                env={**environment, "WORKSHOP_LEARNER": learner},
                capture_output=True,
                text=True,
                timeout=120,
            )

        done = list(pool.map(walk, learners))
    for one in done:
        assert one.returncode == 0, one.stdout + one.stderr
    names, buckets = zip(*(one.stdout.splitlines()[-2:] for one in done), strict=True)
    assert len(set(names)) == len(set(buckets)) == len(learners)

    # What one learner deletes is theirs alone.
    environment["WORKSHOP_LEARNER"] = "ana"
    ana = connect(quiet=True)
    assert sorted(left_over(ana)) == [f"ECR repository {ana.name}", f"bucket {ana.bucket}"]
    boto3.client("ecr").delete_repository(repositoryName=ana.name, force=True)
    bucket = boto3.resource("s3").Bucket(ana.bucket)
    bucket.objects.all().delete()
    bucket.delete()
    assert left_over(ana) == []
    for learner in learners[1:]:
        environment["WORKSHOP_LEARNER"] = learner
        other = connect(quiet=True)
        assert all(there for lab in ("00_setup", "03_push") for there, _, _ in findings(lab, other))


def test_the_execution_role_of_somebody_who_names_none(environment):
    with pytest.raises(TargetError, match="export WORKSHOP_ROLE="):
        _execution_role("arn:aws:iam::000000000000:user/ana")
    environment["WORKSHOP_ROLE"] = "arn:aws:iam::000000000000:role/x"
    assert _execution_role("arn:aws:iam::000000000000:user/ana") == "arn:aws:iam::000000000000:role/x"


def run_cells(*sources: str) -> list[str]:
    """Run cells in one kernel; return what each printed, its error included, without colours."""
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source)) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=120).execute()
    shown = []
    for cell in notebook.cells:
        texts = [output.get("text", "") or "\n".join(output.get("traceback", [])) for output in cell.outputs]
        shown.append(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(texts)))
    return shown


def test_a_killed_localaws_is_explained_and_comes_back(home):
    before, lost, after, there = run_cells(
        "from workshop import catch_up, connect\nimport boto3\ntarget = connect()\n"
        "boto3.client('s3').create_bucket(Bucket='kept', CreateBucketConfiguration={'LocationConstraint': 'us-west-2'});",
        "import os, signal, localaws\nos.kill(localaws.status().pid, signal.SIGKILL)\nboto3.client('s3').list_buckets()",
        "target = connect()\ncatch_up('04_train')",
        "print([bucket['Name'] for bucket in boto3.client('s3').list_buckets()['Buckets']])",
    )
    assert "localaws at http://127.0.0.1:" in before
    assert "does not answer: it was stopped or killed" in lost
    assert "python -m localaws up" in lost and "catch_up()" in lost
    assert "Traceback" not in lost
    assert "03_push: not done yet, running" in after
    assert "kept" in there
    assert localaws.status() is not None
