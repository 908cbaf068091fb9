"""`up` after the worst: damaged files, a full disk, a long history, a change that was acknowledged and not yet made.

It comes up with what can be read, puts aside what cannot, and says what was lost and why. What a file under the home
holds is localaws' own business: each is damaged in turn, whatever it is.
"""

import base64
import contextlib
import dataclasses
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tiny
from actions import DOCUMENTS, OPENING, WEST, World
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from observed import ABSENT, first_difference, observe

# Written anew at each start, or nothing that is kept.
UNIMPORTANT = ("server.log", "server.json", "start.lock", "server.lock")
DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: flipped(content, len(content) // 2),
    "begins with another byte": lambda content: flipped(content, 0),
    "an empty object": lambda content: b"{}",
    "gone": lambda content: None,
}
LARGE = bytes(range(256)) * 48  # too large for a row of anything


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def something_of_everything(world: World) -> None:
    """One resource of each kind, at least, and objects small and large."""
    for act in OPENING:
        act(world)
    for key, body in (("small", b"small"), ("large", LARGE), ("another/large", LARGE[::-1])):
        world.s3.put_object(Bucket="sagemaker-one", Key=key, Body=body, Metadata={"key": key})
    upload = {"Bucket": "two", "Key": "open"}
    upload["UploadId"] = world.s3.create_multipart_upload(**upload)["UploadId"]
    world.s3.upload_part(**upload, PartNumber=1, Body=LARGE)
    events = [{"timestamp": round(world.began * 1000), "message": f"line {n} {'.' * 50}"} for n in range(120)]
    world.logs.put_log_events(logGroupName="two", logStreamName="s/1", logEvents=events)
    world.iam.put_role_policy(RoleName="walker", PolicyName="own", PolicyDocument=DOCUMENTS[0])
    image = f"{world.aws.endpoint_url.removeprefix('http://')}/images:latest"
    for name in ("model-one", "model-two"):
        role = "arn:aws:iam::000000000000:role/walker"
        world.sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer={"Image": image})


@pytest.fixture(scope="module")
def killed(survivor):
    """A localaws with something of everything that was killed, and what could be seen of it before."""
    survivor.up()
    world = World(survivor, 0)
    something_of_everything(world)
    before = observe(world.clients)
    world.kill()
    # A home of its own may have lost which port it was: what is compared has it in its names.
    survivor.env["LOCALAWS_PORT"] = str(urlsplit(survivor.endpoint_url).port)
    return survivor, before


def files(home: Path) -> list[Path]:
    """The files of a home that hold something, by their place in it."""
    found = [path.relative_to(home) for path in home.rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(path for path in found if path.name not in UNIMPORTANT and path.parts[0] != "unpacked")


@contextlib.contextmanager
def copied(aws, folder: Path):
    """A localaws in a copy of another's home; stopped, and deleted, at the end."""
    shutil.copytree(aws.home, folder)
    copy = dataclasses.replace(aws, home=folder, env={**aws.env, "LOCALAWS_HOME": str(folder)})
    try:
        yield copy
    finally:
        copy.command("down", check=False)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "damage", [None, *(pytest.param(damage, marks=pytest.mark.slow) for damage in DAMAGES)]
)
def test_a_damaged_file_costs_what_is_in_it_and_is_named(killed, tmp_path, damage):
    aws, before = killed
    victims = files(aws.home)
    if damage is None:  # each costs a start: here only some
        damage, victims = (
            "cut",
            [next(one for one in victims if one.name == name) for name in ("state.db", "state.db-wal")],
        )
    problems = []
    for victim in victims:
        with copied(aws, tmp_path / "home") as copy:
            problem = problem_with(copy, before, copy.home / victim, DAMAGES[damage])
            if problem:
                problems.append(f"{victim}, {damage}: {problem}")
    assert not problems, "\n\n".join(problems)


def problem_with(aws, before: dict, victim: Path, damage) -> str | None:
    """What is wrong after the damage to one file; None where nothing is."""
    damaged = damage(victim.read_bytes())
    victim.unlink() if damaged is None else victim.write_bytes(damaged)
    done = aws.command("up", check=False)
    if done.returncode:
        return f"`up` fails: {done.stderr[-300:]}"
    said = done.stdout + done.stderr
    aws.up()
    world = World(aws, 0)
    try:
        after = observe(world.clients)
    except (ClientError, BotoCoreError) as error:  # the latter: other bytes than were put
        return f"what is left cannot be seen: {error}"
    if invented := after.keys() - before.keys():
        return f"there is what never was: {invented}"
    if damaged is None and victim.parent.name == "_tags":
        return None  # an image without a tag is as good as one with it
    lost = {one: first_difference(sight, after.get(one, ABSENT)) for one, sight in before.items()}
    for one, difference in lost.items():
        if difference and one[-1] not in said and victim.name not in said:
            return f"`up` says neither {victim.name} nor {one}, which is another: {difference[:300]}"
        if one[0] == "object" and one in after and bodies(after[one]) - bodies(before[one]):
            return f"{one} is served with other bytes"
    kept = [path.read_bytes() for path in aws.home.rglob("*") if path.is_file()]
    if damaged and any(lost.values()) and damaged not in kept:
        return "what could not be read is nowhere to be looked into"
    return None


def bodies(sight: dict) -> set[bytes]:
    """What an object's versions are served as."""
    got = [version["got"] for version in sight["Versions"]]
    return {one["Body"] for one in got if isinstance(one, dict)}


def test_up_says_what_was_there(killed, tmp_path):
    aws, _ = killed
    with copied(aws, tmp_path / "home") as copy:
        said = copy.command("up").stdout
        assert "3 objects" in said, said
        assert "lost" not in said, said
        again = copy.command("up").stdout
        assert "3 objects" not in again, "nothing was brought back by a call that found it running"


# A home that the version before wrote: requests in a journal with their bodies beside it, a file for each record.


@pytest.fixture
def of_the_version_before(fresh):
    shutil.copytree(Path(__file__).with_name("home_of_the_version_before"), fresh.home)
    fresh.env["LOCALAWS_PORT"] = "0"
    return fresh


def test_a_home_of_the_version_before_is_taken_over(of_the_version_before):
    aws = of_the_version_before
    aws.up()
    world = World(aws, 0)
    for _ in range(2):  # and is still there when what took it over is killed
        seen = observe(world.clients)
        assert [one[2] for one in seen if one[0] == "object"] == ["another/large", "large", "small"]
        assert bodies(seen["object", "sagemaker-one", "large"]) == {LARGE}
        assert seen["object", "sagemaker-one", "small"]["Versions"][0]["LastModified"].year == 2026
        assert len(seen["log group", "two"]["streams"]["s/1"]["events"]) == 120
        assert json.dumps(seen["role", "walker"]["own"]["own"]["PolicyDocument"]) == DOCUMENTS[0]
        assert {one[1] for one in seen if one[0] == "Model"} == {"model-one", "model-two"}
        assert seen["uploads", "two", "open"][0]["parts"][0]["Size"] == len(LARGE)
        assert seen["repository", "images"]["images"][0]["imageTags"] == ["latest"]
        world.kill()
        world.up()


def test_a_repository_that_was_deleted_and_made_again_keeps_its_images(of_the_version_before):
    """They lie in the registry, where what the journal tells of has happened."""
    aws = of_the_version_before
    journal = aws.home / "moto" / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    made = next(line for line in lines if b".CreateRepository" in line)
    deleted = json.loads(made.replace(b".CreateRepository", b".DeleteRepository"))
    body = b'{"repositoryName": "images", "force": true}'
    deleted["body"] = base64.b64encode(body).decode()
    lines += [json.dumps(deleted).encode(), made]
    journal.write_bytes(b"".join(line + b"\n" for line in lines))
    aws.up()
    (image,) = aws.client("ecr").describe_images(repositoryName="images")["imageDetails"]
    assert image["imageTags"] == ["latest"]


NO_REQUESTS = (
    b"{}",
    b"5",
    b"[]",
    b"null",
    b'{"service":"s3"}',
    b"\xff\x00",
    b'{"at":1,',
    b'{"at":1,"seed":2}',
)


def test_what_is_no_request_and_no_record_costs_itself(of_the_version_before):
    aws = of_the_version_before
    journal = aws.home / "moto" / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*lines[:3], *NO_REQUESTS, *lines[3:], b'{"cut off']))
    (aws.home / "port").write_bytes(b"")
    (aws.home / "sagemaker" / "Model" / "model-one.json").write_text("{}")
    done = aws.command("up", check=False)
    assert done.returncode == 0, done.stderr
    assert "model-one" in done.stdout
    aws.up()
    seen = observe(World(aws, 0).clients)
    assert [one[2] for one in seen if one[0] == "object"] == ["another/large", "large", "small"]
    assert ("Model", "model-two") in seen
    assert ("Model", "model-one") not in seen


def test_a_body_that_is_missing_and_one_that_was_changed_cost_themselves(of_the_version_before):
    aws = of_the_version_before
    by_size = sorted((aws.home / "moto" / "bodies").iterdir(), key=lambda path: path.read_bytes()[:2])
    large = next(path for path in by_size if path.read_bytes() == LARGE)
    other = next(path for path in by_size if path.read_bytes() == LARGE[::-1])
    large.unlink()
    other.write_bytes(flipped(other.read_bytes(), 1000))
    done = aws.command("up", check=False)
    assert done.returncode == 0, done.stderr
    for key in ("sagemaker-one/large", "another/large"):
        assert key in done.stdout
    aws.up()
    seen = observe(World(aws, 0).clients)
    assert bodies(seen["object", "sagemaker-one", "small"]) == {b"small"}
    assert not bodies(seen.get(("object", "sagemaker-one", "another/large"), {"Versions": []}))


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 30 MB of room."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(file: Path) -> None:
    """Take all the room that is left."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while out.write(bytes(4096)):
            pass


@pytest.mark.root("can mount a small disk")
def test_on_a_full_disk_a_request_happens_in_whole_or_not_at_all(fresh, small_disk):
    aws = dataclasses.replace(fresh, home=small_disk / "home")
    aws.env["LOCALAWS_HOME"] = str(aws.home)
    aws.up()
    try:
        world = World(aws, 0)
        something_of_everything(world)
        fill(small_disk / "filler")
        for act in (
            lambda: world.s3.put_object(Bucket="two", Key="new", Body=LARGE),
            lambda: world.s3.put_object(Bucket="sagemaker-one", Key="large", Body=LARGE[1:]),
            lambda: world.s3.delete_object(Bucket="sagemaker-one", Key="small"),
            lambda: world.iam.create_role(RoleName="late", AssumeRolePolicyDocument=tiny.TRUST),
            lambda: world.logs.create_log_group(logGroupName="late"),
            lambda: world.sagemaker.delete_model(ModelName="model-one"),
        ):
            seen = observe(world.clients)
            try:
                act()
            except (ClientError, ResponseParserError):
                difference = first_difference(seen, observe(world.clients))
                assert not difference, f"refused, and happened all the same: {difference}"
        full = observe(world.clients)
        world.kill()
        done = aws.command("up", check=False)
        if done.returncode:  # it may need room to start, and then says so
            assert "Traceback" not in done.stdout + done.stderr
            assert "full" in done.stderr
        else:
            aws.command("down")
        (small_disk / "filler").unlink()
        assert "Traceback" not in world.up()
        assert not (difference := first_difference(full, observe(world.clients))), difference
        world.s3.put_object(Bucket="two", Key="new", Body=LARGE)
    finally:
        (small_disk / "filler").unlink(missing_ok=True)
        aws.command("down")


# A long history


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_objects_come_up(fresh):
    fresh.up()
    world = World(fresh, 0)
    world.s3.create_bucket(Bucket="many", **WEST)
    with ThreadPoolExecutor(8) as clients:
        list(
            clients.map(lambda n: world.s3.put_object(Bucket="many", Key=f"{n:05}", Body=b"1"), range(20_000))
        )
    world.kill()
    assert "20,000 objects" in world.up()
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket="many")
    assert sum(len(page["Contents"]) for page in pages) == 20_000


# A change that was acknowledged


@pytest.fixture(scope="module")
def account(survivor, tmp_path_factory):
    survivor.env["LOCALAWS_PORT"] = "0"
    survivor.up()
    return tiny.account(survivor, tmp_path_factory.mktemp("account"))


CAPACITY = "sagemaker:variant:DesiredInstanceCount"


@pytest.mark.parametrize("change", ["the configuration", "the capacity"])
def test_a_change_of_an_endpoint_that_was_acknowledged_is_made_after_a_kill(account, change):
    name = account.endpoint(account.config(account.model(word="old")))
    new = account.config(account.model(word="new"))
    world = World(account.aws, 0)
    if change == "the configuration":
        account.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=new)
    else:
        variant = f"endpoint/{name}/variant/v0"
        target = {"ServiceNamespace": "sagemaker", "ResourceId": variant, "ScalableDimension": CAPACITY}
        scaling = account.aws.client("application-autoscaling")
        scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=3)
        metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
        config = {"TargetValue": 1e6, "PredefinedMetricSpecification": metric}
        scaling.put_scaling_policy(
            **target,
            PolicyName="kept",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=config,
        )
        wanted = [{"VariantName": "v0", "DesiredInstanceCount": 2}]
        account.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=wanted
        )
    world.kill()
    world.up()
    endpoint = account.settled(name, "InService")
    if change == "the configuration":
        assert endpoint["EndpointConfigName"] == new
        assert json.loads(account.invoke(name)["Body"])["word"] == "new"
    else:
        assert endpoint["ProductionVariants"][0]["CurrentInstanceCount"] == 2
        scaling = account.aws.client("application-autoscaling")
        (policy,) = scaling.describe_scaling_policies(**target)["ScalingPolicies"]
        alarms = account.aws.client("cloudwatch").describe_alarms(
            AlarmNamePrefix=f"TargetTracking-{variant}-"
        )
        known = {alarm["AlarmName"] for alarm in alarms["MetricAlarms"]}
        assert {alarm["AlarmName"] for alarm in policy["Alarms"]} == known
        # And it acts.
        scaling.register_scalable_target(**target, MinCapacity=3)
        tiny.wait_until(
            lambda: (
                account.sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"][0][
                    "CurrentInstanceCount"
                ]
                == 3
            )
        )
    account.sagemaker.delete_endpoint(EndpointName=name)
