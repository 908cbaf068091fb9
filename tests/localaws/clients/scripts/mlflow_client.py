"""mlflow's client for SageMaker, asking an endpoint that serves a container of one's own."""

import os
import subprocess
import time
from pathlib import Path

import boto3
import pandas as pd
from mlflow.deployments import get_deploy_client

s3, ecr, iam, sagemaker = map(boto3.client, ("s3", "ecr", "iam", "sagemaker"))
localaws = [os.environ["PYTHON"], "-m", "localaws"]
container = Path(os.environ["CONTAINER"])
utils = container.parent / "utils" / "iam"
role = iam.create_role(
    RoleName="sagemaker-byoa", AssumeRolePolicyDocument=(utils / "trust-policy.json").read_text()
)["Role"]["Arn"]
iam.put_role_policy(
    RoleName="sagemaker-byoa",
    PolicyName="workshop",
    PolicyDocument=(utils / "execution-policy.json").read_text(),
)
uri = ecr.create_repository(repositoryName="sagemaker-byoa-trees")["repository"]["repositoryUri"]
subprocess.run([*localaws, "build", "decision_trees", "-t", "trees"], check=True)
subprocess.run([*localaws, "push", "trees", uri], check=True)
s3.create_bucket(
    Bucket="sagemaker-byoa-m", CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name}
)
s3.upload_file(str(container.parent / "data" / "iris.csv"), "sagemaker-byoa-m", "training/iris.csv")


def ended(describe, key: str, **name: str) -> dict:
    until = time.monotonic() + 120
    while (found := describe(**name))[key] in ("InProgress", "Creating"):
        assert time.monotonic() < until, found
        time.sleep(0.2)
    return found


data = {"S3DataType": "S3Prefix", "S3Uri": "s3://sagemaker-byoa-m/training"}
sagemaker.create_training_job(
    TrainingJobName="m",
    RoleArn=role,
    AlgorithmSpecification={"TrainingImage": uri, "TrainingInputMode": "File"},
    InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": data}}],
    OutputDataConfig={"S3OutputPath": "s3://sagemaker-byoa-m/output"},
    ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    StoppingCondition={"MaxRuntimeInSeconds": 600},
)
job = ended(sagemaker.describe_training_job, "TrainingJobStatus", TrainingJobName="m")
model = {"Image": uri, "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"]}
sagemaker.create_model(ModelName="m", PrimaryContainer=model, ExecutionRoleArn=role)
variant = {"VariantName": "a", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
sagemaker.create_endpoint_config(EndpointConfigName="m", ProductionVariants=[variant])
sagemaker.create_endpoint(EndpointName="m", EndpointConfigName="m")
print(ended(sagemaker.describe_endpoint, "EndpointStatus", EndpointName="m")["EndpointStatus"])

client = get_deploy_client(f"sagemaker:/{s3.meta.region_name}")
frame = pd.DataFrame([[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 5.6, 2.4]], columns=list("abcd"))
print("FRAME", client.predict("m", frame).get_predictions()["predicted_label"].tolist())
print("ROWS", client.predict("m", frame.values.tolist()).get_predictions()["predicted_label"].tolist())
print("ARRAY", client.predict("m", frame.to_numpy()).get_predictions()["predicted_label"].tolist())
