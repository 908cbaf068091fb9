"""EventBridge and SNS: what happens in SageMaker goes to rules, and from there to queues, topics, log groups and state
machines here, each by its own client; what would go elsewhere is refused by its name.
"""

import json
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import jsonpath_ng.ext
import moto.events.models
from moto.backends import get_backend
from moto.events.utils import EventTemplateParser

from localaws.errors import NotServed
from localaws.services import MEND
from localaws.state import locate

from . import gaps

log = logging.getLogger("localaws")
#: What is told of a kind of resource: the word for it, and the fields that are told as the service spells them.
TOLD = {
    "TrainingJob": "Training Job",
    "TransformJob": "Transform Job",
    "ProcessingJob": "Processing Job",
    "HyperParameterTuningJob": "HyperParameter Tuning Job",
    "Endpoint": "Endpoint",
}
TARGETS = {"sqs", "sns", "logs", "states", "events"}
_outbox = ThreadPoolExecutor(
    1, "events"
)  # in the order in which they happen, and not in the way of who makes them


def changed(region: str, kind: str, detail: dict) -> None:
    """Tell the rules of a region that a resource of SageMaker's is in another status.

    detail: what Describe answers, with its times in seconds; its Tags as a list of Key and Value.
    The event's shape is that of SageMaker's documentation: times in milliseconds, tags as a map, and an endpoint's
    status in capitals (IN_SERVICE).
    """
    regions = get_backend("events")[locate.ACCOUNT]
    if region not in regions or not any(bus.rules for bus in regions[region].event_buses.values()):
        return
    tags = {tag["Key"]: tag["Value"] for tag in detail.get("Tags", ())}
    detail = _in_milliseconds(detail) | {"Tags": tags}
    if kind == "Endpoint":
        words = "".join(f"_{one}" if one.isupper() else one for one in detail["EndpointStatus"])
        detail["EndpointStatus"] = words.strip("_").upper()
    entry = {
        "Source": "aws.sagemaker",
        "DetailType": f"SageMaker {TOLD[kind]} State Change",
        "Detail": json.dumps(detail),
        "Resources": [detail[f"{kind}Arn"]],
        "Time": datetime.now(UTC),
    }
    _outbox.submit(_quietly, lambda: gaps.connect("events", region).put_events(Entries=[entry]))


def _in_milliseconds(value):
    if isinstance(value, dict):
        return {
            name: round(one * 1000)
            if name.endswith("Time") and isinstance(one, float)
            else _in_milliseconds(one)
            for name, one in value.items()
        }
    return [_in_milliseconds(one) for one in value] if isinstance(value, list) else value


def _quietly(deliver) -> None:
    """What cannot be delivered is told in the log, as nobody waits for it."""
    try:
        deliver()
    except Exception:
        log.exception("an event was not delivered")


class Rule(moto.events.models.Rule):
    """moto's rule, which knows neither topics nor state machines, and no Input of a target."""

    def send_to_targets(self, original_event: dict, transform_input: bool = True) -> None:
        """Deliver an event to each target that its pattern lets it come to, a moment later."""
        if self.state == "DISABLED" or not self.event_pattern.matches_event(original_event):
            return
        moment = datetime.fromtimestamp(float(original_event["time"]), UTC)
        event = original_event | {"time": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
        for target in list(self.targets):
            _outbox.submit(_quietly, lambda target=target: _deliver(self.region_name, target, event))


def _deliver(region: str, target: dict, event: dict) -> None:
    arn, body = target["Arn"], _body(target, event)
    _, _, service, where, _, name = arn.split(":", 5)
    client = (
        gaps.connect(service, where or region)
        if service != "states"
        else gaps.connect("stepfunctions", where)
    )
    if service == "sqs":
        queue = client.get_queue_url(QueueName=name)["QueueUrl"]
        group = target.get("SqsParameters", {})
        client.send_message(QueueUrl=queue, MessageBody=body, **group)
    elif service == "sns":
        client.publish(TopicArn=arn, Message=body)
    elif service == "states":
        client.start_execution(stateMachineArn=arn, name=str(uuid.uuid4()), input=body)
    elif service == "events":
        entry = {"Source": event["source"], "DetailType": event["detail-type"], "EventBusName": arn}
        client.put_events(
            Entries=[{**entry, "Detail": json.dumps(event["detail"]), "Resources": event["resources"]}]
        )
    else:
        place = {
            "logGroupName": name.removeprefix("log-group:").removesuffix(":*"),
            "logStreamName": str(uuid.uuid4()),
        }
        client.create_log_stream(**place)
        client.put_log_events(**place, logEvents=[{"timestamp": round(time.time() * 1000), "message": body}])


def _body(target: dict, event: dict) -> str:
    """What a target gets: its Input, a part of the event by InputPath, what InputTransformer makes of it, or all."""
    if "Input" in target:
        return target["Input"]
    told = {name: value for name, value in event.items() if name != "ingestion-time"}
    if path := target.get("InputPath"):
        # A name with a hyphen, such as detail-type, is none to the parser unless it is quoted.
        steps = ["$", *(f"'{step}'" for step in path.split(".")[1:])]
        found = jsonpath_ng.ext.parse(".".join(steps)).find(told)
        return json.dumps(found[0].value if found else {})
    if transformer := target.get("InputTransformer"):
        paths = transformer.get("InputPathsMap", {})
        made = EventTemplateParser.parse(transformer["InputTemplate"], paths, event)
        return made if isinstance(made, str) else json.dumps(made)
    return json.dumps(told)


def check(operation: str, request) -> None:
    """Refuse what would send something off this machine, or would never come. Raises NotServed."""
    if operation in ("Subscribe", "Publish"):
        form = dict(parse_qsl(request.get_data().decode()))
        protocol = form.get("Protocol", "sqs")
        if protocol != "sqs":
            raise NotServed(
                f"Subscribe of sns with the protocol {protocol}", "subscribe a queue, by the protocol sqs"
            )
        if "PhoneNumber" in form:
            raise NotServed("Publish of sns to a PhoneNumber", "publish to a TopicArn with a queue")
    if operation in ("PutRule", "PutTargets"):
        try:
            asked = json.loads(request.get_data())
        except ValueError:
            return  # moto says so
        if asked.get("ScheduleExpression"):
            raise NotServed(
                "PutRule of events with a ScheduleExpression", "give an EventPattern, or start it by cron"
            )
        for target in asked.get("Targets", ()):
            check_target(target.get("Arn", ""))


def check_target(arn: str) -> None:
    """Refuse a target of a rule that is nothing of what runs here. Raises NotServed."""
    if arn.split(":", 3)[2:3] not in [[name] for name in TARGETS] or ":api-destination/" in arn:
        raise NotServed(f"the target {arn} of events", f"give one of {', '.join(sorted(TARGETS))}, or {MEND}")


moto.events.models.Rule = Rule
