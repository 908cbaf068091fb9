"""What a step costs on AWS, said before it runs, and what the walk has cost so far, by what AWS itself knows of it.

By list prices of us-west-2 (localaws/prices.py), rounded up to a cent. On localaws nothing is paid: there the same
figures say what it would have been.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3

from localaws import prices

from .aws import answer
from .cleanup import FREE, TUNED, Thing, expires, tags, things
from .language import _
from .target import Target

if TYPE_CHECKING:
    import pandas

#: US dollars for a gigabyte and month, in us-west-2.
STORAGE = {"ECR repository": 0.10, "bucket": 0.023, "log group": 0.03}
MONTH = 730  # hours
COLUMNS = ["kind", "name", "created", "status", "billed s", "$ so far", "$ an hour", "expires"]


def cost_of(
    target: Target,
    what: str,
    instance_type: str = "ml.m5.large",
    minutes: float = 4,
    instances: int = 1,
    jobs: int = 1,
    spot: bool = False,
    gigabytes: float = 0,
) -> None:
    """Print what a step costs on AWS, in a line, before it runs.

    `what` is "training", "tuning" (of `jobs` training jobs), "transform", "endpoint" or "image" (of `gigabytes`).
    `minutes` are those of one job on AWS, its start left out, which is not billed. Raises ValueError for what has no
    price here.
    """
    line = _words(what, instance_type, minutes, instances, jobs, spot, gigabytes)
    print(
        _("On AWS: {line}. Here: nothing.", line=line)
        if target.local
        else _("This costs money: {line}.", line=line)
    )


def _words(
    what: str, instance_type: str, minutes: float, instances: int, jobs: int, spot: bool, gigabytes: float
) -> str:
    if what == "image":
        month = gigabytes * STORAGE["ECR repository"]
        return _(
            "{gigabytes:g} GB of images, ${price:.2f} a GB and month: {month} a month",
            gigabytes=gigabytes,
            price=STORAGE["ECR repository"],
            month=_dollars(month),
        )
    if what not in ("training", "tuning", "transform", "endpoint"):
        raise ValueError(f"what is {what!r}; it is 'training', 'tuning', 'transform', 'endpoint' or 'image'")
    if instance_type not in prices.PRICES:
        raise ValueError(
            _(
                "no price is known of {instance_type!r}; there are {known}",
                instance_type=instance_type,
                known=", ".join(prices.PRICES),
            )
        )
    price = prices.PRICES[instance_type]
    machines = _("one {instance_type}", instance_type=instance_type)
    if instances > 1:
        machines = f"{instances} {instance_type}"
    hour = price * instances
    if what == "endpoint":
        return _(
            "{machines} for as long as the endpoint exists, asked or not: {hour} an hour, {day} a day, {month} a month",
            machines=machines,
            hour=_dollars(hour),
            day=_dollars(hour * 24),
            month=_dollars(hour * MONTH),
        )
    total = hour * minutes / 60 * jobs
    line = {
        "machines": _("{jobs} jobs, each {machines}", jobs=jobs, machines=machines) if jobs > 1 else machines,
        "minutes": minutes,
        "price": price,
        "total": _dollars(total),
    }
    if instances > 1:
        line = _("{machines} for about {minutes:g} minutes, ${price:g} an hour each: about {total}", **line)
    else:
        line = _("{machines} for about {minutes:g} minutes, ${price:g} an hour: about {total}", **line)
    return _("{line}, and as a spot job up to 90 % less", line=line) if spot else line


def _dollars(amount: float) -> str:
    """Rounded up to a cent, but for what floating point adds."""
    return f"${math.ceil(round(amount * 100, 6)) / 100:.2f}"


def ledger(target: Target) -> "pandas.DataFrame":
    """A row for everything of the walk that AWS knows: what it is, what it has cost, what it costs an hour now.

    Jobs stay in it after their end, with the seconds that AWS billed. Of an endpoint that is deleted AWS knows nothing
    any more, and neither does this. Money is NaN for an instance type whose price is not known.
    """
    import pandas

    now = datetime.now(UTC)
    rows = []
    for thing in things(target):
        if thing.kind == "log stream":
            continue  # one for each job: kilobytes
        seconds, so_far, hour = _billed(thing, now)
        over = expires(thing, tags(thing)).astimezone(UTC) if thing.is_left else None
        made = thing.created.astimezone(UTC)
        rows.append(
            [thing.kind, thing.name, made, thing.status, seconds, round(so_far, 6), round(hour, 6), over]
        )
    table = pandas.DataFrame(rows, columns=COLUMNS).sort_values("created", ignore_index=True)
    for column in ("created", "expires"):
        table[column] = pandas.to_datetime(table[column], utc=True).dt.floor("s")
    return table


def _billed(thing: Thing, now: datetime) -> tuple[float, float, float]:
    """Seconds that are billed, dollars for them, dollars an hour from now on."""
    if thing.kind == "endpoint":
        hour = _endpoint(thing)
        seconds = max((now - thing.created).total_seconds(), 0)
        return round(seconds), hour * seconds / 3600, hour
    if thing.kind in ("training job", TUNED):
        return _training(thing, now)
    if thing.kind == "transform job":
        return _transform(thing, now)
    if thing.kind in STORAGE:
        hour = sum(_bytes(thing)) / 1e9 * STORAGE[thing.kind] / MONTH
        seconds = max((now - thing.created).total_seconds(), 0)
        return round(seconds), hour * seconds / 3600, hour
    assert thing.kind == "tuning job" or thing.kind in FREE, thing.kind
    return 0, 0.0, 0.0  # what a tuning job costs is what its training jobs do


def price_of(instance_type: str) -> float:
    """US dollars for an hour of one instance; NaN where it is not known."""
    return prices.PRICES.get(instance_type, math.nan)


def _endpoint(thing: Thing) -> float:
    """Dollars for an hour of an endpoint's instances as they are now."""
    sagemaker = boto3.client("sagemaker")
    found = answer(sagemaker.describe_endpoint, EndpointName=thing.name)
    if not found or found["EndpointStatus"] == "Failed":
        return 0.0
    running = {one["VariantName"]: one for one in found.get("ProductionVariants", ())}
    config = answer(sagemaker.describe_endpoint_config, EndpointConfigName=found["EndpointConfigName"])
    variants = config["ProductionVariants"] if config else []
    hour = 0.0 if config else math.nan
    for variant in variants:
        if "InstanceType" in variant:  # else it is serverless, and its requests are billed
            count = running.get(variant["VariantName"], {}).get("CurrentInstanceCount")
            hour += price_of(variant["InstanceType"]) * (
                variant["InitialInstanceCount"] if count is None else count
            )
    return hour


def _training(thing: Thing, now: datetime) -> tuple[float, float, float]:
    job = answer(boto3.client("sagemaker").describe_training_job, TrainingJobName=thing.name) or {}
    resources = job.get("ResourceConfig", {})
    hour = price_of(resources.get("InstanceType", "")) * resources.get("InstanceCount", 1)
    if "BillableTimeInSeconds" in job:
        seconds = job["BillableTimeInSeconds"]
    else:
        seconds = _lasted(job, "Training", now)
    return seconds, hour * seconds / 3600 if seconds else 0.0, hour if thing.is_left else 0.0


def _transform(thing: Thing, now: datetime) -> tuple[float, float, float]:
    job = answer(boto3.client("sagemaker").describe_transform_job, TransformJobName=thing.name) or {}
    resources = job.get("TransformResources", {})
    hour = price_of(resources.get("InstanceType", "")) * resources.get("InstanceCount", 1)
    seconds = _lasted(job, "Transform", now)
    return seconds, hour * seconds / 3600 if seconds else 0.0, hour if thing.is_left else 0.0


def _lasted(job: dict, word: str, now: datetime) -> int:
    """Seconds from a job's start to its end, or to now; 0 for one that never started."""
    if f"{word}StartTime" not in job:
        return 0
    return max(round((job.get(f"{word}EndTime", now) - job[f"{word}StartTime"]).total_seconds()), 0)


def _bytes(thing: Thing) -> Iterator[int]:
    """The sizes of what is stored in a repository, a bucket or a log group."""
    if thing.kind == "ECR repository":
        pages = boto3.client("ecr").get_paginator("describe_images").paginate(repositoryName=thing.name)
        for page in pages:
            yield from (image["imageSizeInBytes"] for image in page["imageDetails"])
    elif thing.kind == "bucket":
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=thing.name)
        for page in pages:
            yield from (item["Size"] for item in page.get("Contents", ()))
    else:
        groups = boto3.client("logs").describe_log_groups(logGroupNamePrefix=thing.name)["logGroups"]
        yield from (group.get("storedBytes", 0) for group in groups if group["logGroupName"] == thing.name)
