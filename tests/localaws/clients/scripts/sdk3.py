"""The SageMaker SDK v3 with a container of one's own: train, deploy, invoke, transform, tune. No role, no bucket said."""

import os
import subprocess
import tempfile
from pathlib import Path

import boto3
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.parameter import IntegerParameter
from sagemaker.core.transformer import Transformer
from sagemaker.serve import ModelBuilder
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData
from sagemaker.train.tuner import HyperparameterTuner

session = Session()
role = get_execution_role()
bucket = session.default_bucket()
account = boto3.client("sts").get_caller_identity()["Account"]
region = session.boto_region_name
image = f"{account}.dkr.ecr.{region}.amazonaws.com/sagemaker-decision-trees:latest"
print("ROLE", role, bucket, account, region)
assert boto3.client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]["Arn"] == role
assert bucket == f"sagemaker-{region}-{account}"

boto3.client("ecr").create_repository(repositoryName="sagemaker-decision-trees")
localaws = [os.environ["PYTHON"], "-m", "localaws"]
subprocess.run([*localaws, "build", "decision_trees", "-t", "sagemaker-decision-trees"], check=True)
subprocess.run([*localaws, "push", "sagemaker-decision-trees", image], check=True)

iris = Path(os.environ["CONTAINER"]).parent / "data" / "iris.csv"
data = session.upload_data(str(iris), key_prefix="iris/training")
trainer = ModelTrainer(
    training_image=image,
    compute=Compute(instance_type="ml.m5.large", instance_count=1),
    hyperparameters={"max_leaf_nodes": 8},
    base_job_name="sdk3",
)
channels = [InputData(channel_name="training", data_source=data.rsplit("/", 1)[0], content_type="text/csv")]
trainer.train(input_data_config=channels, wait=False, logs=False)
job = trainer._latest_training_job
job.wait(poll=1)
print("TRAINED", job.training_job_status, job.role_arn == role)

builder = ModelBuilder(
    model_path=tempfile.mkdtemp(),
    s3_model_data_url=job.model_artifacts.s3_model_artifacts,
    image_uri=image,
    instance_type="ml.m5.large",
)
model = builder.build(model_name="sdk3")
endpoint = builder.deploy(endpoint_name="sdk3", initial_instance_count=1, wait=False)
endpoint.wait_for_status("InService", poll=1)
print("INVOKED", endpoint.invoke(body=b"5.1,3.5,1.4,0.2\n", content_type="text/csv").body.read())
endpoint.delete()

rows = Path(tempfile.mkdtemp()) / "rows.csv"
rows.write_text("5.1,3.5,1.4,0.2\n6.7,3.1,5.6,2.4\n")
transformer = Transformer(
    model_name=model.model_name,
    instance_count=1,
    instance_type="ml.m5.large",
    strategy="MultiRecord",
    assemble_with="Line",
    accept="text/csv",
)
source = session.upload_data(str(rows), key_prefix="iris/rows")
transformer.transform(source, content_type="text/csv", split_type="Line", wait=True, logs=False)
bucket_of, _, prefix = transformer.output_path.removeprefix("s3://").partition("/")
written = boto3.client("s3").get_object(Bucket=bucket_of, Key=f"{prefix}/rows.csv.out")["Body"].read()
print("TRANSFORMED", written)

tuner = HyperparameterTuner(
    model_trainer=trainer,
    objective_metric_name="accuracy",
    hyperparameter_ranges={"max_leaf_nodes": IntegerParameter(2, 9)},
    metric_definitions=[{"Name": "accuracy", "Regex": "training_accuracy=([0-9.]+)"}],
    max_jobs=2,
    max_parallel_jobs=2,
    base_tuning_job_name="sdk3",
)
tuner.tune(inputs=channels, wait=False)
tuner.latest_tuning_job.wait(poll=1)
print("TUNED", tuner.describe().training_job_status_counters.completed)
