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
