"""Small questions to AWS that several modules ask."""

import boto3
from botocore.exceptions import ClientError

#: What services answer for a thing that does not exist. Every other error (no rights, throttled, …) is an error.
NOT_THERE = {
    "404",
    "ImageNotFoundException",
    "NoSuchBucket",
    "NoSuchEntity",
    "NoSuchKey",
    "RepositoryNotFoundException",
    "ResourceNotFound",
    "ResourceNotFoundException",
}


def answer(call, **arguments):
    """The call's answer, or None where the service says that the thing does not exist. Raises ClientError otherwise."""
    try:
        return call(**arguments)
    except ClientError as error:
        problem = error.response["Error"]
        # SageMaker's Describe calls have no code of their own for it.
        absent = problem["Code"] == "ValidationException" and problem["Message"].startswith(
            ("Could not find", "Requested resource not found")
        )
        if absent or problem["Code"] in NOT_THERE:
            return None
        raise


def endpoint_status(name: str) -> str | None:
    """The endpoint's status, or None where there is no endpoint of this name."""
    description = answer(boto3.client("sagemaker").describe_endpoint, EndpointName=name)
    return description and description["EndpointStatus"]
