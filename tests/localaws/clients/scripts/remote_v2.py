"""SDK v2's @remote, as its documentation writes it: a function of this file runs as a training job, in an image of one's own
whose Python has the SDK too; and what is said where it has not.

From 2.256 on, the SDK has each job bring its own SDK up to date by pip. PIP_NO_INDEX leaves it at what the image has.
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import boto3
from sagemaker.remote_function import remote
from sagemaker.remote_function.runtime_environment.runtime_environment_manager import RuntimeEnvironmentError


def pushed(name: str, folder: str) -> str:
    """Build and push an image, return its URI."""
    uri = boto3.client("ecr").create_repository(repositoryName=name)["repository"]["repositoryUri"]
    localaws = [os.environ["PYTHON"], "-m", "localaws"]
    subprocess.run([*localaws, "build", folder, "--target", "train", "-t", name], check=True)
    subprocess.run([*localaws, "push", name, uri], check=True)
    return uri


@remote(
    instance_type="ml.m5.large",
    image_uri=pushed("with-sdk", "./with_sdk"),
    environment_variables={"PIP_NO_INDEX": "1"},
)
def divide(x, y):
    print("dividing", x)
    return x / y


@remote(instance_type="ml.m5.large", image_uri=pushed("without-sdk", "./without_sdk"))
def double(x):
    return 2 * x


# At once, since the SDK asks but twice a minute whether a job has ended.
with ThreadPoolExecutor() as pool:
    divided, raised, without = pool.submit(divide, 10, 4), pool.submit(divide, 1, 0), pool.submit(double, 1)
print("DIVIDED", divided.result())
assert isinstance(raised.exception(), ZeroDivisionError), raised.exception()
assert isinstance(without.exception(), RuntimeEnvironmentError), without.exception()
print("WITHOUT", without.exception())
