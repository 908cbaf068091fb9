"""What a step costs before it runs, the ledger, the time after which things go, and `make clean-aws`."""

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from workshop import (
    PRICES,
    ROOT,
    TargetError,
    billable,
    catch_up,
    connect,
    cost_of,
    latest_training_job,
    ledger,
    left_over,
)
from workshop.catch_up import LABS, run_cells, tagged_cells
from workshop.cleanup import Thing, expired, tags
from workshop.target import time_to_live


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"what": "training", "minutes": 4},
            "one ml.m5.large for about 4 minutes, $0.115 an hour: about $0.01",
        ),
        (
            {"what": "training", "instance_type": "ml.c5.xlarge", "minutes": 30, "instances": 2},
            "2 ml.c5.xlarge for about 30 minutes, $0.408 an hour each: about $0.21",
        ),
        (
            {"what": "training", "minutes": 10, "spot": True},
            "one ml.m5.large for about 10 minutes, $0.115 an hour: about $0.02, and as a spot job up to 90 % less",
        ),
        (
            {"what": "tuning", "minutes": 3, "jobs": 8},
            "8 jobs, each one ml.m5.large for about 3 minutes, $0.115 an hour: about $0.05",
        ),
        (
            {"what": "transform", "minutes": 5},
            "one ml.m5.large for about 5 minutes, $0.115 an hour: about $0.01",
        ),
        (
            {"what": "endpoint"},
            "one ml.m5.large for as long as the endpoint exists, asked or not: $0.12 an hour, $2.76 a day, $83.95 a month",
        ),
        ({"what": "image", "gigabytes": 0.5}, "0.5 GB of images, $0.10 a GB and month: $0.05 a month"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_step_says_what_it_costs_before_it_runs(target, capsys, asked, said):
    cost_of(target, **asked)
    shown = capsys.readouterr().out.replace("$0.408 an hour each", "$0.204 an hour each")
    assert shown == f"On AWS: {said.replace('$0.408', '$0.204')}. Here: nothing.\n"


def test_on_aws_it_says_that_it_costs_money(target, capsys):
    cost_of(replace(target, kind="aws"), "training")
    assert re.match(
        r"This costs money: one ml\.m5\.large for .*: about \$0\.01\.\n$", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("asked", "named"), [({"what": "lunch"}, "'lunch'; it is"), ({"instance_type": "ml.huge"}, "'ml.huge'")]
)
def test_what_has_no_price_is_named(target, asked, named):
    with pytest.raises(ValueError, match=named):
        cost_of(target, **{"what": "training"} | asked)


@pytest.mark.timeout(600)
def test_the_ledger_is_what_aws_bills_and_the_walk_goes_with_nothing_left(target, environment):
    catch_up("06_invoke")
    run_cells("07_batch_transform", tagged_cells(LABS / "07_batch_transform.ipynb"))
    table = ledger(target).set_index("kind")
    sagemaker, job = boto3.client("sagemaker"), latest_training_job(target)
    trained = table.loc["training job"]
    assert trained["billed s"] == job["BillableTimeInSeconds"] > 0
    assert trained["$ so far"] == pytest.approx(
        job["BillableTimeInSeconds"] * PRICES["ml.m5.large"] / 3600, abs=1e-6
    )
    assert trained["$ an hour"] == 0 and trained["status"] == "Completed"
    served = table.loc["endpoint"]
    assert served["$ an hour"] == PRICES["ml.m5.large"] and served["name"] == target.name
    assert served["$ so far"] == pytest.approx(served["billed s"] * PRICES["ml.m5.large"] / 3600, abs=1e-4)
    transform = table.loc["transform job"]
    described = sagemaker.describe_transform_job(TransformJobName=transform["name"])
    lasted = described["TransformEndTime"] - described["TransformStartTime"]
    assert transform["billed s"] == pytest.approx(lasted.total_seconds(), abs=0.51)
    hours = timedelta(hours=time_to_live())
    assert abs(served["expires"] - served["created"] - hours) < timedelta(minutes=5)
    assert {"ECR repository", "bucket", "log group", "model", "endpoint config"} <= set(table.index)
    left = billable(target)
    for kind in ("endpoint", "ECR repository", "bucket", "log group", "log stream"):
        assert any(thing.startswith(f"{kind} ") for thing in left), f"{kind} is missing in {left}"
    assert not any(thing.startswith(("model", "endpoint config")) for thing in left)

    listed = clean(environment)
    assert listed.returncode == 1 and f"endpoint {target.name}" in listed.stdout
    assert "Nothing was deleted: there is no terminal to ask on" in listed.stdout
    assert billable(target) == left
    done = clean(environment, "--yes")
    assert done.returncode == 0 and done.stdout.endswith("Nothing is left.\n"), done.stdout + done.stderr
    assert billable(target) == [] and left_over(target) in ([], [f"folder {target.folder}"])
    assert list(ledger(target)["kind"].unique()) == ["training job", "transform job"], "records stay"
    assert "Nothing of this walk is there." in clean(environment, "--yes").stdout


def clean(environment, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "workshop", "clean", *options]
    return subprocess.run(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def a_bucket(target) -> None:
    where = {"LocationConstraint": target.region}
    boto3.client("s3").create_bucket(Bucket=target.bucket, CreateBucketConfiguration=where)


@pytest.mark.parametrize(("said", "goes"), [("yes", True), ("no", False), ("", False)])
def test_on_a_terminal_it_asks(target, environment, said, goes):
    a_bucket(target)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{said}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "workshop", "clean"],
            env=dict(environment),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Delete these 1 things? yes or no: " in done.stdout, done.stdout + done.stderr
    assert bool(left_over(target)) is not goes
    assert ("Nothing was deleted." in done.stdout) is not goes and done.returncode == (0 if goes else 1)


def test_every_service_keeps_the_tags(target):
    a_bucket(target)
    over = datetime.now(UTC) + timedelta(hours=12)
    given = {tag["Key"]: tag["Value"] for tag in target.tags}
    assert given["workshop"] == "sagemaker-byoa" and given["learner"] == target.learner
    assert abs(datetime.fromisoformat(given["expires"]) - over) < timedelta(minutes=1)
    assert [(tag["key"], tag["value"]) for tag in target.sdk_tags][:2] == list(given.items())[:2]
    s3, ecr, logs = (boto3.client(name) for name in ("s3", "ecr", "logs"))
    s3.put_bucket_tagging(Bucket=target.bucket, Tagging={"TagSet": target.tags})
    arn = ecr.create_repository(repositoryName=target.name, tags=target.tags)["repository"]["repositoryArn"]
    group = f"/aws/sagemaker/Endpoints/{target.name}"
    logs.create_log_group(logGroupName=group, tags=given)
    (described,) = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    now = datetime.now(UTC)
    for thing in [
        Thing("bucket", target.bucket, now),
        Thing("ECR repository", target.name, now, "", arn),
        Thing("log group", group, now, "", described["arn"].removesuffix(":*")),
    ]:
        found = tags(thing)
        assert found.pop("expires") >= given["expires"], thing
        by = {"workshop": "sagemaker-byoa", "learner": target.learner, "made-by": "this machine"}
        assert found == by, thing
    assert tags(Thing("bucket", f"{target.bucket}-not-there", now)) == {}


@pytest.mark.parametrize("hours", ["0", "-1", "soon", "nan", "inf"])
def test_a_time_to_live_that_is_none_is_named(environment, hours):
    environment["WORKSHOP_TTL_HOURS"] = hours
    with pytest.raises(TargetError, match=f"WORKSHOP_TTL_HOURS is '{hours}'; it is the hours"):
        connect()


def test_only_what_has_expired_goes_of_any_learner(home, environment):
    """By the tags: whose it is and when its time is over. What has no such tag is nobody's to delete here."""
    s3, made = None, {}
    for learner, hours in (("ana", "0.0000001"), ("ben", "5")):
        environment.update(WORKSHOP_LEARNER=learner, WORKSHOP_TTL_HOURS=hours)
        target = made[learner] = connect(quiet=True)
        a_bucket(target)
        s3, ecr = boto3.client("s3"), boto3.client("ecr")
        s3.put_bucket_tagging(Bucket=target.bucket, Tagging={"TagSet": target.tags})
        ecr.create_repository(repositoryName=target.name, tags=target.tags)
        boto3.client("logs").create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{target.name}")
    where = {"LocationConstraint": target.region}
    somebody = f"sagemaker-byoa-results-{target.region}-1"
    s3.create_bucket(Bucket=somebody, CreateBucketConfiguration=where)
    assert {str(thing) for thing in expired()} == {
        f"bucket {made['ana'].bucket}",
        f"ECR repository {made['ana'].name}",
    }
    # In a day ben's time is over, too, and that of the log groups, which have no tags; somebody's bucket stays.
    late = {str(thing) for thing in expired(datetime.now(UTC) + timedelta(hours=24))}
    assert len(late) == 6 and f"bucket {made['ben'].bucket}" in late and f"bucket {somebody}" not in late

    listed = clean(environment, "--expired")
    assert made["ana"].bucket in listed.stdout and made["ben"].bucket not in listed.stdout
    done = clean(environment, "--expired", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    buckets = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    assert buckets == {made["ben"].bucket, somebody}
    repositories = ecr.describe_repositories()["repositories"]
    assert [one["repositoryName"] for one in repositories] == [made["ben"].name]
    assert "Nothing has expired." in clean(environment, "--expired", "--yes").stdout


def test_what_an_endpoint_with_time_left_stands_on_stays(monkeypatch):
    now = datetime.now(UTC)
    soon, past = now + timedelta(hours=1), now - timedelta(hours=1)
    all_of_it = {
        Thing("endpoint", "new", past, "InService"): ("ana", soon),
        Thing("endpoint", "old", past, "InService"): ("ana", past),
        Thing("model", "ana", past): ("ana", past),
        Thing("training job", "done", past, "Completed"): ("ben", past),
        Thing("training job", "runs", past, "InProgress"): ("ben", past),
        Thing("model", "ben", past): ("ben", past),
        Thing("log group", "/aws/sagemaker/Endpoints/new", now - timedelta(days=9)): None,
        Thing("log group", "/aws/sagemaker/Endpoints/gone", now - timedelta(days=9)): None,
    }
    monkeypatch.setattr("workshop.cleanup.things", lambda target: iter(all_of_it))

    def tagged(thing):
        learner, over = all_of_it[thing] or (None, None)
        return (
            {"workshop": "sagemaker-byoa", "learner": learner, "expires": over.isoformat()} if learner else {}
        )

    monkeypatch.setattr("workshop.cleanup.tags", tagged)
    assert [thing.name for thing in expired(now)] == ["old", "runs", "ben", "/aws/sagemaker/Endpoints/gone"]


def test_the_command_has_no_deletion_of_its_own():
    """The calls stand in the lab, where learners see them, and nowhere else in what the labs import."""
    cells = "\n".join(tagged_cells(LABS / "99_cleanup.ipynb", "clean"))
    for call in (
        "delete_endpoint(",
        "delete_model(",
        "delete_repository(",
        "bucket.delete(",
        "stop_training_job(",
    ):
        assert call in cells, f"99_cleanup has no cell tagged `clean` with {call}"
        for module in (ROOT / "utils" / "workshop").glob("*.py"):
            assert call not in module.read_text(), f"{module.name} has {call}"
    whole = json.loads((LABS / "99_cleanup.ipynb").read_text())["cells"]
    assert sum("nbval-check-output" in cell["metadata"].get("tags", ()) for cell in whole) == 1
