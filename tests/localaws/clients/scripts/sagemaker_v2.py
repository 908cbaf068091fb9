"""SDK v2 with a container of one's own, as its documentation writes it: train, deploy, predict, transform, tune."""

import logging
import os
import subprocess
import tempfile
from pathlib import Path

import boto3
import sagemaker
from sagemaker.analytics import TrainingJobAnalytics
from sagemaker.debugger import DebuggerHookConfig, ProfilerConfig
from sagemaker.deserializers import CSVDeserializer
from sagemaker.estimator import Estimator
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer
from sagemaker.transformer import Transformer
from sagemaker.tuner import HyperparameterTuner, IntegerParameter

logging.getLogger("sagemaker").setLevel(logging.WARNING)


def localaws(*arguments):
    subprocess.run(
        [os.environ["PYTHON"], "-m", "localaws", *arguments], check=True, stdout=subprocess.DEVNULL
    )


image_uri = boto3.client("ecr").create_repository(repositoryName="sagemaker-decision-trees")["repository"][
    "repositoryUri"
]
localaws("build", "decision_trees", "--tag", "sagemaker-decision-trees")
localaws("push", "sagemaker-decision-trees", image_uri)

session = sagemaker.Session()
role, bucket = sagemaker.get_execution_role(), session.default_bucket()
account, region = session.account_id(), session.boto_region_name
print("ROLE", role, bucket, account, region)
assert boto3.client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]["Arn"] == role
assert bucket == f"sagemaker-{region}-{account}"
rows = (Path(os.environ["CONTAINER"]).parent / "data" / "iris.csv").read_text().splitlines()
with tempfile.TemporaryDirectory() as folder:
    for name, share in (("training", rows), ("validation", rows[::5])):
        Path(folder, f"{name}.csv").write_text("\n".join(share) + "\n")
    training = session.upload_data(f"{folder}/training.csv", key_prefix="iris/training")
    validation = session.upload_data(f"{folder}/validation.csv", key_prefix="iris/validation")
    Path(folder, "batch.csv").write_text("".join(row.partition(",")[2] + "\n" for row in rows[:3]))
    batch = session.upload_data(f"{folder}/batch.csv", key_prefix="iris/batch")

tree = Estimator(
    image_uri=image_uri,
    role=role,
    instance_count=1,
    instance_type="ml.m5.large",
    output_path=f"s3://{bucket}/output",
    sagemaker_session=session,
    hyperparameters={"max_leaf_nodes": 5},
    metric_definitions=[{"Name": "accuracy", "Regex": "validation_accuracy=([0-9.]+)"}],
)
tree.fit({"training": training, "validation": validation}, wait=True, logs="All")
print("MODEL", tree.model_data)

frame = TrainingJobAnalytics(tree.latest_training_job.name, sagemaker_session=session).dataframe()
print("ANALYTICS", list(frame.metric_name))

attached = Estimator.attach(tree.latest_training_job.name, sagemaker_session=session)
print("ATTACHED", attached.image_uri == image_uri, attached.hyperparameters())

predictor = attached.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    serializer=CSVSerializer(),
    deserializer=CSVDeserializer(),
    wait=False,
)
session.wait_for_endpoint(predictor.endpoint_name, poll=1)
row = [float(cell) for cell in rows[0].split(",")[1:]]
print("PREDICTED", predictor.predict(row))
same = Predictor(predictor.endpoint_name, sagemaker_session=session, serializer=CSVSerializer())
print("AGAIN", same.predict([row, row]))
predictor.delete_model()
predictor.delete_endpoint(delete_endpoint_config=True)

transformer = tree.transformer(
    instance_count=1, instance_type="ml.m5.large", assemble_with="Line", accept="text/csv"
)
# With its log, the SDK asks but twice a minute whether a job has ended.
transformer.transform(
    batch, content_type="text/csv", split_type="Line", join_source="Input", wait=True, logs=False
)
print(
    "TRANSFORMED",
    session.read_s3_file(bucket, f"{transformer.output_path.split('/', 3)[3]}/batch.csv.out").split(),
)
print("TRANSFORMER", Transformer.attach(transformer.latest_transform_job.name, session).instance_type)
transformer.delete_model()

tuned = Estimator(
    image_uri=f"{account}.dkr.ecr.{region}.amazonaws.com/sagemaker-decision-trees:latest",
    instance_count=1,
    instance_type="ml.m5.large",
    output_path=f"s3://{bucket}/output",
    sagemaker_session=session,
    debugger_hook_config=DebuggerHookConfig(s3_output_path=f"s3://{bucket}/debug"),
    profiler_config=ProfilerConfig(
        s3_output_path=f"s3://{bucket}/profile", system_monitor_interval_millis=500
    ),
)
assert tuned.role == role
tuner = HyperparameterTuner(
    tuned,
    objective_metric_name="accuracy",
    objective_type="Maximize",
    hyperparameter_ranges={"max_leaf_nodes": IntegerParameter(2, 12)},
    metric_definitions=[{"Name": "accuracy", "Regex": "validation_accuracy=([0-9.]+)"}],
    max_jobs=2,
    max_parallel_jobs=2,
)
tuner.fit({"training": training, "validation": validation}, wait=True)
best = tuner.best_training_job()
table = tuner.analytics().dataframe()
print("TUNED", len(table), best in set(table.TrainingJobName), tuner.best_estimator().hyperparameters())
print(
    "TUNER",
    HyperparameterTuner.attach(tuner.latest_tuning_job.name, sagemaker_session=session).best_training_job()
    == best,
)
predictor = tuner.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    serializer=CSVSerializer(),
    deserializer=CSVDeserializer(),
    wait=False,
)
session.wait_for_endpoint(predictor.endpoint_name, poll=1)
print("TUNED PREDICTED", predictor.predict(row))
predictor.delete_model()
predictor.delete_endpoint()
