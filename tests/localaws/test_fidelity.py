"""FIDELITY.md says what the code does, and what it calls refused is refused by name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

FILE = Path(__file__).resolve().parents[2] / "utils" / "localaws" / "FIDELITY.md"
ONCE = Config(retries={"total_max_attempts": 1}, parameter_validation=False)


def test_the_file_says_what_the_code_says():
    """In a Python of its own, because localaws' backend must be there before moto."""
    code = "from localaws import fidelity; print(fidelity.table(), end='')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == FILE.read_text(), "renew it: python -m localaws fidelity"


def refused(call) -> str:
    """The message with which a call is refused."""
    with pytest.raises(ClientError) as raised:
        call()
    assert raised.value.response["Error"]["Code"] == "NotServedByLocalaws", raised.value
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    return raised.value.response["Error"]["Message"]


def section(title: str) -> str:
    return FILE.read_text().split(f"<b>{title}</b>")[1].split("</details>")[0]


@pytest.mark.parametrize(
    ("service", "title", "operation", "arguments"),
    [
        ("logs", "CloudWatch Logs", "DescribeAccountPolicies", {"policyType": "DATA_PROTECTION_POLICY"}),
        ("iam", "IAM", "GetContextKeysForCustomPolicy", {"PolicyInputList": ["{}"]}),
        ("sts", "STS", "DecodeAuthorizationMessage", {"EncodedMessage": "a"}),
        ("ecr", "ECR", "GetAccountSetting", {"name": "x"}),
        ("cloudwatch", "CloudWatch", "DescribeAnomalyDetectors", {}),
    ],
)
def test_what_moto_lacks_is_refused_by_name(localaws, service, title, operation, arguments):
    assert f"`{operation}`" in section(title).split("Refused:")[1]
    client = localaws.client(service, config=ONCE)
    method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
    assert operation in refused(lambda: getattr(client, method)(**arguments))


def test_a_subresource_that_moto_would_overlook_is_refused(localaws):
    """moto reads PutBucketAbac as CreateBucket, and GetObjectTorrent as GetObject."""
    s3 = localaws.client("s3", config=ONCE)
    assert "PutBucketAbac of s3" in refused(lambda: s3.put_bucket_abac(Bucket="not-made", AbacStatus={}))
    assert "not-made" not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert "GetObjectTorrent of s3" in refused(lambda: s3.get_object_torrent(Bucket="not-made", Key="k"))
    for operation in ("PutBucketAbac", "GetObjectTorrent"):
        assert f"`{operation}`" in section("S3").split("Refused:")[1]


def test_the_runtime_verb_that_is_refused_is_refused(localaws):
    runtime = localaws.client("sagemaker-runtime", config=ONCE)
    with pytest.raises(ClientError, match="InvokeEndpointWithResponseStream of sagemaker-runtime"):
        runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"")
    assert "Refused: `InvokeEndpointWithResponseStream`" in FILE.read_text().replace(
        "`InvokeEndpointAsync`, ", ""
    )
