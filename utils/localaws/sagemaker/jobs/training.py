"""Training jobs, executed: data from S3, `train` of the image on each host, artifacts to S3."""

import gzip
import itertools
import math
import os
import re
import shutil
import stat
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import regex
from botocore.exceptions import BotoCoreError, ClientError

from localaws.engines.logs import LogStream
from localaws.engines.network import INTERFACE
from localaws.engines.process import Spec, Unpacked
from localaws.errors import Invalid, NotServed
from localaws.sagemaker import storage
from localaws.sagemaker.context import Context
from localaws.state.processes import write_json

from .checkpoints import Checkpoints
from .hosts import DEFAULT_RUNTIME, HostsJob, own_line
from .jobs import JobError, Jobs

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
REGEX_SECONDS = 0.5  # that a metric's regex may take for a line; a good one takes microseconds
REPEATS = 1_000_000
SERIES = 10_000  # values of a metric that are kept in order; early stopping compares no more
CHECKPOINTS = "/opt/ml/checkpoints"
# In a spot job's Environment: when its instance is taken away, once. On AWS they mean nothing.
AFTER_SECONDS = "LOCALAWS_SPOT_INTERRUPTION_SECONDS"
AFTER_CHECKPOINTS = (
    "LOCALAWS_SPOT_INTERRUPTION_CHECKPOINTS"  # when so many have come to S3, on a machine of any speed
)

RETRIES = "Retries"  # in a job's record: how often it was taken up again
MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "The spot instance was interrupted. The job starts again from its checkpoint.",
    "Restarting": "The training job was lost and starts again",
    "Stopping": "Stopping the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "Stopped": "Training job stopped",
}


class Training(Jobs):
    """CreateTrainingJob and what follows from it."""

    kind = "TrainingJob"

    def create(self, request: dict) -> dict:
        return self.launch(self.prepare(request))

    def prepare(self, request: dict) -> "_Job":
        """The job that a request asks for, to be launched. Raises AwsError for what the service refuses."""
        context, name = self.context, request["TrainingJobName"]
        specification = request.get("AlgorithmSpecification", {})
        if "TrainingImage" not in specification:
            raise Invalid("AlgorithmSpecification.TrainingImage is required: an image's URI.")
        resources = request.get("ResourceConfig", {})
        if "InstanceType" not in resources or resources.get("InstanceCount", 0) < 1:
            raise Invalid("ResourceConfig needs InstanceType and an InstanceCount of 1 or more.")
        for definition in specification.get("MetricDefinitions", ()):
            _compile(definition)
        channels = request.get("InputDataConfig", ())
        for channel in channels:
            _check_channel(channel, specification["TrainingInputMode"])
        _check_spot(request)
        names = [channel["ChannelName"] for channel in channels]
        if len(set(names)) < len(names):
            raise Invalid(f"Channel names must be unique, got {', '.join(names)}.")
        context.check_role(request["RoleArn"])
        image = specification["TrainingImage"]
        image = context.pin(image, f"Cannot find the requested image: {image}")
        context.check_isolation(request, image)
        for channel in channels:
            context.check_data(channel["DataSource"]["S3DataSource"]["S3Uri"], request["RoleArn"])
        context.check_pull(image, request["RoleArn"])
        output = request["OutputDataConfig"]["S3OutputPath"]
        context.check_bucket(output)
        suffix = "" if request["OutputDataConfig"].get("CompressionType") == "NONE" else ".tar.gz"
        record = with_defaults(request) | {
            "ResolvedImage": image,
            "Instances": {resources["InstanceType"]: resources["InstanceCount"]},
            "SecondaryStatusTransitions": [],
            "StoppingCondition": {"MaxRuntimeInSeconds": DEFAULT_RUNTIME}
            | request.get("StoppingCondition", {}),
            "ModelArtifacts": {"S3ModelArtifacts": f"{output.rstrip('/')}/{name}/output/model{suffix}"},
        }
        transition(record, "Starting")
        return _Job(context, record)

    def again(self, record: dict) -> "_Job | None":
        attempts = record.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)
        if record["TrainingJobStatus"] == "Stopping" or record.get(RETRIES, 0) >= attempts:
            return None
        return _Job(self.context, record)

    def restarting(self, record: dict) -> None:
        record[RETRIES] = record.get(RETRIES, 0) + 1
        transition(record, "Restarting")

    def stopping(self, record: dict) -> None:
        transition(record, "Stopping")

    def finish(self, record: dict, status: str, job: "_Job | None") -> None:
        """The times, the final metrics and the last secondary status."""
        if job and job.final:
            record["FinalMetricDataList"] = list(job.final.values())
        record["TrainingEndTime"] = time.time()
        # What AWS bills, an instance; here it is the time that the job took.
        seconds = math.ceil(record["TrainingEndTime"] - record.get("TrainingStartTime", time.time()))
        record["TrainingTimeInSeconds"] = record["BillableTimeInSeconds"] = seconds
        if status == "MaxRuntimeExceeded":
            record["TrainingJobStatus"], record["FailureReason"] = "Stopped", MESSAGES[status]
        transition(record, status, record.get("FailureReason"))


def with_defaults(request: dict) -> dict:
    """What the service describes of a request, or a tuning job's definition, where that does not say."""
    channel = {"CompressionType": "None", "RecordWrapperType": "None"}
    switches = (
        "EnableNetworkIsolation",
        "EnableInterContainerTrafficEncryption",
        "EnableManagedSpotTraining",
    )
    described = dict.fromkeys(switches, False) | request
    described["OutputDataConfig"] = {"KmsKeyId": "", "CompressionType": "GZIP"} | request["OutputDataConfig"]
    if channels := request.get("InputDataConfig"):
        described["InputDataConfig"] = [channel | given for given in channels]
    return described


def transition(record: dict, status: str, message: str | None = None) -> None:
    """Enter a secondary status: the one before it ends now."""
    now = time.time()
    transitions = record["SecondaryStatusTransitions"]
    for last in transitions[-1:]:
        last.setdefault("EndTime", now)
    record["SecondaryStatus"] = status
    entry = {"Status": status, "StartTime": now, "StatusMessage": message or MESSAGES[status]}
    if status in ("Completed", "Failed", "Stopped", "MaxRuntimeExceeded"):
        entry["EndTime"] = now
    transitions.append(entry)


def _compile(definition: dict) -> regex.Pattern:
    try:
        # What is repeated a fixed number of times is written out, in memory.
        if math.prod(int(count) for count in re.findall(r"\{(\d+)", definition["Regex"])) > REPEATS:
            raise regex.error(f"its counts in braces multiply to more than {REPEATS:,}")
        return regex.compile(definition["Regex"])
    except regex.error as error:
        message = f'Metric "{definition["Name"]}": invalid regex "{definition["Regex"]}": {error}.'
        raise Invalid(message) from error


def _check_channel(channel: dict, default_mode: str) -> None:
    name, source = channel["ChannelName"], channel["DataSource"].get("S3DataSource")
    if source is None:
        raise Invalid(f'Channel "{name}" needs DataSource.S3DataSource.')
    mode = channel.get("InputMode", default_mode)
    if channel.get("CompressionType") == "Gzip" and mode != "Pipe":
        raise Invalid(
            f'Channel "{name}": CompressionType Gzip is supported in Pipe mode only, not in {mode}.'
        )


def _check_spot(request: dict) -> None:
    """Managed spot training and its checkpoints, as the service checks them."""
    stopping, spot = request.get("StoppingCondition", {}), request.get("EnableManagedSpotTraining")
    wait, runtime = stopping.get("MaxWaitTimeInSeconds"), stopping.get("MaxRuntimeInSeconds", DEFAULT_RUNTIME)
    if spot and (wait is None or wait < runtime):
        raise Invalid(
            f"Invalid MaxWaitTimeInSeconds ({wait}). It must be present and be greater than or equal to "
            f"MaxRuntimeInSeconds ({runtime}) if managed spot training is on."
        )
    if wait is not None and not spot:
        raise Invalid("MaxWaitTimeInSeconds is for managed spot training only: leave it out.")
    environment = request.get("Environment", {})
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", seconds := environment.get(AFTER_SECONDS, "0")):
        raise Invalid(f'{AFTER_SECONDS} is "{seconds}": expected seconds, such as 10.')
    if not re.fullmatch(r"\d{1,6}", count := environment.get(AFTER_CHECKPOINTS, "0")):
        raise Invalid(f'{AFTER_CHECKPOINTS} is "{count}": expected how many, such as 2.')
    if int(count) and "CheckpointConfig" not in request:
        raise Invalid(f"{AFTER_CHECKPOINTS} waits for checkpoints: the job needs a CheckpointConfig.")
    path = request.get("CheckpointConfig", {}).get("LocalPath", CHECKPOINTS)
    if not path.startswith("/opt/ml/") or ".." in path:
        mend = f"its process engine can only stand in for folders below /opt/ml. Leave it out ({CHECKPOINTS})"
        raise NotServed(f'CheckpointConfig.LocalPath "{path}"', mend)


class _Job(HostsJob):
    """One training job from Starting to its end."""

    log_group = LOG_GROUP

    def __init__(self, context: Context, record: dict):
        super().__init__(context, "TrainingJob", record, record["ResourceConfig"]["InstanceCount"])
        self.final: dict[str, dict] = {}  # metric -> its last value and when it came, as they are told
        self.series: dict[str, list[float]] = {}  # metric -> all its values
        definitions = record["AlgorithmSpecification"].get("MetricDefinitions", ())
        self._metrics = {definition["Name"]: _compile(definition) for definition in definitions}
        self._pipes: list[_Pipe] = []

    def _enter(self, status: str, **fields) -> None:
        store = self.context.store
        store.update("TrainingJob", self.name, lambda record: transition(record, status), **fields)

    def execute(self) -> str:
        self._enter("Downloading", TrainingStartTime=time.time())
        image = self._image()
        for attempt in itertools.count():
            bases = {host: self._prepare(host) for host in self._hosts}
            if self.stop_requested.is_set():
                return "Stopped"
            self._enter("Training")
            exit_codes, outcome = self._train(image, bases, first=attempt == 0)
            if outcome != "Interrupted" or self.server_closing.is_set():
                break
            shutil.rmtree(self.folder)
            for status in ("Interrupted", "Starting", "Downloading"):
                self._enter(status)
        if self.server_closing.is_set():
            return "Failed"
        if errors := [pipe.error for pipe in self._pipes if pipe.error]:
            raise JobError(f"ClientError: Data download failed:{errors[0]}")
        try:
            uri = self.record["ModelArtifacts"]["S3ModelArtifacts"]
            self.context.require_access(self.record["RoleArn"], "s3:PutObject", uri)
        except storage.DataError as error:
            raise JobError(f"ClientError: Artifact upload failed:{error}") from error
        failed = outcome == "Completed" and any(exit_codes.values())
        if not failed:
            self._enter("Uploading")
            self._upload_model(bases)
        self._upload_output(bases)
        if failed:
            raise self._failure(exit_codes, bases, "output/failure")
        self._publish_metrics()
        return outcome

    def _prepare(self, host: str) -> Path:
        """The host's /opt/ml: configuration and data, as the container contract has them."""
        record, base = self.record, self.folder / host / "ml"
        for folder in ("input/config", "input/data", "model", "output/data", "checkpoints"):
            (base / folder).mkdir(parents=True)
        config = base / "input" / "config"
        write_json(config / "hyperparameters.json", record.get("HyperParameters", {}))
        group, instance_type = "homogeneousCluster", record["ResourceConfig"]["InstanceType"]
        resources = {
            "current_host": host,
            "current_instance_type": instance_type,
            "current_group_name": group,
            "hosts": self._hosts,
            "instance_groups": [
                {"instance_group_name": group, "instance_type": instance_type, "hosts": self._hosts}
            ],
            "network_interface_name": INTERFACE if len(self._hosts) > 1 else "lo",
        }
        write_json(config / "resourceconfig.json", resources)
        channels = {}
        for channel in record.get("InputDataConfig", ()):
            source = channel["DataSource"]["S3DataSource"]
            mode = channel.get("InputMode") or record["AlgorithmSpecification"]["TrainingInputMode"]
            channels[channel["ChannelName"]] = {
                "ContentType": channel.get("ContentType", ""),
                "TrainingInputMode": mode,
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
            self._fill(channel, mode, base / "input" / "data", self._hosts.index(host))
        write_json(config / "inputdataconfig.json", channels)
        return base

    def _fill(self, channel: dict, mode: str, data: Path, index: int) -> None:
        objects = self._objects(channel["DataSource"]["S3DataSource"], index)
        if mode == "Pipe":
            unzip = channel.get("CompressionType") == "Gzip"
            self._pipes.append(_Pipe(self.context.s3, objects, data / channel["ChannelName"], unzip))
            return
        folder = data / channel["ChannelName"]
        self._download(objects, folder)
        if mode == "FastFile":
            for path in filter(Path.is_file, folder.rglob("*")):
                path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)

    def _train(
        self, image: Unpacked | str, bases: dict[str, Path], first: bool
    ) -> tuple[dict[str, int], str]:
        """Run `train` on every host; the exit codes, and how it ended: Completed, Stopped, MaxRuntimeExceeded or
        Interrupted."""
        record = self.record
        job = {
            "TRAINING_JOB_NAME": self.name,
            "TRAINING_JOB_ARN": self.context.arn("TrainingJob", self.name),
        }
        environment = self.context.variables | record.get("Environment", {}) | job
        instance_type, isolated = record["ResourceConfig"]["InstanceType"], record["EnableNetworkIsolation"]
        line = own_line(record["AlgorithmSpecification"])
        spot = first and record["EnableManagedSpotTraining"]
        seconds, count = (float(environment.get(name, 0)) for name in (AFTER_SECONDS, AFTER_CHECKPOINTS))

        def spec(host: str) -> Spec:
            what = f"training job {self.name} {host}"
            return Spec(what, image, "train", bases[host], environment, instance_type, isolated, **line)

        def beside(streams: dict[str, LogStream]) -> list[Checkpoints]:
            if "CheckpointConfig" not in record:
                return []
            return [self._checkpoints(bases[host], stream) for host, stream in streams.items()]

        def lost(elapsed: float, checkpoints: list[Checkpoints]) -> bool:
            copied = sum(part.copied for part in checkpoints)
            return spot and (0 < seconds <= elapsed or 0 < count <= copied)

        try:
            return self._run(spec, record["StoppingCondition"]["MaxRuntimeInSeconds"], first, beside, lost)
        finally:
            for pipe in self._pipes:
                pipe.close()

    def _checkpoints(self, base: Path, stream: LogStream) -> Checkpoints:
        config = self.record["CheckpointConfig"]
        place = config.get("LocalPath", CHECKPOINTS).removeprefix("/opt/ml/")

        def say(what):
            stream.write(f"[localaws] checkpoint {what}")

        return Checkpoints(self.context.s3, config["S3Uri"], base, place, say)

    def _line(self, stream: LogStream, line: str) -> None:
        super()._line(stream, line)
        for name, pattern in list(self._metrics.items()):
            try:
                if match := pattern.search(line, timeout=REGEX_SECONDS, concurrent=True):
                    value = float(match[1])
                    self.final[name] = {"MetricName": name, "Value": value, "Timestamp": time.time()}
                    series = self.series.setdefault(name, [])
                    series[SERIES - 1 :] = [value]
            except (ValueError, IndexError):
                continue  # not a number, or no group: AWS passes it over as well
            except TimeoutError:
                # Once for all hosts; the metric keeps the value that it had.
                if self._metrics.pop(name, None):
                    stream.write(
                        f'[localaws] Metric "{name}": its regex "{pattern.pattern}" took more than {REGEX_SECONDS} s for '
                        "one line and is not tried any more. Nested repetitions, such as (a+)+, take that long: write it "
                        "without them."
                    )

    def _upload_model(self, bases: dict[str, Path]) -> None:
        uri = self.record["ModelArtifacts"]["S3ModelArtifacts"]
        plain = self.record["OutputDataConfig"].get("CompressionType") == "NONE"
        files = self._left(bases, "model", plain)
        if plain:
            storage.upload(self.context.s3, files, uri)
        else:
            storage.upload_archive(self.context.s3, files, uri, self.folder / "model.tar.gz")

    def _upload_output(self, bases: dict[str, Path]) -> None:
        files = self._left(bases, "output/data")
        if first := next(files, None):
            output = self.record["OutputDataConfig"]["S3OutputPath"].rstrip("/")
            uri, packed = f"{output}/{self.name}/output/output.tar.gz", self.folder / "output.tar.gz"
            storage.upload_archive(self.context.s3, itertools.chain([first], files), uri, packed)

    def _publish_metrics(self) -> None:
        job = {"Dimensions": [{"Name": "TrainingJobName", "Value": self.name}]}
        if data := [metric | job for metric in self.final.values()]:
            self.context.cloudwatch.put_metric_data(Namespace=LOG_GROUP, MetricData=data)


class _Pipe:
    """Pipe mode: the channel's objects, one after another, through a FIFO `CHANNEL_EPOCH`, a new one each epoch."""

    def __init__(self, s3, objects, path: Path, unzip: bool):
        self._s3, self._objects, self._path, self._unzip = s3, objects, path, unzip
        self._closed = False
        self.error: str | None = None
        os.mkfifo(self._fifo(0))
        threading.Thread(target=self._feed, daemon=True).start()

    def _fifo(self, epoch: int) -> str:
        return f"{self._path}_{epoch}"

    def _feed(self):
        epoch = 0
        while not self._closed:
            with suppress(BrokenPipeError), open(self._fifo(epoch), "wb") as fifo:  # waits for a reader
                os.mkfifo(self._fifo(epoch + 1))
                try:
                    self._send(fifo)
                except (ClientError, BotoCoreError, OSError, EOFError, zlib.error) as error:
                    if not isinstance(error, BrokenPipeError):  # else the program has read enough
                        self.error, self._closed = f"{self._path.name}: {error}", True
            epoch += 1

    def _send(self, fifo):
        for bucket, key, _ in self._objects:
            if self._closed:
                return
            with self._s3.get_object(Bucket=bucket, Key=key)["Body"] as body:
                source = gzip.GzipFile(fileobj=body) if self._unzip else body
                shutil.copyfileobj(source, fifo, 1 << 16)

    def close(self):
        """End the feeding thread, which may be waiting for a reader that will never come."""
        self._closed = True
        for fifo in self._path.parent.glob(f"{self._path.name}_*"):
            with suppress(OSError):
                os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
