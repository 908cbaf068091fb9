"""SDK v3's jobs that run a program of one's own in an image: SourceCode of a trainer, ScriptProcessor."""

import os
import subprocess
import tempfile
from pathlib import Path

import boto3
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.processing import ScriptProcessor
from sagemaker.core.shapes import ProcessingOutput, ProcessingS3Output
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode

session = Session()
role, bucket = get_execution_role(), session.default_bucket()
image = boto3.client("ecr").create_repository(repositoryName="sagemaker-programs")["repository"][
    "repositoryUri"
]
localaws = [os.environ["PYTHON"], "-m", "localaws"]
subprocess.run([*localaws, "build", "decision_trees", "--tag", "sagemaker-programs"], check=True)
subprocess.run([*localaws, "push", "sagemaker-programs", image], check=True)

source = Path(tempfile.mkdtemp())
(source / "train.py").write_text("""
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int)
rows = pathlib.Path(os.environ["SM_CHANNEL_TRAINING"], "iris.csv").read_text().splitlines()
print(f"rows={len(rows)};")
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.txt").write_text(str(parser.parse_args().depth))
""")
iris = str(Path(os.environ["CONTAINER"]).parent / "data" / "iris.csv")
trainer = ModelTrainer(
    training_image=image,
    source_code=SourceCode(source_dir=str(source), entry_script="train.py"),
    compute=Compute(instance_type="ml.m5.large", instance_count=1),
    hyperparameters={"depth": 5},
    base_job_name="source-code",
)
trainer.with_metric_definitions([{"name": "rows", "regex": "rows=([0-9]+);"}])
trainer.train(
    input_data_config=[InputData(channel_name="training", data_source=iris)], wait=False, logs=False
)
job = trainer._latest_training_job
job.wait(poll=1, logs=True)
job.refresh()
print("TRAINED", job.training_job_status, [metric.value for metric in job.final_metric_data_list])

(source / "process.py").write_text("""
import pathlib, sys
pathlib.Path("/opt/ml/processing/out/said.txt").write_text(" ".join(sys.argv[1:]))
""")
processor = ScriptProcessor(
    role=role, image_uri=image, command=["python3"], instance_count=1, instance_type="ml.m5.large"
)
said = ProcessingS3Output(
    s3_uri=f"s3://{bucket}/said", local_path="/opt/ml/processing/out", s3_upload_mode="EndOfJob"
)
processor.run(
    code=str(source / "process.py"),
    outputs=[ProcessingOutput(output_name="said", s3_output=said)],
    arguments=["all", "is", "well"],
    logs=False,
)
print("PROCESSED", session.read_s3_file(bucket, "said/said.txt"))
