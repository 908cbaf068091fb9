"""What of a walk AWS still knows, what of it is left or past its time, and how all of it goes: by 99_cleanup's cells."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import boto3
from botocore.exceptions import ClientError

from .aws import answer
from .language import _, labs_folder
from .target import WORKSHOP, Target, connect, time_to_live

#: SageMaker's kinds of things, and its own words for them.
WORDS = {
    "endpoint": "Endpoint",
    "endpoint config": "EndpointConfig",
    "model": "Model",
    "training job": "TrainingJob",
    "transform job": "TransformJob",
    "tuning job": "HyperParameterTuningJob",
}
#: A training job that a tuning job has started, and ends with it.
TUNED = "training job of a tuning job"
OPERATIONS = {"Model": "models", "HyperParameterTuningJob": "hyper_parameter_tuning_jobs"} | {
    "Endpoint": "endpoints",
    "EndpointConfig": "endpoint_configs",
    "TrainingJob": "training_jobs",
    "TransformJob": "transform_jobs",
}
#: Descriptions: nothing is paid for them.
FREE = ("endpoint config", "model", "folder")
# Jobs share these with everybody in the account; a stream begins with its job's name.
JOB_LOGS = ("/aws/sagemaker/TrainingJobs", "/aws/sagemaker/TransformJobs")
STREAM = ":log-stream:"


@dataclass(frozen=True)
class Thing:
    """Something that AWS has. `arn` is what its tags are asked by."""

    kind: str
    name: str
    created: datetime
    status: str = ""
    arn: str = ""

    @property
    def is_job(self) -> bool:
        return self.kind == TUNED or self.kind.endswith("job")

    @property
    def state(self) -> str:
        """Of a job: `running`, `stopping` or `ended`."""
        return {"InProgress": "running", "Stopping": "stopping"}.get(self.status, "ended")

    @property
    def label(self) -> str:
        """Its kind, and before it what a job is doing."""
        return f"{self.state} {self.kind}" if self.is_job else self.kind

    @property
    def is_left(self) -> bool:
        """Whether it exists or runs; an ended job is a record, which AWS keeps and which costs nothing."""
        return not (self.is_job and self.state == "ended")

    def __str__(self) -> str:
        return f"{self.label} {self.name}"


def things(target: Target | None) -> Iterator[Thing]:
    """Everything of the target's walk that AWS knows, ended jobs too; of every walk in the account for None."""
    stem = target.name if target else WORKSHOP
    yield from _of_sagemaker(target, stem)
    ecr = boto3.client("ecr")
    if target:
        named = (target.name, target.own, target.unet, target.wrong, target.large)
        answers = [answer(ecr.describe_repositories, repositoryNames=[name]) for name in named]
    else:
        answers = ecr.get_paginator("describe_repositories").paginate()
    for page in filter(None, answers):
        for item in page["repositories"]:
            if item["repositoryName"].startswith(stem):
                yield Thing(
                    "ECR repository", item["repositoryName"], item["createdAt"], "", item["repositoryArn"]
                )
    s3 = boto3.client("s3")
    for item in s3.list_buckets()["Buckets"]:
        # Buckets are listed for all regions; a walk's has its region in its name.
        here = f"-{s3.meta.region_name}-" in item["Name"]
        if item["Name"] == target.bucket if target else item["Name"].startswith(stem) and here:
            yield Thing("bucket", item["Name"], item["CreationDate"])
    yield from _logs(stem)


def _of_sagemaker(target: Target | None, stem: str) -> Iterator[Thing]:
    sagemaker = boto3.client("sagemaker")
    for kind, word in WORDS.items():
        for contained in dict.fromkeys((stem, target.tuning)) if target and kind.endswith("job") else (stem,):
            pages = sagemaker.get_paginator(f"list_{OPERATIONS[word]}").paginate(
                NameContains=contained, PaginationConfig={"PageSize": 100}
            )
            for page in pages:
                for item in page[f"{word}Summaries" if kind.endswith("job") else f"{word}s"]:
                    name = item[f"{word}Name"]
                    found = kind
                    # A tuning job's name begins with `tuning` and a digit, and those of its training jobs with it.
                    if target and contained == target.tuning:
                        if not name.removeprefix(contained)[:1].isdigit():
                            continue
                        found = TUNED if kind == "training job" else kind
                    if name.startswith(contained):
                        status = item.get(f"{word}Status", "")
                        yield Thing(found, name, item["CreationTime"], status, item[f"{word}Arn"])


def _logs(stem: str) -> Iterator[Thing]:
    logs = boto3.client("logs")
    for page in logs.get_paginator("describe_log_groups").paginate(
        logGroupNamePrefix=f"/aws/sagemaker/Endpoints/{stem}"
    ):
        for item in page["logGroups"]:
            arn = item["arn"].removesuffix(":*")
            yield Thing("log group", item["logGroupName"], _moment(item["creationTime"]), "", arn)
    for group in JOB_LOGS:
        pages = logs.get_paginator("describe_log_streams").paginate(
            logGroupName=group, logStreamNamePrefix=stem
        )
        try:
            for page in pages:
                for item in page["logStreams"]:
                    name = f"{group}{STREAM}{item['logStreamName']}"
                    yield Thing("log stream", name, _moment(item["creationTime"]))
        except logs.exceptions.ResourceNotFoundException:
            pass  # no job of anybody's has written there yet


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def left_over(target: Target) -> list[str]:
    """Everything that the walk made and that still exists or runs, each as `kind name`; empty when all is gone.

    Ended jobs are not listed: they are records that AWS keeps.
    """
    folder = [f"folder {target.folder}"] if target.folder.exists() else []
    return [str(thing) for thing in things(target) if thing.is_left] + folder


def billable(target: Target) -> list[str]:
    """What of the walk AWS still bills: endpoints, running jobs, images, the bucket, logs; empty when nothing is."""
    return [str(thing) for thing in things(target) if thing.is_left and thing.kind not in FREE]


def still_there(target: Target, label: str) -> list[str]:
    """The names of the walk's things of one label that exist now: `model`, `running training job`, `running` jobs."""
    return _labelled(things(target), label)


def _labelled(found: Iterable[Thing], label: str) -> list[str]:
    return [thing.name for thing in found if label == thing.label or (thing.is_job and label == thing.state)]


def tags(thing: Thing) -> dict[str, str]:
    """The thing's tags; {} for one that is gone, or cannot have any."""
    if thing.kind == "log stream":
        return {}
    if thing.kind == "log group":
        return (answer(boto3.client("logs").list_tags_for_resource, resourceArn=thing.arn) or {}).get(
            "tags", {}
        )
    if thing.kind == "ECR repository":
        found = answer(boto3.client("ecr").list_tags_for_resource, resourceArn=thing.arn) or {}
        pairs = found.get("tags", ())
    elif thing.kind == "bucket":
        try:
            pairs = (answer(boto3.client("s3").get_bucket_tagging, Bucket=thing.name) or {}).get("TagSet", ())
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchTagSet":
                raise
            pairs = ()
    else:
        pairs = (answer(boto3.client("sagemaker").list_tags, ResourceArn=thing.arn) or {}).get("Tags", ())
    return {pair["Key"]: pair["Value"] for pair in pairs}


def expires(thing: Thing, tagged: dict[str, str]) -> datetime:
    """When the thing's time is over: as its tag says, else WORKSHOP_TTL_HOURS after it was made."""
    try:
        return datetime.fromisoformat(tagged["expires"])
    except (KeyError, ValueError):
        return thing.created + timedelta(hours=time_to_live())


def expired(now: datetime | None = None) -> list[Thing]:
    """What has outlived its time, of any learner in this account and region: by its tags, which the labs give it.

    What an endpoint or a job stands on stays while its learner has one with time left. An endpoint's log group, which
    SageMaker makes without tags, goes when there is no such endpoint and its own time is over.
    """
    now = now or datetime.now(UTC)
    left = [(thing, tags(thing)) for thing in things(None) if thing.is_left and thing.kind != "log stream"]
    late, busy, serving = [], set(), set()
    for thing, tagged in left:
        ours = tagged.get("workshop") == WORKSHOP or (thing.kind == "log group" and not tagged)
        if ours and expires(thing, tagged) <= now:
            late.append((thing, tagged))
        elif thing.is_job or thing.kind == "endpoint":
            busy.add(tagged.get("learner"))
            serving.add(f"/aws/sagemaker/Endpoints/{thing.name}")
    return [
        thing
        for thing, tagged in late
        if thing.is_job
        or thing.kind == "endpoint"
        or (thing.name not in serving if thing.kind == "log group" else tagged["learner"] not in busy)
    ]


def clean(only_expired: bool = False, yes: bool = False) -> int:
    """Show what there is, ask, delete it by the cells of 99_cleanup; return an exit status.

    The walk of WORKSHOP_LEARNER and WORKSHOP_ALGORITHM, or with `only_expired` what has expired, of any learner. Nothing
    is deleted without `yes` or a `yes` on the terminal. The status is 1 where something is left that was to go.
    """
    from .catch_up import run_cells, tagged_cells  # which needs checks, and those this module

    target = connect(quiet=only_expired)
    if only_expired:
        print(
            _(
                "Account {account}, region {region}, every learner",
                account=target.account,
                region=target.region,
            )
        )
    find: Callable[[], list[Thing]] = (
        expired if only_expired else lambda: [thing for thing in things(target) if thing.is_left]
    )
    there = find()
    if not there:
        print(_("Nothing has expired.") if only_expired else _("Nothing of this walk is there."))
        return 0
    now = datetime.now(UTC)
    print()
    streams = sum(thing.kind == "log stream" for thing in there)
    for thing in there:
        if thing.kind == "log stream":
            continue  # one for each job
        over = expires(thing, tags(thing))
        print(
            _("expired {over:%Y-%m-%d %H:%M} UTC  {thing}", over=over, thing=thing)
            if over <= now
            else _("expires {over:%Y-%m-%d %H:%M} UTC  {thing}", over=over, thing=thing)
        )
    if streams:
        print(_("and {count} log streams of jobs", count=streams))
    if not yes and not _agreed(len(there)):
        return 1
    shown = {(thing.kind, thing.name) for thing in there}

    def mine(label: str) -> list[str]:
        # Of what has expired only what was shown goes; of this walk also what a job has made meanwhile.
        if not only_expired:
            return still_there(target, label)
        return _labelled((one for one in things(None) if (one.kind, one.name) in shown), label)

    run_cells(
        "99_cleanup",
        tagged_cells(labs_folder() / "99_cleanup.ipynb", "clean"),
        {"target": target, "mine": mine},
    )
    left = [str(thing) for thing in find()]
    print(
        _("Nothing is left.") if not left else _("Still there: {left}. Run it again.", left=", ".join(left))
    )
    return 1 if left else 0


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        print(
            _(
                "Nothing was deleted: there is no terminal to ask on. To delete without being asked: YES=1 (--yes)."
            )
        )
        return False
    if input("\n" + _("Delete these {count} things? yes or no:", count=count) + " ").strip().lower() == "yes":
        return True
    print(_("Nothing was deleted."))
    return False
