"""All that can be seen of a localaws through its public API, resource by resource, and how two such sights differ."""

import datetime
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from actions import KINDS, snake
from botocore.exceptions import ClientError

# What may be set of a bucket: boto3's `get_bucket_…` of it.
OF_A_BUCKET = [
    "acl",
    "accelerate_configuration",
    "cors",
    "encryption",
    "lifecycle_configuration",
    "location",
    "logging",
    "ownership_controls",
    "policy",
    "tagging",
    "versioning",
    "website",
    "notification_configuration",
]
WINDOW = {
    "StartTime": datetime.datetime(2026, 1, 1),
    "EndTime": datetime.datetime(2026, 1, 2),
    "Period": 60,
    "Statistics": ["SampleCount", "Sum", "Minimum", "Maximum"],
}


def observe(clients: dict) -> dict[tuple, object]:
    """Everything that the services show, by resource: ("object", bucket, key), ("role", name) and so on.

    `clients` has boto3's clients by name. Nothing in it but lists, dicts and plain values, so it can be compared.
    """
    seen: dict[tuple, object] = {}
    buckets = clients["s3"].list_buckets()["Buckets"]
    looks = [_logs, _iam, _ecr, _cloudwatch, _sagemaker, *(partial(_bucket, bucket) for bucket in buckets)]
    with ThreadPoolExecutor(4) as eyes:
        list(eyes.map(lambda look: look(clients, seen), looks))
    return dict(sorted(seen.items()))


def first_difference(before, after) -> str | None:
    """The first place where two sights differ, and what stands there in each; None where they are the same."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = first_difference(before.get(name, ABSENT), after.get(name, ABSENT))
            if inner:
                return f"{_words(name)}{inner}"
        return None
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, pair in enumerate(zip(before, after, strict=True)):
            if inner := first_difference(*pair):
                return f"[{place}]{inner}"
        return None
    return None if before == after else f":\n  before: {_short(before)}\n  after:  {_short(after)}"


def timeless(value):
    """The same sight without its times, which are others when the same request is sent again."""
    if isinstance(value, dict):
        return {name: timeless(inner) for name, inner in value.items() if not TIMES.search(str(name))}
    if isinstance(value, list):
        return [timeless(inner) for inner in value]
    return None if isinstance(value, datetime.datetime) else value


TIMES = re.compile(r"time$|timestamp$|date$|last_?modified", re.IGNORECASE)


class _Absent:
    def __repr__(self):
        return "(absent)"


ABSENT = _Absent()


def _words(name) -> str:
    return " ".join(map(repr, name)) if isinstance(name, tuple) else f" {name}"


def _short(value) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]}… ({len(text):,} characters)"


def _plain(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def _asked(method, **arguments):
    """What a client's method answers, or the code of the error."""
    try:
        return _plain(method(**arguments))
    except ClientError as error:
        return error.response["Error"]["Code"]


def _all(client, operation: str, key: str, **arguments) -> list:
    """All items of an operation that answers in pages."""
    if client.can_paginate(operation):
        return [
            item
            for page in client.get_paginator(operation).paginate(**arguments)
            for item in page.get(key, [])
        ]
    return getattr(client, operation)(**arguments).get(key, [])


def _bucket(bucket, clients, seen):
    s3, name = clients["s3"], bucket["Name"]
    settings = {what: _asked(getattr(s3, f"get_bucket_{what}"), Bucket=name) for what in OF_A_BUCKET}
    access = _asked(s3.get_public_access_block, Bucket=name)
    seen["bucket", name] = {"created": bucket["CreationDate"], **settings, "public access": access}
    pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=name))
    for kind in ("Versions", "DeleteMarkers"):
        for version in [one for page in pages for one in page.get(kind, [])]:
            place = seen.setdefault(("object", name, version["Key"]), {"Versions": [], "DeleteMarkers": []})
            place[kind].append(version | _read(s3, name, version) if kind == "Versions" else version)
    for upload in s3.list_multipart_uploads(Bucket=name).get("Uploads", []):
        where = {"Bucket": name, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        about = {"upload": upload, "parts": s3.list_parts(**where).get("Parts", [])}
        seen.setdefault(("uploads", name, upload["Key"]), []).append(about)


def _read(s3, bucket, version) -> dict:
    where = {"Bucket": bucket, "Key": version["Key"]}
    if version["VersionId"] != "null":
        where["VersionId"] = version["VersionId"]
    got = _asked(s3.get_object, **where)
    if isinstance(got, dict):
        got["Body"] = got["Body"].read()
    return {
        "got": got,
        "tags": _asked(s3.get_object_tagging, **where),
        "acl": _asked(s3.get_object_acl, **where),
    }


def _logs(clients, seen):
    logs = clients["logs"]
    for group in _all(logs, "describe_log_groups", "logGroups"):
        name = group["logGroupName"]
        if name.startswith("/aws/sagemaker/Endpoints/"):
            continue  # its servers are started anew, and say so
        streams = _all(logs, "describe_log_streams", "logStreams", logGroupName=name)
        seen["log group", name] = {
            **group,
            "tags": _asked(logs.list_tags_log_group, logGroupName=name),
            "metric filters": _asked(logs.describe_metric_filters, logGroupName=name),
            "streams": {stream["logStreamName"]: _events(logs, name, stream) for stream in streams},
        }
    for policy in logs.describe_resource_policies()["resourcePolicies"]:
        seen["log policy", policy["policyName"]] = policy


def _events(logs, group, stream) -> dict:
    where = {"logGroupName": group, "logStreamName": stream["logStreamName"]}
    return {**stream, "events": logs.get_log_events(**where, startFromHead=True)["events"]}


def _iam(clients, seen):
    iam = clients["iam"]
    for role in _all(iam, "list_roles", "Roles"):
        where = {"RoleName": role["RoleName"]}
        own = _all(iam, "list_role_policies", "PolicyNames", **where)
        seen["role", role["RoleName"]] = {
            **iam.get_role(**where)["Role"],
            "attached": iam.list_attached_role_policies(**where)["AttachedPolicies"],
            "own": {name: _plain(iam.get_role_policy(**where, PolicyName=name)) for name in own},
        }
    for policy in _all(iam, "list_policies", "Policies", Scope="Local"):
        arn = policy["Arn"]
        versions = [one["VersionId"] for one in iam.list_policy_versions(PolicyArn=arn)["Versions"]]
        seen["policy", policy["PolicyName"]] = {
            **iam.get_policy(PolicyArn=arn)["Policy"],
            "versions": [
                iam.get_policy_version(PolicyArn=arn, VersionId=one)["PolicyVersion"] for one in versions
            ],
        }
    for user in _all(iam, "list_users", "Users"):
        name = user["UserName"]
        seen["user", name] = {**user, "keys": iam.list_access_keys(UserName=name)["AccessKeyMetadata"]}


def _ecr(clients, seen):
    ecr = clients["ecr"]
    for repository in _all(ecr, "describe_repositories", "repositories"):
        name = repository["repositoryName"]
        images = _all(ecr, "describe_images", "imageDetails", repositoryName=name)
        ids = [{"imageDigest": image["imageDigest"]} for image in images]
        lifecycle = _asked(ecr.get_lifecycle_policy, repositoryName=name)
        if isinstance(lifecycle, dict):
            del lifecycle["lastEvaluatedAt"]  # moto evaluates it when it is asked
        seen["repository", name] = {
            **repository,
            "policy": _asked(ecr.get_repository_policy, repositoryName=name),
            "lifecycle policy": lifecycle,
            "tags": ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"],
            "images": images,
            "manifests": _plain(ecr.batch_get_image(repositoryName=name, imageIds=ids)) if ids else {},
        }
    seen["registry policy", ""] = _asked(ecr.get_registry_policy)


def _cloudwatch(clients, seen):
    cloudwatch = clients["cloudwatch"]
    for metric in _all(cloudwatch, "list_metrics", "Metrics"):
        points = cloudwatch.get_metric_statistics(**metric, **WINDOW)["Datapoints"]
        dimensions = tuple(sorted(one["Value"] for one in metric["Dimensions"]))
        seen["metric", metric["Namespace"], metric["MetricName"], *dimensions] = sorted(
            points, key=lambda point: point["Timestamp"]
        )
    for alarm in cloudwatch.describe_alarms()["MetricAlarms"]:
        tags = cloudwatch.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"]
        seen["alarm", alarm["AlarmName"]] = {**alarm, "tags": tags}
    for dashboard in cloudwatch.list_dashboards()["DashboardEntries"]:
        name = dashboard["DashboardName"]
        seen["dashboard", name] = {**dashboard, **_plain(cloudwatch.get_dashboard(DashboardName=name))}


def _sagemaker(clients, seen):
    sagemaker = clients["sagemaker"]
    for kind in KINDS:
        summaries = f"{kind}Summaries" if kind.endswith("Job") else f"{kind}s"
        for one in _all(sagemaker, f"list_{snake(kind)}s", summaries):
            describe = getattr(sagemaker, f"describe_{snake(kind)}")
            described = _plain(describe(**{f"{kind}Name": one[f"{kind}Name"]}))
            if kind == "Endpoint":  # its servers are started anew
                one, described = timeless(one), timeless(described) | {"created": described["CreationTime"]}
            tags = sagemaker.list_tags(ResourceArn=one[f"{kind}Arn"])["Tags"]
            seen[kind, one[f"{kind}Name"]] = {**one, **described, "tags": tags}
