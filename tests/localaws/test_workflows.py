"""Step Functions, EventBridge and SNS, each by boto3's own client: state machines that run SageMaker's jobs here."""

import json
import uuid

import pytest
import tiny
from botocore.exceptions import ClientError
from tiny import wait_until

SYNC = "arn:aws:states:::sagemaker:{}.sync"


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def states(localaws):
    return localaws.client("stepfunctions")


def machine(account, states, tasks: dict, **more) -> str:
    """A state machine of tasks, one after another; its ARN."""
    names = list(tasks)
    chain = {
        name: {"Type": "Task", **task, **({"Next": after} if after else {"End": True})}
        for (name, task), after in zip(tasks.items(), [*names[1:], None], strict=True)
    }
    definition = json.dumps({"StartAt": names[0], "States": chain | more})
    name = f"machine-{uuid.uuid4().hex[:8]}"
    made = states.create_state_machine(name=name, definition=definition, roleArn=account.role)
    return made["stateMachineArn"]


def run(states, arn: str, **given) -> dict:
    """An execution, once it has ended."""
    started = states.start_execution(stateMachineArn=arn, input=json.dumps(given))["executionArn"]
    return ended(states, started)


def ended(states, execution: str) -> dict:
    def seen():
        told = states.describe_execution(executionArn=execution)
        return told if told["status"] != "RUNNING" else None

    return wait_until(seen, 60)


def test_a_state_machine_trains_and_deploys(account, states):
    name = f"walk-{uuid.uuid4().hex[:8]}"
    training = account.training_request(model="by a state machine")
    del training["TrainingJobName"]
    model = {"ModelName.$": "$.Name", "ExecutionRoleArn": account.role}
    variant = {
        "VariantName": "a",
        "ModelName.$": "$.Name",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    arn = machine(
        account,
        states,
        {
            "Train": {
                "Resource": SYNC.format("createTrainingJob"),
                "Parameters": training | {"TrainingJobName.$": "$.Name"},
                "ResultPath": "$.Trained",
            },
            "Model": {
                "Resource": "arn:aws:states:::sagemaker:createModel",
                "Parameters": model
                | {
                    "PrimaryContainer": {
                        "Image": account.image,
                        "ModelDataUrl.$": "$.Trained.ModelArtifacts.S3ModelArtifacts",
                    }
                },
                "ResultPath": "$.Model",
            },
            "Config": {
                "Resource": "arn:aws:states:::aws-sdk:sagemaker:createEndpointConfig",
                "Parameters": {"EndpointConfigName.$": "$.Name", "ProductionVariants": [variant]},
                "ResultPath": "$.Config",
            },
            "Deploy": {
                "Resource": "arn:aws:states:::sagemaker:createEndpoint",
                "Parameters": {"EndpointName.$": "$.Name", "EndpointConfigName.$": "$.Name"},
                "ResultPath": "$.Deployed",
            },
        },
    )
    execution = run(states, arn, Name=name)
    assert execution["status"] == "SUCCEEDED", (execution.get("error"), execution.get("cause"))
    output = json.loads(execution["output"])
    job = account.sagemaker.describe_training_job(TrainingJobName=name)
    assert output["Trained"]["TrainingJobStatus"] == job["TrainingJobStatus"] == "Completed"
    assert output["Trained"]["CreationTime"] == round(job["CreationTime"].timestamp() * 1000)
    history = states.get_execution_history(executionArn=execution["executionArn"])["events"]
    assert [event["type"] for event in history][2:6] == [
        "TaskScheduled",
        "TaskStarted",
        "TaskSubmitted",
        "TaskSucceeded",
    ]
    account.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    answer = account.runtime.invoke_endpoint(EndpointName=name, Body=b"tell")
    assert json.loads(answer["Body"].read())["word"] == "by a state machine"
    account.sagemaker.delete_endpoint(EndpointName=name)


def test_a_failed_job_fails_its_execution_with_the_reason(account, states):
    training = account.training_request(fail="no such column: petal", exit="3")
    arn = machine(
        account, states, {"Train": {"Resource": SYNC.format("createTrainingJob"), "Parameters": training}}
    )
    execution = run(states, arn)
    assert execution["status"] == "FAILED"
    assert execution["error"] == "States.TaskFailed"
    assert "no such column: petal" in json.loads(execution["cause"])["FailureReason"]


def test_what_sagemaker_refuses_is_caught_by_its_name(account, states):
    training = account.training_request()
    training["RoleArn"] = "arn:aws:iam::000000000000:role/nobody"
    task = {
        "Resource": SYNC.format("createTrainingJob"),
        "Parameters": training,
        "Catch": [{"ErrorEquals": ["SageMaker.AmazonSageMakerException"], "Next": "Told"}],
    }
    arn = machine(account, states, {"Train": task}, Told={"Type": "Pass", "End": True})
    execution = run(states, arn)
    assert execution["status"] == "SUCCEEDED", (execution.get("error"), execution.get("cause"))
    assert "Could not assume role" in json.loads(execution["output"])["Cause"]


def test_a_stopped_execution_stops_its_job(account, states):
    training = account.training_request(sleep="60")
    arn = machine(
        account, states, {"Train": {"Resource": SYNC.format("createTrainingJob"), "Parameters": training}}
    )
    execution = states.start_execution(stateMachineArn=arn)["executionArn"]
    name = training["TrainingJobName"]

    def status():
        try:
            return account.sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"]
        except ClientError:  # it is not there yet
            return None

    wait_until(lambda: status() == "InProgress", 30)
    states.stop_execution(executionArn=execution)
    assert ended(states, execution)["status"] == "ABORTED"
    wait_until(lambda: status() == "Stopped", 30)


@pytest.mark.parametrize(
    "resource",
    [
        "arn:aws:states:::http:invoke",
        "arn:aws:states:::apigateway:invoke",
        "arn:aws:states:::lambda:invoke",
        "arn:aws:lambda:us-west-2:000000000000:function:f",
        "arn:aws:states:::sagemaker:createLabelingJob.sync",
    ],
)
def test_a_task_that_nothing_here_can_do_is_refused_by_name(account, states, resource):
    with pytest.raises(ClientError, match=resource) as refused:
        machine(account, states, {"Call": {"Resource": resource, "Parameters": {}}})
    assert refused.value.response["Error"]["Code"] == "NotServedByLocalaws"


def queue(localaws) -> tuple[str, str]:
    """The URL and the ARN of a new queue."""
    sqs = localaws.client("sqs")
    url = sqs.create_queue(QueueName=f"queue-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def received(localaws, url: str, count: int) -> list[dict]:
    """So many messages of a queue, once they are there."""
    sqs, there = localaws.client("sqs"), []

    def come() -> bool:
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", ()):
            there.append(json.loads(message["Body"]))
        return len(there) >= count

    wait_until(come, 30)
    return there


def test_a_training_jobs_states_come_to_a_queue_a_topic_a_log_group_and_a_state_machine(
    localaws, account, states
):
    events, sns, logs = (localaws.client(name) for name in ("events", "sns", "logs"))
    name = f"job-{uuid.uuid4().hex[:8]}"
    url, arn = queue(localaws)
    url_of_topic, arn_of_topics_queue = queue(localaws)
    topic = sns.create_topic(Name=name)["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn_of_topics_queue)
    group = f"/aws/events/{name}"
    logs.create_log_group(logGroupName=group)
    told = machine(account, states, {"Nothing": {"Type": "Pass"}})
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Training Job State Change"],
        "detail": {"TrainingJobName": [name], "TrainingJobStatus": ["Completed", "Failed"]},
    }
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(
        Rule=name,
        Targets=[
            {"Id": "queue", "Arn": arn},
            {"Id": "topic", "Arn": topic, "InputPath": "$.detail.TrainingJobArn"},
            {"Id": "logs", "Arn": f"arn:aws:logs:us-west-2:000000000000:log-group:{group}"},
            {
                "Id": "states",
                "Arn": told,
                "RoleArn": account.role,
                "InputTransformer": {
                    "InputPathsMap": {"job": "$.detail.TrainingJobName"},
                    "InputTemplate": '{"Job": "<job>"}',
                },
            },
        ],
    )
    job = account.train(account.training_request(name=name) | {"Tags": [{"Key": "a", "Value": "b"}]})

    (event,) = received(localaws, url, 1)
    assert event["resources"] == [job["TrainingJobArn"]]
    assert (event["source"], event["region"], event["account"]) == (
        "aws.sagemaker",
        "us-west-2",
        "000000000000",
    )
    detail = event["detail"]
    assert detail["TrainingJobStatus"] == detail["SecondaryStatus"] == "Completed"
    assert detail["CreationTime"] == round(job["CreationTime"].timestamp() * 1000)
    assert detail["Tags"] == {"a": "b"}
    (notice,) = received(localaws, url_of_topic, 1)
    assert notice["TopicArn"] == topic and json.loads(notice["Message"]) == job["TrainingJobArn"]

    def lines():
        return logs.filter_log_events(logGroupName=group)["events"]

    (line,) = wait_until(lines, 30)
    assert json.loads(line["message"])["detail"]["TrainingJobName"] == name
    (execution,) = wait_until(lambda: states.list_executions(stateMachineArn=told)["executions"], 30)
    given = states.describe_execution(executionArn=execution["executionArn"])["input"]
    assert json.loads(given) == {"Job": name}
    events.remove_targets(Rule=name, Ids=["queue", "topic", "logs", "states"])
    events.delete_rule(Name=name)


def test_a_disabled_rule_tells_nothing_and_another_an_event_of_ones_own(localaws):
    events = localaws.client("events")
    (url, arn), source = queue(localaws), f"mine.{uuid.uuid4().hex[:8]}"
    for name, state in ((f"{source}-off", "DISABLED"), (source, "ENABLED")):
        events.put_rule(Name=name, EventPattern=json.dumps({"source": [source]}), State=state)
        events.put_targets(Rule=name, Targets=[{"Id": "a", "Arn": arn, "Input": json.dumps({"rule": name})}])
    events.put_events(Entries=[{"Source": source, "DetailType": "b", "Detail": "{}"}] * 2)
    assert received(localaws, url, 2) == [{"rule": source}] * 2


@pytest.mark.parametrize("protocol", ["http", "https", "email", "sms", "lambda"])
def test_a_subscription_that_would_leave_the_machine_is_refused_by_name(localaws, protocol):
    sns = localaws.client("sns")
    topic = sns.create_topic(Name="leaving")["TopicArn"]
    with pytest.raises(ClientError, match=f"the protocol {protocol}") as refused:
        sns.subscribe(TopicArn=topic, Protocol=protocol, Endpoint="https://example.com")
    assert refused.value.response["Error"]["Code"] == "NotServedByLocalaws"
    with pytest.raises(ClientError, match="PhoneNumber"):
        sns.publish(PhoneNumber="+15555550100", Message="a")


def test_a_target_or_a_schedule_that_nothing_here_runs_is_refused_by_name(localaws):
    events = localaws.client("events")
    events.put_rule(Name="a", EventPattern=json.dumps({"source": ["a"]}))
    function = "arn:aws:lambda:us-west-2:000000000000:function:f"
    with pytest.raises(ClientError, match=r"NotServedByLocalaws.*" + function):
        events.put_targets(Rule="a", Targets=[{"Id": "a", "Arn": function}])
    with pytest.raises(ClientError, match=r"NotServedByLocalaws.*ScheduleExpression"):
        events.put_rule(Name="b", ScheduleExpression="rate(1 minute)")
    events.delete_rule(Name="a")
