"""What an endpoint leaves behind of each invocation: metrics in CloudWatch and, where asked for, captured data in S3."""

import base64
import collections
import datetime
import json
import random
import sys
import threading
import time
import uuid

from botocore.exceptions import BotoCoreError, ClientError

from localaws.sagemaker import storage
from localaws.sagemaker.context import Context

from .scaling import MINUTE, Scaling

DATA = 1000  # that one call may carry
CSV, JSON = "CsvContentTypes", "JsonContentTypes"


class Monitoring:
    """Collects in memory, publishes from a thread of its own, so that no invocation waits for it.

    What is published has the time at which its minute began, as CloudWatch tells it. Then `scaling` looks at it.
    """

    def __init__(self, context: Context, scaling: Scaling):
        self._context, self._scaling = context, scaling
        self._lock = threading.Lock()
        self._metrics: dict[tuple, collections.Counter] = collections.defaultdict(collections.Counter)
        self._captured: dict[str, list[str]] = collections.defaultdict(list)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitoring", daemon=True)
        self._thread.start()

    def measure(
        self, endpoint: str, variant: str, instances: int, model: float, overhead: float, status: int
    ):
        """Count one invocation: seconds in the container, seconds around it, the container's HTTP status."""
        where = (endpoint, variant)
        with self._lock:
            for name, value, unit in (
                ("Invocations", 1, "None"),
                ("InvocationsPerInstance", 1 / max(1, instances), "None"),
                ("ModelLatency", round(model * 1e6), "Microseconds"),
                ("OverheadLatency", round(overhead * 1e6), "Microseconds"),
                ("Invocation4XXErrors", int(400 <= status < 500), "None"),
                ("Invocation5XXErrors", int(status >= 500 or status == 0), "None"),
            ):
                self._metrics[(*where, name, unit)][value] += 1

    def capture(
        self, endpoint: str, variant: str, config: dict, request: tuple, response: tuple, inference_id
    ) -> None:
        """Keep (content type, body) of a request and its response as DataCaptureConfig asks."""
        if not config.get("EnableCapture") or random.random() * 100 >= config["InitialSamplingPercentage"]:
            return
        modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
        types = config.get("CaptureContentTypeHeader", {})
        data = {}
        for mode, field, (content_type, body) in (
            ("Input", "endpointInput", request),
            ("Output", "endpointOutput", response),
        ):
            if mode in modes or "InputAndOutput" in modes:
                encoding, text = _encode(content_type, body, types)
                data[field] = {
                    "observedContentType": content_type,
                    "mode": mode.upper(),
                    "data": text,
                    "encoding": encoding,
                }
        now = datetime.datetime.now(datetime.UTC)
        event = {"eventId": str(uuid.uuid4()), "inferenceTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        if inference_id:
            event["inferenceId"] = inference_id
        line = json.dumps({"captureData": data, "eventMetadata": event, "eventVersion": "0"})
        prefix = f"{config['DestinationS3Uri'].rstrip('/')}/{endpoint}/{variant}/{now:%Y/%m/%d/%H}"
        with self._lock:
            self._captured[prefix].append(line)

    def close(self) -> None:
        """Publish what is left."""
        self._closing.set()
        self._thread.join()  # without a bound: what it does between two looks needs no network
        self._flush(time.time())

    def _run(self):
        end = time.time() // MINUTE * MINUTE + MINUTE
        while not self._closing.wait(max(0, end - time.time())):
            self._flush(end - MINUTE)
            self._scaling.look(end)
            end = max(end, time.time() // MINUTE * MINUTE) + MINUTE

    def _flush(self, began: float):
        with self._lock:
            metrics, self._metrics = self._metrics, collections.defaultdict(collections.Counter)
            captured, self._captured = self._captured, collections.defaultdict(list)
        for endpoint, variant in self._scaling.above_minimum():  # nobody asked it: its alarm is to know
            metrics.setdefault(
                (endpoint, variant, "InvocationsPerInstance", "None"), collections.Counter([0])
            )
        try:
            data = [_datum(*key, counts, began) for key, counts in metrics.items()]
            for start in range(0, len(data), DATA):  # in one call, so that a reader sees them together
                self._context.cloudwatch.put_metric_data(
                    Namespace="AWS/SageMaker", MetricData=data[start : start + DATA]
                )
            for prefix, lines in captured.items():
                now = datetime.datetime.now(datetime.UTC)
                name = f"{now:%M-%S}-{now.microsecond // 1000:03}-{uuid.uuid4()}.jsonl"
                bucket, key = storage.parse_uri(f"{prefix}/{name}")
                self._context.s3.put_object(Bucket=bucket, Key=key, Body="\n".join(lines) + "\n")
        except (ClientError, BotoCoreError) as error:
            # The endpoint goes on without; the server's log must tell that the record has a hole.
            print(f"localaws: metrics or captured data lost: {error}", file=sys.stderr)


def _datum(endpoint: str, variant: str, name: str, unit: str, counts: collections.Counter, at: float) -> dict:
    """MetricData of one metric, of which `counts` has how often each value came, as statistics: moto keeps, and goes
    through, one datum for all of them, not one for each request."""
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
    statistics = {
        "SampleCount": counts.total(),
        "Sum": sum(value * count for value, count in counts.items()),
        "Minimum": min(counts),
        "Maximum": max(counts),
    }
    return {
        "MetricName": name,
        "Dimensions": dimensions,
        "Timestamp": at,
        "StatisticValues": statistics,
        "Unit": unit,
    }


def _encode(content_type: str, body: bytes, types: dict) -> tuple[str, str]:
    """How AWS writes captured bytes: as text for the types that the configuration names, else as base64."""
    media = content_type.split(";")[0].strip().lower()
    for name, encoding, default in ((CSV, "CSV", ["text/csv"]), (JSON, "JSON", ["application/json"])):
        if media in types.get(name, default):
            try:
                return encoding, body.decode()
            except UnicodeDecodeError:
                break  # it is not what it calls itself
    return "BASE64", base64.b64encode(body).decode()
