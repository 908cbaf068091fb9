"""What lab 12 breaks things with: that it breaks what it says, takes nothing for broken that is not, and cleans up."""

import json
import tarfile
from dataclasses import replace

import boto3
import pytest
import test_checks
from botocore.exceptions import ClientError

from localaws import images
from workshop import faults


@pytest.fixture
def walk(target, tmp_path):
    """A target whose walk's image is built, tiny."""
    test_checks.create_bucket(target)
    test_checks.build(target, tmp_path)
    return target


def files(name: str) -> dict[str, str]:
    """Mode and name of each file of a local image, as `stack/train: 755`."""
    manifest = json.loads(images.blob(images.inspect(name).digest).read_text())
    with tarfile.open(images.blob(manifest["layers"][0]["digest"])) as tar:
        members = [member for member in tar if member.isfile()]
        return {m.name.removeprefix("opt/program/"): f"{m.mode:o}" for m in members}


def test_an_image_is_changed_by_a_command_and_the_walks_own_stays(walk):
    before = images.inspect(walk.name).digest
    uri = faults.break_image(walk, "mode", "chmod 644 stack/train")
    assert uri.endswith(f"/{walk.wrong}:mode")
    assert files(f"{walk.wrong}:mode")["stack/train"] == "644"
    faults.break_image(walk, "both", "mkdir sub && echo x > sub/new && rm stack/serve", base="mode")
    assert files(f"{walk.wrong}:both") == {"stack/train": "644", "sub/new": "644"}
    assert images.inspect(walk.name).digest == before
    ecr = boto3.client("ecr")
    tags = {item["imageTag"] for item in ecr.list_images(repositoryName=walk.wrong)["imageIds"]}
    assert tags == {"mode", "both"}


def test_the_same_command_gives_the_same_image(walk):
    digests = [images.derive(f"{walk.name}:latest", f"{walk.wrong}:{n}", "echo 1 > x").digest for n in "ab"]
    assert digests[0] == digests[1] != images.inspect(walk.name).digest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x", "rm no-such-file"), "rm no-such-file: exit code 1"),
        (("x", "true", "nobody"), "There is no local image"),
        (("x/y", "true"), "is not NAME"),
    ],
)
def test_what_cannot_be_broken_is_told(walk, arguments, words):
    with pytest.raises(faults.FaultError, match=words):
        faults.break_image(walk, *arguments)


def test_an_index_is_pushed_as_often_as_one_likes(walk):
    faults.break_image(walk, "one", "true")
    assert {faults.push_index(walk, "index", of="one") for _ in range(2)} == {
        f"{faults.repository(walk)}:index"
    }
    about = {"repositoryName": walk.wrong, "imageIds": [{"imageTag": "index"}]}
    [image] = boto3.client("ecr").describe_images(**about)["imageDetails"]
    assert image["imageManifestMediaType"] == faults.INDEX


def test_the_patient_has_two_faults(walk):
    images.derive(walk.name, walk.name, "echo 'train = print' > training.py")
    faults.patient(walk)
    assert files(f"{walk.wrong}:patient")["stack/train"] == "644"
    assert "t" not in files(f"{walk.wrong}:patient")


def test_a_role_that_may_not_fetch_images_is_there_for_a_moment(target):
    iam = boto3.client("iam")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), faults.role_without_pull(target) as role:
            assert iam.get_role(RoleName=target.wrong)["Role"]["Arn"] == role
            asked = {"PolicySourceArn": role, "ActionNames": ["ecr:BatchGetImage", "s3:GetObject"]}
            resources = [
                "arn:aws:ecr:us-west-2:000000000000:repository/sagemaker-byoa-x",
                "arn:aws:s3:::sagemaker-byoa-x/y",
            ]
            results = iam.simulate_principal_policy(ResourceArns=resources, **asked)["EvaluationResults"]
            allowed = {
                (one["EvalActionName"], one["EvalResourceName"])
                for one in results
                if one["EvalDecision"] == "allowed"
            }
            assert allowed == {("s3:GetObject", resources[1])}
            raise ZeroDivisionError
        with pytest.raises(iam.exceptions.NoSuchEntityException):
            iam.get_role(RoleName=target.wrong)


def test_where_no_role_can_be_made_that_is_said(target, monkeypatch):
    class Iam:
        exceptions = boto3.client("iam").exceptions

        def create_role(self, **_):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "CreateRole")

    monkeypatch.setattr(boto3, "client", lambda _: Iam())
    with (
        pytest.raises(
            faults.FaultError, match=r"needs a role of its own, which cannot be made: .*AccessDenied"
        ),
        faults.role_without_pull(target),
    ):
        pass


def test_words_are_quoted_or_missed(capsys):
    faults.quote("FailureReason: none\n  log: exec train: no", r"exec \w+", "none")
    assert capsys.readouterr().out == "exec train\nnone\n"
    with pytest.raises(faults.FaultError, match="Nobody says 'x y'; what is said:\nall"):
        faults.quote("all is well", "x y")


def test_with_docker_the_same_is_a_dockerfile_of_its_own(walk, tmp_path, monkeypatch):
    """What is asked of docker, which is not here."""
    docker, log = tmp_path / "docker", tmp_path / "log"
    docker.write_text(
        f"""#!/bin/sh
[ "$2" != --help ] || {{ echo "  $KNOWN  what it knows"; exit; }}
echo "$@" >> "{log}"
[ "$1" != build ] || cat >> "{log}"
[ "$1" != "$FAIL" ]
"""
    )
    docker.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(docker))
    monkeypatch.setenv("FAIL", "nothing")
    monkeypatch.setenv("KNOWN", "--provenance")
    uri = faults.break_image(replace(walk, docker=True), "x", "rm stack/train", base="patient")
    build, *dockerfile, push = log.read_text().splitlines()
    assert build.startswith("build --platform=linux/amd64 --provenance=false ") and build.endswith(" -")
    assert f"--tag {uri} --tag {walk.wrong}:x" in build
    assert dockerfile == [f"FROM {walk.wrong}:patient", "WORKDIR /opt/program", "RUN rm stack/train"]
    assert push == f"push {uri}"
    monkeypatch.setenv("KNOWN", "--platform")
    faults.break_image(replace(walk, docker=True), "x", "rm stack/train")
    assert log.read_text().count("--provenance") == 1, "an older docker knows no such option"
    monkeypatch.setenv("FAIL", "push")
    with pytest.raises(faults.FaultError, match=f"{walk.wrong}:x: .*docker push"):
        faults.break_image(replace(walk, docker=True), "x", "true")
