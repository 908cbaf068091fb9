"""The SageMaker control plane: one method an operation, each request checked first, each answer cut to its shape.

`SERVED` says what we take: an operation or a field that is not in it is refused by name, never ignored.
"""

import base64
import json
import math
from collections.abc import Callable
from functools import partial

from localaws.errors import AwsError, Invalid, NotServed
from localaws.moto import notices
from localaws.sagemaker.hosting.endpoints import Hosting
from localaws.sagemaker.hosting.instances import container_definition
from localaws.sagemaker.jobs.jobs import RECORDED
from localaws.sagemaker.jobs.processing import Processing
from localaws.sagemaker.jobs.training import Training
from localaws.sagemaker.jobs.transform import Transform
from localaws.sagemaker.jobs.tuning import Tuning

from .context import ARN_PARTS, Context
from .validation import parse_served, prune, refuse_unserved, service_model, validate

_CONTAINER = """{0}.Image {0}.ModelDataUrl {0}.Environment {0}.ContainerHostname {0}.Mode=SingleModel
    {0}.ImageConfig.RepositoryAccessMode=Platform
    {0}.ModelDataSource.S3DataSource.S3Uri {0}.ModelDataSource.S3DataSource.S3DataType=S3Prefix|S3Object
    {0}.ModelDataSource.S3DataSource.CompressionType"""
# What a training job and the definition of a tuning job's training jobs have in common.
_TRAINING = """{0}RoleArn {0}Environment {0}EnableNetworkIsolation {0}EnableManagedSpotTraining
    {0}AlgorithmSpecification.TrainingImage {0}AlgorithmSpecification.TrainingInputMode
    {0}AlgorithmSpecification.MetricDefinitions
    {0}InputDataConfig.ChannelName {0}InputDataConfig.ContentType {0}InputDataConfig.InputMode
    {0}InputDataConfig.CompressionType {0}InputDataConfig.RecordWrapperType=None
    {0}InputDataConfig.DataSource.S3DataSource.S3DataType=S3Prefix|ManifestFile
    {0}InputDataConfig.DataSource.S3DataSource.S3Uri
    {0}InputDataConfig.DataSource.S3DataSource.S3DataDistributionType
    {0}OutputDataConfig.S3OutputPath {0}OutputDataConfig.CompressionType
    {0}ResourceConfig.InstanceType {0}ResourceConfig.InstanceCount {0}ResourceConfig.VolumeSizeInGB
    {0}StoppingCondition.MaxRuntimeInSeconds {0}StoppingCondition.MaxWaitTimeInSeconds """
_TUNING_RESOURCES = (
    "{0}InstanceType {0}InstanceCount {0}VolumeSizeInGB {0}InstanceConfigs {0}AllocationStrategy "
)
_LIST = "NextToken MaxResults NameContains CreationTimeAfter CreationTimeBefore SortBy SortOrder"
_LIST_STATUS = _LIST + " StatusEquals LastModifiedTimeAfter LastModifiedTimeBefore"

# Operation -> the paths of its request that we serve, with `=value|value` where we do not serve all values.
SERVED = {
    operation: parse_served(paths)
    for operation, paths in {
        "CreateTrainingJob": _TRAINING.format("")
        + """TrainingJobName HyperParameters Tags AlgorithmSpecification.EnableSageMakerMetricsTimeSeries
            AlgorithmSpecification.ContainerEntrypoint AlgorithmSpecification.ContainerArguments
            CheckpointConfig.S3Uri CheckpointConfig.LocalPath RetryStrategy """
        + " ".join(RECORDED),
        "DescribeTrainingJob": "TrainingJobName",
        "ListTrainingJobs": _LIST_STATUS,
        "StopTrainingJob": "TrainingJobName",
        "DeleteTrainingJob": "TrainingJobName",
        "CreateModel": "ModelName ExecutionRoleArn Tags EnableNetworkIsolation "
        + _CONTAINER.format("PrimaryContainer")
        + " "
        + _CONTAINER.format("Containers"),
        "DescribeModel": "ModelName",
        "ListModels": _LIST,
        "DeleteModel": "ModelName",
        "CreateEndpointConfig": "EndpointConfigName Tags ExecutionRoleArn "
        + """ProductionVariants.VariantName ProductionVariants.ModelName ProductionVariants.InitialInstanceCount
            ProductionVariants.InstanceType ProductionVariants.InitialVariantWeight ProductionVariants.VolumeSizeInGB
            ProductionVariants.ModelDataDownloadTimeoutInSeconds
            ProductionVariants.ServerlessConfig.MemorySizeInMB ProductionVariants.ServerlessConfig.MaxConcurrency
            AsyncInferenceConfig.OutputConfig.S3OutputPath AsyncInferenceConfig.OutputConfig.S3FailurePath
            AsyncInferenceConfig.ClientConfig
            ProductionVariants.ContainerStartupHealthCheckTimeoutInSeconds
            DataCaptureConfig.EnableCapture DataCaptureConfig.InitialSamplingPercentage
            DataCaptureConfig.DestinationS3Uri DataCaptureConfig.CaptureOptions
            DataCaptureConfig.CaptureContentTypeHeader ProductionVariants.RoutingConfig.RoutingStrategy=RANDOM|LEAST_OUTSTANDING_REQUESTS""",
        "DescribeEndpointConfig": "EndpointConfigName",
        "ListEndpointConfigs": _LIST,
        "DeleteEndpointConfig": "EndpointConfigName",
        "CreateEndpoint": "EndpointName EndpointConfigName Tags",
        "DescribeEndpoint": "EndpointName",
        "ListEndpoints": _LIST_STATUS,
        "UpdateEndpoint": "EndpointName EndpointConfigName RetainAllVariantProperties "
        "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration.Type=ALL_AT_ONCE "
        "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration.WaitIntervalInSeconds "
        "DeploymentConfig.BlueGreenUpdatePolicy.TerminationWaitInSeconds DeploymentConfig.AutoRollbackConfiguration",
        "UpdateEndpointWeightsAndCapacities": "EndpointName DesiredWeightsAndCapacities.VariantName "
        "DesiredWeightsAndCapacities.DesiredWeight DesiredWeightsAndCapacities.DesiredInstanceCount",
        "DeleteEndpoint": "EndpointName",
        "CreateTransformJob": """TransformJobName ModelName MaxConcurrentTransforms MaxPayloadInMB BatchStrategy
            ModelClientConfig Environment Tags DataProcessing ExperimentConfig
            TransformInput.DataSource.S3DataSource.S3DataType=S3Prefix|ManifestFile
            TransformInput.DataSource.S3DataSource.S3Uri TransformInput.ContentType TransformInput.CompressionType
            TransformInput.SplitType=None|Line
            TransformOutput.S3OutputPath TransformOutput.Accept TransformOutput.AssembleWith
            TransformResources.InstanceType TransformResources.InstanceCount""",
        "DescribeTransformJob": "TransformJobName",
        "ListTransformJobs": _LIST_STATUS,
        "StopTransformJob": "TransformJobName",
        "CreateProcessingJob": """ProcessingJobName RoleArn AppSpecification Environment StoppingCondition Tags
            ProcessingInputs.InputName ProcessingInputs.S3Input.S3Uri ProcessingInputs.S3Input.LocalPath
            ProcessingInputs.S3Input.S3DataType ProcessingInputs.S3Input.S3InputMode=File
            ProcessingInputs.S3Input.S3DataDistributionType ProcessingInputs.S3Input.S3CompressionType=None
            ProcessingOutputConfig.Outputs.OutputName ProcessingOutputConfig.Outputs.S3Output
            ProcessingResources.ClusterConfig.InstanceType ProcessingResources.ClusterConfig.InstanceCount
            ProcessingResources.ClusterConfig.VolumeSizeInGB NetworkConfig.EnableNetworkIsolation ExperimentConfig""",
        "DescribeProcessingJob": "ProcessingJobName",
        "ListProcessingJobs": _LIST_STATUS,
        "StopProcessingJob": "ProcessingJobName",
        "DeleteProcessingJob": "ProcessingJobName",
        "CreateHyperParameterTuningJob": _TRAINING.format("TrainingJobDefinition.")
        + _TUNING_RESOURCES.format("TrainingJobDefinition.HyperParameterTuningResourceConfig.")
        + """TrainingJobDefinition.StaticHyperParameters HyperParameterTuningJobName Tags
            HyperParameterTuningJobConfig.Strategy=Bayesian|Random|Grid
            HyperParameterTuningJobConfig.HyperParameterTuningJobObjective HyperParameterTuningJobConfig.ResourceLimits
            HyperParameterTuningJobConfig.ParameterRanges.IntegerParameterRanges
            HyperParameterTuningJobConfig.ParameterRanges.ContinuousParameterRanges
            HyperParameterTuningJobConfig.ParameterRanges.CategoricalParameterRanges
            HyperParameterTuningJobConfig.TrainingJobEarlyStoppingType HyperParameterTuningJobConfig.RandomSeed
            HyperParameterTuningJobConfig.TuningJobCompletionCriteria.TargetObjectiveMetricValue
            HyperParameterTuningJobConfig.TuningJobCompletionCriteria.BestObjectiveNotImproving""",
        "DescribeHyperParameterTuningJob": "HyperParameterTuningJobName",
        "ListHyperParameterTuningJobs": _LIST_STATUS,
        "ListTrainingJobsForHyperParameterTuningJob": "HyperParameterTuningJobName NextToken MaxResults StatusEquals "
        "SortBy SortOrder",
        "StopHyperParameterTuningJob": "HyperParameterTuningJobName",
        "DeleteHyperParameterTuningJob": "HyperParameterTuningJobName",
        "AddTags": "ResourceArn Tags",
        "ListTags": "ResourceArn NextToken MaxResults",
        "DeleteTags": "ResourceArn TagKeys",
    }.items()
}

# What a List operation begins with the oldest of, where a request does not say.
ASCENDING = ("TrainingJob", "HyperParameterTuningJob", "ProcessingJob")
PAGE = 10  # MaxResults, where a request does not say


class ControlPlane:
    """SageMaker's API and runtime in one region, executed on this machine."""

    def __init__(self, context: Context):
        self._context, self.store = context, context.store
        self.store.told = self._tell
        training = Training(context)
        self._tuning = Tuning(context, training)
        # In the order in which they are taken up again; they are closed in the other.
        self._jobs = (training, self._tuning, Transform(context), Processing(context))
        self._hosting = Hosting(context)
        self._operations: dict[str, Callable[[dict], dict]] = {
            "CreateModel": self._create_model,
            "DeleteModel": partial(self._delete, "Model"),
            "CreateEndpointConfig": self._create_endpoint_config,
            "DeleteEndpointConfig": partial(self._delete, "EndpointConfig"),
            "CreateEndpoint": self._hosting.create,
            "UpdateEndpoint": self._hosting.update,
            "UpdateEndpointWeightsAndCapacities": self._hosting.update_weights,
            "DeleteEndpoint": self._hosting.delete,
            "ListTrainingJobsForHyperParameterTuningJob": self._list_tuned,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }
        for jobs in self._jobs:
            self._operations[f"Create{jobs.kind}"] = jobs.create
            self._operations[f"Stop{jobs.kind}"] = jobs.stop
            self._operations[f"Delete{jobs.kind}"] = jobs.delete
        for kind in ARN_PARTS:
            self._operations[f"Describe{kind}"] = partial(self._describe, kind)
            self._operations[f"List{kind}s"] = partial(self._list, kind)

    def handle(self, operation: str, request: dict) -> dict:
        """Answer one API call. Times are epoch seconds. Raises AwsError."""
        if operation not in SERVED:
            if operation in service_model().operation_names:
                raise NotServed(f"{operation} of sagemaker", "run it against AWS")
            raise AwsError("UnknownOperationException", f"SageMaker has no operation {operation}.")
        validate(operation, request)
        request = {name: value for name, value in request.items() if value is not None}
        refuse_unserved(operation, request, SERVED[operation])
        return prune(operation, self._operations[operation](request))

    def invoke(
        self, endpoint_name: str, headers: dict, body: bytes, verb: str = "invocations"
    ) -> tuple[int, dict, bytes]:
        """InvokeEndpoint, or InvokeEndpointAsync (`async-invocations`): (status, headers, body). Raises AwsError."""
        answer = self._hosting.invoke if verb == "invocations" else self._hosting.invoke_async
        return answer(endpoint_name, {name.lower(): value for name, value in headers.items()}, body)

    def scale(self, operation: str, request: dict) -> dict:
        """Answer one call of Application Auto Scaling's about endpoints, as `handle` does."""
        return self._hosting.scaling.handle(operation, request)

    def recover(self) -> None:
        """After a start: settle what an earlier server left. Call it once the endpoint answers."""
        self._context.store.load()  # again: the records of an earlier version are there by now
        for part in (*self._jobs, self._hosting):
            part.recover()

    def close(self) -> None:
        """Let all that runs end with the engine, which is closed next: jobs as failed, endpoints until the next start."""
        for part in (self._hosting, *reversed(self._jobs)):
            part.close()

    def join(self) -> None:
        """Wait until the end of its jobs is recorded, for seconds at most."""
        for jobs in self._jobs:
            jobs.join(5)

    def _tell(self, kind: str, before: dict, record: dict) -> None:
        """Hand a change of status on to EventBridge."""
        statuses = (f"{kind}Status", "SecondaryStatus")
        if kind in notices.TOLD and any(before.get(name) != record.get(name) for name in statuses):
            told = prune(f"Describe{kind}", record) | {"Tags": record.get("Tags", [])}
            notices.changed(self._context.region, kind, told)

    def _create_model(self, request: dict) -> dict:
        context = self._context
        if len(request.get("Containers", [])) > 1:
            raise NotServed("models of several containers", "give PrimaryContainer, or one of Containers")
        if bool(request.get("Containers")) == ("PrimaryContainer" in request):
            raise Invalid("Give either PrimaryContainer or Containers, with one container.")
        definition = container_definition(request)
        if "Image" not in definition:
            raise Invalid("The container of a model needs Image: an image's URI.")
        if "ExecutionRoleArn" not in request:
            raise Invalid("ExecutionRoleArn is required: the ARN of a role.")
        context.check_role(request["ExecutionRoleArn"])
        context.pin(definition["Image"], f"Requested image {definition['Image']} not found")
        context.check_manifest(definition["Image"])
        context.check_isolation(request, definition["Image"])
        source = definition.get("ModelDataSource", {}).get("S3DataSource", {})
        if uri := definition.get("ModelDataUrl") or source.get("S3Uri"):
            context.check_model_data(uri, request["ExecutionRoleArn"], prefix=bool(source))
        return context.insert("Model", {"EnableNetworkIsolation": False} | request)

    def _create_endpoint_config(self, request: dict) -> dict:
        context, variants = self._context, request["ProductionVariants"]
        names = [variant["VariantName"] for variant in variants]
        if len(set(names)) < len(names):
            raise Invalid(f"Variant names must be unique, got {', '.join(names)}.")
        for variant in variants:
            self._check_variant(variant, request)
            variant.setdefault("InitialVariantWeight", 1.0)
        if not any(variant["InitialVariantWeight"] for variant in variants):
            raise Invalid("At least one InitialVariantWeight must be above 0.")
        if capture := request.get("DataCaptureConfig"):
            context.check_bucket(capture["DestinationS3Uri"])
        if asynchronous := request.get("AsyncInferenceConfig"):
            output = asynchronous["OutputConfig"]
            if "S3OutputPath" not in output:
                raise Invalid("AsyncInferenceConfig.OutputConfig.S3OutputPath is required.")
            for uri in output.values():
                context.check_bucket(uri)
        return context.insert("EndpointConfig", request | {"EnableNetworkIsolation": False})

    def _check_variant(self, variant: dict, request: dict) -> None:
        context, name = self._context, variant["VariantName"]
        serverless = variant.get("ServerlessConfig")
        needed = {"ModelName"} | (set() if serverless else {"InstanceType", "InitialInstanceCount"})
        for field in sorted(needed - set(variant)):
            raise Invalid(f'{field} is required for production variant "{name}".')
        context.require("Model", variant["ModelName"])
        if not serverless:
            return

        def refuse(message):
            raise Invalid(f'Production variant "{name}" is serverless: {message}')

        if serverless["MemorySizeInMB"] % 1024:
            refuse("MemorySizeInMB must be 1024, 2048, 3072, 4096, 5120 or 6144.")
        for field in ("InstanceType", "InitialInstanceCount"):
            if field in variant:
                refuse(f"leave {field} out.")
        if len(request["ProductionVariants"]) > 1:
            refuse("it must be the endpoint's only variant.")
        for field in ("DataCaptureConfig", "AsyncInferenceConfig"):
            if field in request:
                refuse(f"{field} is not supported.")

    def _delete(self, kind: str, request: dict) -> dict:
        name = request[f"{kind}Name"]
        if not self._context.store.delete(kind, name):
            raise self._context.not_found(kind, name)
        return {}

    def _describe(self, kind: str, request: dict) -> dict:
        return self._context.require(kind, request[f"{kind}Name"])

    def _list(self, kind: str, request: dict) -> dict:
        output = service_model().operation_model(f"List{kind}s").output_shape.members
        key = next(name for name in output if name != "NextToken")
        order = "Ascending" if kind in ASCENDING else "Descending"
        if kind == "HyperParameterTuningJob":
            request.setdefault("SortBy", "Name")
        # A page of training jobs is cut first and then filtered by status: it may have fewer jobs, or none.
        late = kind == "TrainingJob" and {"StatusEquals", "MaxResults"} <= set(request)
        status = request.pop("StatusEquals") if late else None
        records, descending = self._context.store.list(kind), request.get("SortOrder", order) == "Descending"
        page, token = _page(kind, records, request, descending)
        if status:
            page = [record for record in page if record["TrainingJobStatus"] == status]
        return {key: page, "NextToken": token}

    def _list_tuned(self, request: dict) -> dict:
        record = self._context.require("HyperParameterTuningJob", request["HyperParameterTuningJobName"])
        jobs = self._tuning.summaries(record["HyperParameterTuningJobArn"])
        if request.setdefault("SortBy", "Name") == "FinalObjectiveMetricValue":
            jobs = [job for job in jobs if "FinalObjectiveMetricValue" in job]
        page, token = _page("TrainingJob", jobs, request, request.get("SortOrder") == "Descending")
        return {"TrainingJobSummaries": page, "NextToken": token}

    def _tagged(self, arn: str) -> tuple[str, str]:
        """The kind and name of the resource that an ARN names. Raises AwsError if there is none."""
        part, _, name = arn.split(":", 5)[-1].partition("/")
        kinds = ARN_PARTS.items() if f":sagemaker:{self._context.region}:" in arn else ()
        kind = next((kind for kind, text in kinds if text == part), None)
        if kind is None:
            raise Invalid(f'"{arn}" names no resource that localaws serves in {self._context.region}.')
        self._context.require(kind, name)
        return kind, name

    def _add_tags(self, request: dict) -> dict:
        def change(record):
            tags = {tag["Key"]: tag for tag in [*record.get("Tags", []), *request["Tags"]]}
            if len(tags) > 50:
                message = f"A resource may have 50 tags, this one would have {len(tags)}."
                raise AwsError("ResourceLimitExceeded", message)
            record["Tags"] = list(tags.values())

        return {"Tags": self._context.store.update(*self._tagged(request["ResourceArn"]), change)["Tags"]}

    def _list_tags(self, request: dict) -> dict:
        return {"Tags": self._context.require(*self._tagged(request["ResourceArn"])).get("Tags", [])}

    def _delete_tags(self, request: dict) -> dict:
        def change(record):
            record["Tags"] = [tag for tag in record.get("Tags", []) if tag["Key"] not in request["TagKeys"]]

        self._context.store.update(*self._tagged(request["ResourceArn"]), change)
        return {}


def _page(kind: str, records: list[dict], request: dict, descending: bool) -> tuple[list[dict], str | None]:
    """One page of a List operation, and the token of the next: filtered, sorted, cut.

    The token holds the place of the last record, so that what is created or deleted meanwhile moves nothing.
    """
    name, status = f"{kind}Name", f"{kind}Status"
    for field in ("CreationTime", "LastModifiedTime"):
        low, high = request.get(f"{field}After", -math.inf), request.get(f"{field}Before", math.inf)
        records = [record for record in records if low <= round(record[field], 3) <= high]
    contains, wanted = request.get("NameContains", "").lower(), request.get("StatusEquals")
    records = [
        record
        for record in records
        if contains in record[name].lower() and wanted in (None, record.get(status))
    ]
    keys = {"Name": name, "Status": status, "FinalObjectiveMetricValue": "FinalObjectiveMetricValue"}
    sort = keys.get(request.get("SortBy"), "CreationTime")

    def place(record):
        return [record[sort], record[name]]

    records.sort(key=place, reverse=descending)
    if token := request.get("NextToken"):
        try:
            last = json.loads(base64.urlsafe_b64decode(token))
            records = [r for r in records if (place(r) < last if descending else place(r) > last)]
        except (ValueError, TypeError) as error:
            raise Invalid("NextToken is not one that a List call has answered.") from error
    size = request.get("MaxResults", PAGE)
    if len(records) <= size:
        return records, None
    return records[:size], base64.urlsafe_b64encode(json.dumps(place(records[size - 1])).encode()).decode()
