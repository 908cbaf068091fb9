"""Endpoints, end to end: a real localaws, boto3 as it comes, a pushed image that serves."""

import base64
import datetime
import json
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import tiny
from botocore.config import Config
from botocore.exceptions import ClientError
from tiny import wait_until


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def endpoint(account):
    """An endpoint that the tests share; those that change one make their own."""
    return account.endpoint(account.config(account.model(word="shared", COLOUR="blue")))


def told(account, endpoint, **arguments) -> dict:
    """What the container says of itself."""
    return json.loads(account.invoke(endpoint, b"tell", **arguments)["Body"])


def code(error) -> tuple[str, int]:
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_an_endpoint_serves_the_model(account, endpoint):
    description = account.sagemaker.describe_endpoint(EndpointName=endpoint)
    (variant,) = description["ProductionVariants"]
    assert (variant["VariantName"], variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (
        "v0",
        1,
        1.0,
    )
    (image,) = variant["DeployedImages"]
    assert image["SpecifiedImage"] == account.image
    assert image["ResolvedImage"].startswith(account.image.removesuffix(":latest") + "@sha256:")
    answer = told(account, endpoint)
    assert answer["word"] == "shared"
    assert answer["env"]["COLOUR"] == "blue"
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    wait_until(lambda: "serving shared" in account.lines(group, "v0/i-"))
    assert "nothing is isolated" in account.lines(group, "v0/i-")[0]


def test_headers_go_both_ways(account, endpoint):
    answer = account.invoke(
        endpoint,
        b"tell",
        ContentType="text/csv",
        Accept="application/json",
        CustomAttributes="trace=7",
        InferenceId="abc",
    )
    assert answer["InvokedProductionVariant"] == "v0"
    assert answer["ContentType"] == "text/plain; charset=utf-8"
    assert answer["CustomAttributes"] == "from=tiny"
    headers = {name.lower(): value for name, value in json.loads(answer["Body"])["headers"].items()}
    assert headers["content-type"] == "text/csv"
    assert headers["accept"] == "application/json"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "trace=7"
    assert headers["x-amzn-sagemaker-inference-id"] == "abc"
    assert "authorization" not in headers


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (503, "server")])
def test_an_error_of_the_container_is_a_model_error(account, endpoint, status, side):
    with pytest.raises(account.runtime.exceptions.ModelError) as failed:
        account.invoke(endpoint, f"status {status}")
    assert code(failed) == ("ModelError", 424)
    response = failed.value.response
    assert response["OriginalStatusCode"] == status
    assert response["OriginalMessage"] == f"as you wish: status {status}"
    group = f"log-group:/aws/sagemaker/Endpoints/{endpoint}"
    assert response["LogStreamArn"] == f"arn:aws:logs:us-west-2:000000000000:{group}"
    assert response["Error"]["Message"].startswith(
        f'Received {side} error ({status}) from primary with message "as you wish: status {status}". See https://'
    )


def test_what_the_runtime_refuses(account, endpoint):
    with pytest.raises(ClientError, match="Endpoint no-such of account 000000000000 not found") as failed:
        account.invoke("no-such")
    assert code(failed) == ("ValidationError", 400)
    with pytest.raises(ClientError, match="Variant other not found") as failed:
        account.invoke(endpoint, TargetVariant="other")
    assert code(failed) == ("ValidationError", 400)
    with pytest.raises(ClientError, match="exceeded 6291456 bytes") as failed:
        account.invoke(endpoint, b"x" * 6_291_457)
    assert code(failed) == ("413", 413)
    assert account.invoke(endpoint, b"1,2\n" * (6_291_456 // 4))["ResponseMetadata"]["HTTPStatusCode"] == 200
    for field in ("TargetModel", "SessionId", "EnableExplanations", "PrefixAwareId"):
        with pytest.raises(ClientError, match="does not serve the header"):
            account.invoke(endpoint, **{field: "a.tar.gz"})


def test_a_container_that_dies_comes_back(account):
    endpoint = account.endpoint(account.config(account.model(), count=2))
    first = told(account, endpoint)["pid"]
    os.kill(first, signal.SIGKILL)

    def both_back():
        try:
            seen.add(told(account, endpoint)["pid"])
        except ClientError as error:  # it was asked in the instant of its death
            assert error.response["Error"]["Code"] == "ModelError"
        return len(seen - {first}) == 2

    seen = set()
    wait_until(both_back)
    # One that dies of a request says so once and is replaced too.
    with pytest.raises(account.runtime.exceptions.ModelError, match="without an answer"):
        account.invoke(endpoint, b"crash")
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    ended = "[localaws] the container ended, exit code 9"
    wait_until(lambda: any(line.startswith(ended) for line in account.lines(group, "v0/")))
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_a_frozen_container_does_not_hold_up_the_other(account):
    endpoint = account.endpoint(account.config(account.model(), count=2))
    pids = set()
    wait_until(lambda: pids.add(told(account, endpoint)["pid"]) or len(pids) == 2)
    frozen = psutil.Process(pids.pop())
    frozen.suspend()
    try:
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(told, account, endpoint) for _ in range(8)]
            other = pids.pop()
            wait_until(lambda: sum(call.done() for call in calls) >= 1)
            assert {call.result()["pid"] for call in calls if call.done()} == {other}
            frozen.resume()
            assert len([call.result() for call in calls]) == 8
    finally:
        frozen.resume()
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_an_endpoint_that_cannot_start_fails_with_the_containers_words(account):
    config = account.config(account.model(EXIT="no licence"))
    name = "never-starts"
    account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    reason = account.settled(name, "Failed")["FailureReason"]
    assert "production variant v0 did not pass the ping health check" in reason
    assert "cannot serve: no licence" in reason
    assert "exit code 4" in reason
    with pytest.raises(ClientError, match="not found"):
        account.invoke(name)
    account.sagemaker.delete_endpoint(EndpointName=name)
    account.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})


def test_delete_leaves_no_process_and_boto3s_waiters_see_it(account):
    name = "comes-and-goes"
    account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=account.config(account.model()))
    account.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    process = psutil.Process(told(account, name)["pid"])
    with pytest.raises(ClientError, match="Cannot create already existing endpoint"):
        account.sagemaker.create_endpoint(
            EndpointName=name, EndpointConfigName=account.config(account.model())
        )
    account.sagemaker.delete_endpoint(EndpointName=name)
    account.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    with pytest.raises(ClientError) as gone:
        account.sagemaker.describe_endpoint(EndpointName=name)
    assert code(gone) == ("ValidationException", 400)
    message = f'Could not find endpoint "arn:aws:sagemaker:us-west-2:000000000000:endpoint/{name}".'
    assert gone.value.response["Error"]["Message"] == message
    process.wait(5)


def test_variants_share_by_weight_and_can_be_named(account):
    one, two = account.model(word="one"), account.model(word="two")
    endpoint = account.endpoint(account.config(one, two, weights=(3, 1)))
    words = [told(account, endpoint)["word"] for _ in range(200)]
    assert 115 <= words.count("one") <= 180  # 150 expected; five standard deviations
    assert told(account, endpoint, TargetVariant="v1")["word"] == "two"

    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=endpoint,
        DesiredWeightsAndCapacities=[
            {"VariantName": "v0", "DesiredWeight": 0},
            {"VariantName": "v1", "DesiredWeight": 1, "DesiredInstanceCount": 2},
        ],
    )
    variants = account.settled(endpoint, "InService")["ProductionVariants"]
    assert [(v["CurrentWeight"], v["CurrentInstanceCount"]) for v in variants] == [(0.0, 1), (1.0, 2)]
    answers = [told(account, endpoint) for _ in range(40)]
    assert {answer["word"] for answer in answers} == {"two"}
    assert len({answer["pid"] for answer in answers}) == 2
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_an_update_loses_no_request(account):
    endpoint = account.endpoint(account.config(account.model(word="old")))
    words, stop = [], threading.Event()

    def call():
        while not stop.is_set():
            words.append(told(account, endpoint)["word"])

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(call) for _ in range(8)]
        slow = pool.submit(account.invoke, endpoint, b"sleep 1.5")
        wait_until(lambda: len(words) > 50)
        config = account.config(account.model(word="new"))
        account.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            account.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
        wait_until(lambda: words[-1] == "new")
        stop.set()
        for caller in callers:
            caller.result()  # raises what a lost request raised
        assert slow.result()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert account.settled(endpoint, "InService")["EndpointConfigName"] == config
    assert told(account, endpoint)["word"] == "new"
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_an_update_that_cannot_start_changes_nothing(account):
    old = account.config(account.model(word="old"))
    endpoint = account.endpoint(old)
    config = account.config(account.model(EXIT="broken"))
    account.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    wait_until(lambda: "FailureReason" in account.sagemaker.describe_endpoint(EndpointName=endpoint))
    description = account.settled(endpoint, "InService")
    assert description["EndpointConfigName"] == old
    assert "cannot serve: broken" in description["FailureReason"]
    assert told(account, endpoint)["word"] == "old"
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_an_alarm_rolls_an_update_back(account):
    old = account.config(account.model(word="old"))
    endpoint, alarm = account.endpoint(old), f"errors-{uuid.uuid4().hex[:8]}"
    new = account.config(account.model(word="new"))
    deployment = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 600}
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
    }
    update = {"EndpointName": endpoint, "EndpointConfigName": new, "DeploymentConfig": deployment}
    with pytest.raises(ClientError, match=f'The CloudWatch alarm "{alarm}" .* does not exist'):
        account.sagemaker.update_endpoint(**update)
    cloudwatch = account.aws.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=alarm,
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        ComparisonOperator="GreaterThanThreshold",
        Statistic="Sum",
        EvaluationPeriods=1,
        Period=60,
        Threshold=0,
    )
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="OK", StateReason="quiet")
    account.sagemaker.update_endpoint(**update)
    wait_until(lambda: told(account, endpoint)["word"] == "new")
    assert account.sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointStatus"] == "Updating"
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a bad model")
    wait_until(lambda: told(account, endpoint)["word"] == "old")
    description = account.settled(endpoint, "InService")
    assert description["EndpointConfigName"] == old
    assert alarm in description["FailureReason"]
    # Without an alarm that goes off the new fleet stays, once the time is over.
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="OK", StateReason="quiet")
    deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["WaitIntervalInSeconds"] = 1
    account.sagemaker.update_endpoint(**update)
    assert account.settled(endpoint, "InService")["EndpointConfigName"] == new
    linear = {"Type": "LINEAR", "WaitIntervalInSeconds": 0}
    deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"] = linear
    with pytest.raises(ClientError, match=r'does not serve DeploymentConfig\..*Type "LINEAR"'):
        account.sagemaker.update_endpoint(**update)
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_a_push_reaches_an_endpoint_only_by_an_update(account):
    name = f"digest-{time.time_ns()}"
    uri = account.push(name)
    endpoint = account.endpoint(account.config(account.model(image=uri)))
    account.push(name, serve=tiny.SERVE.replace("as you wish", "as I wish"))
    os.kill(told(account, endpoint)["pid"], signal.SIGKILL)

    def message():
        try:
            account.invoke(endpoint, b"status 418")
        except ClientError as error:
            return error.response.get("OriginalMessage")

    # The container that takes the dead one's place is of the image that the endpoint was made with.
    wait_until(lambda: message() == "as you wish: status 418")
    config = account.config(account.model(image=uri))
    account.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    account.settled(endpoint, "InService")
    assert message() == "as I wish: status 418"
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_a_model_archive_that_is_none(account):
    name = account.model()
    account.put(f"models/{name}/model.tar.gz", "not a tar")
    account.sagemaker.create_endpoint(EndpointName="not-a-tar", EndpointConfigName=account.config(name))
    reason = account.settled("not-a-tar", "Failed")["FailureReason"]
    assert "Failed to extract model data archive from URL" in reason
    assert "valid tar.gz archive" in reason
    account.sagemaker.delete_endpoint(EndpointName="not-a-tar")


def test_invocations_are_counted_in_cloudwatch(account):
    endpoint = account.endpoint(account.config(account.model()))
    for body in ("1,2\n", "1,2\n", "status 400", "status 500"):
        try:
            account.invoke(endpoint, body)
        except account.runtime.exceptions.ModelError as error:
            assert body.startswith("status"), error
    cloudwatch = account.aws.client("cloudwatch")
    now = datetime.datetime.now(datetime.UTC)

    def statistic(name, which):
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=name,
            Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "v0"}],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(hours=1),
            Period=7200,
            Statistics=[which],
        )["Datapoints"]
        return sum(point[which] for point in points)

    wait_until(lambda: statistic("Invocations", "Sum") == 4)
    assert statistic("InvocationsPerInstance", "Sum") == 4
    assert statistic("Invocation4XXErrors", "Sum") == 1
    assert statistic("Invocation5XXErrors", "Sum") == 1
    assert 50 < statistic("ModelLatency", "Maximum") < 5e6  # microseconds
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_captured_data(account):
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{account.bucket}/captured",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }
    endpoint = account.endpoint(account.config(account.model(), capture=capture))
    described = account.sagemaker.describe_endpoint(EndpointName=endpoint)["DataCaptureConfig"]
    assert (described["CaptureStatus"], described["CurrentSamplingPercentage"]) == ("Started", 100)
    account.invoke(endpoint, b"5.1,3.5\n", ContentType="text/csv", InferenceId="row-1")
    prefix = f"captured/{endpoint}/v0/"
    (key,) = wait_until(
        lambda: [
            item["Key"]
            for item in account.s3.list_objects_v2(Bucket=account.bucket, Prefix=prefix).get("Contents", [])
        ]
    )
    line = json.loads(account.get(f"s3://{account.bucket}/{key}"))
    assert line["captureData"]["endpointInput"] == {
        "observedContentType": "text/csv",
        "mode": "INPUT",
        "data": "5.1,3.5\n",
        "encoding": "CSV",
    }
    assert (
        base64.b64decode(line["captureData"]["endpointOutput"]["data"]) == b"2,1\n"
    )  # it calls itself text/plain
    assert line["eventMetadata"]["inferenceId"] == "row-1"
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_what_creating_refuses(account):
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        account.sagemaker.create_endpoint(EndpointName="x", EndpointConfigName="no-such")
    with pytest.raises(
        ClientError, match='Could not find model "arn:aws:sagemaker:us-west-2:000000000000:model/none"'
    ):
        account.config("none")
    with pytest.raises(ClientError, match=r"Requested image 127\.0\.0\.1:1/none:1 not found"):
        account.model(image="127.0.0.1:1/none:1")
    with pytest.raises(ClientError, match="Could not access model data at s3://none/none"):
        account.sagemaker.create_model(
            ModelName="x",
            ExecutionRoleArn=account.role,
            PrimaryContainer={"Image": account.image, "ModelDataUrl": "s3://none/none"},
        )
    with pytest.raises(ClientError, match="does not serve EnableNetworkIsolation with its process engine"):
        account.sagemaker.create_model(
            ModelName="x",
            ExecutionRoleArn=account.role,
            PrimaryContainer={"Image": account.image},
            EnableNetworkIsolation=True,
        )


def test_after_a_kill_what_was_in_service_comes_back_and_what_ran_has_failed(fresh, tmp_path):
    fresh.up()
    account = tiny.account(fresh, tmp_path)
    endpoint = account.endpoint(account.config(account.model(word="survivor")))
    request = account.training_request(sleep="600")
    account.sagemaker.create_training_job(**request)
    job = {"TrainingJobName": request["TrainingJobName"]}
    retried = account.training_request(sleep="2") | {"RetryStrategy": {"MaximumRetryAttempts": 1}}
    account.sagemaker.create_training_job(**retried)
    wait_until(lambda: account.sagemaker.describe_training_job(**job)["SecondaryStatus"] == "Training")
    container = psutil.Process(told(account, endpoint)["pid"])
    os.kill(json.loads((fresh.home / "server.json").read_text())["pid"], signal.SIGKILL)

    fresh.up()
    account.__post_init__()  # the port may be another
    ended = account.sagemaker.describe_training_job(**job)
    assert ended["TrainingJobStatus"] == "Failed"
    assert ended["FailureReason"].startswith("InternalServerError: localaws was stopped while this job ran")
    again = account.finish(retried["TrainingJobName"])
    assert again["TrainingJobStatus"] == "Completed", again.get("FailureReason")
    statuses = [entry["Status"] for entry in again["SecondaryStatusTransitions"]]
    assert statuses[-5:] == ["Restarting", "Downloading", "Training", "Uploading", "Completed"]
    account.settled(endpoint, "InService")
    assert told(account, endpoint)["word"] == "survivor"
    # A machine whose first process does not reap keeps it as a zombie.
    wait_until(lambda: not container.is_running() or container.status() == psutil.STATUS_ZOMBIE)
    fresh.command("down")
    assert not [p for p in psutil.process_iter(["environ"]) if str(fresh.home) in str(p.info["environ"])]


def test_what_an_endpoint_is_to_become_and_why_it_did_not_survive_a_kill(fresh, tmp_path):
    fresh.up()
    account = tiny.account(fresh, tmp_path)
    old, broken = account.config(account.model()), account.config(account.model(EXIT="broken"))
    updated, grown, failed = (account.endpoint(old) for _ in range(3))
    account.sagemaker.update_endpoint(EndpointName=failed, EndpointConfigName=broken)
    wait_until(lambda: "FailureReason" in account.sagemaker.describe_endpoint(EndpointName=failed))
    new = account.config(account.model(word="new"))
    account.sagemaker.update_endpoint(EndpointName=updated, EndpointConfigName=new)
    account.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=grown,
        DesiredWeightsAndCapacities=[{"VariantName": "v0", "DesiredInstanceCount": 2, "DesiredWeight": 5}],
    )
    os.kill(json.loads((fresh.home / "server.json").read_text())["pid"], signal.SIGKILL)

    fresh.up()
    account.__post_init__()  # the port may be another
    assert account.settled(updated, "InService")["EndpointConfigName"] == new
    assert told(account, updated)["word"] == "new"
    (variant,) = account.settled(grown, "InService")["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (2, 5)
    description = account.settled(failed, "InService")
    assert description["EndpointConfigName"] == old
    assert "cannot serve: broken" in description["FailureReason"]
    # The next update that comes about leaves no reason behind.
    account.sagemaker.update_endpoint(EndpointName=failed, EndpointConfigName=new)
    assert "FailureReason" not in account.settled(failed, "InService")


SERVERLESS = {"MemorySizeInMB": 2048, "MaxConcurrency": 2}


def test_a_serverless_endpoint_throttles_beyond_its_concurrency(account, tmp_path):
    model = account.model(word="serverless")
    endpoint = account.endpoint(account.config(model, ServerlessConfig=SERVERLESS))
    (variant,) = account.sagemaker.describe_endpoint(EndpointName=endpoint)["ProductionVariants"]
    assert variant["CurrentServerlessConfig"] == SERVERLESS
    assert variant["CurrentInstanceCount"] == 0
    assert told(account, endpoint)["word"] == "serverless"
    runtime = account.aws.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(account.invoke, endpoint, f"hold {tmp_path}") for _ in range(2)]
        wait_until(lambda: tiny.held(tmp_path) == 2)
        with pytest.raises(ClientError, match="MaxConcurrency=2") as throttled:
            runtime.invoke_endpoint(EndpointName=endpoint, Body=b"1,2\n")
        (tmp_path / "go").touch()
        assert code(throttled) == ("ThrottlingException", 400)
        assert all(call.result()["ResponseMetadata"]["HTTPStatusCode"] == 200 for call in slow)
    with pytest.raises(ClientError, match="exceeded 4194304 bytes") as failed:
        account.invoke(endpoint, b"x" * 4_194_305)
    assert code(failed) == ("413", 413)
    with pytest.raises(ClientError, match="serverless: leave DesiredInstanceCount out"):
        account.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=endpoint,
            DesiredWeightsAndCapacities=[{"VariantName": "v0", "DesiredInstanceCount": 2}],
        )
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ServerlessConfig": SERVERLESS | {"MemorySizeInMB": 2000}}, "MemorySizeInMB must be 1024, 2048"),
        ({"ServerlessConfig": SERVERLESS | {"MaxConcurrency": 201}}, "less than or equal to 200"),
        (
            {"ServerlessConfig": SERVERLESS | {"ProvisionedConcurrency": 1}},
            "does not serve ProductionVariants.Serv",
        ),
        ({"ServerlessConfig": SERVERLESS, "InstanceType": "ml.m5.large"}, "leave InstanceType out"),
    ],
)
def test_what_a_serverless_variant_refuses(account, change, message):
    with pytest.raises(ClientError) as refused:
        account.config(account.model(), **change)
    assert message in refused.value.response["Error"]["Message"]


def test_serverless_features_that_aws_does_not_combine(account):
    model = account.model()
    with pytest.raises(ClientError, match="must be the endpoint's only variant"):
        account.config(model, model, ServerlessConfig=SERVERLESS)
    queued = {"OutputConfig": {"S3OutputPath": f"s3://{account.bucket}/x"}}
    with pytest.raises(ClientError, match="AsyncInferenceConfig is not supported"):
        account.config(model, ServerlessConfig=SERVERLESS, queued=queued)
