"""SDK 2, as its documentation shows it, with a container of one's own."""

import subprocess
import sys

from localaws.images import environments
from workshop import ROOT


def test_sdk_v2(client_python, client):
    said = client(client_python("sagemaker<3"), "sagemaker_v2.py", timeout=500)
    assert "role/service-role/AmazonSageMaker-ExecutionRole sagemaker-us-west-2-000000000000 " in said
    assert "[localaws] DebugHookConfig: recorded, not acted on" in said
    assert "validation_accuracy=0.9" in said, "the job's log, shown while it ran"
    assert "/output/sagemaker-decision-trees-" in said.split("MODEL s3://sagemaker-us-west-2-")[1]
    assert "ANALYTICS ['accuracy']" in said
    assert "ATTACHED True {'max_leaf_nodes': '5'}" in said
    assert "PREDICTED [['setosa']]" in said
    assert "AGAIN b'setosa\\nsetosa\\n'" in said
    assert (
        "TRANSFORMED ['5.1,3.5,1.4,0.2,setosa', '4.9,3.0,1.4,0.2,setosa', '4.7,3.2,1.3,0.2,setosa']" in said
    )
    assert "TRANSFORMER ml.m5.large" in said
    assert "TUNED 2 True {'_tuning_objective_metric': 'accuracy', 'max_leaf_nodes': '" in said
    assert "TUNER True" in said
    assert "TUNED PREDICTED [['setosa']]" in said


def test_programs_of_sdk_v2(client_python, client):
    said = client(client_python("sagemaker<3"), "programs_v2.py", timeout=300)
    assert "PROCESSED 120 rows to train with {'train': 120, 'test': 30}" in said
    assert "FAILED Error for Processing job sagemaker-programs-" in said
    assert "Failed. Reason: AlgorithmError: , exit code: 5." in said


def test_remote_of_sdk_v2(client_python, client, tmp_path):
    """The images are folders with a lock file; the environment of the one with the SDK is made while there is a network."""
    python = client_python("sagemaker<3")
    asked = "import importlib.metadata as m; print(m.version('sagemaker'))"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    compile_ = [
        sys.executable,
        ROOT / "utils" / "uv_pip.py",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-header",
    ]
    for name, wanted in (("with_sdk", f"sagemaker=={version}\npip"), ("without_sdk", "cloudpickle")):
        lock = tmp_path / name / "requirements-train.lock"
        lock.parent.mkdir()
        (lock.parent / "train").write_text("#!/bin/sh\nexit 9\n")
        command = [*compile_, "--no-annotate", "--output-file", lock, "-"]
        subprocess.run(command, input=wanted, text=True, check=True, capture_output=True)
        environments.python([lock], print)
    said = client(python, "remote_v2.py")
    assert "DIVIDED 2.5" in said, said
    assert "WITHOUT " in said and "No module named" in said, said
