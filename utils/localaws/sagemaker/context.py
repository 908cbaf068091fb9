"""What every part of the control plane shares: the clients, the store, the engine, and the checks that the service
makes beyond the request's shape (image, role, data)."""

import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from botocore.exceptions import ClientError

from localaws.engines.process import ProcessEngine
from localaws.errors import AwsError, Invalid, NotServed
from localaws.images.registry import place, repository
from localaws.state import locate
from localaws.state.database import Database
from localaws.state.store import Store

from .storage import DataError, list_keys, parse_uri

MAX_INSTANCES = 20
# The family of large GPUs, of which a new account may have none until it has asked for some.
NO_QUOTA = re.compile(r"ml\.p\d")
PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
ENDED = ("Completed", "Failed", "Stopped")  # a job, or an endpoint, that holds no instance any more
# The resource part of an ARN, by kind.
ARN_PARTS = {
    "TrainingJob": "training-job",
    "Model": "model",
    "EndpointConfig": "endpoint-config",
    "Endpoint": "endpoint",
    "TransformJob": "transform-job",
    "ProcessingJob": "processing-job",
    "HyperParameterTuningJob": "hyper-parameter-tuning-job",
}


class Context:
    """Jobs use S3, IAM, Logs and CloudWatch as any client does.

    home:         folder of all state
    database:     where the records are kept
    region:       that of all its resources
    engine:       what runs programs, the same for all regions
    connect:      gives boto3's client of a service in the region
    registry:     the images: see `fetch` of engines/process.py and engines/docker.py
    """

    def __init__(
        self,
        home: Path,
        database: Database,
        region: str,
        engine: ProcessEngine,
        connect: Callable,
        registry,
    ):
        self.home = home if region == locate.REGION else home / "regions" / region
        self.region, self.engine, self.registry = region, engine, registry
        self.store = Store(database, region)
        # What SageMaker tells every program.
        self.variables = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        self.s3, self.iam, self.logs, self.cloudwatch = map(connect, ("s3", "iam", "logs", "cloudwatch"))
        # Held from the check of a limit until what it allows is in the store.
        self.placing = threading.RLock()

    def arn(self, kind: str, name: str) -> str:
        """The ARN of a resource; like the service, in lower case."""
        return f"arn:aws:sagemaker:{self.region}:{locate.ACCOUNT}:{ARN_PARTS[kind]}/{name.lower()}"

    def require(self, kind: str, name: str) -> dict:
        """The record of a resource. Raises AwsError in the words of the service if there is none."""
        record = self.store.get(kind, name)
        if record is None:
            raise self.not_found(kind, name)
        return record

    def not_found(self, kind: str, name: str) -> AwsError:
        if kind == "HyperParameterTuningJob":
            message = f"Amazon SageMaker can't find a tuning job called {name}. Type another name."
            return AwsError("ResourceNotFound", message)
        if kind.endswith("Job"):
            return Invalid("Requested resource not found.")
        return Invalid(f'Could not find {spell(kind)} "{self.arn(kind, name)}".')

    def insert(self, kind: str, record: dict) -> dict:
        """Add a resource; what Create answers. Raises AwsError in the words of the service if the name is taken."""
        name, now = record[f"{kind}Name"], time.time()
        arn = self.arn(kind, name)
        own = {f"{kind}Arn": arn, "CreationTime": now, "LastModifiedTime": now}
        if self.store.insert(kind, name, record | own):
            return {f"{kind}Arn": arn}
        if kind == "HyperParameterTuningJob":
            named = f"A hyperparameter tuning job with the name, {name}, already exists"
            raise AwsError("ResourceInUse", f"{named}. Choose a different name.")
        if kind.endswith("Job"):
            training = kind == "TrainingJob"
            names, job = ("Training job names", "training job") if training else ("Job name", "job")
            message = f"{names} must be unique within an AWS account and region, and a {job} with this name already exists"
            raise AwsError("ResourceInUse", f"{message} ({arn})")
        raise Invalid(f'Cannot create already existing {spell(kind)} "{arn}".')

    def check_role(self, arn: str) -> None:
        """The role must exist in IAM and let SageMaker assume it."""
        name = arn.split(":role/", 1)[-1].rsplit("/", 1)[-1]
        try:
            policy = self.iam.get_role(RoleName=name)["Role"]
        except self.iam.exceptions.NoSuchEntityException:
            policy = {"Arn": None}
        if policy["Arn"] != arn or not _trusts_sagemaker(policy["AssumeRolePolicyDocument"]):
            raise Invalid(
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role."
            )

    def check_data(self, uri: str, role: str | None) -> None:
        """At least one object must be at or below `uri`, and the role must be allowed to see it."""
        bucket = _bucket(uri)
        try:
            self.require_access(role, "s3:ListBucket", f"s3://{bucket}")
            keys = list_keys(self.s3, uri)
        except DataError:
            keys = []
        if not keys:
            raise Invalid(
                f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
                f"exists in the selected region ({self.region}), that objects exist under that S3 prefix, and that "
                f'the role "{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
            )

    def check_model_data(self, uri: str, role: str, prefix: bool) -> None:
        """A model's archive, or at least one object below its prefix, must be there."""
        try:
            key = parse_uri(uri)[1]
            self.require_access(role, "s3:GetObject", uri)
            keys = list_keys(self.s3, uri)
        except DataError:
            keys, key = [], None
        if not (keys if prefix else key in keys):
            raise Invalid(
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
                f"object is located in {self.region}."
            )

    def check_bucket(self, uri: str) -> None:
        """The bucket that a job is to write to must exist."""
        bucket = _bucket(uri)
        try:
            self.s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            raise Invalid(
                f'The S3 bucket of "{uri}" cannot be written to: bucket "{bucket}" does not exist. Create it first.'
            ) from error

    def check_isolation(self, request: dict, image: str) -> None:
        """A program without network needs a container, or name spaces."""
        if request.get("EnableNetworkIsolation") and not self.engine.isolates(self.registry, image):
            what = "EnableNetworkIsolation with its process engine, which isolates nothing of an image made for it"
            raise NotServed(what, "start a Docker engine, then localaws again")

    def require_access(self, role: str, action: str, uri: str) -> None:
        """The role's policies must allow an action on a bucket or an object. Raises DataError.

        As with IAM's policy simulator, a statement with a Condition does not apply, and bucket policies do not count.
        """
        resource = "arn:aws:s3:::" + "/".join(parse_uri(uri)).rstrip("/")
        if not self._allowed(role, [action], resource):
            raise DataError(
                f'Access Denied: the role "{role}" has no "{action}" permission on "{uri}". (AmazonSageMakerFullAccess '
                "reaches only buckets with sagemaker in their names.)"
            )

    def may_pull(self, role: str, image: str) -> bool:
        """Whether the role's policies allow it to fetch an image, which `pin` has found."""
        region, name = place(repository(image))
        resource = f"arn:aws:ecr:{region}:{locate.ACCOUNT}:repository/{name}"
        return self._allowed(role, PULL, resource)

    def check_pull(self, image: str, role: str) -> None:
        """The role must be allowed to fetch the image."""
        if not self.may_pull(role, image):
            raise Invalid(
                f"Access denied for repository: {place(repository(image))[1]} in registry ID: {locate.ACCOUNT}. Please "
                f"check if your ECR repository and image exist and role {role} has proper pull permissions for SageMaker: "
                f"{', '.join(PULL)}"
            )

    def _allowed(self, role: str, actions: Iterable[str], resource: str) -> bool:
        asked = {"PolicySourceArn": role, "ActionNames": list(actions), "ResourceArns": [resource]}
        try:
            results = self.iam.simulate_principal_policy(**asked)["EvaluationResults"]
        except self.iam.exceptions.NoSuchEntityException:  # deleted since
            return False
        return all(result["EvalDecision"] == "allowed" for result in results)

    def check_manifest(self, image: str) -> None:
        """What a model's image names must be one image, not a list of some."""
        kind = self.registry.index_type(self.registry.resolve(image))
        if kind:
            raise Invalid(
                f"Unsupported manifest media type {kind} for image {image}. Ensure that valid manifest media type is used "
                "for specified image."
            )

    def check_limit(self, kind: str, wanted: dict[str, int]) -> None:
        """What an account may have of an instance type at once; here what one machine can stand in for.

        `wanted` counts instances by type, as does `Instances` of each record. Hold `placing` until they are in the store.
        """
        active = self.store.list(kind, lambda record: record[f"{kind}Status"] not in ENDED)
        for instance_type, count in wanted.items():
            used = sum(record.get("Instances", {}).get(instance_type, 0) for record in active)
            limit = 0 if NO_QUOTA.match(instance_type) else MAX_INSTANCES
            if used + count > limit:
                raise AwsError(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{instance_type} for {spell(kind)} usage' is {limit} "
                    f"Instances, with current utilization of {used} Instances and a request delta of {count} "
                    "Instances. Please use AWS Service Quotas to request an increase for this quota. If AWS Service "
                    "Quotas is not available, contact AWS support to request an increase for this quota.",
                )

    def pin(self, image: str, problem: str) -> str:
        """The image's URI by digest, so that a later push changes nothing that runs. Raises Invalid, which tells of
        the `problem` and its cause, where there is no such image."""
        try:
            digest = self.registry.resolve(image)
        except KeyError as error:
            raise Invalid(f"{problem}. {error.args[0]}") from error
        host, _, rest = image.partition("/")
        return f"{host}/{rest.split('@')[0].split(':')[0]}@{digest}"


def spell(kind: str) -> str:
    """A kind of resource in words: `endpoint configuration` for EndpointConfig."""
    return re.sub(r"(?<!^)([A-Z])", r" \1", kind).lower().replace("config", "configuration")


def internal_error(error: Exception) -> str:
    """The reason to give for an error that nobody expected. It goes no further, as nobody is above a thread: the record
    must tell of it, and the server's log has the traceback."""
    traceback.print_exception(error)
    return f"InternalServerError: {type(error).__name__}: {error}"


def _bucket(uri: str) -> str:
    try:
        return parse_uri(uri)[0]
    except DataError as error:
        raise Invalid(f"{error}.") from error


def _trusts_sagemaker(document) -> bool:
    if isinstance(document, str):
        document = json.loads(document)
    statements = document.get("Statement", [])
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal")
        services = principal.get("Service", []) if isinstance(principal, dict) else []
        services = [services] if isinstance(services, str) else services
        if statement.get("Effect") == "Allow" and (principal == "*" or "sagemaker.amazonaws.com" in services):
            return True
    return False
