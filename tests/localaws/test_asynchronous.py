"""InvokeEndpointAsync, end to end: requests that wait on disk, answers and failures in S3."""

import json
import os
import signal
import time

import pytest
import tiny
from botocore.config import Config
from botocore.exceptions import ClientError
from tiny import wait_until


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


def settings(account, **client) -> dict:
    paths = {
        "S3OutputPath": f"s3://{account.bucket}/answers",
        "S3FailurePath": f"s3://{account.bucket}/failures/",
    }
    return {"OutputConfig": paths} | ({"ClientConfig": client} if client else {})


@pytest.fixture(scope="module")
def endpoint(account):
    """An asynchronous endpoint that the tests share; it takes two requests at once."""
    queued = settings(account, MaxConcurrentInvocationsPerInstance=2)
    return account.endpoint(account.config(account.model(word="queued"), queued=queued))


def send(account, endpoint, body: str, **arguments) -> dict:
    """Put the input into S3 and ask for an answer to it."""
    uri = account.put(f"requests/{time.time_ns()}", body)
    return account.runtime.invoke_endpoint_async(EndpointName=endpoint, InputLocation=uri, **arguments)


def fetched(account, uri: str) -> bytes:
    """An object, as soon as it is there."""

    def there():
        try:
            return account.get(uri)
        except account.s3.exceptions.NoSuchKey:
            return None

    return wait_until(there)


def test_an_answer_comes_to_where_it_was_said(account, endpoint):
    described = account.sagemaker.describe_endpoint(EndpointName=endpoint)["AsyncInferenceConfig"]
    assert described["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 2}
    accepted = send(
        account,
        endpoint,
        "tell",
        ContentType="text/csv",
        Accept="application/json",
        CustomAttributes="trace=7",
        InferenceId="row-1",
    )
    assert accepted["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert accepted["InferenceId"] == "row-1"
    folder, _, name = accepted["OutputLocation"].rpartition("/")
    assert folder == f"s3://{account.bucket}/answers"
    assert (
        accepted["FailureLocation"] == f"s3://{account.bucket}/failures/{name.removesuffix('.out')}-error.out"
    )
    told = json.loads(fetched(account, accepted["OutputLocation"]))
    assert told["word"] == "queued"
    headers = {key.lower(): value for key, value in told["headers"].items()}
    assert headers["content-type"] == "text/csv"
    assert headers["accept"] == "application/json"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "trace=7"
    # The request is forgotten once it is answered.
    wait_until(lambda: not list((account.aws.home / "sagemaker" / "AsyncRequest").glob("*.json")))


def test_a_large_input_is_taken(account, endpoint):
    accepted = send(account, endpoint, "1,2\n" * 2_000_000)  # 8 MB: more than InvokeEndpoint takes
    assert fetched(account, accepted["OutputLocation"]).startswith(b"2,2000000\n")


def test_a_failure_comes_to_the_failure_path_and_the_log(account, endpoint):
    accepted = send(account, endpoint, "status 500", InferenceId="row-2")
    failure = fetched(account, accepted["FailureLocation"]).decode()
    assert 'Received server error (500) from primary with message "as you wish: status 500"' in failure
    with pytest.raises(account.s3.exceptions.NoSuchKey):
        account.get(accepted["OutputLocation"])
    assert accepted["InferenceId"] == "row-2"
    lines = account.lines(f"/aws/sagemaker/Endpoints/{endpoint}", "v0/")
    assert f"[sagemaker logs] [row-2] {failure}" in lines


def test_an_input_that_is_not_there_and_an_invocation_that_takes_too_long(account, endpoint):
    missing = account.runtime.invoke_endpoint_async(
        EndpointName=endpoint, InputLocation=f"s3://{account.bucket}/no-such-input"
    )
    slow = send(account, endpoint, "sleep 60", InvocationTimeoutSeconds=1)
    assert b"no-such-input" in fetched(account, missing["FailureLocation"])
    assert b"timed out" in fetched(account, slow["FailureLocation"])


def test_an_instance_gets_no_more_requests_at_once_than_it_may(account, endpoint, tmp_path):
    accepted = [send(account, endpoint, f"hold {tmp_path}") for _ in range(6)]  # nobody waits for an answer
    wait_until(lambda: tiny.held(tmp_path) == 2)
    (tmp_path / "go").touch()
    at_once = [int(fetched(account, answer["OutputLocation"])) for answer in accepted]
    assert max(at_once) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"InvocationTimeoutSeconds": 3601}, "Value '3601' at 'invocationTimeoutSeconds' failed to satisfy"),
        ({"RequestTTLSeconds": 59}, "Member must have value greater than or equal to 60"),
        (
            {"InputLocation": "bucket/key"},
            "Value 'bucket/key' at 'inputLocation' failed to satisfy constraint",
        ),
        ({"EndpointName": "no-such"}, "Endpoint no-such of account 000000000000 not found"),
    ],
)
def test_what_is_refused(account, endpoint, arguments, message):
    request = {"EndpointName": endpoint, "InputLocation": f"s3://{account.bucket}/x"} | arguments
    unchecked = account.aws.client("sagemaker-runtime", config=Config(parameter_validation=False))
    with pytest.raises(ClientError) as refused:
        unchecked.invoke_endpoint_async(**request)
    response = refused.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (
        "ValidationError",
        400,
    )
    assert message in response["Error"]["Message"]


def test_each_kind_of_endpoint_has_its_own_call(account, endpoint):
    with pytest.raises(ClientError, match="use InvokeEndpointAsync") as refused:
        account.invoke(endpoint)
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    other = account.endpoint(account.config(account.model()))
    with pytest.raises(ClientError, match="use InvokeEndpoint"):
        send(account, other, "tell")
    account.sagemaker.delete_endpoint(EndpointName=other)


def test_what_an_endpoint_has_not_taken_up_when_it_is_deleted_has_failed(account, tmp_path):
    queued = settings(account, MaxConcurrentInvocationsPerInstance=1)
    endpoint = account.endpoint(account.config(account.model(), queued=queued))
    first, second, third = [send(account, endpoint, f"hold {tmp_path}") for _ in range(3)]
    wait_until(lambda: tiny.held(tmp_path))
    account.sagemaker.delete_endpoint(EndpointName=endpoint)
    (tmp_path / "go").touch()
    fetched(account, first["OutputLocation"])  # it ran, and was waited for
    for waiting in (second, third):
        assert b"was deleted before" in fetched(account, waiting["FailureLocation"])


def test_a_configuration_that_is_refused(account):
    model = account.model()
    with pytest.raises(ClientError, match="S3OutputPath is required"):
        account.config(model, queued={"OutputConfig": {}})
    with pytest.raises(ClientError, match='bucket "no-such-bucket" does not exist'):
        account.config(model, queued={"OutputConfig": {"S3OutputPath": "s3://no-such-bucket/x"}})
    topics = {"NotificationConfig": {"SuccessTopic": "arn:aws:sns:us-west-2:000000000000:x"}}
    with pytest.raises(
        ClientError, match=r"does not serve AsyncInferenceConfig\.OutputConfig\.NotificationConfig"
    ):
        account.config(model, queued={"OutputConfig": {"S3OutputPath": f"s3://{account.bucket}"} | topics})


def test_what_was_acknowledged_survives_a_kill(fresh, tmp_path):
    fresh.up()
    account = tiny.account(fresh, tmp_path)
    queued = settings(account, MaxConcurrentInvocationsPerInstance=1)
    endpoint = account.endpoint(account.config(account.model(), queued=queued))
    accepted = [send(account, endpoint, "sleep 1"), *(send(account, endpoint, "1,2\n") for _ in range(5))]
    os.kill(json.loads((fresh.home / "server.json").read_text())["pid"], signal.SIGKILL)
    fresh.up()
    account.__post_init__()  # the port may be another
    for answer in accepted:
        assert fetched(account, answer["OutputLocation"])
