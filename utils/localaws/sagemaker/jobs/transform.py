"""Batch transform jobs, executed: each object through the model's `serve`, its answers to S3 as NAME.out."""

import collections
import gzip
import io
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import urllib3
from botocore.exceptions import BotoCoreError

from localaws.engines.logs import LogStream
from localaws.errors import Invalid
from localaws.sagemaker import storage
from localaws.sagemaker.context import Context
from localaws.sagemaker.hosting.instances import Instance, ServeError, container_definition, stop_all

from .jobs import Job, JobError, Jobs, recorded
from .records import Filter, RecordError, decode, encode, join, record_format

LOG_GROUP = "/aws/sagemaker/TransformJobs"
START_SECONDS = 240
INVOCATION_SECONDS = 600
MAX_RETRIES = 3
MAX_PAYLOAD_IN_MB = 6
# What the service describes where a request does not say.
DEFAULTS = {
    "TransformInput": {"CompressionType": "None", "SplitType": "None"},
    "TransformOutput": {"AssembleWith": "None", "KmsKeyId": ""},
    "DataProcessing": {"InputFilter": "$", "OutputFilter": "$", "JoinSource": "None"},
}
MB = 1024 * 1024
READ_BYTES = 1 << 18
STRATEGIES = {
    "MultiRecord": "MULTI_RECORD",
    "SingleRecord": "SINGLE_RECORD",
}  # as the container is told of them


class ObjectError(Exception):
    """An input object that has failed: `side` is ClientError (the data) or AlgorithmError (the container)."""

    def __init__(self, side: str, code: str, message: str = ""):
        super().__init__(message)
        self.side, self.code = side, code


class Transform(Jobs):
    """CreateTransformJob and what follows from it."""

    kind = "TransformJob"

    def create(self, request: dict) -> dict:
        context = self.context
        model = context.require("Model", request["ModelName"])
        request |= {name: fields | request.get(name, {}) for name, fields in DEFAULTS.items()}
        _check(request)
        resources = request["TransformResources"]
        context.check_role(model["ExecutionRoleArn"])
        source = request["TransformInput"]["DataSource"]["S3DataSource"]
        context.check_data(source["S3Uri"], model["ExecutionRoleArn"])
        context.check_bucket(request["TransformOutput"]["S3OutputPath"])
        definition = container_definition(model)
        image = context.pin(definition["Image"], "Requested image not found")
        definition |= {"Image": image, "InstanceType": resources["InstanceType"]}
        record = request | {"Instances": {resources["InstanceType"]: resources["InstanceCount"]}}
        return self.launch(_Job(context, record, definition, model["ExecutionRoleArn"]))

    def finish(self, record: dict, status: str, job: "_Job | None") -> None:
        record["TransformEndTime"] = time.time()


def _check(request: dict) -> None:
    """What the service refuses beyond the shapes."""
    source, output = request["TransformInput"], request["TransformOutput"]
    processing, split, assemble = request["DataProcessing"], source["SplitType"], output["AssembleWith"]
    payload = request.get("MaxPayloadInMB", MAX_PAYLOAD_IN_MB)
    if payload > 100 or payload * max(1, request.get("MaxConcurrentTransforms", 1)) > 100:
        raise Invalid(
            f"MaxPayloadInMB ({payload}) times MaxConcurrentTransforms "
            f"({request.get('MaxConcurrentTransforms', 1)}) must not exceed 100 MB."
        )
    if request.get("BatchStrategy") == "MultiRecord" and split == "None":
        raise Invalid("BatchStrategy MultiRecord needs a SplitType: set TransformInput.SplitType to Line.")
    filters = {name: processing[name] for name in ("InputFilter", "OutputFilter")}
    for name, expression in filters.items():
        try:
            Filter(expression)
        except ValueError as error:
            raise Invalid(f"DataProcessing.{name}: {error}.") from error
    joined = processing["JoinSource"] == "Input"
    input_format = record_format(source.get("ContentType"))
    output_format = record_format(output.get("Accept"))
    readable = "expected text/csv, application/json or application/jsonlines"
    if (joined or filters["InputFilter"] != "$") and input_format is None:
        raise Invalid(f'DataProcessing cannot read ContentType "{source.get("ContentType")}": {readable}.')
    if (joined or filters["OutputFilter"] != "$") and output_format is None:
        raise Invalid(f'DataProcessing cannot read Accept "{output.get("Accept")}": {readable}.')
    if joined and input_format != output_format:
        raise Invalid(
            "JoinSource Input needs the same format in TransformInput.ContentType and TransformOutput.Accept."
        )
    if joined and split != assemble:
        raise Invalid("JoinSource Input needs the same SplitType and AssembleWith: set both to Line.")


class _Job(Job):
    """One transform job."""

    def __init__(self, context: Context, record: dict, definition: dict, role: str):
        super().__init__(context, "TransformJob", record)
        self._definition, self._role = definition, role
        source, output = record["TransformInput"], record["TransformOutput"]
        processing = record["DataProcessing"]
        self._lines = source["SplitType"] == "Line"
        self._assemble_lines = output["AssembleWith"] == "Line"
        self._input_filter = Filter(processing["InputFilter"])
        self._output_filter = Filter(processing["OutputFilter"])
        self._join = processing["JoinSource"] == "Input"
        self._formats = record_format(source.get("ContentType")), record_format(output.get("Accept"))
        client = record.get("ModelClientConfig", {})
        self._instances: list[Instance] = []
        self._timeout = client.get("InvocationsTimeoutInSeconds", INVOCATION_SECONDS)
        self._retries = client.get("InvocationsMaxRetries", MAX_RETRIES)
        headers = {"Content-Type": source.get("ContentType"), "Accept": output.get("Accept")}
        self._headers = {name: value for name, value in headers.items() if value}

    def stop(self) -> None:
        """As of any job; and a request under way, which may take an hour, is not waited for."""
        super().stop()
        for instance in list(self._instances):
            instance.kill()

    def execute(self) -> str:
        self.context.store.update("TransformJob", self.name, TransformStartTime=time.time())
        try:
            failures = self._transform_all()
        except ServeError as error:
            if not self.stop_requested.is_set():
                message = f"AlgorithmError: the model's container did not come to serve: {error}"
                raise JobError(message) from error
        finally:
            stop_all(self._instances)
        if self.stop_requested.is_set():
            return "Stopped"
        if failures:
            side, where = max(failures, key=lambda failure: failure[0] == "ClientError")
            raise JobError(f"{side}: See job logs for more information: {where}")
        return "Completed"

    def _transform_all(self) -> list[tuple[str, str]]:
        """Start the instances, share the objects out among them and transform all; of failures the side to blame, and
        which object it was on which instance."""
        request, context, instances = self.record, self.context, self._instances
        source = request["TransformInput"]["DataSource"]["S3DataSource"]
        objects = storage.list_objects(context.s3, source["S3DataType"], source["S3Uri"])
        output = f"{request['TransformOutput']['S3OutputPath'].rstrip('/')}/x.out"
        context.require_access(self._role, "s3:PutObject", output)
        for bucket, key, _ in objects[:1]:
            context.require_access(self._role, "s3:GetObject", f"s3://{bucket}/{key}")
        environment = {
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(request.get("MaxPayloadInMB", MAX_PAYLOAD_IN_MB)),
            "SAGEMAKER_BATCH_STRATEGY": STRATEGIES[request.get("BatchStrategy", "MultiRecord")],
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(request.get("MaxConcurrentTransforms") or 1),
        }
        environment = self._definition.get("Environment", {}) | request.get("Environment", {}) | environment
        definition = self._definition | {"Environment": environment}
        what, log = f"transform job {self.name}", (LOG_GROUP, f"{self.name}/{{id}}")
        for _ in range(min(request["TransformResources"]["InstanceCount"], len(objects))):
            instances.append(Instance(context, what, definition, self.folder, log))
        for instance in instances:
            instance.wait_healthy(START_SECONDS, self.stop_requested)
        with ThreadPoolExecutor(max(1, len(instances))) as pool:
            shares = [objects[number :: len(instances)] for number in range(len(instances))]
            return [failure for share in pool.map(self._share, instances, shares) for failure in share]

    def _share(self, instance: Instance, objects: list) -> list[tuple[str, str]]:
        """Transform one instance's objects, going on after one that fails; what `_transform_all` tells of failures."""
        settings = self._settings(instance)
        log = LogStream(self.context.logs, LOG_GROUP, f"{self.name}/{instance.id}/data-log")
        for line in recorded(self.record) if instance is self._instances[0] else ():
            log.write(line)
        prefix = "[sagemaker logs]:"
        log.write(
            f"{prefix} MaxConcurrentTransforms={settings['MaxConcurrentTransforms']}, "
            f"MaxPayloadInMB={settings['MaxPayloadInMB']}, BatchStrategy={settings['BatchStrategy']}"
        )
        failures = []
        try:
            with ThreadPoolExecutor(settings["MaxConcurrentTransforms"]) as pool:
                for bucket, key, name in objects:
                    if self.stop_requested.is_set():
                        break
                    try:
                        self._transform(instance, pool, settings, bucket, key, name)
                    except ObjectError as error:
                        failures.append((error.side, f"{bucket}/{key} on instance {instance.id}"))
                        log.write(f"{prefix} {bucket}/{key}: {error.side}: {error.code}")
                        log.write(f"{prefix} {bucket}/{key}: Message: {error}")
        finally:
            log.close()
        return failures

    def _settings(self, instance: Instance) -> dict:
        """What the request says; else what the container says at /execution-parameters; else the defaults."""
        known = {
            "MaxConcurrentTransforms": 1,
            "MaxPayloadInMB": MAX_PAYLOAD_IN_MB,
            "BatchStrategy": "MULTI_RECORD" if self._lines else "SINGLE_RECORD",
        }
        try:
            response = instance.request("GET", "/execution-parameters", timeout=10)
            offered = json.loads(response.data) if response.status == 200 else {}
        except (urllib3.exceptions.HTTPError, ValueError):
            offered = {}  # it is optional
        known |= {name: offered[name] for name in known if isinstance(offered, dict) and name in offered}
        asked = {name: self.record[name] for name in known if name in self.record}
        known |= {name: STRATEGIES.get(value, value) for name, value in asked.items()}
        known["MaxConcurrentTransforms"] = max(1, known["MaxConcurrentTransforms"])
        return known

    def _transform(self, instance, pool, settings, bucket, key, name) -> None:
        """One object: split, filter, send, join, assemble, store. Raises ObjectError.

        Of an object that is split no more is held than the requests under way and one beyond them.
        """
        output, target = storage.parse_uri(self.record["TransformOutput"]["S3OutputPath"])
        target = f"{target.rstrip('/')}/{name}.out".lstrip("/")
        sent: collections.deque[tuple[list[bytes], Future]] = collections.deque()

        def take(file):
            records, answer = sent.popleft()
            part = self._finish(records, answer.result())
            file.write(part.removesuffix(b"\n") + b"\n" if self._assemble_lines else part)

        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                for records, payload in self._batches(self._records(bucket, key, settings), settings):
                    if self.stop_requested.is_set():
                        return
                    sent.append((records, pool.submit(self._invoke, instance, payload, settings)))
                    if len(sent) > settings["MaxConcurrentTransforms"]:
                        take(file)
                while sent:
                    take(file)
            except (RecordError, UnicodeDecodeError) as error:
                raise ObjectError("ClientError", "BadRecord", str(error)) from error
            finally:
                for _, answer in sent:
                    answer.cancel()
            if not self.stop_requested.is_set():
                file.seek(0)
                self.context.s3.upload_fileobj(file, output, target)

    def _records(self, bucket: str, key: str, settings: dict) -> Iterator[bytes]:
        """The lines of an object that are not blank, without their ends, or all of it as one record."""
        limit = settings["MaxPayloadInMB"] * MB
        most = limit + 3 if limit else -1  # enough to tell that a record is too large: it may end with CR LF
        try:
            with storage.open_object(self.context.s3, bucket, key) as body:
                inflated = self.record["TransformInput"].get("CompressionType") == "Gzip"
                source = gzip.GzipFile(fileobj=body) if inflated else io.BufferedReader(body, READ_BYTES)
                if not self._lines:
                    yield source.read(most)
                    return
                while line := source.readline(most):
                    record = line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line
                    if record:
                        yield record
        except (storage.DataError, BotoCoreError, OSError, EOFError, zlib.error) as error:
            raise ObjectError("ClientError", "InvalidInput", str(error)) from error

    def _batches(self, records: Iterable[bytes], settings: dict) -> Iterator[tuple[list[bytes], bytes]]:
        """(the records as they were, the payload to send), each payload within MaxPayloadInMB."""
        limit = settings["MaxPayloadInMB"] * MB or sys.maxsize
        several = self._lines and settings["BatchStrategy"] == "MULTI_RECORD"
        end = b"\n" if self._lines else b""
        originals, payloads, size = [], [], 0
        for record in records:
            payload = self._filtered(record) + end
            if len(payload) > limit:
                raise ObjectError(
                    "ClientError",
                    "RecordTooLarge",
                    f"A record is over MaxPayloadInMB={settings['MaxPayloadInMB']}. Split the data by line, or raise "
                    "MaxPayloadInMB.",
                )
            if payloads and not (several and size + len(payload) <= limit):
                yield originals, b"".join(payloads)
                originals, payloads, size = [], [], 0
            originals.append(record)
            payloads.append(payload)
            size += len(payload)
        if payloads:
            yield originals, b"".join(payloads)

    def _filtered(self, record: bytes) -> bytes:
        if self._input_filter.is_identity:
            return record
        kind = self._formats[0]
        rows = _rows(record, kind)
        return "\n".join(encode(self._input_filter(decode(row, kind)), kind) for row in rows).encode()

    def _finish(self, records: list[bytes], answer: bytes) -> bytes:
        """The answer to one payload, joined to its records and filtered."""
        if not self._join and self._output_filter.is_identity:
            return answer
        kind = self._formats[1]
        outputs = [decode(row, kind) for row in _rows(answer, kind)]
        if self._join:
            sources = [decode(row, kind) for record in records for row in _rows(record, kind)]
            if len(sources) != len(outputs):
                raise RecordError(
                    "Fail to join data: mismatched line count between the input and the output "
                    f"({len(sources)} and {len(outputs)})"
                )
            outputs = [join(*pair, kind) for pair in zip(sources, outputs, strict=True)]
        return "".join(encode(self._output_filter(value), kind) + "\n" for value in outputs).encode()

    def _invoke(self, instance: Instance, payload: bytes, settings: dict) -> bytes:
        for attempt in range(self._retries + 1):
            if self.stop_requested.is_set():
                return b""
            body = payload if settings["MaxPayloadInMB"] else iter([payload])  # 0 asks for a chunked body
            try:
                response = instance.request("POST", "/invocations", body, self._headers, self._timeout)
            except urllib3.exceptions.HTTPError as error:
                message = f"no answer ({type(error).__name__})"
                failure = ObjectError("AlgorithmError", "InternalServerError", message)
            else:
                if 200 <= response.status < 300:
                    return response.data
                message = response.data.decode("utf-8", "replace")
                side = "ClientError" if response.status < 500 else "AlgorithmError"
                failure = ObjectError(side, str(response.status), message)
                if side == "ClientError":
                    raise failure
            self.stop_requested.wait(0.2 * 2**attempt)
        raise failure


def _rows(data: bytes, kind: str) -> list[str]:
    """The records in a body: lines that are not blank; a JSON body that is one document counts as one record."""
    text = data.decode("utf-8-sig")
    if kind == "json":
        with suppress(ValueError):
            json.loads(text)
            return [text]
    return [line for line in text.splitlines() if line.strip()]
