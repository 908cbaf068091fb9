"""The walk as the labs write it, with the sagemaker SDK v3 as it comes. Run by test_sdk.py, a step an argument.

The environment names the server; arguments: role, bucket, image, and what the step needs.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import boto3

# The SDK shows a job's lines by logging them; without this there is nobody to print what it logs.
logging.basicConfig(format="%(message)s")
logging.getLogger("sagemaker").setLevel(logging.INFO)
STEPS = {}


def step(function):
    STEPS[function.__name__] = function
    return function


@step
def walk(role, bucket, image):
    """ModelTrainer, then Model, EndpointConfig, Endpoint, TransformJob; prints what each came to."""
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.resources import Endpoint, EndpointConfig, Model, TransformJob
    from sagemaker.core.shapes import (
        ContainerDefinition,
        DataProcessing,
        ProductionVariant,
        TransformDataSource,
        TransformInput,
        TransformOutput,
        TransformResources,
        TransformS3DataSource,
    )
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute, InputData, OutputDataConfig, StoppingCondition

    session = Session(boto_session=boto3.Session(), default_bucket=bucket)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "iris.csv").write_text("setosa,5.1,3.5\n")
        trainer = ModelTrainer(
            sagemaker_session=session,
            role=role,
            base_job_name="walk",
            training_image=image,
            compute=Compute(instance_type="ml.m5.large", instance_count=1),
            hyperparameters={"depth": 5, "model": "by the SDK"},
            stopping_condition=StoppingCondition(max_runtime_in_seconds=600),
            output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/models"),
        )
        trainer.with_metric_definitions([{"name": "loss", "regex": "loss=([0-9.]+);"}])
        trainer.train(
            input_data_config=[InputData(channel_name="training", data_source=folder)], wait=False, logs=False
        )
    job = trainer._latest_training_job
    job.wait(poll=1, logs=True)
    job.refresh()
    metrics = [(metric.metric_name, metric.value) for metric in job.final_metric_data_list]
    print("TRAINED", job.training_job_status, dict(job.hyper_parameters), metrics)

    name = job.training_job_name
    model = Model.create(
        model_name=name,
        primary_container=ContainerDefinition(
            image=image, model_data_url=job.model_artifacts.s3_model_artifacts, environment={"COLOUR": "blue"}
        ),
        execution_role_arn=role,
    )
    config = EndpointConfig.create(
        endpoint_config_name=name,
        production_variants=[
            ProductionVariant(
                variant_name="AllTraffic",
                model_name=model.model_name,
                instance_type="ml.m5.large",
                initial_instance_count=1,
            )
        ],
    )
    endpoint = Endpoint.create(endpoint_name=name, endpoint_config_name=config.endpoint_config_name)
    endpoint.wait_for_status("InService", poll=1)
    answer = endpoint.invoke(body=b"1,2,3\n", content_type="text/csv", accept="text/csv")
    told = json.loads(endpoint.invoke(body=b"tell").body.read())
    print(
        "INVOKED", answer.body.read(), answer.invoked_production_variant, told["word"], told["env"]["COLOUR"]
    )

    boto3.client("s3").put_object(Bucket=bucket, Key="batch/in.csv", Body=b"7,5.1,3.5\n8,4.9,3.0\n")
    batch = TransformJob.create(
        transform_job_name=name,
        model_name=name,
        transform_input=TransformInput(
            data_source=TransformDataSource(
                s3_data_source=TransformS3DataSource(s3_data_type="S3Prefix", s3_uri=f"s3://{bucket}/batch/")
            ),
            content_type="text/csv",
            split_type="Line",
        ),
        transform_output=TransformOutput(
            s3_output_path=f"s3://{bucket}/predictions", accept="text/csv", assemble_with="Line"
        ),
        transform_resources=TransformResources(instance_type="ml.m5.large", instance_count=1),
        data_processing=DataProcessing(input_filter="$[1:]", join_source="Input", output_filter="$[0,-2]"),
    )
    batch.wait(poll=1)
    output = boto3.client("s3").get_object(Bucket=bucket, Key="predictions/in.csv.out")["Body"].read()
    print("TRANSFORMED", batch.transform_job_status, output)

    endpoint.delete()
    endpoint.wait_for_delete(poll=1)
    config.delete()
    model.delete()
    left = [item for kind in (Endpoint, EndpointConfig, Model) for item in kind.get_all(name_contains=name)]
    print("LEFT", left)


@step
def classes(role, bucket, image):
    """ModelBuilder and Transformer on what a training job left behind, and HyperparameterTuner."""
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
    from sagemaker.core.resources import TrainingJob
    from sagemaker.core.transformer import Transformer
    from sagemaker.serve import ModelBuilder
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute, InputData
    from sagemaker.train.tuner import HyperparameterTuner

    session = Session(boto_session=boto3.Session(), default_bucket=bucket)
    boto3.client("s3").put_object(Bucket=bucket, Key="data/a.csv", Body=b"1,2\n")
    trainer = ModelTrainer(
        sagemaker_session=session,
        role=role,
        base_job_name="classes",
        training_image=image,
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
    )
    data = [InputData(channel_name="training", data_source=f"s3://{bucket}/data/")]
    trainer.train(input_data_config=data, wait=False, logs=False)
    job = trainer._latest_training_job
    job.wait(poll=1)
    # Its own default is a folder in /tmp that belongs to whoever came first.
    folder = tempfile.TemporaryDirectory()
    builder = ModelBuilder(
        model_path=folder.name,
        s3_model_data_url=job.model_artifacts.s3_model_artifacts,
        image_uri=image,
        role_arn=role,
        sagemaker_session=session,
        instance_type="ml.m5.large",
    )
    model = builder.build(model_name=job.training_job_name)
    # It would poll every 30 s.
    endpoint = builder.deploy(endpoint_name=job.training_job_name, initial_instance_count=1, wait=False)
    endpoint.wait_for_status("InService", poll=1)
    folder.cleanup()
    print("INVOKED", endpoint.invoke(body=b"1,2,3\n", content_type="text/csv").body.read())
    boto3.client("s3").put_object(Bucket=bucket, Key="rows/in.csv", Body=b"1,2,3\n4,5,6\n")
    transformer = Transformer(
        model_name=model.model_name,
        instance_count=1,
        instance_type="ml.m5.large",
        strategy="MultiRecord",
        assemble_with="Line",
        accept="text/csv",
        output_path=f"s3://{bucket}/out",
        sagemaker_session=session,
    )
    transformer.transform(
        f"s3://{bucket}/rows/", content_type="text/csv", split_type="Line", wait=True, logs=False
    )
    print("TRANSFORMED", boto3.client("s3").get_object(Bucket=bucket, Key="out/in.csv.out")["Body"].read())
    endpoint.delete()
    tuner = HyperparameterTuner(
        model_trainer=trainer,
        objective_metric_name="loss",
        objective_type="Minimize",
        hyperparameter_ranges={
            "depth": IntegerParameter(2, 9),
            "share": ContinuousParameter(0.1, 1, scaling_type="Logarithmic"),
            "criterion": CategoricalParameter(["gini", "entropy"]),
        },
        metric_definitions=[{"Name": "loss", "Regex": "loss=([0-9.]+);"}],
        max_jobs=3,
        max_parallel_jobs=3,
        base_tuning_job_name="classes",
    )
    tuner.tune(inputs=data, wait=False)
    tuner.latest_tuning_job.wait(poll=1)
    best = TrainingJob.get(tuner.best_training_job())
    counters = tuner.describe().training_job_status_counters
    print("TUNED", counters.completed, sorted(best.hyper_parameters), best.hyper_parameters["criterion"])


@step
def far(role, bucket, image):
    """A function that @remote runs as a training job, in an image whose Python has the SDK."""
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.remote_function import remote

    session = Session(boto_session=boto3.Session(), default_bucket=bucket)

    @remote(instance_type="ml.m5.large", image_uri=image, role=role, sagemaker_session=session)
    def divide(x, y):
        print("dividing", x)
        return x / y

    print("DIVIDED", divide(10, 4))


if __name__ == "__main__":
    STEPS[sys.argv[1]](*sys.argv[2:])
