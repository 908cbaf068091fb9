"""README says that clients work unchanged: here they do."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

#: Where Terraform's provider lies: a test fetches none.
PLUGINS = Path(os.environ.get("TF_PLUGIN_CACHE_DIR", "no provider"))


def test_boto3(client_python, client):
    assert "1,2" in client(client_python("boto3"), "boto3_s3.py")


def test_tables_in_s3(client_python, client):
    said = client(client_python("boto3", "pandas", "s3fs", "smart_open[s3]"), "tables.py")
    assert "PANDAS 11.8" in said and "LINES 4999950000" in said, said


BY_ECRS_HOST = """
host=000000000000.dkr.ecr.us-west-2.amazonaws.com
"$PYTHON" -m awscli ecr create-repository --repository-name composed >/dev/null
"$PYTHON" -m localaws build knn -t knn >/dev/null
"$PYTHON" -m localaws push knn $host/composed:one >/dev/null
"$PYTHON" -m awscli ecr get-login-password | skopeo login --username AWS --password-stdin $host
skopeo copy docker://$host/composed:one docker://$host/composed:two
skopeo list-tags docker://$host/composed
"""


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="there is no skopeo here")
def test_skopeo_by_the_host_that_ecr_has(client, tmp_path):
    """As with any program in Go, SSL_CERT_FILE tells it whom to trust."""
    login = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    said = client("sh", "-euc", f"export SSL_CERT_FILE=$AWS_CA_BUNDLE{BY_ECRS_HOST}", **login)
    assert '"one",' in said and '"two"' in said, said


def test_oras(client_python, client):
    said = client(client_python("oras[ecr]"), "oras_artifacts.py")
    assert "REFERRERS https ['" in said and "REFERRERS http ['" in said, said
    assert "TAGS True" in said and "LEFT http https signed-https" in said, said


def test_mlflows_client_of_an_endpoint(client_python, client):
    said = client(client_python("mlflow", "boto3"), "mlflow_client.py")
    for sent in ("FRAME", "ROWS", "ARRAY"):
        assert f"{sent} ['setosa', 'virginica']" in said, said


@pytest.mark.skipif(
    not (shutil.which("terraform") and PLUGINS.is_dir()),
    reason="no terraform here, or no provider for it in TF_PLUGIN_CACHE_DIR",
)
def test_terraform(client):
    scripts = Path(__file__).parent / "scripts"
    said = client("sh", "-eu", scripts / "terraform.sh", scripts / "resources.tf", PLUGINS, timeout=600)
    assert "ANSWERED terraformed model" in said, said
    assert "15 added" in said and "No changes" in said and "15 destroyed" in said, said


def test_the_aws_command_with_its_waiters(client_python, client):
    script = Path(__file__).parent / "scripts" / "aws_command.sh"
    said = client("sh", "-eu", script, client_python("awscli").with_name("aws"))
    assert "ANSWERED setosa" in said and "TRANSFORMED setosa" in said and "training_accuracy=" in said, said
    assert said.endswith("WAITED\n")


def test_the_aws_command_of_version_2(client):
    found = ["/usr/bin/aws", "/usr/local/bin/aws"]  # PATH may have another first: a virtual environment's
    told = {
        aws: subprocess.run([aws, "--version"], capture_output=True, text=True).stdout
        for aws in found
        if Path(aws).exists()
    }
    aws = next((aws for aws, version in told.items() if version.startswith("aws-cli/2")), None)
    if aws is None:
        pytest.skip(
            "no `aws` of version 2 here: apt-get install awscli (Debian), or https://aws.amazon.com/cli"
        )
    said = client("sh", "-eu", Path(__file__).parent / "scripts" / "aws_command_2.sh", aws)
    assert "MODEL model" in said and "FOLLOWED " in said and '"tags": ["latest"]' in said, said
