"""LOCALAWS_RECORD: what IAM would have been asked for each call, for the one who called and for the execution role."""

import json
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import tiny
from botocore.exceptions import ClientError

WHERE = "us-west-2:000000000000"


@pytest.fixture(scope="module")
def account(recording, tmp_path_factory):
    return tiny.account(recording, tmp_path_factory.mktemp("account"))


def read(aws) -> list[dict]:
    return [json.loads(line) for line in (aws.home / "rights.jsonl").read_text().splitlines()]


@pytest.fixture
def questions(recording):
    """questions(): what was recorded since the test began, as caller -> [(action, resource, context)]."""
    before = len(read(recording))

    def since() -> dict[str, list[tuple]]:
        found: dict[str, list[tuple]] = {}
        for one in read(recording)[before:]:
            found.setdefault(one["caller"], []).append((one["action"], one["resource"], one["context"]))
        return found

    return since


CALLS = {
    "a list of all": ("s3", "list_buckets", {}, [("s3:ListAllMyBuckets", "*", {})]),
    "a bucket": (
        "s3",
        "create_bucket",
        {"Bucket": "rights-a"},
        [("s3:CreateBucket", "arn:aws:s3:::rights-a", {})],
    ),
    "an object that is looked at": (
        "s3",
        "head_object",
        {"Bucket": "rights-a", "Key": "there is none/ü"},
        [("s3:GetObject", "arn:aws:s3:::rights-a/there is none/ü", {})],
    ),
    "a list of objects": (
        "s3",
        "list_objects_v2",
        {"Bucket": "rights-a", "Prefix": "x/"},
        [("s3:ListBucket", "arn:aws:s3:::rights-a", {"s3:prefix": "x/"})],
    ),
    "several objects": (
        "s3",
        "delete_objects",
        {"Bucket": "rights-a", "Delete": {"Objects": [{"Key": "1"}, {"Key": "2/3"}]}},
        [
            ("s3:DeleteObject", "arn:aws:s3:::rights-a/1", {}),
            ("s3:DeleteObject", "arn:aws:s3:::rights-a/2/3", {}),
        ],
    ),
    "a copy": (
        "s3",
        "copy_object",
        {"Bucket": "rights-a", "Key": "to", "CopySource": {"Bucket": "rights-b", "Key": "from this"}},
        [
            ("s3:PutObject", "arn:aws:s3:::rights-a/to", {}),
            ("s3:GetObject", "arn:aws:s3:::rights-b/from this", {}),
        ],
    ),
    "a part": (
        "s3",
        "upload_part",
        {"Bucket": "rights-a", "Key": "large", "UploadId": "none", "PartNumber": 1, "Body": b"1"},
        [("s3:PutObject", "arn:aws:s3:::rights-a/large", {})],
    ),
    "a setting whose action has another name": (
        "s3",
        "get_bucket_lifecycle_configuration",
        {"Bucket": "rights-a"},
        [("s3:GetLifecycleConfiguration", "arn:aws:s3:::rights-a", {})],
    ),
    "a repository with tags": (
        "ecr",
        "create_repository",
        {"repositoryName": "rights/a", "tags": [{"Key": "k", "Value": "v"}]},
        [
            (
                action,
                f"arn:aws:ecr:{WHERE}:repository/rights/a",
                {"aws:RequestTag/k": "v", "aws:TagKeys": ["k"]},
            )
            for action in ("ecr:CreateRepository", "ecr:TagResource")
        ],
    ),
    "all repositories": (
        "ecr",
        "describe_repositories",
        {},
        [("ecr:DescribeRepositories", f"arn:aws:ecr:{WHERE}:repository/*", {})],
    ),
    "a login": ("ecr", "get_authorization_token", {}, [("ecr:GetAuthorizationToken", "*", {})]),
    "a stream": (
        "logs",
        "get_log_events",
        {"logGroupName": "/g", "logStreamName": "s"},
        [("logs:GetLogEvents", f"arn:aws:logs:{WHERE}:log-group:/g:log-stream:s", {})],
    ),
    "a group": (
        "logs",
        "filter_log_events",
        {"logGroupName": "/g"},
        [("logs:FilterLogEvents", f"arn:aws:logs:{WHERE}:log-group:/g", {})],
    ),
    "another service": ("cloudwatch", "list_metrics", {}, [("cloudwatch:ListMetrics", "*", {})]),
    "a role": (
        "iam",
        "get_role",
        {"RoleName": "none"},
        [("iam:GetRole", "arn:aws:iam::000000000000:role/none", {})],
    ),
    "an endpoint and its configuration": (
        "sagemaker",
        "create_endpoint",
        {"EndpointName": "Rights", "EndpointConfigName": "c"},
        [
            ("sagemaker:CreateEndpoint", f"arn:aws:sagemaker:{WHERE}:endpoint/rights", {}),
            ("sagemaker:CreateEndpoint", f"arn:aws:sagemaker:{WHERE}:endpoint-config/c", {}),
        ],
    ),
    "tags": (
        "sagemaker",
        "list_tags",
        {"ResourceArn": f"arn:aws:sagemaker:{WHERE}:model/rights"},
        [("sagemaker:ListTags", f"arn:aws:sagemaker:{WHERE}:model/rights", {})],
    ),
    "jobs": ("sagemaker", "list_training_jobs", {}, [("sagemaker:ListTrainingJobs", "*", {})]),
    "an invocation": (
        "sagemaker-runtime",
        "invoke_endpoint",
        {"EndpointName": "rights", "Body": b""},
        [("sagemaker:InvokeEndpoint", f"arn:aws:sagemaker:{WHERE}:endpoint/rights", {})],
    ),
}


@pytest.mark.parametrize("service, operation, arguments, expected", CALLS.values(), ids=CALLS)
def test_a_call_asks_for(recording, questions, service, operation, arguments, expected):
    """Whatever came of it: most of these name what is not there."""
    with suppress(ClientError):
        getattr(recording.client(service), operation)(**arguments)
    assert questions() == {"owner": expected}


def test_a_question_is_written_once(recording, questions):
    for _ in range(2):
        recording.client("logs").describe_log_groups()
    assert sum(map(len, questions().values())) == 1


def test_what_is_not_let_in_asks_nothing(recording, questions):
    with pytest.raises(ClientError):
        recording.client("s3", aws_secret_access_key="wrong").list_buckets()
    assert not questions()


def test_nor_does_the_page(recording, questions):
    with urlopen(Request(f"{recording.endpoint_url}/_localaws/state", headers=recording.cookie())) as answer:
        assert answer.status == 200
    assert not questions()


def test_a_body_that_cannot_be_read_is_refused_as_without_a_record(recording, localaws, questions):
    answers = []
    for aws in (recording, localaws):
        headers = aws.signed("POST", "/rights-a?delete=", b"<Delete", service="s3")
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{aws.endpoint_url}/rights-a?delete=", b"<Delete", headers, method="POST"))
        answers.append(refused.value.code)
    assert answers[0] == answers[1]
    assert not questions()


def test_a_push_asks_for_what_ecr_asks_of_docker_push(recording, account, questions):
    name = "rights-push"
    uri = recording.client("ecr").create_repository(repositoryName=name)["repository"]["repositoryUri"]
    image = recording.command("images").stdout.splitlines()[1].split()[0]
    recording.command("push", image, uri)
    repository = f"arn:aws:ecr:{WHERE}:repository/{name}"
    asked = questions()["owner"]
    assert {resource for action, resource, _ in asked if action != "ecr:GetAuthorizationToken"} == {
        repository
    }
    assert [action for action, _, _ in asked if "Layer" in action or "Image" in action] == [
        "ecr:BatchCheckLayerAvailability",
        "ecr:InitiateLayerUpload",
        "ecr:CompleteLayerUpload",
        "ecr:PutImage",
    ]


def test_a_job_asks_for_its_callers_rights_and_for_its_roles(recording, account, questions):
    request = account.training_request()
    request["Tags"] = [{"Key": "k", "Value": "v"}]
    name = request["TrainingJobName"]
    account.train(request)
    asked = questions()
    arn, tags = (
        f"arn:aws:sagemaker:{WHERE}:training-job/{name}",
        {"aws:RequestTag/k": "v", "aws:TagKeys": ["k"]},
    )
    assert ("sagemaker:CreateTrainingJob", arn, tags) in asked["owner"]
    assert ("sagemaker:AddTags", arn, tags) in asked["owner"]
    passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    assert ("iam:PassRole", account.role, passed) in asked["owner"]
    of_role = {action for action, _, _ in asked[account.role]}
    assert {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "s3:PutObject"} <= of_role
    service = asked["sagemaker.amazonaws.com"]
    put = [resource for action, resource, _ in service if action == "s3:PutObject"]
    assert put == [f"arn:aws:s3:::{account.bucket}/output/{name}/output/model.tar.gz"]
    streams = [resource for action, resource, _ in service if action == "logs:PutLogEvents"]
    assert all(
        one.startswith(f"arn:aws:logs:{WHERE}:log-group:/aws/sagemaker/TrainingJobs:log-stream:{name}/")
        for one in streams
    )
    assert streams and not {action for action, _, _ in service if action.startswith("iam:")}


def test_a_roles_own_keys_are_told_from_the_owners(recording, account, questions):
    given = recording.client("sts").assume_role(RoleArn=account.role, RoleSessionName="xx")["Credentials"]
    keys = {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }
    recording.client("s3", **keys).list_buckets()
    assert ("s3:ListAllMyBuckets", "*", {}) in questions()[account.role]
    assert ("sts:AssumeRole", account.role, {}) in questions()["owner"]


def test_nothing_is_recorded_unless_it_is_asked_for(localaws):
    localaws.client("s3").list_buckets()
    assert not (localaws.home / "rights.jsonl").exists()


def test_what_scales_an_endpoint_is_not_the_execution_roles(account, questions):
    endpoint, variant = account.endpoint(account.config(account.model())), "variant/v0"
    scaling = account.aws.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/{variant}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    config = {"TargetValue": 1, "PredefinedMetricSpecification": metric}
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2)
    scaling.put_scaling_policy(
        **target,
        PolicyName="p",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=config,
    )
    scaling.delete_scaling_policy(**target, PolicyName="p")
    account.sagemaker.delete_endpoint(EndpointName=endpoint)
    asked = {action for one in questions().values() for action, _, _ in one}
    assert "application-autoscaling:PutScalingPolicy" in asked
    assert not {action for action in asked if "Alarm" in action}
