"""What the page shows of one thing: what it leads to, what is drawn of it, its log; and an answer of an endpoint's.

Nothing here changes anything, but for `invoke`, which asks an endpoint as any client does.
"""

import base64
import mimetypes
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import regex

from localaws.errors import AwsError
from localaws.sagemaker.hosting import endpoints
from localaws.sagemaker.hosting.instances import container_definition
from localaws.sagemaker.jobs import processing, training, transform
from localaws.sagemaker.storage import DataError, parse_uri
from localaws.state import locate

from .console import Console, as_told, newest
from .objects import beginning

TRIALS = 50  # of a tuning job, until more are asked for
LINES = 200  # of a log, the last
LINES_READ, LOG_PAGES = 1000, 5  # to find so many that are no pings, and how often
# An access log's line of a health check, as nginx, gunicorn and most others write it, and as container/stack does.
PING = re.compile(r'"(?:GET|HEAD) /ping[ ?]|method=GET path="/ping"')
SERIES_LINES, SERIES_SECONDS, SERIES_POINTS = 10_000, 1.0, 400
PERIODS, PERIODS_SECONDS = 60, 3 * 3600  # of an endpoint's latencies, at most
ANSWER_BYTES = 1 << 16  # of an endpoint's answer, as text
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
PICTURE_BYTES = 2 << 20
# Kind -> the log group and the beginning of the streams' names.
LOGS = {
    "training": (training.LOG_GROUP, "{}/"),
    "transform": (transform.LOG_GROUP, "{}/"),
    "processing": (processing.LOG_GROUP, "{}/"),
    "endpoint": (endpoints.LOG_GROUP, ""),
}


class Details:
    """What a console's rows have below them."""

    def __init__(self, console: Console, control, connect: Callable):
        self._console, self._control = console, control
        self.logs, self.s3, self.cloudwatch = map(connect, ("logs", "s3", "cloudwatch"))
        self.kinds = {
            "training": self._training,
            "tuning": self._tuning,
            "transform": self._transform,
            "processing": self._processing,
            "endpoint": self._endpoint,
            "model": self._model,
        }

    def of(self, kind: str, name: str, trials: int = TRIALS, also: str = "") -> dict:
        """Return what there is to know of one thing: `facts`, each a label and its parts, which are texts or links; what
        is drawn; and what is its own. Raises AwsError where it is not there."""
        return self.kinds[kind](name, trials, also)

    def _describe(self, kind: str, name: str) -> dict:
        return self._control.handle(f"Describe{kind}", {f"{kind}Name": name})

    def _training(self, name: str, *_) -> dict:
        job, record = (
            self._describe("TrainingJob", name),
            self._console.store.view("TrainingJob").get(name.lower(), {}),
        )
        uri = job["ModelArtifacts"]["S3ModelArtifacts"]
        models = [
            one["ModelName"]
            for one in self._console.store.view("Model").values()
            if _artifact(one) == uri.rstrip("/")
        ]
        tuned = {
            card["arn"]: card["name"]
            for _, card in self._console.made.get("HyperParameterTuningJob", {}).values()
        }
        facts = [
            ("Model", [_link("model", one) for one in models]),
            (
                "Part of",
                [_link("tuning", tuned[parent])] if (parent := record.get("TuningJobArn")) in tuned else [],
            ),
            ("Image", [_image(job["AlgorithmSpecification"]["TrainingImage"], record.get("ResolvedImage"))]),
            *(
                (
                    f"Channel {channel['ChannelName']}",
                    [_object(channel["DataSource"]["S3DataSource"]["S3Uri"])],
                )
                for channel in job.get("InputDataConfig", ())
            ),
            ("Model artifact", [_object(uri)] if job["TrainingJobStatus"] == "Completed" else []),
            *_times(record.get("TrainingStartTime"), record.get("TrainingEndTime")),
        ]
        if job.get("EnableManagedSpotTraining"):
            facts.append(("Spot", ["managed spot training"]))
        final = {item["MetricName"]: item["Value"] for item in job.get("FinalMetricDataList", ())}
        return {
            "facts": _facts(facts),
            "hyperparameters": _plain(job.get("HyperParameters", {})),
            "metrics": self._console.rest(
                ("series", name, record.get("LastModifiedTime")), lambda: self._series(job, final)
            ),
        }

    def _series(self, job: dict, final: dict[str, float]) -> list[dict]:
        """Each metric of a training job with its values in order, read from the log as the job's own are: CloudWatch
        has of localaws' jobs the last ones."""
        patterns = {}
        for definition in job["AlgorithmSpecification"].get("MetricDefinitions", ()):
            patterns[definition["Name"]] = regex.compile(definition["Regex"])
        found: dict[str, list] = {name: [] for name in patterns}
        deadline = time.monotonic() + SERIES_SECONDS
        events, _ = self._events("training", job["TrainingJobName"], SERIES_LINES, 1) if patterns else ([], 0)
        for at, _, line in events:
            for name, pattern in list(patterns.items()):
                try:
                    if match := pattern.search(line, timeout=max(0.001, deadline - time.monotonic())):
                        found[name].append([at / 1000, float(match[1])])
                except (ValueError, IndexError):
                    continue
                except TimeoutError:
                    del patterns[name]
        return [
            {"name": name, "points": _thinned(found.get(name, [])), "final": final.get(name)}
            for name in {**found, **final}
            if found.get(name) or name in final
        ]

    def _tuning(self, name: str, trials: int, also: str) -> dict:
        job = self._describe("HyperParameterTuningJob", name)
        arn, now = job["HyperParameterTuningJobArn"], time.time()
        objective = job["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        cards = self._console.cards("TrainingJob", self._console.job_card)
        own = sorted((card for card in cards if card["parent"] == arn), key=newest)
        records, points, rows = self._console.store.view("TrainingJob"), [], []
        for number, card in enumerate(own, 1):
            record = records.get(card["name"].lower(), {})
            values = {item["MetricName"]: item["Value"] for item in record.get("FinalMetricDataList", ())}
            value = values.get(objective["MetricName"])
            if value is not None:
                points.append([number, value])
            tuned = ", ".join(f"{key} {text}" for key, text in record.get("TunedHyperParameters", {}).items())
            rows.append(
                {**as_told(card, now), "number": number, "value": value, "what": tuned or card["what"]}
            )
        rows.reverse()
        shown = rows[:trials] + [row for row in rows[trials:] if row["name"] == also]
        best = job.get("BestTrainingJob", {}).get("TrainingJobName")
        limits = job["HyperParameterTuningJobConfig"]["ResourceLimits"]
        facts = [
            ("Best training job", [_link("training", best)] if best else []),
            ("Objective", [f"{objective['Type']} {objective['MetricName']}"]),
            ("Strategy", [job["HyperParameterTuningJobConfig"]["Strategy"]]),
            (
                "Training jobs",
                [
                    f"{len(own)} of at most {limits.get('MaxNumberOfTrainingJobs', '?')}, "
                    f"{limits['MaxParallelTrainingJobs']} at once"
                ],
            ),
        ]
        return {
            "facts": _facts(facts),
            "trials": shown,
            "trials_total": len(rows),
            "objective": {**objective, "points": _thinned(points), "best": best},
        }

    def _transform(self, name: str, *_) -> dict:
        job = self._describe("TransformJob", name)
        facts = [
            ("Model", [_link("model", job["ModelName"])]),
            ("Input", [_object(job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])]),
            ("Output", [_object(job["TransformOutput"]["S3OutputPath"].rstrip("/") + "/")]),
            *_times(job.get("TransformStartTime"), job.get("TransformEndTime")),
        ]
        return {"facts": _facts(facts)}

    def _processing(self, name: str, *_) -> dict:
        job = self._describe("ProcessingJob", name)
        inputs = [one["S3Input"]["S3Uri"] for one in job.get("ProcessingInputs", ())]
        outputs = job.get("ProcessingOutputConfig", {}).get("Outputs", ())
        facts = [
            ("Image", [job["AppSpecification"]["ImageUri"]]),
            ("Input", [_object(uri) for uri in inputs]),
            ("Output", [_object(one["S3Output"]["S3Uri"].rstrip("/") + "/") for one in outputs]),
            ("Exit message", [job["ExitMessage"]] if "ExitMessage" in job else []),
            *_times(job.get("ProcessingStartTime"), job.get("ProcessingEndTime")),
        ]
        return {"facts": _facts(facts)}

    def _model(self, name: str, *_) -> dict:
        record = self._console.store.view("Model").get(name.lower()) or {}
        container = container_definition(self._describe("Model", name))
        source = _artifact(record)
        jobs = [
            job["TrainingJobName"]
            for job in self._console.store.view("TrainingJob").values()
            if source and job["ModelArtifacts"]["S3ModelArtifacts"].rstrip("/") == source
        ]
        configs = {
            config["EndpointConfigName"]
            for config in self._console.store.view("EndpointConfig").values()
            if any(one["ModelName"].lower() == name.lower() for one in config["ProductionVariants"])
        }
        serving = [
            one["EndpointName"]
            for one in self._console.store.view("Endpoint").values()
            if one["EndpointConfigName"] in configs
        ]
        transforms = [
            one["TransformJobName"]
            for one in self._console.store.view("TransformJob").values()
            if one["ModelName"].lower() == name.lower()
        ]
        facts = [
            ("Endpoint", [_link("endpoint", one) for one in serving[:20]]),
            ("Trained by", [_link("training", one) for one in jobs[:20]]),
            ("Batch transforms", [_link("transform", one) for one in transforms[-20:]]),
            ("Image", [_image(container["Image"])]),
            ("Model data", [_object(source)] if source else []),
        ]
        return {"facts": _facts(facts), "environment": _plain(container.get("Environment", {}))}

    def _endpoint(self, name: str, *_) -> dict:
        endpoint = self._describe("Endpoint", name)
        config = self._console.store.view("EndpointConfig").get(endpoint["EndpointConfigName"].lower(), {})
        wanted = {one["VariantName"]: one for one in config.get("ProductionVariants", ())}
        variants = []
        for variant in endpoint.get("ProductionVariants", ()):
            known = wanted.get(variant["VariantName"], {})
            image = next(iter(variant.get("DeployedImages", ())), {})
            variants.append(
                {
                    "name": variant["VariantName"],
                    "model": known.get("ModelName"),
                    "instances": variant.get("CurrentInstanceCount"),
                    "weight": variant.get("CurrentWeight"),
                    "image": image.get("ResolvedImage", ""),
                }
            )
        models = dict.fromkeys(one["ModelName"] for one in wanted.values())
        capture = endpoint.get("DataCaptureConfig") or {}
        queued = endpoint.get("AsyncInferenceConfig")
        facts = [
            ("Model", [_link("model", one) for one in models]),
            *(
                (
                    f"Variant {one['name']}",
                    [f"weight {one['weight']:g}, {_count(one['instances'] or 0, 'instance')}"],
                )
                for one in variants
                if len(variants) > 1
            ),
            ("Image", [_image(one) for one in dict.fromkeys(one["image"] for one in variants) if one]),
            (
                "Captured data",
                [_object(capture["DestinationS3Uri"] + "/")] if capture.get("EnableCapture") else [],
            ),
            (
                "Results of asynchronous requests",
                [_object(queued["OutputConfig"]["S3OutputPath"])] if queued else [],
            ),
        ]
        names = [one["name"] for one in variants]
        return {
            "facts": _facts(facts),
            "variants": names,
            "asynchronous": bool(queued),
            "example": self._example(variants),
            "latencies": self._console.rest(
                ("latencies", name),
                lambda: self._latencies(endpoint["EndpointName"], endpoint["CreationTime"], names),
            ),
        }

    def _latencies(self, name: str, created: float, variants: list[str]) -> list[dict]:
        """Of each variant: when, the mean and the longest time in the container (ms), and how many requests they were."""
        now, told = time.time(), []
        begin = max(created, now - PERIODS_SECONDS) - 1
        period = max(1, round((now - begin) / PERIODS))
        where = {
            "StartTime": datetime.fromtimestamp(begin, UTC),
            "EndTime": datetime.fromtimestamp(now + 2, UTC),
        }

        def ask(dimensions: list[dict], metric: str, *statistics: str) -> list[dict]:
            answer = self.cloudwatch.get_metric_statistics(
                Namespace="AWS/SageMaker",
                MetricName=metric,
                Dimensions=dimensions,
                Period=period,
                Statistics=list(statistics),
                **where,
            )
            return sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])

        for variant in variants:
            dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": variant}]

            found = ask(dimensions, "ModelLatency", "Average", "Maximum", "SampleCount")
            errors = {
                metric: int(
                    sum(point["Sum"] for point in ask(dimensions, f"Invocation{metric}Errors", "Sum"))
                )
                for metric in ("4XX", "5XX")
            }
            points = [
                [
                    point["Timestamp"].timestamp(),
                    point["Average"] / 1000,
                    point["Maximum"] / 1000,
                    point["SampleCount"],
                ]
                for point in found
            ]
            told.append({"variant": variant, "points": points, "errors": errors})
        return told

    def _example(self, variants: list[dict]) -> dict | None:
        """What the algorithm in an endpoint's image can be asked, where it is one of container/."""
        for variant in variants:
            try:
                labels = (
                    self._console.registry.config(variant["image"].rpartition("@")[2])
                    .get("config", {})
                    .get("Labels")
                )
                algorithm = (labels or {}).get("org.opencontainers.image.title", "")
            except (KeyError, OSError, ValueError, AttributeError):
                continue
            if not re.fullmatch(r"\w{1,64}", algorithm):
                continue
            for file in sorted((locate.ROOT / "container" / algorithm).glob("payload.*"))[:1]:
                kind, body = (
                    mimetypes.guess_type(file.name)[0] or "application/octet-stream",
                    file.read_bytes(),
                )
                if len(body) > PICTURE_BYTES:
                    continue
                if kind.startswith("text/") or kind == "application/json":
                    return {"type": kind, "name": file.name, "text": body.decode("utf-8", "replace")}
                return {"type": kind, "name": file.name, "base64": base64.b64encode(body).decode()}
        return None

    def lines(self, kind: str, name: str, pings: bool = False) -> dict:
        """Return the last log lines of a job or an endpoint, oldest first, each after its stream where there are several;
        access-log lines of health checks are left out unless they are asked for, and counted."""
        events, several = self._events(kind, name, LINES_READ, 1 if pings else LOG_PAGES, pings)
        told = [(stream, line) for _, stream, line in events if pings or not PING.search(line)]
        left_out = len(events) - len(told)
        lines = [f"[{stream}] {line}" if several else line for stream, line in told[-LINES:]]
        return {"lines": lines, "pings": left_out}

    def _events(self, kind: str, name: str, size: int, pages: int, pings: bool = True) -> tuple[list, bool]:
        """(time, stream, line) of the last events, and whether they are several streams'."""
        group, prefix = (text.format(name) for text in LOGS[kind])
        where, events = {"logGroupName": group}, []
        try:
            streams = self.logs.describe_log_streams(
                **where, **({"logStreamNamePrefix": prefix} if prefix else {})
            )
            for stream in streams["logStreams"]:
                token, useful = {}, 0
                for _ in range(pages):
                    page = self.logs.get_log_events(
                        **where,
                        **token,
                        logStreamName=stream["logStreamName"],
                        limit=size,
                        startFromHead=False,
                    )
                    short = stream["logStreamName"].removeprefix(prefix)
                    events += [
                        (event["timestamp"], short, event["message"]) for event in reversed(page["events"])
                    ]
                    useful += sum(pings or not PING.search(event["message"]) for event in page["events"])
                    if len(page["events"]) < size or useful >= LINES:
                        break
                    token = {"nextToken": page["nextBackwardToken"]}
        except self.logs.exceptions.ResourceNotFoundException:
            return [], False  # a group appears with its first line
        events.reverse()
        events.sort(key=lambda event: event[0])
        return events, len(streams["logStreams"]) > 1

    def invoke(self, name: str, headers: dict[str, str], body: bytes) -> dict:
        """Ask an endpoint; return status, latency (ms) and body, or the error as the container or AWS has it."""
        began, said = time.perf_counter(), {}
        try:
            status, answered, data = self._control.invoke(name, headers, body)
        except AwsError as error:
            status, code = error.status, error.code
            said = {"code": code, "message": error.message}
            if "OriginalMessage" in error.fields:
                said |= {
                    "container": error.fields["OriginalStatusCode"],
                    "text": error.fields["OriginalMessage"],
                }
        else:
            code, kind = None, answered.get("Content-Type", "")
            said = {
                "type": kind,
                "bytes": len(data),
                "variant": answered.get("x-Amzn-Invoked-Production-Variant"),
            }
            if kind in PICTURES and len(data) <= PICTURE_BYTES:
                said["picture"] = f"data:{kind};base64,{base64.b64encode(data).decode()}"
            else:
                said["text"] = beginning(data[:ANSWER_BYTES], len(data) <= ANSWER_BYTES)
        milliseconds = (time.perf_counter() - began) * 1000
        self._console.calls.add("sagemaker-runtime", "InvokeEndpoint", "owner", "this page", status, code)
        return {"status": status, "milliseconds": milliseconds, **said}


def _link(kind: str, name: str) -> dict:
    return {"text": name, "to": [kind, name]}


def _object(uri: str) -> dict | str:
    try:
        bucket, key = parse_uri(uri)
    except DataError:
        return uri
    return {"text": uri, "to": ["bucket", bucket, key]}


def _image(uri: str, resolved: str | None = None) -> dict | str:
    """An image's link; one of another registry is a text."""
    repository = (resolved or uri).partition("/")[2].partition("@")[0]
    if "/" not in uri:
        return uri
    named = repository.rpartition(":")[0] or repository
    text = re.sub(r"(@sha256:[0-9a-f]{12})[0-9a-f]+$", r"\1…", uri.partition("/")[2])
    return {"text": text, "to": ["image", named]}


def _facts(facts: Iterable[tuple[str, list]]) -> list[list]:
    return [[label, parts] for label, parts in facts if parts]


def _times(started: float | None, ended: float | None) -> list[tuple[str, list]]:
    return [("Started", [{"at": started}] if started else []), ("Ended", [{"at": ended}] if ended else [])]


def _plain(values: dict) -> dict[str, str]:
    return {str(key)[:256]: str(value)[:500] for key, value in list(values.items())[:100]}


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _thinned(points: list) -> list:
    """So many of them as a picture has room for, the last among them."""
    step = len(points) // SERIES_POINTS + 1
    return points[::-1][::step][::-1]


def _artifact(model: dict) -> str:
    """Where a model's data is, as a training job's ModelArtifacts has it."""
    container = container_definition(model) if model else {}
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    return (container.get("ModelDataUrl") or source.get("S3Uri") or "").rstrip("/")
