"""The page on localaws' port: what there is and what it would cost on AWS, live, for people with a browser.

    /_localaws/                 the page (page.html); a browser that asks for / is sent here
    /_localaws/state            what the page shows, as JSON; times are seconds since the epoch, costs US dollars
    /_localaws/logs/KIND/NAME   the last lines of a job or an endpoint, as JSON

No bucket's name may begin with an underscore, so nothing of S3's is hidden by these paths. All of them are the owner's:
the address that `up` prints has a token, which becomes a cookie. The page changes nothing and asks what any client may
ask. A name or a log line reaches it as JSON and becomes text there, never markup.
"""

import hashlib
import hmac
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

from werkzeug import Request, Response

from localaws import protocol
from localaws.errors import AwsError
from localaws.prices import PRICES, PRICES_AS_OF
from localaws.sagemaker.hosting import endpoints
from localaws.sagemaker.jobs import training, transform
from localaws.state.locate import ACCOUNT, REGION

PATH = "/_localaws/"
SHOWN = 50  # of a kind, the newest
LINES = 200  # of a log, the last
STRANGER = (
    "This page shows its owner's jobs and logs. If they are yours, open the link that this command prints: "
    "python -m localaws up"
)
# Kind -> the log group and the beginning of the streams' names.
LOGS = {
    "TrainingJob": (training.LOG_GROUP, "{}/"),
    "TransformJob": (transform.LOG_GROUP, "{}/"),
    "Endpoint": (endpoints.LOG_GROUP, ""),
}
HTML = Path(__file__).with_name("page.html").read_text("utf-8")


def _policy() -> str:
    """Allow the page its own script and style, by their digests, and to ask this server: nothing else."""

    def digest(tag: str) -> str:
        text = re.search(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)[1]
        return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src '{digest('script')}'; style-src '{digest('style')}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = {
    "Content-Security-Policy": _policy(),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


def is_wanted(request: Request) -> bool:
    """Tell whether a browser's window asks for the page. AWS's clients sign what they ask, and take no HTML."""
    return (
        request.method == "GET"
        and (request.path == PATH or (request.path == "/" and not request.query_string))
        and "Authorization" not in request.headers
        and "text/html" in request.headers.get("Accept", "")
        and request.headers.get("Sec-Fetch-Dest", "document") == "document"
    )


class Page:
    """Answers below PATH for the localaws that listens at `url`.

    Who has `token` is its owner. `connect` gives boto3's client of a service.
    """

    def __init__(self, control, registry, backend, connect: Callable, url: str, token: str):
        self.control, self.registry, self.backend = control, registry, backend
        self.token, self.cookie = token, f"localaws-{url.rpartition(':')[2]}"  # a cookie is sent to all ports
        self.about = {"url": url, "region": REGION, "account": ACCOUNT, "engine": control.engine}
        self.logs, self.ecr = map(connect, ("logs", "ecr"))

    def __call__(self, request: Request) -> Response:
        path, wanted = request.path.removeprefix(PATH), is_wanted(request)
        if wanted and (request.path != PATH or self._is(request.args.get("token"))):
            response = Response(status=302, headers={"Location": PATH, **HEADERS})
            if request.path == PATH:
                response.set_cookie(self.cookie, self.token, path=PATH, httponly=True, samesite="Strict")
            return response
        if not self._is(request.cookies.get(self.cookie)):
            if not wanted:
                raise AwsError("AccessDeniedException", STRANGER, 403)
            # A browser that comes by another site's link keeps the cookie back, until the page itself asks.
            again = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
            headers = {**HEADERS, "Refresh": f"0; url={PATH}"} if again else HEADERS
            return Response(STRANGER, 403, headers, content_type="text/plain; charset=utf-8")
        if wanted:
            return Response(HTML, headers=HEADERS, content_type="text/html; charset=utf-8")
        if path == "state":
            return protocol.answer(self.state(), headers={"Cache-Control": "no-store"})
        kind, _, name = path.removeprefix("logs/").partition("/")
        if path.startswith("logs/") and kind in LOGS and re.fullmatch(r"[A-Za-z0-9-]{1,63}", name):
            return protocol.answer(self.lines(kind, name), headers={"Cache-Control": "no-store"})
        raise AwsError("UnknownOperationException", f"There is nothing at {request.path}", 404)

    def _is(self, token: str | None) -> bool:
        return hmac.compare_digest((token or "").encode(), self.token.encode())

    def state(self) -> dict:
        """Return all that the page shows."""
        training, transforms = self._jobs("TrainingJob"), self._jobs("TransformJob")
        tuning = self._jobs("HyperParameterTuningJob")
        jobs = sorted([*training, *transforms, *tuning], key=lambda job: job["created"], reverse=True)
        return {
            **self.about,
            "now": time.time(),
            "prices": PRICES_AS_OF,
            "jobs": jobs[:SHOWN],
            "endpoints": [self._endpoint(*found) for found in self._described("Endpoint")],
            "models": [self._model(*found) for found in self._described("Model")],
            "images": self._images(),
            "buckets": self.backend.buckets(),
        }

    def lines(self, kind: str, name: str) -> list[str]:
        """Return the last log lines of a job or an endpoint, oldest first, each after its time and its stream."""
        group, prefix = (text.format(name) for text in LOGS[kind])
        where = {"logGroupName": group}
        try:
            streams = self.logs.describe_log_streams(
                **where, **({"logStreamNamePrefix": prefix} if prefix else {})
            )
            events = [
                (event["timestamp"], stream["logStreamName"].removeprefix(prefix), event["message"])
                for stream in streams["logStreams"]
                for event in self.logs.get_log_events(
                    **where, logStreamName=stream["logStreamName"], limit=LINES, startFromHead=False
                )["events"]
            ]
        except self.logs.exceptions.ResourceNotFoundException:
            return []  # a group appears with its first line
        events.sort(key=lambda event: event[0])
        several = len(streams["logStreams"]) > 1
        return [f"[{stream}] {line}" if several else line for _, stream, line in events[-LINES:]]

    def _described(self, kind: str) -> Iterator[tuple[str, dict]]:
        """Give name and description of the newest resources of a kind."""
        newest = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": SHOWN}
        answer = self.control.handle(f"List{kind}s", newest)
        for entry in next(value for name, value in answer.items() if name != "NextToken"):
            name = entry[f"{kind}Name"]
            try:
                yield name, self.control.handle(f"Describe{kind}", {f"{kind}Name": name})
            except AwsError:
                continue  # deleted since it was listed

    def _jobs(self, kind: str) -> list[dict]:
        verb = kind.removesuffix("Job").removeprefix("HyperParameter")
        jobs = []
        for name, job in self._described(kind):
            started = job.get(f"{verb}StartTime")
            ended = job.get(f"{verb}EndTime") or job.get("HyperParameterTuningEndTime")
            fleet = job.get("ResourceConfig") or job.get("TransformResources") or {}
            about = {
                "what": f"{verb} job",
                "secondary": job.get("SecondaryStatus"),
                "started": started,
                "ended": ended,
                "best": job.get("BestTrainingJob", {}).get("TrainingJobName"),
                "metrics": {item["MetricName"]: item["Value"] for item in job.get("FinalMetricDataList", ())},
            }
            jobs.append({**_common(kind, name, job), **about, **_cost([fleet], started, ended)})
        return jobs

    def _endpoint(self, name: str, endpoint: dict) -> dict:
        try:
            request = {"EndpointConfigName": endpoint["EndpointConfigName"]}
            config = self.control.handle("DescribeEndpointConfig", request)
        except AwsError:
            config = {"ProductionVariants": ()}  # it may be deleted before its endpoint
        running = {item["VariantName"]: item for item in endpoint.get("ProductionVariants", ())}
        fleet = [
            variant
            | {"InstanceCount": running.get(variant["VariantName"], {}).get("CurrentInstanceCount", 0)}
            for variant in config["ProductionVariants"]
        ]
        cost = _cost(fleet, endpoint["CreationTime"], None)
        if any("ServerlessConfig" in variant for variant in fleet):
            cost["instances"] = "serverless"
        return {**_common("Endpoint", name, endpoint), "what": endpoint["EndpointConfigName"], **cost}

    def _model(self, name: str, model: dict) -> dict:
        container = model.get("PrimaryContainer") or model["Containers"][0]
        return {
            **_common("Model", name, model),
            "what": container["Image"],
            "data": container.get("ModelDataUrl"),
        }

    def _images(self) -> list[dict]:
        return [
            {
                "name": f"{repository['repositoryName']}:{', '.join(image['tags']) or '(no tag)'}",
                "what": image["digest"],
                "bytes": image["size"],
                "created": image["pushed"],
            }
            for repository in self.ecr.describe_repositories()["repositories"]
            for image in self.registry.images(repository["repositoryName"])
        ]


def _common(kind: str, name: str, description: dict) -> dict:
    return {
        "kind": kind,
        "name": name,
        "status": description.get(f"{kind}Status"),
        "created": description["CreationTime"],
        "reason": description.get("FailureReason"),
    }


def _cost(fleet: list[dict], started: float | None, ended: float | None) -> dict:
    """Return what an hour and all of the time cost on AWS: None where no instance, or one without a price, is named."""
    fleet = [group for group in fleet if group.get("InstanceCount") and "InstanceType" in group]
    words = ", ".join(f"{group['InstanceCount']} {group['InstanceType']}" for group in fleet)
    if not fleet or any(group["InstanceType"] not in PRICES for group in fleet):
        return {"instances": words, "hourly": None, "cost": None}
    hourly = sum(group["InstanceCount"] * PRICES[group["InstanceType"]] for group in fleet)
    seconds = (ended or time.time()) - started if started else 0
    return {"instances": words, "hourly": None if ended else hourly, "cost": hourly * seconds / 3600}
