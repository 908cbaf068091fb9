"""What localaws does not serve is refused by its name, in the protocol that the caller speaks.

Asked by botocore's own client, one operation of each service that it knows, and read by its own parser.
"""

from types import SimpleNamespace

import botocore.session
import pytest
import requests
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import create_parser
from botocore.tokens import FrozenAuthToken

from localaws import services

SESSION = botocore.session.get_session()
SESSION.register_component("token_provider", SimpleNamespace(load_token=lambda **_: FrozenAuthToken("a")))
ONCE = {
    "retries": {"total_max_attempts": 1},
    "parameter_validation": False,
    "inject_host_prefix": False,
    "s3": {"addressing_style": "path"},
}
# Of the services that are served an operation that is not; else the first that a client can send from here.
REFUSED = {
    "cloudsearchdomain": "Suggest",  # botocore sends Search in a form
    "application-autoscaling": "DescribeScalingActivities",
    "cloudformation": "DetectStackDrift",
    "events": "CreateArchive",
    "sns": "CreatePlatformApplication",
    "stepfunctions": "StartSyncExecution",
    "dynamodb": "DescribeContributorInsights",
    "dynamodbstreams": "GetRecords",
    "ec2": "RunInstances",
    "kms": "ConnectCustomKeyStore",
    "secretsmanager": "ListResourcePolicies",
    "sqs": "CancelMessageMoveTask",
    "ssm": "CreateActivation",
    "cloudwatch": "DescribeAnomalyDetectors",
    "ecr": "GetAccountSetting",
    "iam": "GetContextKeysForCustomPolicy",
    "logs": "DescribeAccountPolicies",
    "s3": "GetBucketAbac",
    "sagemaker": "CreateDomain",
    "sagemaker-runtime": "InvokeEndpointWithResponseStream",
    "sts": "DecodeAuthorizationMessage",
}


def least(shape, deep: int = 0):
    """The least that a shape takes."""
    kind = shape.type_name
    if kind == "structure":
        named = [name for name in shape.members if name in shape.required_members]
        first = list(shape.members)[:1] if getattr(shape, "is_tagged_union", False) else []
        return {name: least(shape.members[name], deep + 1) for name in named or first} if deep < 6 else {}
    if kind == "list":
        return [least(shape.member, deep + 1)] if shape.metadata.get("min") and deep < 6 else []
    if kind in ("integer", "long", "float", "double"):
        return shape.metadata.get("min", 1)
    if kind == "string":
        return shape.enum[0] if getattr(shape, "enum", None) else "a" * max(shape.metadata.get("min", 1), 3)
    return {"map": {}, "boolean": True, "blob": b"a", "timestamp": 0}[kind]


def operation_of(model):
    """One that localaws does not serve, and that a client signs if any."""
    if model.service_name in REFUSED:
        return model.operation_model(REFUSED[model.service_name])
    every = [model.operation_model(name) for name in model.operation_names]
    return next((one for one in every if one.auth_type not in ("none", "bearer")), every[0])


# Two want HTTPS for their tokens; one is signed with elliptic curves, for which botocore needs more packages; one has the
# account in the host's name.
NOT_FROM_HERE = {"account-access-runtime", "codecatalyst", "cloudfront-keyvaluestore", "s3control"}


@pytest.mark.parametrize("service", sorted({*SESSION.get_available_services()} - NOT_FROM_HERE))
def test_what_is_not_served_is_refused_by_name(localaws, service):
    model = services.model(service)
    operation = operation_of(model)
    client = SESSION.create_client(
        service,
        region_name="us-west-2",
        endpoint_url=localaws.endpoint_url,
        aws_access_key_id=localaws.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=localaws.env["AWS_SECRET_ACCESS_KEY"],
        config=Config(**ONCE),
    )
    arguments = least(operation.input_shape) if operation.input_shape else {}
    with pytest.raises(ClientError) as raised:
        getattr(client, xform_name(operation.name))(**arguments)
    answer = raised.value.response
    assert answer["Error"]["Code"] == "NotServedByLocalaws", answer
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 501
    # Some services have all that identifies an operation in common: DocumentDB's requests are RDS's.
    alike = [
        one
        for one in SESSION.get_available_services()
        if services.model(one).signing_name == model.signing_name
    ]
    said = answer["Error"]["Message"]
    assert any(said.startswith(f"localaws does not serve {operation.name} of {one}: ") for one in alike), (
        answer
    )


def test_s3_control_is_not_taken_for_s3(localaws):
    """It is signed as S3 is, and its path could be that of an object."""
    path, headers = "/v20180820/bucket/a", {"x-amz-account-id": "000000000000"}
    headers = localaws.signed("PUT", path, headers=headers, service="s3")
    answer = requests.put(localaws.endpoint_url + path, headers=headers)
    parser = create_parser("rest-xml")
    about = {"body": answer.content, "headers": answer.headers, "status_code": answer.status_code}
    error = parser.parse(about, None)["Error"]
    assert error["Code"] == "NotServedByLocalaws"
    assert error["Message"].startswith("localaws does not serve CreateBucket of s3control: ")


@pytest.mark.parametrize("protocol", ["json", "query", "ec2", "rest-json", "rest-xml", "smithy-rpc-v2-cbor"])
def test_every_protocol_of_the_models_is_among_those(protocol):
    assert protocol in {about["protocol"] for about in services.known().values()}


def test_the_metadata_are_those_of_the_models():
    assert services.known() == {
        name: services.model(name).metadata for name in SESSION.get_available_services()
    }
