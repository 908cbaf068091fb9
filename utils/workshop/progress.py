"""Wait for a job or an endpoint and show its status, its elapsed time and its log lines as they come."""

import re
import sys
import time
from datetime import datetime

import boto3

from .errors import WorkshopError


class JobFailed(WorkshopError):
    """What was waited for ended in a state other than the one that was asked for."""


class _Screen:
    """A status line that is overwritten, with log lines above it: in a notebook, in a terminal, or in a file."""

    def __init__(self, title: str):
        self.title = title
        self.started = time.monotonic()
        self.status = None
        self.line = None
        self.terminal = sys.stdout.isatty()
        if "IPython" in sys.modules:
            from IPython import get_ipython

            if getattr(get_ipython(), "kernel", None):
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
    """Half a second on this machine; 10 s on AWS, whose Describe calls are throttled."""
    return 0.5 if "127.0.0.1" in client.meta.endpoint_url else 10


def _follow(title: str, describe, statuses, logs: _Logs, wanted: str, going_on: set, mend: str) -> dict:
    """Poll `describe()` until its status leaves `going_on`; raise JobFailed unless it then is `wanted`.

    `statuses(description)` gives (status, what to show).
    """
    screen = _Screen(title)
    pause = _seconds_between_polls(logs.client)
    try:
        while True:
            description = describe()
            status, shown = statuses(description)
            for line in logs.new_lines():
                screen.log(line)
            screen.show(shown)
            if status not in going_on:
                break
            time.sleep(pause)
        if pause > 1:  # CloudWatch is some seconds behind
            time.sleep(pause)
            for line in logs.new_lines():
                screen.log(line)
    finally:
        screen.close()
    if status != wanted:
        reason = description.get("FailureReason", "no reason was given")
        raise JobFailed(f"{title} ended {status}: {reason}\n{mend}")
    return description


def follow_training_job(name: str) -> dict:
    """Show the training job `name` until it ends; return DescribeTrainingJob's answer, or raise JobFailed."""
    client = boto3.client("sagemaker")
    return _follow(
        f"Training job {name}",
        lambda: client.describe_training_job(TrainingJobName=name),
        lambda answer: (answer["TrainingJobStatus"], answer["SecondaryStatus"]),
        _Logs("/aws/sagemaker/TrainingJobs", f"{name}/"),
        wanted="Completed",
        going_on={"InProgress", "Stopping"},
        mend="Mend what the reason names (the data, a hyperparameter, your code), then run the job again under a new name.",
    )


def follow_transform_job(name: str) -> dict:
    """Show the batch transform job `name` until it ends; return DescribeTransformJob's answer, or raise JobFailed."""
    client = boto3.client("sagemaker")
    return _follow(
        f"Transform job {name}",
        lambda: client.describe_transform_job(TransformJobName=name),
        lambda answer: (answer["TransformJobStatus"],) * 2,
        _Logs("/aws/sagemaker/TransformJobs", f"{name}/"),
        wanted="Completed",
        going_on={"InProgress", "Stopping"},
        mend="Look at the log lines above: the container names the row that it refused. Mend the input, then run it again.",
    )


def follow_endpoint(name: str) -> dict:
    """Show the endpoint `name` until it is InService; return DescribeEndpoint's answer.

    Raises JobFailed where it fails, and where an update failed and the endpoint went back to its old config.
    """
    client = boto3.client("sagemaker")
    before = client.describe_endpoint(EndpointName=name)
    description = _follow(
        f"Endpoint {name}",
        lambda: client.describe_endpoint(EndpointName=name),
        lambda answer: (answer["EndpointStatus"],) * 2,
        _Logs(f"/aws/sagemaker/Endpoints/{name}", since=before["LastModifiedTime"]),
        wanted="InService",
        going_on={"Creating", "Updating", "SystemUpdating", "RollingBack"},
        mend="Look at the container's log lines above. Delete the endpoint before you create it again.",
    )
    if "FailureReason" in description:
        raise JobFailed(
            f"Endpoint {name} could not be updated and serves {description['EndpointConfigName']} as before: "
            f"{description['FailureReason']}\nMend what the reason and the log lines above name, then update again."
        )
    return description
