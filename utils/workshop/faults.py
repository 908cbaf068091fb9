"""Makes things go wrong on purpose, for 12_what_goes_wrong: broken images, and the words that a failure leaves behind."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import boto3
from botocore.exceptions import ClientError

from localaws import images

from .aws import answer
from .errors import WorkshopError
from .language import _
from .progress import NOTICE, _Logs, _seconds_between_polls
from .target import IAM, Target

INDEX = "application/vnd.oci.image.index.v1+json"
LAST_LINES = 5
SECONDS = 1800  # for a job to end, or an endpoint to come to something


class FaultError(WorkshopError):
    """What was to go wrong did not come so far."""


def repository(target: Target) -> str:
    """The URI of the repository of the broken images, which is made where it is not there."""
    ecr, name = boto3.client("ecr"), {"repositoryName": target.wrong}
    found = answer(ecr.describe_repositories, repositoryNames=[target.wrong])
    return (found["repositories"][0] if found else ecr.create_repository(**name)["repository"])[
        "repositoryUri"
    ]


def break_image(target: Target, tag: str, command: str, base: str = "") -> str:
    """Push the walk's image, changed by a shell command in its /opt/program, under a tag of its own; its URI.

    That is a Dockerfile of two lines, `FROM` and `RUN command`. `base` is the tag of an image that was made so, in the
    place of the walk's. Raises FaultError where it cannot be built or pushed, with the reason.
    """
    source = f"{target.wrong}:{base}" if base else f"{target.name}:latest"
    uri, local = f"{repository(target)}:{tag}", f"{target.wrong}:{tag}"
    try:
        if target.docker:
            docker = os.environ.get("DOCKER", "docker")
            # An older docker knows no attestations, and has no word for leaving them out.
            plain = ["--provenance=false"] if "--provenance" in _run([docker, "build", "--help"]) else []
            build = ["build", "--platform=linux/amd64", *plain, "--tag", uri, "--tag", local, "-"]
            _run([docker, *build], f"FROM {source}\nWORKDIR /opt/program\nRUN {command}\n")
            _run([docker, "push", uri])
        else:
            images.derive(source, local, command)
            images.push(local, uri)
    except (ValueError, RuntimeError, OSError) as error:
        raise FaultError(f"{local}: {error}") from None
    return uri


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr.strip()[-500:]}")
    return done.stdout


def push_index(target: Target, tag: str, of: str) -> str:
    """Push an image index with one image, the one that has the tag `of`, as a build with attestations does; its URI."""
    ecr, uri = boto3.client("ecr"), repository(target)
    [image] = ecr.batch_get_image(repositoryName=target.wrong, imageIds=[{"imageTag": of}])["images"]
    entry = {
        "mediaType": image["imageManifestMediaType"],
        "digest": image["imageId"]["imageDigest"],
        "size": len(image["imageManifest"].encode()),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    request = {"repositoryName": target.wrong, "imageTag": tag, "imageManifestMediaType": INDEX}
    with suppress(ecr.exceptions.ImageAlreadyExistsException):  # this lab was run before
        ecr.put_image(imageManifest=json.dumps(index), **request)
    return f"{uri}:{tag}"


def patient(target: Target) -> str:
    """Push an image with two faults, for you to find, and return its URI. (Reading on would spoil it.)"""
    first, second = (
        "chmod 644 stack/train",
        "(echo 'import seaborn'; cat training.py) > t && cat t > training.py",
    )
    return break_image(target, "patient", f"{second} && rm t && {first}")


@contextmanager
def role_without_pull(target: Target) -> Iterator[str]:
    """The ARN of a role as README's, but for the right to fetch images; it is deleted afterwards.

    Raises FaultError where you may not make roles.
    """
    iam, name, policy = (
        boto3.client("iam"),
        target.wrong,
        json.loads((IAM / "execution-policy.json").read_text()),
    )
    policy["Statement"] = [rule for rule in policy["Statement"] if rule["Sid"] != "PullTheImage"]
    trust = (IAM / "trust-policy.json").read_text()
    try:
        with suppress(iam.exceptions.EntityAlreadyExistsException):  # a run before this one was cut off
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        iam.put_role_policy(RoleName=name, PolicyName="workshop", PolicyDocument=json.dumps(policy))
    except ClientError as error:
        raise FaultError(
            _("This failure needs a role of its own, which cannot be made: {error}", error=error)
        ) from None
    try:
        if not target.local:
            time.sleep(15)  # until all of AWS knows the role; nothing tells when
        yield iam.get_role(RoleName=name)["Role"]["Arn"]
    finally:
        iam.delete_role_policy(RoleName=name, PolicyName="workshop")
        iam.delete_role(RoleName=name)


def words(job: str) -> str:
    """Wait until a training job has ended; show and return its FailureReason and the last lines of its log."""
    describe = boto3.client("sagemaker").describe_training_job
    ended = _settled(lambda: describe(TrainingJobName=job), "TrainingJobStatus", {"InProgress", "Stopping"})
    return _shown(ended, _Logs("/aws/sagemaker/TrainingJobs", f"{job}/"))


def endpoint_words(name: str) -> str:
    """Wait until an endpoint has come to something; show and return its FailureReason and the last lines of its log."""
    describe = boto3.client("sagemaker").describe_endpoint
    ended = _settled(lambda: describe(EndpointName=name), "EndpointStatus", {"Creating", "Updating"})
    return _shown(ended, _Logs(f"/aws/sagemaker/Endpoints/{name}"))


def _settled(describe, status: str, going_on: set[str]) -> dict:
    pause = _seconds_between_polls(boto3.client("sagemaker")) / 5
    deadline = time.monotonic() + SECONDS
    while (description := describe())[status] in going_on:
        if time.monotonic() > deadline:
            raise FaultError(
                _(
                    "It is still {status} after {seconds} s: look at it in the console.",
                    status=description[status],
                    seconds=SECONDS,
                )
            )
        time.sleep(pause)
    if pause > 1:  # CloudWatch is some seconds behind
        time.sleep(5 * pause)
    return description


def _shown(description: dict, logs: _Logs) -> str:
    lines = [line for line in logs.new_lines() if NOTICE not in line]
    lines = [f"  log: {line}" for line in lines[-LAST_LINES:]]
    text = "\n".join([f"FailureReason: {description.get('FailureReason', 'none')}", *lines])
    print(text)
    return text


def quote(text: str, *patterns: str) -> None:
    """Print what each regular expression finds in a failure's words. Raises FaultError where it finds nothing."""
    for pattern in patterns:
        found = re.search(pattern, text)
        if not found:
            raise FaultError(_("Nobody says {pattern!r}; what is said:\n{text}", pattern=pattern, text=text))
        print(found.group())
