"""README says that clients work unchanged: here they do."""


def test_boto3(client_python, client):
    assert "1,2" in client(client_python("boto3"), "boto3_s3.py")
