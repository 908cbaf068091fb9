"""What goes on when JupyterLab has ended: `python -m workshop running`, which `make lab` calls at its end."""

import os

import boto3

import localaws

from .target import Target, TargetError, connect


def tell() -> None:
    """Print what still runs, what it costs and how to end it; print nothing where nothing does, and start nothing."""
    aws = os.environ.get("WORKSHOP_TARGET", "local").strip().lower() == "aws"
    if not aws and localaws.status() is None:
        return
    try:
        target = connect(quiet=True)
    except TargetError as error:
        print(f"Whether anything still runs cannot be asked: {error}")
        return
    things = endpoints(target) + jobs(target)
    if aws and things:
        print("Still running on AWS, and costing:")
    elif not aws:
        print(f"localaws goes on at {target.endpoint_url}" + (", with:" if things else "."))
    for thing in things:
        print(f"  {thing}")
    if aws and things:
        print("End it with labs/99_cleanup.ipynb.")
    elif not aws:
        print("Stop it, and all in it: .venv/bin/python -m localaws down")


def endpoints(target: Target) -> list[str]:
    """The walk's endpoints, each of which costs by the hour."""
    pages = boto3.client("sagemaker").get_paginator("list_endpoints").paginate(NameContains=target.name)
    found = [endpoint for page in pages for endpoint in page["Endpoints"]]
    return [f"endpoint {endpoint['EndpointName']}, {endpoint['EndpointStatus']}" for endpoint in found]


def jobs(target: Target) -> list[str]:
    """The walk's jobs that have not ended."""
    client, found = boto3.client("sagemaker"), []
    for kind, word in [("training", "Training"), ("transform", "Transform")]:
        pages = client.get_paginator(f"list_{kind}_jobs").paginate(
            NameContains=target.name, StatusEquals="InProgress"
        )
        found += [
            f"{kind} job {job[f'{word}JobName']}" for page in pages for job in page[f"{word}JobSummaries"]
        ]
    return found
