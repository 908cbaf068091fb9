"""The real container through the walk: what was pushed, by digest, is what runs, and it predicts what scikit-learn does."""

import csv
import shutil

import boto3
import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import localaws
from localaws import images
from workshop import ROOT, catch_up, follow_endpoint

ROW = "5.1,3.5,1.4,0.2\n"


def ask(target, body: str) -> list[str]:
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=target.name, ContentType="text/csv", Body=body
    )
    return answer["Body"].read().decode().split()


def pushed_digest(target) -> str:
    tag = [{"imageTag": "latest"}]
    return boto3.client("ecr").describe_images(repositoryName=target.name, imageIds=tag)["imageDetails"][0][
        "imageDigest"
    ]


def running_digest(target) -> str:
    variant = boto3.client("sagemaker").describe_endpoint(EndpointName=target.name)["ProductionVariants"][0]
    return variant["DeployedImages"][0]["ResolvedImage"].split("@")[1]


@pytest.mark.timeout(600)
def test_what_was_pushed_is_what_runs(target, tmp_path, monkeypatch):
    catch_up("06_invoke")
    catch_up("07_batch_transform")
    sagemaker = boto3.client("sagemaker")
    rows = list(csv.reader((ROOT / "data" / "iris.csv").open()))
    labels, X = [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)
    tree = DecisionTreeClassifier(max_leaf_nodes=5, random_state=0).fit(X, labels)
    assert ask(target, "".join(",".join(row[1:]) + "\n" for row in rows)) == list(tree.predict(X))
    assert running_digest(target) == pushed_digest(target)

    # A change in predictor.py, in a copy of container/ that the builder takes for the clone's.
    shutil.copytree(ROOT / "container", tmp_path / "container")
    predictor = tmp_path / "container" / "decision_trees" / "predictor.py"
    loud = "\n\ndef output_fn(prediction, accept):\n    return tables.output_fn(prediction, accept).upper()\n"
    begins = 'from stack import tables\n\nREPLIES = ("text/csv",)\n'
    predictor.write_text(f"{begins}{predictor.read_text()}{loud}")
    assert ask(target, ROW) == ["setosa"], "an edited file changes nothing"

    monkeypatch.setattr(localaws.state.locate, "ROOT", tmp_path)
    built = images.build("decision_trees", target.name)
    assert ask(target, ROW) == ["setosa"], "a build changes nothing"

    uri = boto3.client("ecr").describe_repositories(repositoryNames=[target.name])["repositories"][0][
        "repositoryUri"
    ]
    images.push(target.name, uri)
    assert pushed_digest(target) == built.digest
    assert ask(target, ROW) == ["setosa"], "a push changes nothing of what runs"
    assert running_digest(target) != built.digest

    old = sagemaker.describe_endpoint(EndpointName=target.name)["EndpointConfigName"]
    variant = sagemaker.describe_endpoint_config(EndpointConfigName=old)["ProductionVariants"][0]
    container = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
    new = f"{target.name}-changed"
    sagemaker.create_model(ModelName=new, PrimaryContainer=container, ExecutionRoleArn=target.role)
    sagemaker.create_endpoint_config(
        EndpointConfigName=new, ProductionVariants=[variant | {"ModelName": new}]
    )
    sagemaker.update_endpoint(EndpointName=target.name, EndpointConfigName=new)
    follow_endpoint(target.name)
    assert ask(target, ROW) == ["SETOSA"], "an update does"
    assert running_digest(target) == built.digest
