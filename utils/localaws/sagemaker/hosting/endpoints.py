"""Endpoints: fleets of serving instances, invoked through weighted variants, replaced without a lost request."""

import json
import math
import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import urllib3

from localaws.errors import AwsError, Invalid, NotServed
from localaws.sagemaker.context import Context, internal_error
from localaws.sagemaker.validation import service_model, validate
from localaws.state import locate

from . import asynchronous
from .instances import Instance, ServeError, container_definition, stop_all
from .monitoring import Monitoring
from .scaling import Scaling

LOG_GROUP = "/aws/sagemaker/Endpoints/{}"
START_SECONDS = 240  # to the first 200 of /ping, unless ContainerStartupHealthCheckTimeoutInSeconds says else
INVOCATION_SECONDS = 60
ALARM_SECONDS = 0.5  # between two looks at the alarms of a deployment
PAYLOAD_BYTES = 6_291_456
SERVERLESS_PAYLOAD_BYTES = 4 << 20
ORIGINAL_MESSAGE_CHARACTERS = 2048
# In an endpoint's record, while it is updated: what it is to become, as `_take_up` passes it on.
WANTED = "Wanted"
PINNED = "ResolvedImage"  # in a variant's configuration: the image to use instead of the model's
# Request headers that reach the container, by the members of InvokeEndpointAsync that stand for them.
FORWARDED = {
    "ContentType": "content-type",
    "Accept": "accept",
    "CustomAttributes": "x-amzn-sagemaker-custom-attributes",
    "InferenceId": "x-amzn-sagemaker-inference-id",
}
# Those of InvokeEndpoint for what localaws has not: several models or containers, sessions, explanations.
NOT_SERVED = (
    *("target-model", "target-container-hostname", "inference-component", "session-id"),
    *("enable-explanations", "prefix-aware-id"),
)


class Variant:
    """The instances of one production variant. The weight counts relative to the other variants'."""

    def __init__(self, context: Context, endpoint: str, config: dict, limit: float):
        self.name = config["VariantName"]
        self.serverless = config.get("ServerlessConfig")
        # Requests to an instance at once. A serverless variant has one, which takes them all.
        self.limit = self.serverless["MaxConcurrency"] if self.serverless else limit
        self.payload = SERVERLESS_PAYLOAD_BYTES if self.serverless else PAYLOAD_BYTES
        self.weight = config.get("InitialVariantWeight", 1.0)
        self.config = config
        self.instances: list[Instance] = []
        self._created = time.time()
        self._context, self._endpoint = context, endpoint
        self._least = config.get("RoutingConfig", {}).get("RoutingStrategy") == "LEAST_OUTSTANDING_REQUESTS"
        self._definition = container_definition(context.require("Model", config["ModelName"]))
        problem = f"The image of the model for production variant {self.name} does not exist"
        self._resolved = config.get(PINNED) or context.pin(self._definition["Image"], problem)
        self._role = context.require("Model", config["ModelName"])["ExecutionRoleArn"]

    def launch(self, count: int) -> None:
        """Start `count` more instances; raises ServeError (all of them stopped again) unless all become healthy."""
        what = f"endpoint {self._endpoint} variant {self.name}"
        # What comes back with localaws has been fetched.
        if PINNED not in self.config and not self._context.may_pull(self._role, self._resolved):
            image = self._definition["Image"]
            raise ServeError(
                f"The role '{self._role}' does not have BatchGetImage permission for the image: '{image}'."
            )
        instance_type = self.config.get("InstanceType", "")
        own = {"Image": self._resolved, "InstanceType": instance_type, "Serverless": self.serverless}
        folder = self._context.home / "jobs" / "endpoints"
        log = (LOG_GROUP.format(self._endpoint), f"{self.name}/{{id}}")
        started = [Instance(self._context, what, self._definition | own, folder, log) for _ in range(count)]
        seconds = self.config.get("ContainerStartupHealthCheckTimeoutInSeconds", START_SECONDS)
        deadline = time.monotonic() + seconds
        try:
            for instance in started:
                instance.wait_healthy(max(0, deadline - time.monotonic()))
        except ServeError as error:
            for instance in started:
                instance.kill()
                instance.stop()
            raise ServeError(
                f"The primary container for production variant {self.name} did not pass the ping health check. "
                f"Please check CloudWatch logs for this endpoint. {error}"
            ) from error
        self.instances = self.instances + started

    def summary(self) -> dict:
        """As DescribeEndpoint shows it."""
        image = {
            "SpecifiedImage": self._definition["Image"],
            "ResolvedImage": self._resolved,
            "ResolutionTime": self._created,
        }
        capacity = 0 if self.serverless else len(self.instances)
        return {
            "VariantName": self.name,
            "DeployedImages": [image],
            "CurrentWeight": self.weight,
            "DesiredWeight": self.weight,
            "CurrentInstanceCount": capacity,
            "DesiredInstanceCount": capacity,
            "CurrentServerlessConfig": self.serverless,
            "InstanceType": self.config.get("InstanceType"),  # not in AWS's answer
        }

    def claim(self) -> Instance | None:
        """An instance with room, entered for one request: a random one, or the least busy if RoutingConfig says so."""
        candidates = random.sample(self.instances, len(self.instances))
        if self._least:
            candidates.sort(key=lambda instance: instance.in_flight)
        return next((instance for instance in candidates if instance.enter(self.limit)), None)


class Fleet:
    """What an endpoint configuration describes, running."""

    def __init__(self, context: Context, endpoint: str, config: dict):
        self.config = config
        self.capture = config.get("DataCaptureConfig", {})
        self.queued = config.get("AsyncInferenceConfig")
        limit = math.inf
        if self.queued:
            client = self.queued.get("ClientConfig", {})
            limit = client.get("MaxConcurrentInvocationsPerInstance", asynchronous.CONCURRENT)
        self.variants = {
            item["VariantName"]: Variant(context, endpoint, item, limit)
            for item in config["ProductionVariants"]
        }

    def start(self) -> None:
        """Start all variants at once. Raises ServeError, nothing left running, if one does not come up."""
        counts = [variant.config.get("InitialInstanceCount", 1) for variant in self.variants.values()]
        try:
            with ThreadPoolExecutor(
                len(counts)
            ) as pool:  # which waits for all of them, whatever comes of one
                list(pool.map(Variant.launch, self.variants.values(), counts))
        except Exception:
            self.stop()
            raise

    def choose(self, target: str | None) -> Variant:
        """The variant that a request goes to: the one it names, else by weight."""
        if target is not None:
            if target not in self.variants:
                raise AwsError(
                    "ValidationError", f"Variant {target} not found: expected {', '.join(self.variants)}."
                )
            return self.variants[target]
        variants = list(self.variants.values())
        weights = [variant.weight for variant in variants]
        return random.choices(variants, weights if any(weights) else None)[0]

    def summary(self) -> dict:
        """What an endpoint's record says of it."""
        capture, enabled = None, self.capture.get("EnableCapture", False)
        if self.capture:
            capture = {
                "EnableCapture": enabled,
                "CaptureStatus": "Started" if enabled else "Stopped",
                "CurrentSamplingPercentage": self.capture["InitialSamplingPercentage"],
                "DestinationS3Uri": self.capture["DestinationS3Uri"],
                "KmsKeyId": "",
            }
        counts = {name: len(variant.instances) for name, variant in self.variants.items()}
        return {
            "EndpointConfigName": self.config["EndpointConfigName"],
            "ProductionVariants": [variant.summary() for variant in self.variants.values()],
            "Instances": _instances(self.config, counts),
            "AsyncInferenceConfig": self.queued,
            "DataCaptureConfig": capture,
        }

    def stop(self, drain: float = 0) -> None:
        stop_all([instance for variant in self.variants.values() for instance in variant.instances], drain)


class Hosting:
    """CreateEndpoint and what follows from it. Deployments run on threads of their own."""

    def __init__(self, context: Context):
        self.context = context
        self._fleets: dict[str, Fleet] = {}
        self._queues: dict[str, asynchronous.Queue] = {}
        self._queues_lock = threading.Lock()
        self.scaling = Scaling(context, self.update_weights)
        self._monitoring = Monitoring(context, self.scaling)

    def create(self, request: dict) -> dict:
        config = self.context.require("EndpointConfig", request["EndpointConfigName"])
        record = request | {"EndpointStatus": "Creating", "Instances": _instances(config)}
        with self.context.placing:
            self.context.check_limit("Endpoint", record["Instances"])
            answer = self.context.insert("Endpoint", record)
        self._spawn(self._create, request["EndpointName"], config)
        return answer

    def update(self, request: dict) -> dict:
        """UpdateEndpoint: the new fleet starts beside the old one, takes its place, then the old one is drained.

        With a DeploymentConfig there is a time in which an alarm brings the old one back.
        """
        name, deployment = request["EndpointName"], request.get("DeploymentConfig", {})
        for alarm in _alarms(deployment):
            if not self._alarm_state(alarm):
                raise Invalid(f'The CloudWatch alarm "{alarm}" of AutoRollbackConfiguration does not exist.')
        config = self.context.require("EndpointConfig", request["EndpointConfigName"])
        self.scaling.check_update(self.context.require("Endpoint", name), config)
        self.context.check_limit("Endpoint", _instances(config))  # both fleets are there for a while

        def wanted(record):
            kept = _with_state(config, record) if request.get("RetainAllVariantProperties") else config
            return {"config": kept, "deployment": deployment}

        record = self._begin(name, "Updating", wanted=wanted)
        self._spawn(self._take_up, name)
        return {"EndpointArn": record["EndpointArn"]}

    def update_weights(self, request: dict) -> dict:
        """UpdateEndpointWeightsAndCapacities: new weights, instances added or drained."""
        name, desired = request["EndpointName"], request["DesiredWeightsAndCapacities"]
        record = self.context.require("Endpoint", name)
        known = {variant["VariantName"]: variant for variant in record.get("ProductionVariants", ())}
        for item in desired:
            variant = known.get(item["VariantName"])
            if variant is None:
                raise Invalid(
                    f"The variant name(s) {item['VariantName']} is/are not present within endpoint configuration "
                    f'"{record["EndpointConfigName"]}": expected {", ".join(sorted(known))}.'
                )
            if variant.get("CurrentServerlessConfig") and "DesiredInstanceCount" in item:
                raise Invalid(
                    f'Production variant "{item["VariantName"]}" is serverless: leave DesiredInstanceCount out.'
                )
            growth = item.get("DesiredInstanceCount", 0) - variant["CurrentInstanceCount"]
            if growth > 0:
                self.context.check_limit("Endpoint", {variant["InstanceType"]: growth})

        def wanted(record):
            for item in desired:
                variant = next(
                    v for v in record["ProductionVariants"] if v["VariantName"] == item["VariantName"]
                )
                variant |= {name: value for name, value in item.items() if name != "VariantName"}
            return {"desired": desired}

        self._begin(name, "Updating", wanted=wanted)
        self._spawn(self._take_up, name)
        return {"EndpointArn": record["EndpointArn"]}

    def delete(self, request: dict) -> dict:
        name = request["EndpointName"]
        self._begin(name, "Deleting", ("InService", "Failed"))
        self.scaling.forget(name)
        self._spawn(self._delete, name, self._fleets.pop(name.lower(), None))
        return {}

    def recover(self) -> None:
        """Bring the endpoints that were in service back up; what was half done is failed or finished."""
        shutil.rmtree(self.context.home / "jobs" / "endpoints", ignore_errors=True)
        for record in self.context.store.list("Endpoint"):
            name, status = record["EndpointName"], record["EndpointStatus"]
            if status == "Deleting":
                self.context.store.delete("Endpoint", name)
            elif status == "Creating":
                lost = "InternalServerError: localaws was stopped while this endpoint was created. Delete it, create it again."
                self._failed(name, "Failed", lost)
            elif status != "Failed":
                status = "Updating" if WANTED in record else "SystemUpdating"
                self.context.store.update("Endpoint", name, EndpointStatus=status)
                self._spawn(self._restart, name, record)
        requests = self.context.store.list(asynchronous.KIND)
        for record in sorted(requests, key=lambda request: request["CreationTime"]):
            if self.context.store.get("Endpoint", record["Endpoint"]):
                self._queue(record["Endpoint"]).take_up(record["Id"])
            else:
                asynchronous.abandon(self.context, record)
        self.scaling.ready = True

    def _begin(
        self, name: str, status: str, allowed: tuple = ("InService",), wanted: Callable | None = None
    ) -> dict:
        """Enter a status that only one deployment may hold, with what it wants on disk before it is acknowledged."""

        def change(record):
            if record["EndpointStatus"] not in allowed:
                state = "failed" if record["EndpointStatus"] == "Failed" else "in-progress"
                raise Invalid(f'Cannot update {state} endpoint "{record["EndpointArn"]}".')
            record["EndpointStatus"] = status
            if wanted:
                record[WANTED] = wanted(record)
                record.pop("FailureReason", None)

        record = self.context.store.update("Endpoint", name, change)
        if record is None:
            raise self.context.not_found("Endpoint", name)
        return record

    def _spawn(self, work, name: str, *arguments):
        def guarded():
            try:
                work(name, *arguments)
            except ServeError as error:
                # What served before still does.
                self._failed(name, "InService" if name.lower() in self._fleets else "Failed", str(error))
            except Exception as error:
                self._failed(name, "Failed", internal_error(error))

        threading.Thread(target=guarded, name=f"endpoint-{name}", daemon=True).start()

    def _create(self, name: str, config: dict):
        self._fleets[name.lower()] = self._start(name, config)
        if WANTED in self.context.require("Endpoint", name):  # localaws was stopped before it was so
            self._take_up(name)
        else:
            self._in_service(name)

    def _take_up(self, name: str):
        """Bring an endpoint that serves to what its record says that it is to become."""
        wanted = self.context.require("Endpoint", name)[WANTED]
        work = self._rescale if "desired" in wanted else self._update
        work(name, **wanted)

    def _update(self, name: str, config: dict, deployment: dict):
        fleet = self._start(name, config)
        old, self._fleets[name.lower()] = self._fleets[name.lower()], fleet
        if alarm := self._bake(deployment):
            reason = f"The CloudWatch alarm {alarm} went off: rolled back."
            self._failed(name, "RollingBack", reason)
            self._fleets[name.lower()] = old
            fleet.stop(drain=INVOCATION_SECONDS)
            raise ServeError(reason)
        old.stop(drain=INVOCATION_SECONDS)
        self._in_service(name)

    def _bake(self, deployment: dict) -> str | None:
        """Watch the alarms while all requests go to the new fleet; the one that goes off, or None."""
        policy = deployment.get("BlueGreenUpdatePolicy", {})
        seconds = policy.get("TrafficRoutingConfiguration", {}).get("WaitIntervalInSeconds", 0)
        end = time.monotonic() + seconds + policy.get("TerminationWaitInSeconds", 0)
        while True:
            for alarm in _alarms(deployment):
                if self._alarm_state(alarm) == "ALARM":
                    return alarm
            if time.monotonic() >= end or self.context.engine.closed:
                return None
            time.sleep(min(ALARM_SECONDS, max(0, end - time.monotonic())))

    def _alarm_state(self, name: str) -> str | None:
        alarms = self.context.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return alarms[0]["StateValue"] if alarms else None

    def _restart(self, name: str, record: dict):
        config = self.context.store.get("EndpointConfig", record["EndpointConfigName"])
        if config is None:
            raise LookupError(f'endpoint configuration "{record["EndpointConfigName"]}" was deleted')
        self._create(name, _with_state(config, record, same_images=True))

    def _start(self, name: str, config: dict) -> Fleet:
        try:
            fleet = Fleet(self.context, name, config)
        except AwsError as error:  # its model was deleted since
            raise ServeError(error.message) from error
        fleet.start()
        return fleet

    def _rescale(self, name: str, desired: list[dict]):
        fleet = self._fleets[name.lower()]
        longest = asynchronous.LONGEST_SECONDS if fleet.queued else INVOCATION_SECONDS
        for item in desired:
            variant = fleet.variants[item["VariantName"]]
            count = item.get("DesiredInstanceCount", len(variant.instances))
            if count > len(variant.instances):
                variant.launch(count - len(variant.instances))
            surplus, variant.instances = variant.instances[count:], variant.instances[:count]
            stop_all(surplus, drain=longest)
            variant.weight = item.get("DesiredWeight", variant.weight)
        self._in_service(name)

    def _delete(self, name: str, fleet: Fleet | None):
        if queue := self._queues.pop(name.lower(), None):
            queue.close()
        if fleet:
            fleet.stop(drain=INVOCATION_SECONDS)
        self.context.store.delete("Endpoint", name)

    def _failed(self, name: str, status: str, reason: str):
        def change(record):
            record |= {"EndpointStatus": status, "FailureReason": reason[:1024]}
            record.pop(WANTED, None)
            if status == "InService":
                record |= self._fleets[name.lower()].summary()

        if not self.context.engine.closed:  # else it is as it was, for the next start
            self.context.store.update("Endpoint", name, change)

    def _in_service(self, name: str):
        def change(record):
            _count_up(record)
            record |= {"EndpointStatus": "InService"} | self._fleets[name.lower()].summary()
            record.pop(WANTED, None)

        self.context.store.update("Endpoint", name, change)

    def invoke(self, name: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        """InvokeEndpoint: (status, headers, body) of the answer. Raises AwsError, ModelError among them."""
        started = time.perf_counter()
        _refuse_headers(headers, *NOT_SERVED)
        if (fleet := self._fleet(name)).queued:
            raise AwsError(
                "ValidationError",
                f"Endpoint {name} of account {locate.ACCOUNT} has an AsyncInferenceConfig: use InvokeEndpointAsync.",
            )
        variant = fleet.choose(headers.get("x-amzn-sagemaker-target-variant"))
        if len(body) > variant.payload:
            raise AwsError("413", f"HTTP content length exceeded {variant.payload} bytes.", 413)
        claimed = self._claim(name, variant.name)
        return self._exchange(name, claimed, headers, body, INVOCATION_SECONDS, started)

    def invoke_async(self, name: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        """InvokeEndpointAsync: (202, headers, body) once the request is on disk. Raises AwsError."""
        _refuse_headers(headers, "s3outputpathextension", "filename")
        if body:
            raise NotServed("Body of InvokeEndpointAsync", "put the input into S3 and give InputLocation")
        request = {"EndpointName": name}
        operation = service_model("sagemaker-runtime").operation_model("InvokeEndpointAsync")
        for member, shape in operation.input_shape.members.items():
            if text := headers.get(shape.serialization.get("name", "").lower()):
                number = shape.type_name == "integer" and text.lstrip("-").isdecimal()
                request[member] = int(text) if number else text
        validate(operation.name, request, "sagemaker-runtime")
        if "InputLocation" not in request:
            raise AwsError("ValidationError", "InputLocation is required: the S3 URI of the request's input.")
        fleet = self._fleet(name)
        if not fleet.queued:
            raise AwsError(
                "ValidationError",
                f"Endpoint {name} of account {locate.ACCOUNT} has no AsyncInferenceConfig: use InvokeEndpoint.",
            )
        forwarded = {header: request[member] for member, header in FORWARDED.items() if member in request}
        record = self._queue(name).add(fleet.queued, request, forwarded)
        answer = {
            f"X-Amzn-SageMaker-{member}": record[member]
            for member in ("OutputLocation", "FailureLocation")
            if member in record
        }
        return 202, answer, json.dumps({"InferenceId": record["InferenceId"]}).encode()

    def _queue(self, name: str) -> asynchronous.Queue:
        """The queue of an asynchronous endpoint."""
        with self._queues_lock:
            if name.lower() not in self._queues:
                made = asynchronous.Queue(
                    self.context, name, LOG_GROUP.format(name), self._look, self._exchange
                )
                self._queues[name.lower()] = made
            return self._queues[name.lower()]

    def _look(self, name: str, target: str | None = None) -> tuple[Fleet, Variant, Instance] | None:
        """An instance with room for one more request, entered for it, if there is one now."""
        fleet = self._fleets.get(name.lower())
        variant = fleet and fleet.choose(target)
        instance = variant and variant.claim()
        return instance and (fleet, variant, instance)

    def _exchange(
        self,
        name: str,
        claimed: tuple[Fleet, Variant, Instance],
        headers: dict,
        body: bytes,
        timeout: float,
        started: float | None = None,
    ) -> tuple[int, dict, bytes]:
        """One request to the instance that was claimed for it, and what it leaves behind. Raises AwsError."""
        fleet, variant, instance = claimed
        forwarded = {key: value for key, value in headers.items() if key in FORWARDED.values()}
        sent, status = time.perf_counter(), 0
        try:
            response = instance.request("POST", "/invocations", body, forwarded, timeout)
            status = response.status
        except urllib3.exceptions.ReadTimeoutError:
            raise self._model_error(
                name,
                0,
                "Your invocation timed out while waiting for a response from container primary. Review the latency "
                "metrics for each container in Amazon CloudWatch, resolve the issue, and try again.",
            ) from None
        except urllib3.exceptions.HTTPError as error:
            message = f"The container ended the connection without an answer ({type(error).__name__})."
            raise self._model_error(name, 0, message) from error
        finally:
            instance.leave()
            model = time.perf_counter() - sent
            overhead = sent - (started or sent)
            self._monitoring.measure(name, variant.name, len(variant.instances), model, overhead, status)
        if not 200 <= status < 300:
            raise self._model_error(name, status, response.data.decode("utf-8", "replace"))
        content_type = response.headers.get("Content-Type", "application/octet-stream")
        inference_id = headers.get("x-amzn-sagemaker-inference-id")
        sent_type = headers.get("content-type", "application/octet-stream")
        self._monitoring.capture(
            name, variant.name, fleet.capture, (sent_type, body), (content_type, response.data), inference_id
        )
        answer = {"Content-Type": content_type, "x-Amzn-Invoked-Production-Variant": variant.name}
        if attributes := response.headers.get("X-Amzn-SageMaker-Custom-Attributes"):
            answer["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        if inference_id:
            answer["X-Amzn-SageMaker-Inference-Id"] = inference_id
        return status, answer, response.data

    def close(self) -> None:
        """Publish what is left to publish; the engine, which is closed next, ends the instances."""
        self._monitoring.close()

    def _fleet(self, name: str) -> Fleet:
        if fleet := self._fleets.get(name.lower()):
            return fleet
        message = f"Endpoint {name} of account {locate.ACCOUNT} not found."
        raise AwsError("ValidationError", message)

    def _claim(self, name: str, target: str) -> tuple[Fleet, Variant, Instance]:
        """An instance to send one request to. A fleet that is replaced between two looks is looked up again."""
        for _ in range(3):
            if claimed := self._look(name, target):
                return claimed
        variant = self._fleet(name).choose(target)
        if variant.serverless and any(instance.healthy for instance in variant.instances):
            raise AwsError(
                "ThrottlingException",
                f"Rate exceeded: the endpoint answers MaxConcurrency={variant.limit} requests at once. Try again.",
            )
        raise AwsError(
            "ServiceUnavailable",
            f"No container of variant {variant.name} is healthy at the moment. Try again.",
            503,
        )

    def _model_error(self, name: str, status: int, message: str) -> AwsError:
        group, region = LOG_GROUP.format(name), self.context.region
        side = "client" if 400 <= status < 500 else "server"
        message = message[:ORIGINAL_MESSAGE_CHARACTERS]
        return AwsError(
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{message}". See '
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={group} "
            f"in account {locate.ACCOUNT} for more information.",
            424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{region}:{locate.ACCOUNT}:log-group:{group}",
        )


def _instances(config: dict, counts: dict[str, int] | None = None) -> dict[str, int]:
    """How many instances of each type an endpoint's variants have: `counts` by variant, else what they begin with."""
    instances: dict[str, int] = {}
    for variant in config["ProductionVariants"]:
        if kind := variant.get("InstanceType"):
            count = (counts or {}).get(variant["VariantName"], variant["InitialInstanceCount"])
            instances[kind] = instances.get(kind, 0) + count
    return instances


def _count_up(record: dict) -> None:
    """Keep, before the instances become others, for how many seconds there was one of each type: it is what costs."""
    now, spent = time.time(), record.setdefault("InstanceSeconds", {})
    seconds = now - record.get("CountedAt", record["CreationTime"])
    for kind, count in record.get("Instances", {}).items():
        spent[kind] = spent.get(kind, 0) + count * seconds
    record["CountedAt"] = now


def _alarms(deployment: dict) -> list[str]:
    return [alarm["AlarmName"] for alarm in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", ())]


def _refuse_headers(headers: dict, *fields: str) -> None:
    for field in fields:
        if f"x-amzn-sagemaker-{field}" in headers:
            raise NotServed(f"the header X-Amzn-SageMaker-{field.title()}", "leave it out")


def _with_state(config: dict, record: dict, same_images: bool = False) -> dict:
    """The configuration with the weights and instance counts (and images) that the endpoint had come to."""
    state = {variant["VariantName"]: variant for variant in record.get("ProductionVariants", ())}
    variants = []
    for variant in config["ProductionVariants"]:
        if now := state.get(variant["VariantName"]):
            variant = variant | {"InitialVariantWeight": now["DesiredWeight"]}
            if "ServerlessConfig" not in variant and now["DesiredInstanceCount"]:
                variant["InitialInstanceCount"] = now["DesiredInstanceCount"]
            if same_images:
                variant[PINNED] = now["DeployedImages"][0]["ResolvedImage"]
        variants.append(variant)
    return config | {"ProductionVariants": variants}
