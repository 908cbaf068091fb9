"""README says that clients work unchanged: here they do."""


def test_boto3(client_python, client):
    assert "1,2" in client(client_python("boto3"), "boto3_s3.py")


def test_the_sagemaker_sdk_v3(client_python, client):
    said = client(client_python("sagemaker>=3", "pandas"), "sdk3.py", timeout=400)
    for line in (
        "TRAINED Completed True",
        "INVOKED b'setosa\\n'",
        "TRANSFORMED b'setosa\\nvirginica\\n'",
        "TUNED 2",
    ):
        assert line in said, said


def test_tables_in_s3(client_python, client):
    said = client(client_python("boto3", "pandas", "s3fs", "smart_open[s3]"), "tables.py")
    assert "PANDAS 11.8" in said and "LINES 4999950000" in said, said


def test_the_names_of_sdk_2(client_python, client):
    said = client(client_python("sagemaker<3"), "names_v2.py")
    assert "role/service-role/AmazonSageMaker-ExecutionRole sagemaker-us-west-2-000000000000 " in said


def test_the_names_of_sdk_3(client_python, client):
    said = client(client_python("sagemaker>=3"), "names_v3.py")
    assert "role/service-role/AmazonSageMaker-ExecutionRole sagemaker-us-west-2-000000000000 " in said
