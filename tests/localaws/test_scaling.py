"""Application Auto Scaling of an endpoint, end to end: real instances come and go by what CloudWatch knows of the load."""

import datetime
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import tiny
from botocore.config import Config
from botocore.exceptions import ClientError
from test_page import state
from tiny import wait_until

from localaws.errors import AwsError
from localaws.prices import PRICES
from localaws.sagemaker.hosting.scaling import Scaling
from localaws.state.database import Database
from localaws.state.store import Store

ONCE = Config(retries={"total_max_attempts": 1}, max_pool_connections=32)
PREDEFINED = {
    "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
}


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def scaling(account):
    return account.aws.client("application-autoscaling")


@pytest.fixture(scope="module", autouse=True)
def idle(account, scaling):
    """An endpoint of two instances that nobody asks: its 15 minutes pass while another one is asked."""
    endpoint = account.endpoint(account.config(account.model(), count=2))
    scaling.register_scalable_target(**of(endpoint), MinCapacity=1, MaxCapacity=2)
    track(scaling, endpoint, 100)
    return endpoint


@pytest.fixture(scope="module")
def unregistered(account):
    return account.endpoint(account.config(account.model()))


def of(endpoint: str, variant: str = "v0") -> dict:
    """What names a variant's capacity."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{variant}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def track(scaling, endpoint: str, value: float, **fields) -> dict:
    """Have an endpoint track a target; what PutScalingPolicy answers."""
    config = {"TargetValue": value, "ScaleOutCooldown": 0, "ScaleInCooldown": 0, **(fields or PREDEFINED)}
    return scaling.put_scaling_policy(
        **of(endpoint),
        PolicyName="track",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=config,
    )


def counts(account, endpoint: str) -> tuple:
    description = account.sagemaker.describe_endpoint(EndpointName=endpoint)
    (variant,) = description["ProductionVariants"]
    return description["EndpointStatus"], variant["DesiredInstanceCount"], variant["CurrentInstanceCount"]


class Load:
    """Threads that ask an endpoint one thing again and again, and remember who answered and what was lost."""

    def __init__(self, account, endpoint: str):
        self.runtime = account.aws.client("sagemaker-runtime", config=ONCE)
        self.endpoint, self.body, self.pause = endpoint, b"tell", 0.1
        self.pids: list[int] = []
        self.answered = 0
        self.lost: list[Exception] = []
        self._stop = threading.Event()

    def __enter__(self):
        self._pool = ThreadPoolExecutor(8)
        for _ in range(8):
            self._pool.submit(self._run)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._pool.shutdown()

    def _run(self):
        while not self._stop.is_set():
            try:
                answer = self.runtime.invoke_endpoint(EndpointName=self.endpoint, Body=self.body)
                body = answer["Body"].read()
                assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
                self.answered += 1
                if body.startswith(b"{"):
                    self.pids.append(json.loads(body)["pid"])
            except Exception as error:
                self.lost.append(error)
            self._stop.wait(self.pause)


def test_an_endpoint_grows_under_load_and_shrinks_after_it_and_loses_no_request(account, scaling):
    endpoint = account.endpoint(account.config(account.model()))
    scaling.register_scalable_target(**of(endpoint), MinCapacity=1, MaxCapacity=3)
    policy = track(scaling, endpoint, 1000)  # a minute and instance; the load is some thousand
    alarms = [alarm["AlarmName"] for alarm in policy["Alarms"]]
    cloudwatch = account.aws.client("cloudwatch")
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)

    def states():
        found = cloudwatch.describe_alarms(AlarmNames=alarms)["MetricAlarms"]
        return [next(one["StateValue"] for one in found if one["AlarmName"] == alarm) for alarm in alarms]

    with Load(account, endpoint) as load:
        wait_until(lambda: counts(account, endpoint) == ("Updating", 3, 1))
        assert states()[0] == "ALARM"
        wait_until(lambda: counts(account, endpoint) == ("InService", 3, 3))
        load.pids.clear()
        wait_until(lambda: len(set(load.pids)) == 3)
        # Few and slow ones: at every moment some are on the way to an instance that is to go.
        load.body, load.pause = b"sleep 2", 0
        wait_until(lambda: counts(account, endpoint) == ("Updating", 1, 3), 40)
        assert states() == ["OK", "ALARM"]
        wait_until(lambda: counts(account, endpoint) == ("InService", 1, 1))
        answered = load.answered
        wait_until(lambda: load.answered > answered + 8)
    assert not load.lost

    activities = scaling.describe_scaling_activities(**of(endpoint))["ScalingActivities"]
    assert [one["Description"] for one in activities] == [
        "Setting desired instance count to 1.",
        "Setting desired instance count to 3.",
    ]
    assert {one["StatusCode"] for one in activities} == {"Successful"}
    for activity, alarm in zip(activities, reversed(alarms), strict=True):
        assert activity["Cause"] == f"monitor alarm {alarm} in state ALARM triggered policy track"
        assert activity["EndTime"] >= activity["StartTime"]
        assert "lasts 1 s here" in activity["Details"]
    points = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="InvocationsPerInstance",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "v0"}],
        StartTime=began,
        EndTime=datetime.datetime.now(datetime.UTC),
        Period=1,
        Statistics=["Sum"],
    )["Datapoints"]
    by_time = sorted((point["Timestamp"], point["Sum"] * 60) for point in points)
    up, down = (activity["StartTime"] for activity in reversed(activities))
    # The three minutes before it grew were above the target, the fifteen before it shrank below 0.9 of it.
    up, down = (activity.replace(microsecond=0) for activity in (up, down))
    assert min([value for at, value in by_time if at < up][-3:]) > 1000
    assert max([value for at, value in by_time if at < down][-15:]) < 900

    # What it would have cost is that of one instance, then of three, then of one.
    told = state(account.aws)
    (card,) = [card for card in told["endpoints"] if card["name"] == endpoint]
    shrunk, grown = (activity["EndTime"].timestamp() for activity in activities)
    seconds = (grown - card["created"]) + 3 * (shrunk - grown) + (told["now"] - shrunk)
    assert card["cost"] / PRICES["ml.m5.large"] * 3600 == pytest.approx(seconds, rel=0.15)
    assert card["hourly"] == PRICES["ml.m5.large"]

    account.sagemaker.delete_endpoint(EndpointName=endpoint)
    assert endpoint not in str(scaling.describe_scalable_targets(ServiceNamespace="sagemaker"))
    assert not cloudwatch.describe_alarms(AlarmNames=alarms)["MetricAlarms"]


def test_a_variant_that_nobody_asks_shrinks_to_its_minimum(account, scaling, idle):
    wait_until(lambda: counts(account, idle) == ("InService", 1, 1))
    # And grows by its capacities alone.
    scaling.register_scalable_target(**of(idle), MinCapacity=2)
    wait_until(lambda: counts(account, idle) == ("InService", 2, 2))

    def causes():
        return [
            one["Cause"].partition("-")[0]
            for one in scaling.describe_scaling_activities(**of(idle))["ScalingActivities"]
            if one["StatusCode"] == "Successful"
        ]

    wait_until(lambda: causes() == ["minimum capacity was set to 2", "monitor alarm TargetTracking"])


class Known:
    """A CloudWatch that knows `values` of each minute up to now, and keeps the alarms' states."""

    def __init__(self):
        self.values, self.states = [], {}

    def put_metric_alarm(self, AlarmName, **_):
        self.states[AlarmName] = "INSUFFICIENT_DATA"

    def set_alarm_state(self, AlarmName, StateValue, **_):
        self.states[AlarmName] = StateValue

    def delete_alarms(self, AlarmNames):
        for name in AlarmNames:
            del self.states[name]

    def get_metric_statistics(self, EndTime, **_):
        at = range(int(EndTime) - len(self.values), int(EndTime))
        values = zip(at, self.values, strict=True)
        return {
            "Datapoints": [
                {"Timestamp": datetime.datetime.fromtimestamp(second, datetime.UTC), "Sum": value / 60}
                for second, value in values
                if value is not None
            ]
        }


@pytest.fixture
def world(tmp_path):
    """A variant of two instances, between 1 and 9, which is told to have as many as are asked for."""
    store = Store(Database(tmp_path))
    store.insert("EndpointConfig", "c", {"ProductionVariants": [{"VariantName": "v0"}]})
    variant = {"VariantName": "v0", "CurrentInstanceCount": 2}
    endpoint = {"EndpointConfigName": "c", "EndpointStatus": "InService", "ProductionVariants": [variant]}
    store.insert("Endpoint", "e", endpoint)

    def resize(request):
        (desired,) = request["DesiredWeightsAndCapacities"]
        made.asked.append(desired["DesiredInstanceCount"])
        now = [{"VariantName": "v0", "CurrentInstanceCount": desired["DesiredInstanceCount"]}]
        store.update("Endpoint", "e", ProductionVariants=now)

    context = SimpleNamespace(
        store=store, region="us-west-2", cloudwatch=Known(), require=lambda kind, name: store.get(kind, name)
    )
    scaling = Scaling(context, resize)
    made = SimpleNamespace(scaling=scaling, cloudwatch=context.cloudwatch, asked=[])
    scaling.handle("RegisterScalableTarget", of("e") | {"MinCapacity": 1, "MaxCapacity": 9})
    return made


def put(world, name: str, value: float, **fields) -> None:
    config = {"TargetValue": value, **PREDEFINED, **fields}
    kind = "TargetTrackingScaling"
    request = {"PolicyName": name, "PolicyType": kind, f"{kind}PolicyConfiguration": config}
    world.scaling.handle("PutScalingPolicy", of("e") | request)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([200] * 12 + [350, 301, 420], 9),  # ceil(2 * 420 / 100), the latest minute's
        ([200] * 3, 4),
        ([80] * 12 + [200, 300], None),  # two minutes are not three
        ([200, 100, 200], None),  # one was at the target, not above it
        ([None] * 12 + [None, 300, 300], None),  # it is not known for how long
        ([None] * 12 + [300, None, 200], 4),
        ([40] * 14 + [30], 1),  # ceil(2 * 40 / 100)
        ([89] * 15, None),  # ceil(2 * 0.89)
        ([40] * 14, None),  # fourteen minutes are not fifteen
        ([None] * 15, None),
    ],
)
def test_how_many_instances_a_metric_asks_for(world, values, count):
    put(world, "one", 100)
    world.cloudwatch.values = values
    world.scaling.look(time.time() // 1)
    assert world.asked == ([count] if count else [])


def test_the_policy_that_asks_for_more_has_its_way(world):
    put(world, "strict", 100)
    put(world, "lax", 10)
    world.cloudwatch.values = [15] * 15  # 0.15 of one target, 1.5 times the other
    world.scaling.look(time.time() // 1)
    assert world.asked == [3]
    put(world, "lax", 100, DisableScaleIn=True)  # which leaves it to the others to scale in
    world.scaling.look(time.time() // 1)
    assert world.asked == [3, 1]


def test_nothing_is_done_again_within_its_cooldown(world):
    put(world, "one", 100, ScaleOutCooldown=3600, ScaleInCooldown=0)
    world.cloudwatch.values = [150] * 15
    for _ in range(3):
        world.scaling.look(time.time() // 1)
    assert world.asked == [3]
    world.cloudwatch.values = [50] * 15  # the other way is open
    world.scaling.look(time.time() // 1)
    world.scaling.look(time.time() // 1)
    assert world.asked == [3, 2, 1]
    told = world.scaling.handle(
        "DescribeScalingActivities", {"ServiceNamespace": "sagemaker", "MaxResults": 2}
    )
    assert [one["StatusCode"] for one in told["ScalingActivities"]] == ["InProgress", "Successful"]
    assert told["NextToken"] == "2"


def test_what_cannot_be_done_is_told_and_not_tried_again_at_once(world):
    def refuse(request):
        raise AwsError("ResourceLimitExceeded", "There are 20 already.")

    world.scaling._resize = refuse
    world.scaling.handle("RegisterScalableTarget", of("e") | {"MinCapacity": 3})
    world.scaling.look(time.time() // 1)
    world.scaling.look(time.time() // 1)
    told = world.scaling.handle("DescribeScalingActivities", {"ServiceNamespace": "sagemaker"})
    (activity,) = told["ScalingActivities"]
    assert (activity["StatusCode"], activity["Cause"]) == ("Failed", "minimum capacity was set to 3")
    assert activity["StatusMessage"].endswith("There are 20 already.")


def test_what_is_suspended_is_not_done(world):
    put(world, "one", 100)
    world.scaling.handle(
        "RegisterScalableTarget", of("e") | {"SuspendedState": {"DynamicScalingOutSuspended": True}}
    )
    world.cloudwatch.values = [150] * 15
    world.scaling.look(time.time() // 1)
    assert not world.asked
    assert "ALARM" in world.cloudwatch.states.values()


def test_a_variant_that_is_scaled_keeps_its_instance_type(account, idle):
    other = account.config(account.model(), InstanceType="ml.c5.large")
    with pytest.raises(ClientError, match="DeregisterScalableTarget first"):
        account.sagemaker.update_endpoint(EndpointName=idle, EndpointConfigName=other)


def test_a_policy_is_replaced_suspended_and_deleted(account, scaling, idle):
    cloudwatch = account.aws.client("cloudwatch")
    own = {
        "Namespace": "AWS/SageMaker",
        "MetricName": "ModelLatency",
        "Dimensions": [{"Name": "EndpointName", "Value": idle}, {"Name": "VariantName", "Value": "v0"}],
        "Statistic": "Average",
    }
    (before,) = scaling.describe_scaling_policies(**of(idle))["ScalingPolicies"]
    track(scaling, idle, 5000, CustomizedMetricSpecification=own)
    (policy,) = scaling.describe_scaling_policies(**of(idle))["ScalingPolicies"]
    assert policy["PolicyARN"] == before["PolicyARN"]
    found = cloudwatch.describe_alarms(AlarmNames=[one["AlarmName"] for one in policy["Alarms"]])[
        "MetricAlarms"
    ]
    assert {(one["MetricName"], one["Statistic"], one["Period"]) for one in found} == {
        ("ModelLatency", "Average", 60)
    }
    assert sorted((one["EvaluationPeriods"], one["Threshold"]) for one in found) == [(3, 5000), (15, 4500)]
    assert not cloudwatch.describe_alarms(AlarmNames=[one["AlarmName"] for one in before["Alarms"]])[
        "MetricAlarms"
    ]
    scaling.register_scalable_target(**of(idle), SuspendedState={"DynamicScalingInSuspended": True})
    (target,) = scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[of(idle)["ResourceId"]]
    )["ScalableTargets"]
    assert target["SuspendedState"]["DynamicScalingInSuspended"]
    assert target["RoleARN"].endswith("AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint")
    scaling.delete_scaling_policy(**of(idle), PolicyName="track")
    assert not scaling.describe_scaling_policies(**of(idle))["ScalingPolicies"]
    assert not cloudwatch.describe_alarms(AlarmNames=[one["AlarmName"] for one in policy["Alarms"]])[
        "MetricAlarms"
    ]
    scaling.deregister_scalable_target(**of(idle))
    assert idle not in str(scaling.describe_scalable_targets(ServiceNamespace="sagemaker"))


@pytest.mark.parametrize(
    ("operation", "fields", "code", "message"),
    [
        ("register_scalable_target", {"ResourceId": "endpoint/no-such/variant/v0"}, "ValidationException", "Could not find endpoint"),
        ("register_scalable_target", {"ResourceId": "endpoint"}, "ValidationException", "names no variant"),
        ("register_scalable_target", {"ResourceId": "endpoint/{}/variant/v9"}, "ValidationException", 'no variant "v9": expected v0'),
        ("register_scalable_target", {"MinCapacity": 3}, "ValidationException", "nor above MaxCapacity"),
        ("register_scalable_target", {"MinCapacity": 0}, "NotServedByLocalaws", "MinCapacity 0"),
        ("register_scalable_target", {"ScalableDimension": "sagemaker:variant:DesiredProvisionedConcurrency"}, "NotServedByLocalaws", "DesiredProvisionedConcurrency"),
        ("deregister_scalable_target", {}, "ObjectNotFoundException", "No scalable target registered for service namespace: sagemaker"),
        ("delete_scaling_policy", {"PolicyName": "none"}, "ObjectNotFoundException", "policy name: none"),
        ("put_scaling_policy", {"PolicyName": "p", "PolicyType": "StepScaling"}, "NotServedByLocalaws", "StepScaling"),
        ("put_scheduled_action", {"ScheduledActionName": "s", "Schedule": "rate(1 day)"}, "NotServedByLocalaws", "PutScheduledAction of application-autoscaling for sagemaker"),
    ],
)  # fmt: skip
def test_what_application_auto_scaling_refuses(
    account, scaling, unregistered, operation, fields, code, message
):
    asked = of(unregistered) | (
        {"MinCapacity": 1, "MaxCapacity": 2} if operation.startswith("register") else {}
    )
    fields = {
        name: value.format(unregistered) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    with pytest.raises(ClientError, match=message) as refused:
        getattr(scaling, operation)(**asked | fields)
    assert refused.value.response["Error"]["Code"] == code


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ({"TargetValue": 0, **PREDEFINED}, "ValidationException", "above 0"),
        ({"TargetValue": 1}, "ValidationException", "which metric"),
        ({"TargetValue": 1, "CustomizedMetricSpecification": {"MetricName": "m"}}, "ValidationException", "needs Namespace"),
        ({"TargetValue": 1, "CustomizedMetricSpecification": {"Namespace": "AWS/SageMaker", "Statistic": "Average",
          "MetricName": "ApproximateBacklogSizePerInstance"}}, "NotServedByLocalaws", "ApproximateBacklogSizePerInstance"),
        ({"TargetValue": 1, "PredefinedMetricSpecification": {"PredefinedMetricType":
          "SageMakerVariantConcurrentRequestsPerModelHighResolution"}}, "NotServedByLocalaws", "ConcurrentRequests"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_followed_is_refused(scaling, idle, config, code, message):
    scaling.register_scalable_target(**of(idle), MinCapacity=1, MaxCapacity=2)
    with pytest.raises(ClientError, match=message) as refused:
        scaling.put_scaling_policy(
            **of(idle),
            PolicyName="p",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=config,
        )
    assert refused.value.response["Error"]["Code"] == code


def test_a_serverless_variant_has_no_instances_to_scale(account, scaling):
    serverless = {"MemorySizeInMB": 1024, "MaxConcurrency": 1}
    endpoint = account.endpoint(account.config(account.model(), ServerlessConfig=serverless))
    with pytest.raises(ClientError, match="serverless"):
        scaling.register_scalable_target(**of(endpoint), MinCapacity=1, MaxCapacity=2)
    account.sagemaker.delete_endpoint(EndpointName=endpoint)
