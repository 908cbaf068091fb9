"""What each lab must have brought about, asked of the services themselves: `check("04_train")` in the lab's last cell."""

import csv
import io
import json
from collections.abc import Iterator
from urllib.parse import urlparse

import boto3

from . import ROOT
from .aws import answer, endpoint_status
from .cleanup import left_over
from .errors import UnknownLab, WorkshopError
from .image import NoImage, inspect_image
from .target import Target, connect


class CheckFailed(WorkshopError):
    """Something that the lab was to bring about is not there."""


#: One finding: is it there, what it is, what to do where it is not.
Finding = tuple[bool, str, str]


def check(lab: str) -> None:
    """Print what the lab was to bring about, [OK] or [FAIL] with a hint; raise CheckFailed where something is missing."""
    missing = 0
    for there, what, hint in findings(lab, connect(quiet=True)):
        print(f"[OK]   {what}" if there else f"[FAIL] {what}\n       {hint}")
        missing += not there
    if missing:
        raise CheckFailed(
            f"{lab}: {missing} of its results are missing. The hints above say how to get them."
        )


def passed(lab: str, target: Target) -> bool:
    """Whether everything that the lab was to bring about is there."""
    return all(there for there, _, _ in findings(lab, target))


def findings(lab: str, target: Target) -> Iterator[Finding]:
    """The lab's results, one finding each. Raises UnknownLab."""
    if lab not in _CHECKS:
        raise UnknownLab(lab, _CHECKS)
    return _CHECKS[lab](target)


def _exists_in_s3(uri: str) -> bool:
    place = urlparse(uri)
    return bool(answer(boto3.client("s3").head_object, Bucket=place.netloc, Key=place.path.lstrip("/")))


def latest_training_job(target: Target) -> dict:
    """DescribeTrainingJob of the walk's newest completed training job. Raises CheckFailed where there is none.

    The walk's are those whose names begin with `target.walk`: what an exercise trains does not take their place.
    """
    job = _latest(target, "training", "TrainingJob")
    if job is None:
        raise CheckFailed(
            "There is no completed training job yet: run 04_train, or this lab's catch_up cell."
        )
    return job


def _latest(target: Target, kind: str, word: str) -> dict | None:
    """The walk's newest completed job's description. Pages are walked, since AWS filters a page only after it has cut it."""
    client = boto3.client("sagemaker")
    pages = client.get_paginator(f"list_{kind}_jobs").paginate(
        NameContains=target.walk, StatusEquals="Completed", SortBy="CreationTime", SortOrder="Descending"
    )
    for page in pages:
        for job in page[f"{word}Summaries"]:
            return getattr(client, f"describe_{kind}_job")(**{f"{word}Name": job[f"{word}Name"]})
    return None


def _setup(target: Target) -> Iterator[Finding]:
    bucket = answer(boto3.client("s3").head_bucket, Bucket=target.bucket)
    yield bool(bucket), f"bucket {target.bucket}", "Run the cell with create_bucket in 00_setup."


def _build(target: Target) -> Iterator[Finding]:
    try:
        inspect_image(target)
        there = True
    except NoImage:
        there = False
    hint = "Run the build cell of 01_build and read what it prints."
    yield there, f"image {target.name} is built on this machine", hint


def _local_test(target: Target) -> Iterator[Finding]:
    model = ROOT / "build" / "local_test" / "model"
    yield (
        model.is_dir() and any(model.iterdir()),
        "a model trained on this machine, in build/local_test/model",
        "Run the train cell of 02_local_test; where it failed, build/local_test/output/failure says why.",
    )


def _push(target: Target) -> Iterator[Finding]:
    image = {"repositoryName": target.name, "imageIds": [{"imageTag": "latest"}]}
    yield (
        bool(answer(boto3.client("ecr").describe_images, **image)),
        f"image {target.name}:latest is in ECR",
        "Run the cells of 03_push that create the repository and push.",
    )


def _train(target: Target) -> Iterator[Finding]:
    job = _latest(target, "training", "TrainingJob")
    yield bool(job), "a completed training job", "Run the training cell of 04_train and wait for Completed."
    if job:
        artifact = job["ModelArtifacts"]["S3ModelArtifacts"]
        yield (
            _exists_in_s3(artifact),
            f"its model artifact {artifact}",
            "Somebody deleted it: train again (04_train).",
        )


def _deploy(target: Target) -> Iterator[Finding]:
    status = endpoint_status(target.name) or "missing"
    yield (
        status == "InService",
        f"endpoint {target.name} is {status}",
        "Run the deploy cells of 05_deploy; they wait for one that is on its way and replace one that Failed.",
    )


def _invoke(target: Target) -> Iterator[Finding]:
    reply = answer(
        boto3.client("sagemaker-runtime").invoke_endpoint,
        EndpointName=target.name,
        ContentType="text/csv",
        Body="5.1,3.5,1.4,0.2\n",
    )
    label = reply["Body"].read().decode().strip() if reply else "no answer"
    yield (
        label == "setosa",
        f"the endpoint calls 5.1,3.5,1.4,0.2 {label}",
        "Expected setosa: see 05_deploy's check.",
    )


def _batch_transform(target: Target) -> Iterator[Finding]:
    job = _latest(target, "transform", "TransformJob")
    yield bool(job), "a completed batch transform job", "Run the transform cell of 07_batch_transform."
    if not job:
        return
    place = urlparse(job["TransformOutput"]["S3OutputPath"])
    output = answer(
        boto3.client("s3").get_object, Bucket=place.netloc, Key=f"{place.path.strip('/')}/iris.csv.out"
    )
    rows = list(csv.reader(io.TextIOWrapper(output["Body"], "utf-8"))) if output else []
    yield (
        len(rows) == 150 and all(len(row) == 6 for row in rows),
        f"its output has {len(rows)} rows",
        "Expected 150 rows of 6 columns: the label, four features, the prediction joined to them.",
    )


def _tune(target: Target) -> Iterator[Finding]:
    client = boto3.client("sagemaker")
    pages = client.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
        NameContains=target.tuning, SortBy="CreationTime", SortOrder="Descending"
    )
    names = [
        job["HyperParameterTuningJobName"]
        for page in pages
        for job in page["HyperParameterTuningJobSummaries"]
    ]
    jobs = (client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name) for name in names)
    best = [job["BestTrainingJob"] for job in jobs if "BestTrainingJob" in job]
    yield bool(best), "a tuning job with a best training job", "Run the cells of 08_tune from the top."
    if best:
        # The best of all: an exercise's search cannot take anything from it.
        value = max(job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for job in best)
        yield (
            value > 0.9,
            f"the best accuracy on unseen rows is {value:.3f}",
            "Expected more than 0.9 for iris.",
        )


def _speed(target: Target) -> Iterator[Finding]:
    try:
        notes = json.loads((ROOT / "build" / "speed" / "measured.json").read_text())
    except (FileNotFoundError, ValueError):
        notes = {}
    yield bool(notes), "your measurements", "Run the cells of 09_speed to the one that stops the server."
    yield (
        notes.get("same answers", False),
        "all ways to answer say the same",
        "Run 09_speed again from the top: a way that was changed says something else.",
    )


def _cleanup(target: Target) -> Iterator[Finding]:
    things = left_over(target)
    yield (
        not things,
        "nothing of the walk is left",
        f"Still there: {', '.join(things)}. Run the delete cells again.",
    )


_CHECKS = {
    "00_setup": _setup,
    "01_build": _build,
    "02_local_test": _local_test,
    "03_push": _push,
    "04_train": _train,
    "05_deploy": _deploy,
    "06_invoke": _invoke,
    "07_batch_transform": _batch_transform,
    "08_tune": _tune,
    "09_speed": _speed,
    "99_cleanup": _cleanup,
}
