"""Each error that a user can cause: AWS's code, HTTP status and form of message, as a client sees them.

The codes and statuses are held against botocore's service models; where those name none for an operation, against AWS's
list of common errors. The messages are those that people report from the service.
"""

import json
import re
import uuid

import pytest
import tiny
from botocore.config import Config
from botocore.exceptions import ClientError
from tiny import channel, wait_until

from localaws import images
from localaws.sagemaker.control_plane import SERVED
from localaws.sagemaker.validation import service_model

# https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html, and of JSON protocols SerializationException
COMMON = {"ValidationException": 400, "ThrottlingException": 400, "SerializationException": 400}
NAME = "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
ARN = "arn:aws:sagemaker:us-west-2:000000000000"


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def clients(account):
    """Clients that send what they are given, once."""
    config = Config(parameter_validation=False, retries={"total_max_attempts": 1})
    return {name: account.aws.client(name, config=config) for name in ("sagemaker", "sagemaker-runtime")}


@pytest.fixture(scope="module")
def made(account):
    """What the refused requests name: a job that has ended, an endpoint, a role without rights."""
    iam = account.aws.client("iam")
    role = f"powerless-{uuid.uuid4().hex[:8]}"
    account.powerless = iam.create_role(RoleName=role, AssumeRolePolicyDocument=tiny.TRUST)["Role"]["Arn"]
    account.puller_not, account.index = without_pull(iam), index_of(account)
    account.job = account.train(account.training_request())["TrainingJobName"]
    account.made_model = account.model()
    account.made_config = account.config(account.made_model)
    account.made_endpoint = account.endpoint(account.made_config)
    return account


def without_pull(iam) -> str:
    """A role that may read and write everything in S3, and fetch no image."""
    name = f"no-pull-{uuid.uuid4().hex[:8]}"
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=tiny.TRUST)["Role"]["Arn"]
    # Two of the three rights that it takes.
    actions = ["s3:*", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"]
    rules = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": actions, "Resource": "*"}}
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(rules))
    return role


def index_of(account) -> str:
    """An image index with the account's image in it; its URI."""
    ecr, kind = account.aws.client("ecr"), "application/vnd.oci.image.index.v1+json"
    repository = {"repositoryName": account.image.rpartition("/")[2].removesuffix(":latest")}
    [image] = ecr.batch_get_image(imageIds=[{"imageTag": "latest"}], **repository)["images"]
    body = image["imageManifest"].encode()
    entry = {"mediaType": image["imageManifestMediaType"], "digest": image["imageId"]["imageDigest"]}
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": [entry | {"size": len(body)}]}
    ecr.put_image(
        imageManifest=json.dumps(index), imageManifestMediaType=kind, imageTag="index", **repository
    )
    return account.image.replace(":latest", ":index")


def training(account, **change) -> dict:
    return account.training_request() | change


def source(uri: str) -> dict:
    return {"InputDataConfig": [channel("training", uri)]}


def cluster(count: int, kind: str = "ml.m5.large") -> dict:
    return {"ResourceConfig": {"InstanceType": kind, "InstanceCount": count, "VolumeSizeInGB": 1}}


# operation, its request as a function of what was made, code, all of the message, with … for anything
TABLE = [
    ("CreateTrainingJob", lambda a: training(a, TrainingJobName="a_b"), "ValidationException",
     f"1 validation error detected: Value 'a_b' at 'trainingJobName' failed to satisfy constraint: Member must satisfy "
     f"regular expression pattern: {NAME}"),
    ("CreateTrainingJob", lambda a: training(a, RoleArn=None), "ValidationException",
     "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null"),
    ("CreateTrainingJob", lambda a: training(a, **cluster(1, "ml.x9.large")), "ValidationException",
     "1 validation error detected: Value 'ml.x9.large' at 'resourceConfig.instanceType' failed to satisfy constraint: "
     "Member must satisfy enum value set: […]"),
    ("CreateTrainingJob", lambda a: training(a, StoppingCondition={"MaxRuntimeInSeconds": 0}), "ValidationException",
     "1 validation error detected: Value '0' at 'stoppingCondition.maxRuntimeInSeconds' failed to satisfy constraint: "
     "Member must have value greater than or equal to 1"),
    ("CreateTrainingJob", lambda a: training(a, HyperParameters={str(n): "1" for n in range(101)}), "ValidationException",
     "1 validation error detected: Value '…' at 'hyperParameters' failed to satisfy constraint: Member must have length "
     "less than or equal to 100"),
    ("CreateTrainingJob", lambda a: training(a, RoleArn=["x"]), "SerializationException",
     "START_ARRAY can not be converted to a String…"),
    ("CreateTrainingJob", lambda a: training(a, TrainingJobName=a.job), "ResourceInUse",
     "Training job names must be unique within an AWS account and region, and a training job with this name already "
     f"exists ({ARN}:training-job/…)"),
    ("CreateTrainingJob", lambda a: training(a, RoleArn=a.role + "-none"), "ValidationException",
     "Could not assume role …-none. Please ensure that the role exists and allows principal 'sagemaker.amazonaws.com' to "
     "assume the role."),
    ("CreateTrainingJob", lambda a: training(a, **source("s3://sagemaker-none/x")), "ValidationException",
     'No S3 objects found under S3 URL "s3://sagemaker-none/x" given in input data source. Please ensure that the bucket '
     "exists in the selected region (us-west-2), that objects exist under that S3 prefix, and that the role "
     '"arn:aws:iam::000000000000:role/…" has "s3:ListBucket" permissions on bucket "sagemaker-none".'),
    ("CreateTrainingJob", lambda a: training(a, RoleArn=a.powerless), "ValidationException",
     'No S3 objects found under S3 URL …, and that the role "…powerless-…" has "s3:ListBucket" permissions on bucket …'),
    ("CreateTrainingJob", lambda a: training(a, **cluster(21)), "ResourceLimitExceeded",
     "The account-level service limit 'ml.m5.large for training job usage' is 20 Instances, with current utilization of "
     "0 Instances and a request delta of 21 Instances. Please use AWS Service Quotas to request an increase for this "
     "quota. …"),
    ("CreateTrainingJob", lambda a: training(a, **cluster(1, "ml.p3.16xlarge")), "ResourceLimitExceeded",
     "The account-level service limit 'ml.p3.16xlarge for training job usage' is 0 Instances, with current utilization of "
     "0 Instances and a request delta of 1 Instances. Please use AWS Service Quotas to request an increase for this "
     "quota. …"),
    ("CreateTrainingJob", lambda a: training(a, RoleArn=a.puller_not), "ValidationException",
     "Access denied for repository: tiny-… in registry ID: 000000000000. Please check if your ECR repository and image "
     "exist and role arn:aws:iam::000000000000:role/no-pull-… has proper pull permissions for SageMaker: "
     "ecr:BatchCheckLayerAvailability, ecr:BatchGetImage, ecr:GetDownloadUrlForLayer"),
    ("DescribeTrainingJob", lambda a: {"TrainingJobName": "none"}, "ValidationException", "Requested resource not found."),
    ("StopTrainingJob", lambda a: {"TrainingJobName": a.job}, "ValidationException",
     "The request was rejected because the training job is in status Completed."),
    ("DescribeTransformJob", lambda a: {"TransformJobName": "none"}, "ValidationException", "Requested resource not found."),
    ("DescribeHyperParameterTuningJob", lambda a: {"HyperParameterTuningJobName": "none"}, "ResourceNotFound",
     "Amazon SageMaker can't find a tuning job called none. Type another name."),
    ("CreateModel", lambda a: {"ModelName": "m", "ExecutionRoleArn": a.powerless, "PrimaryContainer": {
        "Image": a.image, "ModelDataUrl": f"s3://{a.bucket}/models/{a.made_model}/model.tar.gz"}}, "ValidationException",
     "Could not access model data at s3://…/model.tar.gz. Please ensure that the role … exists and that its trust "
     'relationship policy allows the action "sts:AssumeRole" for the service principal "sagemaker.amazonaws.com". Also '
     'ensure that the role has "s3:GetObject" permissions and that the object is located in us-west-2.'),
    ("CreateModel", lambda a: {"ModelName": "m", "ExecutionRoleArn": a.role, "PrimaryContainer": {"Image": a.index}},
     "ValidationException",
     "Unsupported manifest media type application/vnd.oci.image.index.v1+json for image 127.0.0.1:…/tiny-…:index. Ensure "
     "that valid manifest media type is used for specified image."),
    ("CreateModel", lambda a: {"ModelName": a.made_model, "ExecutionRoleArn": a.role,
                               "PrimaryContainer": {"Image": a.image}}, "ValidationException",
     f'Cannot create already existing model "{ARN}:model/…".'),
    ("DescribeModel", lambda a: {"ModelName": "none"}, "ValidationException", f'Could not find model "{ARN}:model/none".'),
    ("DescribeEndpointConfig", lambda a: {"EndpointConfigName": "none"}, "ValidationException",
     f'Could not find endpoint configuration "{ARN}:endpoint-config/none".'),
    ("DescribeEndpoint", lambda a: {"EndpointName": "none"}, "ValidationException",
     f'Could not find endpoint "{ARN}:endpoint/none".'),
    ("CreateEndpoint", lambda a: {"EndpointName": a.made_endpoint, "EndpointConfigName": a.made_config},
     "ValidationException", f'Cannot create already existing endpoint "{ARN}:endpoint/…".'),
    ("CreateEndpoint", lambda a: {"EndpointName": "e", "EndpointConfigName": a.config(a.made_model, count=21)},
     "ResourceLimitExceeded", "The account-level service limit 'ml.m5.large for endpoint usage' is 20 Instances, …"),
    ("UpdateEndpointWeightsAndCapacities", lambda a: {"EndpointName": a.made_endpoint, "DesiredWeightsAndCapacities": [
        {"VariantName": "v0", "DesiredInstanceCount": 30}]}, "ResourceLimitExceeded", "…a request delta of 29 Instances…"),
    ("InvokeEndpoint", lambda a: {"EndpointName": "none", "Body": b"1"}, "ValidationError",
     "Endpoint none of account 000000000000 not found."),
    ("InvokeEndpoint", lambda a: {"EndpointName": a.made_endpoint, "Body": b"1", "TargetVariant": "x"}, "ValidationError",
     "Variant x not found: expected v0."),
    ("InvokeEndpoint", lambda a: {"EndpointName": a.made_endpoint, "Body": b"status 400"}, "ModelError",
     'Received client error (400) from primary with message "as you wish: status 400". See '
     "https://us-west-2.console.aws.amazon.com/cloudwatch/home?region=us-west-2#logEventViewer:group=/aws/sagemaker/"
     "Endpoints/… in account 000000000000 for more information."),
    ("InvokeEndpointAsync", lambda a: {"EndpointName": a.made_endpoint, "InputLocation": "x"}, "ValidationError",
     "1 validation error detected: Value 'x' at 'inputLocation' failed to satisfy constraint: Member must satisfy regular "
     "expression pattern: …"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "request_of", "code", "message"), TABLE)
def test_an_error_is_aws(made, clients, operation, request_of, code, message):
    service = "sagemaker-runtime" if operation.startswith("Invoke") else "sagemaker"
    client = clients[service]
    method = next(name for name, wire in client.meta.method_to_api_mapping.items() if wire == operation)
    with pytest.raises(ClientError) as refused:
        getattr(client, method)(**request_of(made))
    response = refused.value.response
    shapes = {shape.name: shape for shape in service_model(service).operation_model(operation).error_shapes}
    if code in shapes:
        expected = shapes[code].metadata.get("error", {}).get("httpStatusCode", 400)
        assert type(refused.value) is getattr(client.exceptions, code)  # what `except` of a learner names
    else:
        expected = COMMON[code]
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, expected)
    form = ".*".join(re.escape(part) for part in message.split("…"))
    assert re.fullmatch(form, response["Error"]["Message"], re.DOTALL), response["Error"]["Message"]


def test_limits_count_what_runs(account):
    """Other instance types have limits of their own, and a job that has ended counts no more."""
    request = training(account, HyperParameters={"sleep": "600"}, **cluster(2, "ml.c5.xlarge"))
    account.sagemaker.create_training_job(**request)
    with pytest.raises(account.sagemaker.exceptions.ResourceLimitExceeded) as refused:
        account.sagemaker.create_training_job(**training(account, **cluster(19, "ml.c5.xlarge")))
    assert "current utilization of 2 Instances and a request delta of 19" in str(refused.value)
    name = request["TrainingJobName"]
    wait_until(lambda: "sleeping" in account.lines("/aws/sagemaker/TrainingJobs", name))
    account.sagemaker.stop_training_job(TrainingJobName=name)
    account.finish(name)
    job = account.train(training(account, **cluster(1, "ml.c5.xlarge")))
    assert job["TrainingJobStatus"] == "Completed"


@pytest.fixture(scope="module")
def elsewhere(account):
    """A bucket that AmazonSageMakerFullAccess does not reach: its name has no `sagemaker` in it."""
    bucket = f"warehouse-{uuid.uuid4().hex[:8]}"
    account.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    account.s3.put_object(Bucket=bucket, Key="data/a.csv", Body=b"1,2\n")
    return bucket


def test_a_role_reads_and_writes_what_its_policies_allow(account, elsewhere):
    job = account.train(training(account, **source(f"s3://{elsewhere}/data/")))
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Data download failed:Access Denied: the role")
    assert f'no "s3:GetObject" permission on "s3://{elsewhere}/data/a.csv"' in job["FailureReason"]
    job = account.train(training(account, OutputDataConfig={"S3OutputPath": f"s3://{elsewhere}/out"}))
    assert job["FailureReason"].startswith("ClientError: Artifact upload failed:Access Denied: the role")
    # A policy of one's own mends both.
    rights = {"Effect": "Allow", "Action": "s3:*", "Resource": f"arn:aws:s3:::{elsewhere}/*"}
    iam, name = account.aws.client("iam"), account.role.rpartition("/")[2]
    document = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    iam.put_role_policy(RoleName=name, PolicyName="warehouse", PolicyDocument=document)
    both = source(f"s3://{elsewhere}/data/") | {"OutputDataConfig": {"S3OutputPath": f"s3://{elsewhere}/out"}}
    assert account.train(training(account, **both))["TrainingJobStatus"] == "Completed"


def test_every_operation_that_is_served_refuses_an_empty_request_in_the_models_words(clients):
    """Whatever an operation requires, the service names it; operations that require nothing answer."""
    client = clients["sagemaker"]
    for method, operation in client.meta.method_to_api_mapping.items():
        required = service_model().operation_model(operation).input_shape
        if operation not in SERVED or not (required and required.required_members):
            continue
        with pytest.raises(ClientError) as refused:
            getattr(client, method)()
        assert refused.value.response["Error"]["Code"] == "ValidationException", operation
        for member in required.required_members:
            at = member[0].lower() + member[1:]
            null = f"Value null at '{at}' failed to satisfy constraint: Member must not be null"
            assert null in refused.value.response["Error"]["Message"]


def test_an_endpoint_whose_role_may_not_fetch_the_image_says_so(made):
    name = f"no-pull-{uuid.uuid4().hex[:8]}"
    made.sagemaker.create_model(
        ModelName=name, ExecutionRoleArn=made.puller_not, PrimaryContainer={"Image": made.image}
    )
    made.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=made.config(name))
    reason = made.settled(name, "Failed")["FailureReason"]
    assert (
        reason
        == f"The role '{made.puller_not}' does not have BatchGetImage permission for the image: '{made.image}'."
    )
    made.sagemaker.delete_endpoint(EndpointName=name)


@pytest.mark.parametrize(
    ("program", "code", "line"),
    [
        ("#!/bin/sh\r\necho 1\r\n", 1, "exec /opt/program/stack/train: no such file or directory"),
        ("#!/usr/bin/env python3\r\nprint(1)\r\n", 127, "No such file or directory"),
        ("#!/bin/sh\nexec stack/serve.txt\n", 126, "stack/serve.txt: Permission denied"),
    ],
    ids=["the interpreter's name", "what env looks for", "a program that it calls"],
)
def test_what_ends_before_it_begins_has_an_exit_code_for_a_reason_and_the_words_in_its_log(
    account, program, code, line, monkeypatch
):
    monkeypatch.setenv("LOCALAWS_HOME", str(account.aws.home))
    name = account.image.rpartition("/")[2]
    quoted = program.encode("unicode_escape").decode()
    images.derive(name, "broken:latest", f"printf '{quoted}' > stack/train && touch stack/serve.txt")
    images.push("broken:latest", account.image.removesuffix(":latest") + ":broken")
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = account.image.replace(":latest", ":broken")
    job = account.train(request)
    assert job["FailureReason"] == f"AlgorithmError: , exit code: {code}"
    lines = account.lines("/aws/sagemaker/TrainingJobs", request["TrainingJobName"])
    assert any(said.endswith(line) for said in lines), lines
