"""Processing jobs, executed: inputs from S3, the image's program on each host, outputs to S3."""

import time
from pathlib import Path

from localaws.engines.logs import LogStream
from localaws.engines.process import Spec
from localaws.errors import Invalid
from localaws.sagemaker import storage
from localaws.sagemaker.context import Context
from localaws.state.processes import write_json

from .checkpoints import Checkpoints
from .hosts import DEFAULT_RUNTIME, HostsJob, beginning, own_line
from .jobs import JobError, Jobs

LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
PLACE = "/opt/ml/processing/"
STOP_SECONDS = 30  # between SIGTERM and SIGKILL
MESSAGE_BYTES = 1024
# What the service describes where a request does not say.
S3_INPUT = {
    "S3InputMode": "File",
    "S3DataDistributionType": "FullyReplicated",
    "S3CompressionType": "None",
}


class Processing(Jobs):
    """CreateProcessingJob and what follows from it."""

    kind = "ProcessingJob"

    def create(self, request: dict) -> dict:
        context, role = self.context, request["RoleArn"]
        cluster = request["ProcessingResources"]["ClusterConfig"]
        if "InstanceType" not in cluster or cluster.get("InstanceCount", 0) < 1:
            raise Invalid(
                "ProcessingResources.ClusterConfig needs InstanceType and an InstanceCount of 1 or more."
            )
        inputs, outputs = request.get("ProcessingInputs", []), _outputs(request)
        _check(inputs, "ProcessingInputs", "InputName", "S3Input")
        _check(outputs, "ProcessingOutputConfig.Outputs", "OutputName", "S3Output")
        context.check_role(role)
        image = request["AppSpecification"]["ImageUri"]
        image = context.pin(image, f"Cannot find the requested image: {image}")
        context.check_isolation(request.get("NetworkConfig", {}), image)
        for one in inputs:
            context.check_data(one["S3Input"]["S3Uri"], role)
        context.check_pull(image, role)
        for one in outputs:
            context.check_bucket(one["S3Output"]["S3Uri"])
        record = request | {
            "ResolvedImage": image,
            "Instances": {cluster["InstanceType"]: cluster["InstanceCount"]},
            "StoppingCondition": request.get("StoppingCondition", {"MaxRuntimeInSeconds": DEFAULT_RUNTIME}),
            "ProcessingInputs": [
                {"AppManaged": False} | one | {"S3Input": S3_INPUT | one["S3Input"]} for one in inputs
            ],
        }
        if outputs:
            record["ProcessingOutputConfig"] = request["ProcessingOutputConfig"] | {
                "Outputs": [{"AppManaged": False} | one for one in outputs]
            }
        return self.launch(_Job(context, record))

    def finish(self, record: dict, status: str, job: "_Job | None") -> None:
        record["ProcessingEndTime"] = time.time()
        if job and job.message:
            record["ExitMessage"] = job.message


def _outputs(request: dict) -> list[dict]:
    return request.get("ProcessingOutputConfig", {}).get("Outputs", [])


def _check(items: list[dict], where: str, name: str, source: str) -> None:
    """What the service refuses of inputs or outputs beyond the shapes."""
    names = [item[name] for item in items]
    if len(set(names)) < len(names):
        raise Invalid(f"{where}: each {name} must be unique, got {', '.join(names)}.")
    for item in items:
        path = item.get(source, {}).get("LocalPath", "")
        if not path.startswith(PLACE) or ".." in path:
            raise Invalid(
                f'{where} "{item[name]}": {source}.LocalPath is "{path}", but must begin with {PLACE}.'
            )


class _Job(HostsJob):
    """One processing job."""

    log_group, stop_seconds = LOG_GROUP, STOP_SECONDS

    def __init__(self, context: Context, record: dict):
        cluster = record["ProcessingResources"]["ClusterConfig"]
        super().__init__(context, "ProcessingJob", record, cluster["InstanceCount"])
        self.message = ""  # what its hosts have left in output/message

    def execute(self) -> str:
        self.context.store.update(self.kind, self.name, ProcessingStartTime=time.time())
        image = self._image()
        bases = {host: self._prepare(host) for host in self._hosts}
        if self.stop_requested.is_set():
            return "Stopped"
        record = self.record
        environment = self.context.variables | record.get("Environment", {})
        instance_type = record["ProcessingResources"]["ClusterConfig"]["InstanceType"]
        isolated = record.get("NetworkConfig", {}).get("EnableNetworkIsolation", False)
        line = own_line(record["AppSpecification"])

        def spec(host: str) -> Spec:
            what = f"processing job {self.name} {host}"
            return Spec(what, image, "process", bases[host], environment, instance_type, isolated, **line)

        def beside(streams: dict[str, LogStream]) -> list[Checkpoints]:
            ongoing = [one["S3Output"] for one in _outputs(record) if _is_continuous(one)]
            return [
                self._copied(output, bases[host], stream)
                for host, stream in streams.items()
                for output in ongoing
            ]

        exit_codes, outcome = self._run(
            spec, record["StoppingCondition"]["MaxRuntimeInSeconds"], beside=beside
        )
        self._read_messages(bases)
        if self.server_closing.is_set():
            return "Failed"
        if outcome == "Completed" and any(exit_codes.values()):
            raise self._failure(exit_codes, bases, "output/message")
        if outcome == "Completed":
            self._upload(bases)
        return "Completed" if outcome == "Completed" else "Stopped"

    def _prepare(self, host: str) -> Path:
        """The host's /opt/ml: configuration, inputs, and folders for the outputs."""
        base, record = self.folder / host / "ml", self.record
        for folder in ("config", "processing", "output"):
            (base / folder).mkdir(parents=True)
        told = {
            "ProcessingJobArn": self.context.arn(self.kind, self.name),
            "ProcessingJobName": self.name,
            "AppSpecification": {"ContainerEntrypoint": None, "ContainerArguments": None}
            | record["AppSpecification"],
            "Environment": record.get("Environment", {}),
            "ProcessingInputs": record["ProcessingInputs"],
            "ProcessingOutputConfig": {"Outputs": _outputs(record), "KmsKeyId": None},
            "ProcessingResources": record["ProcessingResources"],
            "RoleArn": record["RoleArn"],
            "StoppingCondition": record["StoppingCondition"],
        }
        write_json(base / "config" / "processingjobconfig.json", told)
        write_json(base / "config" / "resourceconfig.json", {"current_host": host, "hosts": self._hosts})
        for one in record["ProcessingInputs"]:
            objects = self._objects(one["S3Input"], self._hosts.index(host))
            self._download(objects, base / _place(one["S3Input"]))
        for one in _outputs(record):
            (base / _place(one["S3Output"])).mkdir(parents=True, exist_ok=True)
        return base

    def _copied(self, output: dict, base: Path, stream: LogStream) -> Checkpoints:
        def say(what: str) -> None:
            stream.write(f"[localaws] {output['LocalPath']}: {what}")

        return Checkpoints(self.context.s3, output["S3Uri"], base, _place(output), say, fetch=False)

    def _upload(self, bases: dict[str, Path]) -> None:
        for one in _outputs(self.record):
            if not _is_continuous(one):
                uri = one["S3Output"]["S3Uri"]
                try:
                    self.context.require_access(self.record["RoleArn"], "s3:PutObject", uri)
                except storage.DataError as error:
                    raise JobError(f"ClientError: Output upload failed:{error}") from error
                storage.upload(self.context.s3, self._left(bases, _place(one["S3Output"]), keys=True), uri)

    def _read_messages(self, bases: dict[str, Path]) -> None:
        try:
            whole = "".join(
                beginning(base, "output/message")[:MESSAGE_BYTES].decode() for base in bases.values()
            )
        except UnicodeDecodeError as error:
            raise JobError("ClientError: /opt/ml/output/message is not UTF-8.") from error
        self.message = whole[:MESSAGE_BYTES]


def _place(source: dict) -> str:
    """Where an input or output is, below /opt/ml."""
    return source["LocalPath"].removeprefix("/opt/ml/").rstrip("/")


def _is_continuous(output: dict) -> bool:
    return output["S3Output"]["S3UploadMode"] == "Continuous"
