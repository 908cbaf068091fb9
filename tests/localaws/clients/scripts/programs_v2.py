"""SDK v2's jobs that run a program of one's own in an image: Processor and ScriptProcessor, as its documentation writes them."""

import os
import subprocess
import tempfile
from pathlib import Path

import boto3
import sagemaker
from sagemaker.processing import ProcessingInput, ProcessingOutput, Processor, ScriptProcessor

session = sagemaker.Session()
role, bucket = sagemaker.get_execution_role(), session.default_bucket()
image_uri = boto3.client("ecr").create_repository(repositoryName="sagemaker-programs")["repository"][
    "repositoryUri"
]
localaws = [os.environ["PYTHON"], "-m", "localaws"]
subprocess.run([*localaws, "build", "decision_trees", "--tag", "sagemaker-programs"], check=True)
subprocess.run([*localaws, "push", "sagemaker-programs", image_uri], check=True)

folder = Path(tempfile.mkdtemp())
(folder / "script.py").write_text("""
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--share", type=float)
share = parser.parse_args().share
rows = pathlib.Path("/opt/ml/processing/input/data/iris.csv").read_text().splitlines()
cut = int(len(rows) * share)
for name, part in (("train", rows[:cut]), ("test", rows[cut:])):
    pathlib.Path(f"/opt/ml/processing/{name}/{name}.csv").write_text("\\n".join(part))
config = json.loads(pathlib.Path("/opt/ml/config/processingjobconfig.json").read_text())
print("ran", config["ProcessingJobName"], len(rows))
pathlib.Path("/opt/ml/output/message").write_text(f"{cut} rows to train with")
""")
processor = ScriptProcessor(
    role=role, image_uri=image_uri, command=["python3"], instance_count=1, instance_type="ml.m5.large"
)
processor.run(
    code=str(folder / "script.py"),
    inputs=[
        ProcessingInput(
            source=str(Path(os.environ["CONTAINER"]).parent / "data" / "iris.csv"),
            destination="/opt/ml/processing/input/data",
        )
    ],
    outputs=[
        ProcessingOutput(output_name="train", source="/opt/ml/processing/train"),
        ProcessingOutput(output_name="test", source="/opt/ml/processing/test"),
    ],
    arguments=["--share", "0.8"],
    logs=False,
)
described = processor.jobs[-1].describe()
places = {
    output["OutputName"]: output["S3Output"]["S3Uri"]
    for output in described["ProcessingOutputConfig"]["Outputs"]
}
rows = {
    name: len(session.read_s3_file(bucket, f"{place.split('/', 3)[3]}/{name}.csv").splitlines())
    for name, place in places.items()
}
print("PROCESSED", described["ExitMessage"], rows)

plain = Processor(
    role=role,
    image_uri=image_uri,
    entrypoint=["/bin/sh", "-c", "ls /opt/ml/config; exit 5"],
    instance_count=1,
    instance_type="ml.m5.large",
)
try:
    plain.run(wait=True, logs=False)
except sagemaker.exceptions.UnexpectedStatusException as error:
    print("FAILED", error)
