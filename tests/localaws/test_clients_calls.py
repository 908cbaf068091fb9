"""Calls that clients from elsewhere make, which moto alone answers wrongly or not at all."""

import time

import pytest
from botocore.exceptions import ClientError


def test_who_pays_for_requests_is_told(localaws):
    s3 = localaws.client("s3")
    where = {"LocationConstraint": "us-west-2"}
    s3.create_bucket(Bucket="paid-for", CreateBucketConfiguration=where)
    assert s3.get_bucket_request_payment(Bucket="paid-for")["Payer"] == "BucketOwner"
    s3.put_bucket_request_payment(Bucket="paid-for", RequestPaymentConfiguration={"Payer": "Requester"})
    assert s3.get_bucket_request_payment(Bucket="paid-for")["Payer"] == "Requester"
    with pytest.raises(ClientError, match="MalformedXML"):
        s3.put_bucket_request_payment(Bucket="paid-for", RequestPaymentConfiguration={"Payer": "Nobody"})
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.get_bucket_request_payment(Bucket="never-made")


def test_events_are_found_by_the_prefix_of_their_streams(localaws):
    logs, group = localaws.client("logs"), {"logGroupName": "of-many-streams"}
    logs.create_log_group(**group)
    now = int(time.time() * 1000)
    for number, name in enumerate(("a/1", "a/2", "b")):
        logs.create_log_stream(**group, logStreamName=name)
        event = {"timestamp": now - number, "message": f"of {name}"}
        logs.put_log_events(**group, logStreamName=name, logEvents=[event])

    def found(**asked) -> list[str]:
        pages = logs.get_paginator("filter_log_events").paginate(
            **{**group, **asked}, PaginationConfig={"PageSize": 1}
        )
        events = [event for page in pages for event in page["events"]]
        assert len({event["eventId"] for event in events}) == len(events)
        return [event["message"] for event in events]

    assert found() == ["of b", "of a/2", "of a/1"]
    assert found(logStreamNamePrefix="a/", interleaved=True) == ["of a/2", "of a/1"]
    assert found(logStreamNamePrefix="zz") == []
    arn = logs.describe_log_groups(logGroupNamePrefix="of-many-streams")["logGroups"][0]["arn"]
    told = logs.filter_log_events(logGroupIdentifier=arn.removesuffix(":*"), logStreamNamePrefix="b")
    assert [event["message"] for event in told["events"]] == ["of b"]
    with pytest.raises(ClientError, match="exclude each other"):
        logs.filter_log_events(**group, logStreamNames=["b"], logStreamNamePrefix="a")
    with pytest.raises(ClientError, match="ResourceNotFound"):
        logs.filter_log_events(logGroupName="never-made", logStreamNamePrefix="a")


def test_a_queue(localaws):
    sqs = localaws.client("sqs")
    url = sqs.create_queue(QueueName="clients")["QueueUrl"]
    assert url.startswith(localaws.endpoint_url)
    sqs.send_message(QueueUrl=url, MessageBody="a")
    [message] = sqs.receive_message(QueueUrl=url)["Messages"]
    assert message["Body"] == "a"


def test_a_table(localaws):
    table, key = {"TableName": "clients"}, {"k": {"S": "a"}}
    dynamodb = localaws.client("dynamodb")
    names = {"AttributeName": "k"}
    dynamodb.create_table(
        **table,
        KeySchema=[names | {"KeyType": "HASH"}],
        AttributeDefinitions=[names | {"AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.put_item(**table, Item=key | {"v": {"N": "1"}})
    assert dynamodb.get_item(**table, Key=key)["Item"]["v"] == {"N": "1"}


def test_secrets_parameters_and_keys(localaws):
    secrets, ssm, kms = (localaws.client(one) for one in ("secretsmanager", "ssm", "kms"))
    secrets.create_secret(Name="clients", SecretString="s")
    assert secrets.get_secret_value(SecretId="clients")["SecretString"] == "s"
    ssm.put_parameter(Name="/clients/a", Value="p", Type="String")
    assert ssm.get_parameter(Name="/clients/a")["Parameter"]["Value"] == "p"
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    sealed = kms.encrypt(KeyId=key, Plaintext=b"k")["CiphertextBlob"]
    assert sealed != b"k"
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"k"


def test_a_table_is_registered_to_be_scaled(localaws):
    """Of an endpoint that really is: test_scaling.py."""
    scaling = localaws.client("application-autoscaling")
    what = {
        "ServiceNamespace": "dynamodb",
        "ResourceId": "table/clients",
        "ScalableDimension": "dynamodb:table:ReadCapacityUnits",
    }
    scaling.register_scalable_target(**what, MinCapacity=1, MaxCapacity=2)
    [target] = scaling.describe_scalable_targets(ServiceNamespace="dynamodb")["ScalableTargets"]
    assert target["MaxCapacity"] == 2


def test_ec2_is_looked_at_and_not_used(localaws):
    ec2 = localaws.client("ec2")
    assert "us-west-2" in [region["RegionName"] for region in ec2.describe_regions()["Regions"]]
    [network] = ec2.describe_vpcs()["Vpcs"]
    assert {subnet["VpcId"] for subnet in ec2.describe_subnets()["Subnets"]} == {network["VpcId"]}
    assert ec2.describe_security_groups()["SecurityGroups"]
    assert ec2.describe_availability_zones()["AvailabilityZones"]
    with pytest.raises(ClientError, match="RunInstances of ec2"):
        ec2.run_instances(ImageId="ami-0", MinCount=1, MaxCount=1)
