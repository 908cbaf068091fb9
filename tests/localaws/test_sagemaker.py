"""What the control plane takes and refuses, its lists and tags, and the files that it keeps."""

import json
import threading
import time

import pytest
import tiny
from botocore.exceptions import ClientError

from localaws.errors import AwsError
from localaws.sagemaker.control_plane import SERVED, _page
from localaws.sagemaker.validation import prune, refuse_unserved, service_model, validate
from localaws.state.database import Database
from localaws.state.store import Store


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("account"))


def refusal(operation, request, check=validate) -> AwsError:
    with pytest.raises(AwsError) as refused:
        check(operation, request) if check is validate else check(operation, request, SERVED[operation])
    return refused.value


# A request that the shape takes, to be broken one way at a time.
JOB = {
    "TrainingJobName": "job",
    "RoleArn": "arn:aws:iam::000000000000:role/r",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/x"},
}
CONSTRAINT = "failed to satisfy constraint: Member must"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RoleArn": None}, f"Value null at 'roleArn' {CONSTRAINT} not be null"),
        (
            {"TrainingJobName": "a_b"},
            f"Value 'a_b' at 'trainingJobName' {CONSTRAINT} satisfy regular expression pattern: "
            "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        ),
        (
            {"RoleArn": "short"},
            f"Value 'short' at 'roleArn' {CONSTRAINT} have length greater than or equal to 20",
        ),
        (
            {"StoppingCondition": {"MaxRuntimeInSeconds": 0}},
            f"Value '0' at 'stoppingCondition.maxRuntimeInSeconds' {CONSTRAINT} have value greater than or equal to 1",
        ),
        (
            {"HyperParameters": {"k": "v" * 2501}},
            "at 'hyperParameters' failed to satisfy constraint: Map value must satisfy constraint: "
            "[Member must have length less than or equal to 2500]",
        ),
        (
            {"InputDataConfig": [{"ChannelName": "a b", "DataSource": {}}]},
            f"Value 'a b' at 'inputDataConfig.1.member.channelName' {CONSTRAINT} satisfy regular expression pattern: "
            "[A-Za-z0-9\\.\\-_]+",
        ),
        (
            {"OutputDataConfig": {"S3OutputPath": "s3://b/x", "CompressionType": "zip"}},
            f"Value 'zip' at 'outputDataConfig.compressionType' {CONSTRAINT} satisfy enum value set: [GZIP, NONE]",
        ),
        (
            {"Tags": [{"Key": "é ü:1", "Value": "v"}, {"Key": "no!", "Value": "v"}]},
            f"Value 'no!' at 'tags.2.member.key' {CONSTRAINT} satisfy regular expression pattern:",
        ),
    ],
)
def test_a_request_is_held_to_its_shape_in_the_services_words(change, message):
    validate("CreateTrainingJob", JOB)
    error = refusal("CreateTrainingJob", JOB | change)
    assert error.code == "ValidationException"
    assert message in error.message
    assert " validation error" in error.message


def test_all_that_is_wrong_comes_in_one_message():
    error = refusal("CreateTrainingJob", {"TrainingJobName": "_", "RoleArn": "short"})
    # the name's pattern, the role's length and pattern, the output that is not there
    assert error.message.startswith("4 validation errors detected: Value null at 'outputDataConfig'")


def test_other_json_types_are_refused():
    for value in (5, True, ["x"], {"x": 1}):
        error = refusal("DescribeTrainingJob", {"TrainingJobName": value})
        assert error.code == "SerializationException"
        assert "can not be converted to a String" in error.message
    assert (
        refusal("CreateTrainingJob", JOB | {"EnableNetworkIsolation": "yes"}).code == "SerializationException"
    )
    error = refusal("DescribeTrainingJob", {"TrainingJobName": "x", "Surprise": 1})
    assert 'Unknown field "Surprise"' in error.message


def test_what_is_not_served_is_refused_by_name():
    def check(change):
        return refusal("CreateTrainingJob", JOB | change, refuse_unserved)

    assert (
        "AlgorithmSpecification.AlgorithmName"
        in check({"AlgorithmSpecification": {"AlgorithmName": "a"}}).message
    )
    source = {"S3DataSource": {"S3DataType": "AugmentedManifestFile", "S3Uri": "s3://b/k"}}
    message = check({"InputDataConfig": [{"ChannelName": "c", "DataSource": source}]}).message
    assert 'S3DataType "AugmentedManifestFile"' in message
    assert "localaws serves ManifestFile, S3Prefix" in message
    error = check({"VpcConfig": {"Subnets": ["a"], "SecurityGroupIds": ["b"]}})
    assert (error.code, error.status) == ("NotServedByLocalaws", 501)
    # What is switched off asks for nothing.
    off = {
        "EnableNetworkIsolation": False,
        "VpcConfig": {},
        "RemoteDebugConfig": {"EnableRemoteDebug": False},
    }
    refuse_unserved("CreateTrainingJob", JOB | off, SERVED["CreateTrainingJob"])


@pytest.mark.parametrize("operation", SERVED)
def test_every_served_path_is_one_of_the_model(operation):
    for path, values in SERVED[operation].items():
        shape = service_model().operation_model(operation).input_shape
        for name in path.split("."):
            shape = shape.member if shape.type_name == "list" else shape
            assert name in shape.members, path
            shape = shape.members[name]
        assert values <= set(shape.metadata.get("enum", values)), path


def test_answers_hold_nothing_of_our_own():
    record = {
        "TrainingJobName": "x",
        "Ours": 1,
        "OutputDataConfig": {"S3OutputPath": "s3://b", "Ours": 2},
        "Tags": [],
    }
    assert prune("DescribeTrainingJob", record) == {
        "TrainingJobName": "x",
        "OutputDataConfig": {"S3OutputPath": "s3://b"},
    }


def test_operations_that_are_not_served(account):
    with pytest.raises(
        ClientError, match="localaws does not serve CreateNotebookInstance of sagemaker: run it against AWS"
    ) as refused:
        account.sagemaker.create_notebook_instance(
            NotebookInstanceName="x", RoleArn=account.role, InstanceType="ml.t3.medium"
        )
    assert refused.value.response["Error"]["Code"] == "NotServedByLocalaws"


def test_a_role_must_trust_sagemaker(account):
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}}]}
    iam = account.aws.client("iam")
    trust["Version"] = "2012-10-17"
    trust["Statement"][0]["Action"] = "sts:AssumeRole"
    arn = iam.create_role(RoleName="for-lambda", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    with pytest.raises(
        ClientError, match=r"Could not assume role .*for-lambda\. Please ensure that the role exists"
    ):
        account.sagemaker.create_training_job(**(account.training_request() | {"RoleArn": arn}))


def test_models_are_described_listed_tagged_and_deleted(account):
    name = account.model(word="x", COLOUR="red")
    described = account.sagemaker.describe_model(ModelName=name.upper())
    assert described["PrimaryContainer"]["Environment"] == {"COLOUR": "red"}
    arn = described["ModelArn"]
    account.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    account.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "3"}])
    account.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["b"])
    assert account.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "3"}]
    assert name in [
        model["ModelName"] for model in account.sagemaker.list_models(NameContains=name)["Models"]
    ]
    account.sagemaker.delete_model(ModelName=name)
    for call in (account.sagemaker.delete_model, account.sagemaker.describe_model):
        with pytest.raises(ClientError) as gone:
            call(ModelName=name)
        assert gone.value.response["Error"]["Message"] == f'Could not find model "{arn}".'
    with pytest.raises(ClientError, match="Could not find model"):
        account.sagemaker.list_tags(ResourceArn=arn)


def test_pages_of_a_list(account):
    names = [account.model(f"page-{number:02}-{time.time_ns()}") for number in range(12)]
    paginator = account.sagemaker.get_paginator("list_models")
    pages = list(
        paginator.paginate(
            NameContains="page-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 5}
        )
    )
    assert [len(page["Models"]) for page in pages] == [5, 5, 2]
    assert [model["ModelName"] for page in pages for model in page["Models"]] == names
    with pytest.raises(ClientError, match="NextToken is not one"):
        account.sagemaker.list_models(NextToken="nonsense")


def jobs(count: int) -> list[dict]:
    return [
        {
            "TrainingJobName": f"job-{number:02}",
            "TrainingJobStatus": "Failed" if number % 3 else "Completed",
            "CreationTime": 1000.0 + number // 2,  # pairs share a time
            "LastModifiedTime": 2000.0 + number,
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", ["Name", "Status", "CreationTime", None])
def test_pages_hold_each_record_once_whatever_is_deleted_between(descending, sort):
    records, seen, token = jobs(23), [], None
    while True:
        request = {"MaxResults": 4, "NextToken": token} | ({"SortBy": sort} if sort else {})
        page, token = _page("TrainingJob", list(records), request, descending)
        seen += page
        if token is None:
            break
        records.remove(page[-1])  # what the token points at is gone
    assert sorted(record["TrainingJobName"] for record in seen) == [
        f"job-{number:02}" for number in range(23)
    ]
    key = {"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort, "CreationTime")
    values = [record[key] for record in seen]
    assert values == sorted(values, reverse=descending)


def test_filters_of_a_list():
    def names(**request):
        return [record["TrainingJobName"] for record in _page("TrainingJob", jobs(6), request, False)[0]]

    assert names(StatusEquals="Completed") == ["job-00", "job-03"]
    assert names(NameContains="B-05") == ["job-05"]
    assert names(CreationTimeAfter=1002) == ["job-04", "job-05"]
    assert names(LastModifiedTimeBefore=2001) == ["job-00", "job-01"]


def test_a_store_is_there_again_after_a_restart(tmp_path):
    store = Store(Database(tmp_path))
    assert store.insert("Model", "One", {"ModelName": "One"})
    assert not store.insert("Model", "oNE", {"ModelName": "oNE"})
    store.update("Model", "one", Colour="red")
    store.insert("Model", "two", {"ModelName": "two"})
    assert store.delete("Model", "TWO")
    assert not store.delete("Model", "two")
    again = Store(Database(tmp_path))
    assert [record["ModelName"] for record in again.list("Model")] == ["One"]
    assert again.get("Model", "ONE")["Colour"] == "red"


def test_a_change_that_raises_changes_nothing(tmp_path):
    store = Store(Database(tmp_path))
    store.insert("Model", "one", {"Colour": "red"})

    def change(record):
        record["Colour"] = "blue"
        raise ValueError

    with pytest.raises(ValueError):
        store.update("Model", "one", change)
    assert (
        store.get("Model", "one")["Colour"]
        == Store(Database(tmp_path)).get("Model", "one")["Colour"]
        == "red"
    )


def test_writers_at_once_leave_the_last_record_on_disk(tmp_path):
    store = Store(Database(tmp_path))
    store.insert("Model", "one", {"Count": 0})

    def count(record):
        record["Count"] += 1

    threads = [
        threading.Thread(target=lambda: [store.update("Model", "one", count) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("Model", "one")["Count"] == Store(Database(tmp_path)).get("Model", "one")["Count"] == 400
