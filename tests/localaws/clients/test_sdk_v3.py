"""SDK 3, as its documentation shows it, with a container of one's own."""


def test_the_sagemaker_sdk_v3(client_python, client):
    said = client(client_python("sagemaker>=3", "pandas"), "sdk3.py", timeout=400)
    for line in (
        "role/service-role/AmazonSageMaker-ExecutionRole sagemaker-us-west-2-000000000000 ",
        "TRAINED Completed True",
        "INVOKED b'setosa\\n'",
        "TRANSFORMED b'setosa\\nvirginica\\n'",
        "TUNED 2",
    ):
        assert line in said, said


def test_programs_of_sdk_v3(client_python, client):
    said = client(client_python("sagemaker>=3", "pandas"), "programs_v3.py", timeout=300)
    assert "TRAINED Completed [150.0]" in said
    assert "PROCESSED all is well" in said
