"""Step Functions: moto's interpreter of state machines, whose tasks are calls of this localaws.

moto runs the language itself, and asks for a task by boto3. Here its clients are localaws' own (loopback.py), so that
nothing can leave the machine; SageMaker's tasks, which moto passes on without waiting, are waited for.
"""

import datetime
import json
import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace

import moto.stepfunctions.models
import moto.stepfunctions.responses
from botocore.exceptions import ClientError
from moto.core.config import default_user_config
from moto.core.responses import ActionResult
from moto.stepfunctions.parser import models
from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task import state_task_factory
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import state_task_service_aws_sdk
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.utils import boto_client

from localaws import services
from localaws.errors import NotServed

from . import gaps

#: The jobs that a task can wait for, by its action.
JOBS = {
    f"create{kind}": kind
    for kind in ("TrainingJob", "TransformJob", "ProcessingJob", "HyperParameterTuningJob")
}
ACTIONS = {*JOBS, "createModel", "createEndpointConfig", "createEndpoint", "updateEndpoint"}
# The integrations of moto's that end in a service which is served here.
INTEGRATIONS = {"sagemaker", "aws-sdk", "sqs", "sns", "events", "dynamodb", "states"}
TASK = "arn:aws:states:::"
POLL_SECONDS = 0.3
MEND = "give a task of " + ", ".join(f"{TASK}{name}:…" for name in sorted(INTEGRATIONS))


def check(operation: str, request) -> None:
    """Refuse a state machine with a task that nothing here could run. Raises NotServed."""
    try:
        definition = json.loads(json.loads(request.get_data()).get("definition") or "{}")
    except (ValueError, TypeError, AttributeError):
        return  # moto says what is wrong with it
    for resource in _resources(definition):
        if not resource.startswith(TASK) or resource.removeprefix(TASK).split(":")[0] not in INTEGRATIONS:
            raise NotServed(f"the task {resource} of states", MEND)
        service = resource.removeprefix(TASK)
        if service.startswith("sagemaker:") and service.split(":", 1)[1].split(".")[0] not in ACTIONS:
            raise NotServed(f"the task {resource} of states", "give its aws-sdk task, or run it against AWS")


def _resources(part) -> Iterator[str]:
    """What the task states of a definition name, however deep they are."""
    if isinstance(part, dict):
        if part.get("Type") == "Task" and isinstance(part.get("Resource"), str):
            yield part["Resource"]
        part = list(part.values())
    for one in part if isinstance(part, list) else ():
        yield from _resources(one)


class SageMakerTask(StateTaskServiceCallback):
    """A task of SageMaker's: the call, and with `.sync` the wait for the job's end, whose Describe is the result."""

    def __init__(self):
        super().__init__({ResourceCondition.Sync})

    def _get_supported_parameters(self) -> dict | None:
        known = self.resource.api_action in {None: ACTIONS, ResourceCondition.Sync: JOBS}.get(
            self.resource.condition, ()
        )
        return (
            services.model("sagemaker").operation_model(self._operation).input_shape.members
            if known
            else None
        )

    @property
    def _operation(self) -> str:
        return self.resource.api_action[0].upper() + self.resource.api_action[1:]

    def _eval_service_task(
        self, env, resource_runtime_part, normalised_parameters, state_credentials
    ) -> None:
        client = boto_client.boto_client_for(resource_runtime_part.region, "sagemaker")
        answer = getattr(client, self._get_boto_service_action())(**normalised_parameters)
        answer.pop("ResponseMetadata")
        env.stack.append(answer)

    def _eval_integration_pattern(
        self, env, resource_runtime_part, normalised_parameters, state_credentials
    ) -> None:
        """Wait until the job has ended, and stop it where its state is stopped or out of time, as Step Functions does."""
        env.stack.pop()
        kind = JOBS[self.resource.api_action]
        name = {f"{kind}Name": normalised_parameters[f"{kind}Name"]}
        client = boto_client.boto_client_for(resource_runtime_part.region, "sagemaker")
        describe, stop = (
            getattr(client, self._get_boto_service_action(f"{verb}{kind}")) for verb in ("describe", "stop")
        )
        while env.is_running():
            job = _plain(describe(**name))
            status = job[f"{kind}Status"]
            del job["ResponseMetadata"]
            if status in ("Failed", "Stopped"):
                raise FailureEventException(self._failure(env, "States.TaskFailed", json.dumps(job)))
            if status == "Completed":
                env.stack.append(job)
                return
            time.sleep(POLL_SECONDS)
        stop(**name)
        env.stack.append(job)

    def _from_error(self, env, ex: Exception) -> FailureEvent:
        if not isinstance(ex, ClientError):
            return super()._from_error(env, ex)
        error, about = ex.response["Error"], ex.response["ResponseMetadata"]
        modelled = (
            f"{error['Code']}Exception"
            if error["Code"].startswith("Resource")
            else "AmazonSageMakerException"
        )
        cause = (
            f"{error['Message']} (Service: AmazonSageMaker; Status Code: {about['HTTPStatusCode']}; "
            f"Error Code: {error['Code']}; Request ID: {about.get('RequestId')}; Proxy: null)"
        )
        return self._failure(env, f"SageMaker.{modelled}", cause)

    def _failure(self, env, error: str, cause: str) -> FailureEvent:
        names = {"resource": self._get_sfn_resource(), "resourceType": self._get_sfn_resource_type()}
        details = TaskFailedEventDetails(error=error, cause=cause, **names)
        details = EventDetails(taskFailedEventDetails=details)
        return FailureEvent(env, ErrorName(error), HistoryEventType.TaskFailed, details)


def _plain(value):
    """An answer of boto3's with its times in milliseconds, as the integration tells them."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return round(value.timestamp() * 1000) if isinstance(value, datetime.datetime) else value


class Reader(moto.stepfunctions.responses.StepFunctionResponse):
    """moto's reader of Step Functions' requests, which tells an output that is a text without its quotes."""

    def describe_execution(self) -> ActionResult:
        told = super().describe_execution().result
        output = self.stepfunction_backend.describe_execution(told["executionArn"]).output
        return ActionResult(told | ({"output": json.dumps(output)} if isinstance(output, str) else {}))


def _start_execution(machines, state_machine_arn: str, name: str | None = None, *rest):
    """moto's, which calls every execution without a name `None`."""
    return start_execution(machines, state_machine_arn, name or str(uuid.uuid4()), *rest)


start_execution = models.StepFunctionsParserBackend.start_execution
models.StepFunctionsParserBackend.start_execution = _start_execution
service_for = state_task_factory.state_task_service_for
state_task_factory.state_task_service_for = lambda service_name: (
    SageMakerTask() if service_name == "sagemaker" else service_for(service_name=service_name)
)
boto_client.boto3 = SimpleNamespace(
    client=lambda service_name, region_name, **_: gaps.connect(service_name, region_name)
)
# What AWS's own SDK, whose names are those of the errors, calls the services.
state_task_service_aws_sdk._SERVICE_ERROR_NAMES |= {
    "sagemaker": "SageMaker",
    "s3": "S3",
    "ecr": "Ecr",
    "iam": "Iam",
}
default_user_config["stepfunctions"] = {"execute_state_machine": True}
# What CloudFormation makes its state machines in.
moto.stepfunctions.models.stepfunctions_backends = models.stepfunctions_parser_backends
moto.stepfunctions.responses.StepFunctionResponse = Reader
