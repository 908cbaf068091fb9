"""Application Auto Scaling of endpoints' variants: scalable targets, target tracking, and what they have brought about.

As on AWS a policy has two alarms in CloudWatch: one goes off when the metric was above the target for 3 minutes, the
other when it was below 0.9 of it for 15, and the instances become ceil(instances * metric / target). Nobody waits so
long here: see `CLOCK`. What is not in `SERVED` is refused by name.
"""

import math
import re
import time
import uuid
from collections.abc import Callable

from localaws.errors import AwsError, Invalid, NotServed
from localaws.sagemaker.context import Context, internal_error
from localaws.sagemaker.validation import parse_served, prune, refuse_unserved, validate
from localaws.state import locate

MINUTE = 1  # seconds that stand here for a minute of CloudWatch's and of Application Auto Scaling's
CLOCK = (
    f"A minute of metrics, alarms and cooldowns lasts {MINUTE} s here; sums are told as of 60 s, so that a target value "
    "means what it does on AWS."
)
ZERO = (
    "Of a variant that nobody asks zeros are published until it has shrunk to its MinCapacity. Activities are kept as "
    "long as their target."
)
SERVICE, NAMESPACE = "application-autoscaling", "sagemaker"
TARGET_PREFIX = "AnyScaleFrontendService"  # in X-Amz-Target
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
KIND = "ScalableTarget"  # in the store, with its policies and activities
RESOURCE = re.compile(r"endpoint/([^/]+)/variant/([^/]+)")
HIGH_MINUTES, LOW_MINUTES, LOW_SHARE = 3, 15, 0.9
COOLDOWN = 300  # of a variant, where a policy does not say
PAGE = 50
ACTIVITIES = 100  # that are kept of a target
# What is published of a variant, in the namespace AWS/SageMaker.
METRICS = ("Invocations", "InvocationsPerInstance", "ModelLatency", "OverheadLatency")
METRICS += ("Invocation4XXErrors", "Invocation5XXErrors")

_TARGET = f"ServiceNamespace={NAMESPACE} ResourceId ScalableDimension={DIMENSION} "
_TRACKING = "TargetTrackingScalingPolicyConfiguration"
SERVED = {
    operation: parse_served(paths)
    for operation, paths in {
        "RegisterScalableTarget": _TARGET + "MinCapacity MaxCapacity RoleARN SuspendedState",
        "DeregisterScalableTarget": _TARGET,
        "DescribeScalableTargets": _TARGET.replace("ResourceId", "ResourceIds") + "MaxResults NextToken",
        "PutScalingPolicy": _TARGET
        + "PolicyName PolicyType=TargetTrackingScaling "
        + f"{_TRACKING}.TargetValue {_TRACKING}.ScaleOutCooldown {_TRACKING}.ScaleInCooldown "
        + f"{_TRACKING}.DisableScaleIn "
        + f"{_TRACKING}.PredefinedMetricSpecification.PredefinedMetricType=SageMakerVariantInvocationsPerInstance "
        + " ".join(
            f"{_TRACKING}.CustomizedMetricSpecification.{name}"
            for name in ("MetricName", "Namespace", "Dimensions", "Statistic", "Unit")
        ),
        "DeleteScalingPolicy": _TARGET + "PolicyName",
        "DescribeScalingPolicies": _TARGET + "PolicyNames MaxResults NextToken",
        "DescribeScalingActivities": _TARGET + "MaxResults NextToken",
    }.items()
}


class Scaling:
    """The scalable targets of a region. `resize` is UpdateEndpointWeightsAndCapacities, by which they are scaled."""

    def __init__(self, context: Context, resize: Callable[[dict], dict]):
        self._context, self._store, self._resize = context, context.store, resize
        self._states: dict[str, str] = {}  # of the alarms, since the start
        self.ready = not self._store.view(KIND)  # what an earlier server knew waits for its endpoints
        self._operations = {
            "RegisterScalableTarget": self._register,
            "DeregisterScalableTarget": self._deregister,
            "DescribeScalableTargets": self._describe_targets,
            "PutScalingPolicy": self._put_policy,
            "DeleteScalingPolicy": self._delete_policy,
            "DescribeScalingPolicies": self._describe_policies,
            "DescribeScalingActivities": self._describe_activities,
        }

    def handle(self, operation: str, request: dict) -> dict:
        """Answer one API call of the service namespace sagemaker. Times are epoch seconds. Raises AwsError."""
        if operation not in SERVED:
            raise NotServed(f"{operation} of {SERVICE} for {NAMESPACE}", "run it against AWS")
        validate(operation, request, SERVICE)
        request = {name: value for name, value in request.items() if value is not None}
        refuse_unserved(operation, request, SERVED[operation])
        return prune(operation, self._operations[operation](request), SERVICE)

    def _register(self, request: dict) -> dict:
        resource = request["ResourceId"]
        self._check_variant(resource)

        def change(record):
            record |= {
                name: request[name] for name in ("MinCapacity", "MaxCapacity", "RoleARN") if name in request
            }
            record["SuspendedState"] |= request.get("SuspendedState", {})
            _check_capacities(record)

        if not self._store.update(KIND, resource, change):
            region, account = self._context.region, locate.ACCOUNT
            roles = f"arn:aws:iam::{account}:role/aws-service-role/{NAMESPACE}.{SERVICE}.amazonaws.com"
            made = {
                **_named(resource),
                "RoleARN": f"{roles}/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint",
                "ScalableTargetARN": f"arn:aws:{SERVICE}:{region}:{account}:scalable-target/{uuid.uuid4().hex}",
                "CreationTime": time.time(),
                "SuspendedState": dict.fromkeys(
                    ("DynamicScalingInSuspended", "DynamicScalingOutSuspended", "ScheduledScalingSuspended"),
                    False,
                ),
                "Policies": {},
                "Activities": [],
            }
            change(made)
            self._store.insert(KIND, resource, made)
        return self._require(resource)

    def _check_variant(self, resource: str) -> None:
        """The variant that a resource ID names must exist, and have instances."""
        found = RESOURCE.fullmatch(resource)
        if not found:
            raise Invalid(f'"{resource}" names no variant: expected endpoint/ENDPOINT/variant/VARIANT.')
        endpoint = self._context.require("Endpoint", found[1])
        config = self._store.get("EndpointConfig", endpoint["EndpointConfigName"]) or endpoint
        known = {
            variant["VariantName"]: variant
            for variant in endpoint.get("ProductionVariants") or config["ProductionVariants"]
        }
        if found[2] not in known:
            raise Invalid(f'Endpoint "{found[1]}" has no variant "{found[2]}": expected {", ".join(known)}.')
        if {"ServerlessConfig", "CurrentServerlessConfig"} & {
            name for name, value in known[found[2]].items() if value
        }:
            raise Invalid(f'Variant "{found[2]}" is serverless: it has no DesiredInstanceCount to scale.')

    def check_update(self, endpoint: dict, config: dict) -> None:
        """An update may not change the instance type of a variant that is scaled. Raises Invalid, as AWS does."""
        types = {
            variant["VariantName"]: variant.get("InstanceType") for variant in config["ProductionVariants"]
        }
        for variant in endpoint.get("ProductionVariants", ()):
            name = variant["VariantName"]
            resource = f"endpoint/{endpoint['EndpointName']}/variant/{name}"
            if self._store.get(KIND, resource) and types.get(name) != variant.get("InstanceType"):
                raise Invalid(
                    f'Variant "{name}" is scaled automatically, and the update would change its instance type: call '
                    "DeregisterScalableTarget first, register it again afterwards."
                )

    def _deregister(self, request: dict) -> dict:
        self._forget(self._require(request["ResourceId"]))
        return {}

    def forget(self, endpoint: str) -> None:
        """Deregister the variants of an endpoint that is deleted, as AWS does."""
        for target in self._store.list(KIND):
            if RESOURCE.fullmatch(target["ResourceId"])[1].lower() == endpoint.lower():
                self._forget(target)

    def _forget(self, target: dict) -> None:
        self._store.delete(KIND, target["ResourceId"])
        for policy in target["Policies"].values():
            self._delete_alarms(policy)

    def _put_policy(self, request: dict) -> dict:
        resource, name, region = request["ResourceId"], request["PolicyName"], self._context.region
        target = self._require(resource)
        old = target["Policies"].get(name)
        if "PolicyType" not in request and not old:
            raise Invalid("PolicyType is required for a new policy: TargetTrackingScaling.")
        config = request.get(_TRACKING) or (old and old[_TRACKING])
        if not config:
            raise Invalid(f"{_TRACKING} is required: TargetValue and a metric's specification.")
        metric = _metric(resource, config)
        if old:
            self._delete_alarms(old)
        arn = f"arn:aws:autoscaling:{region}:{locate.ACCOUNT}:scalingPolicy:{uuid.uuid4()}:resource/{NAMESPACE}/{resource}"
        policy = old or {
            **_named(resource),
            "PolicyName": name,
            "PolicyType": "TargetTrackingScaling",
            "PolicyARN": f"{arn}:policyName/{name}",
            "CreationTime": time.time(),
        }
        policy |= {_TRACKING: config, "Alarms": []}
        value = config["TargetValue"]
        for side, minutes, operator, threshold in (
            ("High", HIGH_MINUTES, "GreaterThanThreshold", value),
            ("Low", LOW_MINUTES, "LessThanThreshold", value * LOW_SHARE),
        ):
            alarm = f"TargetTracking-{resource}-Alarm{side}-{uuid.uuid4()}"
            self._context.cloudwatch.put_metric_alarm(
                AlarmName=alarm,
                AlarmDescription=f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy['PolicyARN']}.",
                AlarmActions=[policy["PolicyARN"]],
                Period=60,
                EvaluationPeriods=minutes,
                ComparisonOperator=operator,
                Threshold=threshold,
                **metric,
            )
            arn = f"arn:aws:cloudwatch:{region}:{locate.ACCOUNT}:alarm:{alarm}"
            policy["Alarms"].append({"AlarmName": alarm, "AlarmARN": arn})
        self._store.update(KIND, resource, lambda record: record["Policies"].update({name: policy}))
        return policy

    def _delete_policy(self, request: dict) -> dict:
        resource, name = request["ResourceId"], request["PolicyName"]
        record = self._store.get(KIND, resource)
        if not record or name not in record["Policies"]:
            raise AwsError(
                "ObjectNotFoundException",
                f"No scaling policy found for {_spelt(resource)}, policy name: {name}",
            )
        self._store.update(KIND, resource, lambda record: record["Policies"].pop(name, None))
        self._delete_alarms(record["Policies"][name])
        return {}

    def _delete_alarms(self, policy: dict) -> None:
        names = [alarm["AlarmName"] for alarm in policy["Alarms"]]
        self._context.cloudwatch.delete_alarms(AlarmNames=names)

    def _require(self, resource: str) -> dict:
        if target := self._store.get(KIND, resource):
            return target
        raise AwsError("ObjectNotFoundException", f"No scalable target registered for {_spelt(resource)}")

    def _described(self, request: dict) -> list[dict]:
        wanted = request.get("ResourceIds") or [request[name] for name in ("ResourceId",) if name in request]
        return self._store.list(KIND, lambda target: not wanted or target["ResourceId"] in wanted)

    def _describe_targets(self, request: dict) -> dict:
        return _page("ScalableTargets", self._described(request), request)

    def _describe_policies(self, request: dict) -> dict:
        names = request.get("PolicyNames")
        every = [policy for target in self._described(request) for policy in target["Policies"].values()]
        return _page(
            "ScalingPolicies", [one for one in every if not names or one["PolicyName"] in names], request
        )

    def _describe_activities(self, request: dict) -> dict:
        every = [activity for target in self._described(request) for activity in target["Activities"]]
        every.sort(key=lambda activity: activity["StartTime"], reverse=True)
        return _page("ScalingActivities", every, request)

    def above_minimum(self) -> list[tuple[str, str]]:
        """The endpoints and variants that a policy would scale in: SageMaker publishes a zero of one that nobody asks."""
        found = []
        for target in self._store.view(KIND).values() if self.ready else ():
            endpoint, variant = RESOURCE.fullmatch(target["ResourceId"]).groups()
            tracking = [policy[_TRACKING] for policy in target["Policies"].values()]
            if not any(
                "PredefinedMetricSpecification" in one and not one.get("DisableScaleIn") for one in tracking
            ):
                continue  # zeros would be published for ever
            if (self._instances(endpoint, variant) or 0) > target["MinCapacity"]:
                found.append((endpoint, variant))
        return found

    def _instances(self, endpoint: str, variant: str) -> int | None:
        """How many instances a variant has; None for one that is not in service, and cannot be scaled."""
        record = self._store.view("Endpoint").get(endpoint.lower(), {})
        if record.get("EndpointStatus") != "InService":
            return None
        counts = {one["VariantName"]: one["CurrentInstanceCount"] for one in record["ProductionVariants"]}
        return counts.get(variant)

    def look(self, end: float) -> None:
        """Set the alarms' states by the minutes up to `end` (epoch seconds), and scale as they ask."""
        for target in self._store.list(KIND) if self.ready else ():
            try:
                self._look_at(target, end)
            except Exception as error:  # of one target: the others, and the metrics, go on
                internal_error(error)

    def _look_at(self, target: dict, end: float) -> None:
        now = self._instances(*RESOURCE.fullmatch(target["ResourceId"]).groups())
        votes = [
            vote for policy in target["Policies"].values() if (vote := self._vote(policy, now or 0, end))
        ]
        if now is None:
            return
        target = self._settle(target, now)
        low, high, suspended = target["MinCapacity"], target["MaxCapacity"], target["SuspendedState"]
        # The policy that asks for most has its way.
        wanted, cause, cooldowns = max(votes, key=lambda vote: vote[0], default=(now, "", {}))
        wanted = min(max(wanted, low), high)
        for name, bound, is_beyond in (("minimum", low, now < low), ("maximum", high, now > high)):
            if is_beyond and wanted == bound:
                cause, cooldowns = f"{name} capacity was set to {bound}", {}
        way = "Out" if wanted > now else "In"
        if wanted == now or suspended[f"DynamicScaling{way}Suspended"]:
            return
        last = target["Activities"][-1] if target["Activities"] else None
        cooldown = cooldowns.get(f"Scale{way}Cooldown", 0)
        if last and last["StatusCode"] == "Failed":
            cooldown = max(cooldown, COOLDOWN)
        if not last or last["Way"] != way or time.time() >= last["EndTime"] + cooldown * MINUTE / 60:
            self._scale(target, wanted, way, cause)

    def _vote(self, policy: dict, now: int, end: float) -> tuple[int, str, dict] | None:
        """How many instances a policy asks for, why, and its cooldowns; None for one that has no say."""
        config = policy[_TRACKING]
        value, points = config["TargetValue"], self._points(_metric(policy["ResourceId"], config), end)
        high, low = (alarm["AlarmName"] for alarm in policy["Alarms"])
        cooldowns = {name: config.get(name, COOLDOWN) for name in ("ScaleOutCooldown", "ScaleInCooldown")}
        told = "monitor alarm {} in state ALARM triggered policy " + policy["PolicyName"]
        is_high = self._judge(high, points[-HIGH_MINUTES:], "above", value, lambda point: point > value)
        floor = value * LOW_SHARE
        is_low = self._judge(low, points, "below", floor, lambda point: point < floor)
        if is_high:
            latest = next(point for point in reversed(points) if point is not None)
            return max(now, math.ceil(now * latest / value)), told.format(high), cooldowns
        if config.get("DisableScaleIn"):
            return None
        if is_low:  # by the busiest of the minutes: what is taken away too early is missed
            busiest = max(point for point in points if point is not None)
            return min(now, math.ceil(now * busiest / value)), told.format(low), cooldowns
        return now, "", cooldowns

    def _points(self, metric: dict, end: float) -> list[float | None]:
        """The metric's value in each of the last minutes before `end`, the oldest first; None where it has none."""
        metric = dict(metric)
        statistic = metric.pop("Statistic")
        found = self._context.cloudwatch.get_metric_statistics(
            **metric, Statistics=[statistic], StartTime=end - LOW_MINUTES * MINUTE, EndTime=end, Period=MINUTE
        )["Datapoints"]
        values = {int(point["Timestamp"].timestamp() // MINUTE): point[statistic] for point in found}
        minutes = range(int(end // MINUTE) - LOW_MINUTES, int(end // MINUTE))
        of_60_s = 60 / MINUTE if statistic in ("Sum", "SampleCount") else 1
        return [values[minute] * of_60_s if minute in values else None for minute in minutes]

    def _judge(self, alarm: str, points: list, side: str, threshold: float, breaches: Callable) -> bool:
        """Set an alarm's state by its minutes, of which missing ones tell nothing; whether it is in ALARM."""
        known = [point for point in points if point is not None]
        before = self._states.get(alarm)
        if not known:
            state = "INSUFFICIENT_DATA"
        elif not all(map(breaches, known)):
            state = "OK"
        else:  # not before its time
            state = "ALARM" if points[0] is not None else before or "INSUFFICIENT_DATA"
        if state != before:
            self._states[alarm] = state
            told = ", ".join(f"{point:g}" for point in known)
            reason = (
                f"Of the last {len(points)} minutes {len(known)} have a datapoint [{told}]; one {side} {threshold:g} "
                f"breaches. {CLOCK}"
            )
            self._context.cloudwatch.set_alarm_state(AlarmName=alarm, StateValue=state, StateReason=reason)
        return state == "ALARM"

    def _settle(self, target: dict, now: int) -> dict:
        """The target with the end of its last activity told, now that its endpoint is in service."""

        def change(record):
            last = record["Activities"][-1]
            done = now == last["Wanted"]
            last |= {
                "StatusCode": "Successful" if done else "Failed",
                "StatusMessage": f"The instance count is {now}, as desired."
                if done
                else f"The instance count is {now}: DescribeEndpoint and the endpoint's log tell why.",
                "EndTime": time.time(),
            }

        if target["Activities"] and target["Activities"][-1]["StatusCode"] == "InProgress":
            return self._store.update(KIND, target["ResourceId"], change) or target
        return target

    def _scale(self, target: dict, wanted: int, way: str, cause: str) -> None:
        resource = target["ResourceId"]
        endpoint, variant = RESOURCE.fullmatch(resource).groups()
        activity = {
            **_named(resource),
            "ActivityId": str(uuid.uuid4()),
            "Description": f"Setting desired instance count to {wanted}.",
            "Cause": cause,
            "StartTime": time.time(),
            "StatusCode": "InProgress",
            "StatusMessage": f"Desired instance count is set to {wanted}; waiting for the endpoint to be InService.",
            "Details": CLOCK,
            # Not told.
            "Wanted": wanted,
            "Way": way,
        }
        desired = [{"VariantName": variant, "DesiredInstanceCount": wanted}]
        try:
            self._resize({"EndpointName": endpoint, "DesiredWeightsAndCapacities": desired})
        except AwsError as error:
            message = f"Desired instance count could not be set to {wanted}: {error.message}"
            activity |= {"StatusCode": "Failed", "StatusMessage": message, "EndTime": time.time()}

        def change(record):
            record["Activities"] = [*record["Activities"], activity][-ACTIVITIES:]

        self._store.update(KIND, resource, change)


def _named(resource: str) -> dict:
    return {"ServiceNamespace": NAMESPACE, "ResourceId": resource, "ScalableDimension": DIMENSION}


def _spelt(resource: str) -> str:
    return f"service namespace: {NAMESPACE}, resource ID: {resource}, scalable dimension: {DIMENSION}"


def _check_capacities(target: dict) -> None:
    for name in ("MinCapacity", "MaxCapacity"):
        if name not in target:
            raise Invalid(f"{name} is required for a new scalable target.")
    low, high = target["MinCapacity"], target["MaxCapacity"]
    if low == 0:
        raise NotServed(
            "MinCapacity 0 of RegisterScalableTarget", "give 1 or more: a variant here keeps an instance"
        )
    if low < 0 or high < low:
        raise Invalid(f"MinCapacity ({low}) must not be negative, nor above MaxCapacity ({high}).")


def _metric(resource: str, config: dict) -> dict:
    """What CloudWatch knows the metric of a policy by: Namespace, MetricName, Dimensions, Statistic, Unit."""
    predefined, own = (config.get(f"{kind}MetricSpecification") for kind in ("Predefined", "Customized"))
    if bool(predefined) == bool(own):
        raise Invalid(
            "Give one of PredefinedMetricSpecification and CustomizedMetricSpecification, to tell which metric to track."
        )
    if config["TargetValue"] <= 0:
        raise Invalid(f"TargetValue must be above 0, got {config['TargetValue']:g}.")
    endpoint, variant = RESOURCE.fullmatch(resource).groups()
    if predefined:
        return {
            "Namespace": "AWS/SageMaker",
            "MetricName": "InvocationsPerInstance",
            "Dimensions": [
                {"Name": "EndpointName", "Value": endpoint},
                {"Name": "VariantName", "Value": variant},
            ],
            "Statistic": "Sum",
        }
    for name in ("Namespace", "MetricName", "Statistic"):
        if name not in own:
            raise Invalid(f"CustomizedMetricSpecification needs {name}.")
    if own["Namespace"].startswith("AWS/SageMaker") and own["MetricName"] not in METRICS:
        raise NotServed(
            f"{own['MetricName']} of {own['Namespace']} as a metric", f"published are {', '.join(METRICS)}"
        )
    return own


def _page(key: str, items: list[dict], request: dict) -> dict:
    """One page; its token is the number of the item that the next one begins with."""
    token = request.get("NextToken", "0")
    if not token.isdecimal():
        raise AwsError("InvalidNextTokenException", f"NextToken {token!r} is not one that was answered.")
    begin, end = int(token), int(token) + request.get("MaxResults", PAGE)
    return {key: items[begin:end], "NextToken": str(end) if end < len(items) else None}
