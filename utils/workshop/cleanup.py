"""What of the walk is still there: the proof that 99_cleanup asks for."""

import boto3

from .aws import answer
from .target import Target


def left_over(target: Target) -> list[str]:
    """Everything that the walk made and that still exists or runs, each as `kind name`; empty when all is gone.

    Ended training and transform jobs are not listed: they are records that AWS keeps, with their log lines.
    """
    sagemaker = boto3.client("sagemaker")
    things = []
    for kind, operation, key, name in [
        ("endpoint", "list_endpoints", "Endpoints", "EndpointName"),
        ("endpoint config", "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
        ("model", "list_models", "Models", "ModelName"),
    ]:
        for page in sagemaker.get_paginator(operation).paginate(NameContains=target.name):
            things += [f"{kind} {item[name]}" for item in page[key] if item[name].startswith(target.name)]
    for kind, word in [("training", "Training"), ("transform", "Transform")]:
        for status in ("InProgress", "Stopping"):
            pages = sagemaker.get_paginator(f"list_{kind}_jobs").paginate(
                NameContains=target.name, StatusEquals=status
            )
            for page in pages:
                things += [
                    f"running {kind} job {job[f'{word}JobName']}" for job in page[f"{word}JobSummaries"]
                ]
    for status in ("InProgress", "Stopping"):
        pages = sagemaker.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
            NameContains=target.tuning, StatusEquals=status
        )
        for page in pages:
            jobs = page["HyperParameterTuningJobSummaries"]
            things += [f"running tuning job {job['HyperParameterTuningJobName']}" for job in jobs]
    for repository in (target.name, target.own, target.unet):
        if answer(boto3.client("ecr").describe_repositories, repositoryNames=[repository]):
            things.append(f"ECR repository {repository}")
    if answer(boto3.client("s3").head_bucket, Bucket=target.bucket):
        things.append(f"bucket {target.bucket}")
    groups = boto3.client("logs").describe_log_groups(
        logGroupNamePrefix=f"/aws/sagemaker/Endpoints/{target.name}"
    )
    things += [f"log group {group['logGroupName']}" for group in groups["logGroups"]]
    if target.folder.exists():
        things.append(f"folder {target.folder}")
    return things
