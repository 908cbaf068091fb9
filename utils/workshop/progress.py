"""Wait for a job or an endpoint and show its status, its elapsed time and its log lines as they come."""

import re
import sys
import time
from collections.abc import Callable
from datetime import datetime

import boto3
from botocore import xform_name

from .aws import answer
from .errors import WorkshopError
from .language import _
from .notebook import in_notebook

#: A line of the access log for a request that went well: one a request, and of a batch hundreds.
ANSWERED = re.compile(r'(?:^|\s)time=\S+ status=2\d\d method=\S+ path="')
#: What localaws says of itself at the beginning of each job's log; a learner reads it once.
NOTICE = "[localaws] engine: "


class JobFailed(WorkshopError):
    """What was waited for ended in a state other than the one that was asked for."""


class NotThere(WorkshopError):
    """There is no job or endpoint of this name."""


class GoesOn(WorkshopError, KeyboardInterrupt):
    """Somebody has interrupted the waiting, which ends nothing but the waiting."""

    def __init__(self, title: str, kind: str, name: str):
        verb = xform_name(kind)
        end = "delete_endpoint" if kind == "Endpoint" else f"stop_{verb}"
        super().__init__(
            _(
                "you have stopped waiting. {title} goes on, and on AWS it goes on costing.\n"
                'To wait for it again: follow_{verb}("{name}")\n'
                'To end it: boto3.client("sagemaker").{end}({kind}Name="{name}")',
                title=title,
                verb=verb,
                name=name,
                end=end,
                kind=kind,
            )
        )


def _told(notice: str, told=set()) -> bool:  # noqa: B006  (one set for all calls: that is what it is for)
    """Whether this kernel has been told it before."""
    before = notice in told
    told.add(notice)
    return before


class _Screen:
    """A status line that is overwritten, with log lines above it: in a notebook, in a terminal, or in a file."""

    def __init__(self, title: str):
        self.title = title
        self.started = time.monotonic()
        self.status = None
        self.line = None
        self.terminal = sys.stdout.isatty()
        if in_notebook():
            from IPython.display import display

            # raw: plain text that the front end replaces in place, without ipywidgets.
            self.line = display({"text/plain": f"{title}: …"}, raw=True, display_id=True)

    def show(self, status: str) -> None:
        text = f"{self.title}: {status}, {time.monotonic() - self.started:.0f} s"
        if self.line is not None:
            self.line.update({"text/plain": text}, raw=True)
        elif self.terminal:
            print(f"\r\033[K{text}", end="", flush=True)
        elif status != self.status:
            print(text, flush=True)
        self.status = status

    def log(self, line: str) -> None:
        print(f"\r\033[K    {line}" if self.terminal and self.line is None else f"    {line}", flush=True)

    def close(self) -> None:
        if self.terminal and self.line is None:
            print()


class _Logs:
    """New lines of the streams of one log group whose names begin with `prefix`, none older than `since`."""

    def __init__(self, group: str, prefix: str = "", since: datetime | None = None):
        self.client = boto3.client("logs")
        self.prefix = prefix
        self.since = {"startTime": int(since.timestamp() * 1000)} if since else {}
        self.streams = {"logGroupName": group, **({"logStreamNamePrefix": prefix} if prefix else {})}
        self.group = group
        self.tokens = {}

    def new_lines(self) -> list[str]:
        try:
            pages = list(self.client.get_paginator("describe_log_streams").paginate(**self.streams))
        except self.client.exceptions.ResourceNotFoundException:
            return []  # the group appears with the first line
        streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        lines = []
        for stream in streams:
            # The host, or variant and instance; a training host's stream ends with the time it began at.
            source = re.sub(r"-\d{9,}$", "", stream.removeprefix(self.prefix))
            mark = f"[{source}] " if len(streams) > 1 else ""
            while True:
                ask = {"nextToken": self.tokens[stream]} if stream in self.tokens else {}
                events = self.client.get_log_events(
                    logGroupName=self.group, logStreamName=stream, startFromHead=True, **self.since, **ask
                )
                lines += [mark + event["message"] for event in events["events"]]
                finished = events["nextForwardToken"] == self.tokens.get(stream)
                self.tokens[stream] = events["nextForwardToken"]
                if finished or not events["events"]:
                    break
        return lines


def _seconds_between_polls(client) -> float:
    """A fifth of a second on this machine; 10 s on AWS, whose Describe calls are throttled."""
    return 0.2 if "127.0.0.1" in client.meta.endpoint_url else 10


def _described(client, kind: str, name: str) -> dict:
    """What AWS knows of a job or an endpoint. Raises NotThere, with the newest that are, where there is none."""
    verb = xform_name(kind)
    description = answer(getattr(client, f"describe_{verb}"), **{f"{kind}Name": name})
    if description is not None:
        return description
    listed = getattr(client, f"list_{verb}s")(SortBy="CreationTime", SortOrder="Descending", MaxResults=5)
    entries = next(entries for key, entries in listed.items() if key not in ("NextToken", "ResponseMetadata"))
    newest = ", ".join(entry[f"{kind}Name"] for entry in entries)
    said = {
        "TrainingJob": _("There is no training job {name!r}.", name=name),
        "TransformJob": _("There is no transform job {name!r}.", name=name),
        "Endpoint": _("There is no endpoint {name!r}.", name=name),
    }[kind]
    more = _("The newest are: {newest}", newest=newest) if newest else _("There is none at all yet.")
    raise NotThere(f"{said} {more}")


def _title(kind: str, name: str) -> str:
    """What is followed, at the beginning of a line."""
    return {
        "TrainingJob": _("Training job {name}", name=name),
        "TransformJob": _("Transform job {name}", name=name),
        "Endpoint": _("Endpoint {name}", name=name),
    }[kind]


def _follow(
    kind: str,
    name: str,
    statuses,
    logs: _Logs,
    wanted: str,
    going_on: set,
    mend: str,
    each_line: Callable[[str], None] = lambda line: None,
) -> dict:
    """Poll the description until its status leaves `going_on`; raise JobFailed unless it then is `wanted`.

    `statuses(description)` gives (status, what to show); `each_line` is told each log line once it is shown.
    """
    title = _title(kind, name)
    screen = _Screen(title)
    client = boto3.client("sagemaker")
    pause = _seconds_between_polls(client)

    answered = 0

    def log() -> None:
        nonlocal answered
        for line in logs.new_lines():
            if ANSWERED.search(line):
                answered += 1
            elif not (NOTICE in line and _told(NOTICE)):
                screen.log(line)
            each_line(line)

    try:
        while True:
            description = _described(client, kind, name)
            status, shown = statuses(description)
            log()
            screen.show(shown)
            if status not in going_on:
                break
            time.sleep(pause)
        if pause > 1:  # CloudWatch is some seconds behind
            time.sleep(pause)
            log()
        if answered:
            screen.log(
                _(
                    "(requests that were answered well: {count}; their lines are in the log group {group})",
                    count=answered,
                    group=logs.group,
                )
            )
    except KeyboardInterrupt:
        raise GoesOn(title, kind, name) from None
    finally:
        screen.close()
    if status != wanted:
        reason = description.get("FailureReason", _("no reason was given"))
        if reason.startswith("InternalServerError"):
            mend = _("Nothing of yours is to blame. Do it again.")
        ended = _("{title} ended {status}: {reason}", title=title, status=status, reason=reason)
        raise JobFailed(f"{ended}\n{mend}")
    return description


def follow_training_job(name: str, each_line: Callable[[str], None] = lambda line: None) -> dict:
    """Show the training job `name` until it ends; return DescribeTrainingJob's answer, or raise JobFailed or NotThere.

    `each_line` is told each line of its log, as plots.Curves may be.
    """
    return _follow(
        "TrainingJob",
        name,
        lambda now: (now["TrainingJobStatus"], now["SecondaryStatus"]),
        _Logs("/aws/sagemaker/TrainingJobs", f"{name}/"),
        wanted="Completed",
        going_on={"InProgress", "Stopping"},
        mend=_(
            "Mend what the reason names (the data, a hyperparameter, your code), then run the job again under a new name."
        ),
        each_line=each_line,
    )


def follow_transform_job(name: str) -> dict:
    """Show the transform job `name` until it ends; return DescribeTransformJob's answer, or raise JobFailed or NotThere."""
    return _follow(
        "TransformJob",
        name,
        lambda now: (now["TransformJobStatus"],) * 2,
        _Logs("/aws/sagemaker/TransformJobs", f"{name}/"),
        wanted="Completed",
        going_on={"InProgress", "Stopping"},
        mend=_(
            "Look at the log lines above: the container names the row that it refused. Mend the input, then run it again."
        ),
    )


def follow_endpoint(name: str) -> dict:
    """Show the endpoint `name` until it is InService; return DescribeEndpoint's answer.

    Raises JobFailed where it fails, and where an update failed and the endpoint went back to its old config; NotThere
    where there is none.
    """
    before = _described(boto3.client("sagemaker"), "Endpoint", name)
    description = _follow(
        "Endpoint",
        name,
        lambda now: (now["EndpointStatus"],) * 2,
        _Logs(f"/aws/sagemaker/Endpoints/{name}", since=before["LastModifiedTime"]),
        wanted="InService",
        going_on={"Creating", "Updating", "SystemUpdating", "RollingBack"},
        mend=_("Look at the container's log lines above. Delete the endpoint before you create it again."),
    )
    if "FailureReason" in description:
        raise JobFailed(
            _(
                "Endpoint {name} could not be updated and serves {config} as before: {reason}\n"
                "Mend what the reason and the log lines above name, then update again.",
                name=name,
                config=description["EndpointConfigName"],
                reason=description["FailureReason"],
            )
        )
    return description
