"""Tuning jobs, executed: real training jobs, each with the hyperparameters that the search proposes next."""

import itertools
import math
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

from localaws.errors import AwsError, Invalid
from localaws.sagemaker.context import ENDED, Context

from .jobs import Job, JobError, Jobs
from .training import Training, with_defaults

METRIC_NAME = "_tuning_objective_metric"  # the hyperparameter that tells a training job what is optimised
RESOURCES = "HyperParameterTuningResourceConfig"  # which may name several instance types
FIRST_AT_RANDOM = 4  # training jobs before the Bayesian search has something to go by
ATTEMPTS = 5  # training jobs without an objective's value, after which a tuning job gives up
POLL_SECONDS = 0.05


class Tuning(Jobs):
    """CreateHyperParameterTuningJob and what follows from it."""

    kind = "HyperParameterTuningJob"

    def __init__(self, context: Context, training: Training):
        super().__init__(context)
        self.training = training

    def create(self, request: dict) -> dict:
        config, definition = request["HyperParameterTuningJobConfig"], request.get("TrainingJobDefinition")
        if definition is None:
            raise Invalid("TrainingJobDefinition is required.")
        if ("ResourceConfig" in definition) == (RESOURCES in definition):
            raise Invalid(f"TrainingJobDefinition needs either ResourceConfig or {RESOURCES}.")
        objective = config.get("HyperParameterTuningJobObjective", {})
        metrics = definition["AlgorithmSpecification"].get("MetricDefinitions", ())
        if objective.get("MetricName") not in [metric["Name"] for metric in metrics]:
            raise Invalid(
                "A metric is required for this hyperparameter tuning job objective. Provide a metric in the metric "
                "definitions."
            )
        limits = config["ResourceLimits"] | {"MaxNumberOfTrainingJobs": _check_search(config, definition)}
        fixed = definition.get("StaticHyperParameters", {}) | {METRIC_NAME: objective["MetricName"]}
        record = request | {
            "TrainingJobDefinition": with_defaults(definition)
            | {"StaticHyperParameters": fixed, "ResourceConfig": _resources(definition)},
            "HyperParameterTuningJobConfig": config | {"ResourceLimits": limits},
            "Strategy": config["Strategy"],
            "ResourceLimits": limits,
        }
        job = _Job(self, record | _counters([]))
        # What no training job of it could run with is refused now.
        first = self.training.prepare(job.training_request(f"{job.name}-001", {})).record
        at_once = min(limits["MaxParallelTrainingJobs"], limits["MaxNumberOfTrainingJobs"])
        self.context.check_limit("TrainingJob", {kind: n * at_once for kind, n in first["Instances"].items()})
        return self.launch(job)

    def summaries(self, arn: str) -> list[dict]:
        """The training jobs of a tuning job, each as ListTrainingJobsForHyperParameterTuningJob shows it."""
        records = self.context.store.list("TrainingJob", lambda record: record.get("TuningJobArn") == arn)
        return [_summary(record) for record in records]

    def tally(self, name: str) -> None:
        """Bring a tuning job's counters and its best training job up to date with its training jobs."""
        if record := self.context.store.get(self.kind, name):
            counters = _counters(self.summaries(record["HyperParameterTuningJobArn"]))
            self.context.store.update(self.kind, name, **counters)

    def finish(self, record: dict, status: str, job: "_Job | None") -> None:
        now = time.time()
        record["HyperParameterTuningEndTime"] = now
        record["ConsumedResources"] = {"RuntimeInSeconds": math.ceil(now - record["CreationTime"])}

    def recover(self) -> None:
        """Like other jobs; call it once the training jobs are settled."""
        for record in self.context.store.list(self.kind):
            if record["HyperParameterTuningJobStatus"] not in ENDED:
                self.tally(record["HyperParameterTuningJobName"])
        super().recover()


class _Job(Job):
    """One tuning job: as many training jobs at once as it may have, until it has had them all."""

    def __init__(self, tuning: Tuning, record: dict):
        super().__init__(tuning.context, tuning.kind, record)
        self._tuning, self._arn = tuning, tuning.context.arn(tuning.kind, self.name)
        self._config = record["HyperParameterTuningJobConfig"]
        self._objective = self._config["HyperParameterTuningJobObjective"]
        self._sign = 1 if self._objective["Type"] == "Maximize" else -1
        self._running: dict[Job, object] = {}  # training job -> the search's own name for its point
        self._earlier: list[list[float]] = []  # the objective's values of each training job that has ended
        self._values: list[float | None] = []  # the last of them, None where there was none

    def training_request(self, name: str, tuned: dict[str, str]) -> dict:
        """The CreateTrainingJob request of one point of the search."""
        definition = self.record["TrainingJobDefinition"]
        own = ("StaticHyperParameters", "DefinitionName", "TuningObjective", RESOURCES)
        return {key: value for key, value in definition.items() if key not in own} | {
            "TrainingJobName": name,
            "HyperParameters": definition["StaticHyperParameters"] | tuned,
            "TunedHyperParameters": tuned,
            "TuningJobArn": self._arn,
            "TuningObjective": self._objective,
            "Tags": self.record.get("Tags", []),
        }

    def execute(self) -> str:
        limits = self._config["ResourceLimits"]
        deadline = time.monotonic() + limits.get("MaxRuntimeInSeconds", math.inf)
        search = _Search(self._config)
        started, outcome = 0, None
        try:
            while True:
                outcome = outcome or self._outcome(deadline)
                if outcome:
                    self._stop(self._running)
                while (
                    not outcome
                    and started < limits["MaxNumberOfTrainingJobs"]
                    and len(self._running) < limits["MaxParallelTrainingJobs"]
                ):
                    started += 1
                    self._start(search, started)
                if not self._running:
                    break
                next(iter(self._running)).ended.wait(POLL_SECONDS)
                if self._collect(search):
                    self._give_up()
                if self._config.get("TrainingJobEarlyStoppingType") == "Auto":
                    self._stop([job for job in self._running if self._is_hopeless(job)])
        finally:  # also when it gives up: nothing of it may go on
            self._stop(self._running)
            for job in self._running:
                job.ended.wait()  # without a bound of its own: a stopped training job has one for each of its steps
            self._tuning.tally(self.name)
        if not outcome and not any(value is not None for value in self._values):
            raise JobError(
                "All training jobs failed. Please take a look at the training job failures to get more details."
            )
        return outcome or "Completed"

    def _start(self, search: "_Search", number: int) -> None:
        point, tuned = search.ask()
        request = self.training_request(f"{self.name}-{number:03}-{uuid.uuid4().hex[:8]}", tuned)
        try:
            job = self._tuning.training.prepare(request)
            self._tuning.training.launch(job)
        except AwsError as error:
            raise JobError(f"ClientError: {error.message}") from error
        self._running[job] = point
        self._tuning.tally(self.name)

    def _collect(self, search: "_Search") -> bool:
        """Tell the search what the training jobs that have ended came to; whether there was one."""
        ended = [job for job in self._running if job.ended.is_set()]
        for job in ended:
            summary = _summary(self.context.store.get("TrainingJob", job.name) or job.record)
            value = summary.get("FinalObjectiveMetricValue")
            search.tell(self._running.pop(job), value)
            self._values.append(value)
            self._earlier.append(job.series.get(self._objective["MetricName"], []))
        if ended:
            self._tuning.tally(self.name)
        return bool(ended)

    def _outcome(self, deadline: float) -> str | None:
        """Stopped or Completed, once no more training jobs are to be started."""
        if self.stop_requested.is_set() or time.monotonic() > deadline:
            return "Stopped"
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        values = [-math.inf if value is None else self._sign * value for value in self._values]
        target = criteria.get("TargetObjectiveMetricValue")
        if values and target is not None and max(values) >= self._sign * target:
            return "Completed"
        patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        if values and patience and len(values) - 1 - values.index(max(values)) >= patience:
            return "Completed"
        return None

    def _give_up(self) -> None:
        """Raise JobError once the first training jobs have shown that none will tell the objective."""
        if len(self._values) < ATTEMPTS or any(value is not None for value in self._values):
            return
        summaries = self._tuning.summaries(self._arn)
        if any(summary["TrainingJobStatus"] == "Completed" for summary in summaries):
            raise JobError(
                f"No objective metrics found after running {len(self._values)} training jobs. Please ensure that the "
                "custom algorithm is emitting the objective metric as defined by the regular expression provided."
            )
        raise JobError(
            f"No training job succeeded after {ATTEMPTS} attempts. Please take a look at the training job failures to "
            "get more details."
        )

    def _is_hopeless(self, job: Job) -> bool:
        """AWS's rule of early stopping: the last value is worse than the median of the running averages that the
        earlier jobs had come to after as many values."""
        values = [*job.series.get(self._objective["MetricName"], [])]
        averages = [statistics.fmean(earlier[: len(values)]) for earlier in self._earlier if earlier]
        if not values or not averages:
            return False
        return self._sign * values[-1] < self._sign * statistics.median(averages)

    def _stop(self, jobs) -> None:
        for job in jobs:
            if not job.stop_requested.is_set():
                with suppress(AwsError):  # it has ended by itself meanwhile
                    self._tuning.training.stop({"TrainingJobName": job.name})


def _resources(definition: dict) -> dict:
    """The ResourceConfig of each training job: of several InstanceConfigs the first, which on AWS is tried first."""
    asked = definition.get("ResourceConfig") or definition[RESOURCES]
    first = asked.get("InstanceConfigs", [asked])[0]
    return {name: value for name, value in first.items() if name != "AllocationStrategy"}


def _summary(record: dict) -> dict:
    """A training job as a tuning job's answers show it; FinalObjectiveMetricValue is ours, to sort by."""
    objective, status = record["TuningObjective"], record["TrainingJobStatus"]
    values = {metric["MetricName"]: metric["Value"] for metric in record.get("FinalMetricDataList", ())}
    value = values.get(objective["MetricName"], math.nan)
    known = status in ("Completed", "Stopped") and math.isfinite(value)
    summary = record | {"ObjectiveStatus": "Failed" if status in ENDED else "Pending"}
    if known:
        summary["ObjectiveStatus"] = "Succeeded"
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = objective | {"Value": value}
        summary["FinalObjectiveMetricValue"] = value
    return summary


def _counters(summaries: list[dict]) -> dict:
    """What DescribeHyperParameterTuningJob says of the training jobs."""
    statuses = [summary["TrainingJobStatus"] for summary in summaries]
    objectives = [summary["ObjectiveStatus"] for summary in summaries]
    lost = sum(s.get("FailureReason", "").startswith("InternalServerError") for s in summaries)
    known = [summary for summary in summaries if summary["ObjectiveStatus"] == "Succeeded"]
    counters = {
        "TrainingJobStatusCounters": {
            "Completed": statuses.count("Completed"),
            "InProgress": sum(status not in ENDED for status in statuses),
            "RetryableError": lost,
            "NonRetryableError": statuses.count("Failed") - lost,
            "Stopped": statuses.count("Stopped"),
        },
        "ObjectiveStatusCounters": {
            status: objectives.count(status) for status in ("Succeeded", "Pending", "Failed")
        },
    }
    if known:
        objective = known[0]["FinalHyperParameterTuningJobObjectiveMetric"]
        best = max if objective["Type"] == "Maximize" else min
        known.sort(key=lambda summary: summary["CreationTime"])  # of equals, the first
        counters["BestTrainingJob"] = best(known, key=lambda summary: summary["FinalObjectiveMetricValue"])
    return counters


def _ranges(config: dict) -> Iterator[tuple[str, dict]]:
    """(Integer, Continuous or Categorical, the range) of each hyperparameter that is searched."""
    for kind in ("Integer", "Continuous", "Categorical"):
        for item in config.get("ParameterRanges", {}).get(f"{kind}ParameterRanges", ()):
            yield kind, item


def _bounds(kind: str, item: dict) -> tuple[float, float]:
    number = int if kind == "Integer" else float
    return number(item["MinValue"]), number(item["MaxValue"])


def _check_search(config: dict, definition: dict) -> int:
    """Refuse ranges that cannot be searched; how many training jobs the search may have."""
    ranges = list(_ranges(config))
    names = [item["Name"] for _, item in ranges] + list(definition.get("StaticHyperParameters", {}))
    if not ranges:
        raise Invalid("ParameterRanges is required: at least one hyperparameter with a range.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Invalid(
            f"Hyperparameter names must be unique in ParameterRanges and StaticHyperParameters: {', '.join(twice)}."
        )
    for kind, item in ranges:
        if kind == "Categorical":
            continue
        try:
            low, high = _bounds(kind, item)
        except ValueError:
            low = high = math.nan
        scale, where = item.get("ScalingType"), f'Range of hyperparameter "{item["Name"]}"'
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            wanted = "whole numbers" if kind == "Integer" else "numbers"
            raise Invalid(
                f'{where}: MinValue "{item["MinValue"]}" and MaxValue "{item["MaxValue"]}" must be {wanted}, the '
                "first not above the second."
            )
        if scale == "Logarithmic" and low <= 0:
            raise Invalid(f"{where}: ScalingType Logarithmic needs values greater than 0.")
        if scale == "ReverseLogarithmic" and (kind == "Integer" or low < 0 or high >= 1):
            raise Invalid(
                f"{where}: ScalingType ReverseLogarithmic needs a continuous range within 0<=x<1.0."
            )
    asked = config["ResourceLimits"].get("MaxNumberOfTrainingJobs")
    if config["Strategy"] == "Grid":
        if any(kind != "Categorical" for kind, _ in ranges):
            raise Invalid(
                "Strategy Grid searches categorical hyperparameters only: give CategoricalParameterRanges."
            )
        points = math.prod(len(set(item["Values"])) for _, item in ranges)
        if asked not in (None, points):
            raise Invalid(
                f"MaxNumberOfTrainingJobs is {asked}, but Strategy Grid has {points} combinations: leave it out, or "
                "give their number."
            )
        return points
    if asked is None:
        raise Invalid(
            f"ResourceLimits.MaxNumberOfTrainingJobs is required for Strategy {config['Strategy']}."
        )
    return asked


class _Search:
    """Where to look next: a grid's points one after another, or what optuna's sampler proposes."""

    def __init__(self, config: dict):
        # Here, not above: localaws starts without the half second that this takes.
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed = optuna.trial.TrialState.FAIL
        self._grid: Iterator | None = None
        self._distributions, self._spell = {}, {}
        for kind, item in _ranges(config):
            self._distributions[item["Name"]], self._spell[item["Name"]] = _dimension(kind, item)
        if config["Strategy"] == "Grid":
            values = [dict.fromkeys(item["Values"]) for _, item in _ranges(config)]
            self._grid = itertools.product(*values)
            return
        direction = config["HyperParameterTuningJobObjective"]["Type"].lower()
        seed = config.get("RandomSeed")
        if config["Strategy"] == "Random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST_AT_RANDOM)
        self._study = optuna.create_study(sampler=sampler, direction=direction)

    def ask(self) -> tuple[object, dict[str, str]]:
        """The next point: a name for `tell`, and the hyperparameters as strings."""
        if self._grid:
            return None, dict(zip(self._distributions, next(self._grid), strict=True))
        trial = self._study.ask(self._distributions)
        return trial, {name: self._spell[name](value) for name, value in trial.params.items()}

    def tell(self, point, value: float | None) -> None:
        """What the objective came to at a point; None where it is not known."""
        if self._grid is None:
            self._study.tell(point, value, state=self._failed if value is None else None)


def _dimension(kind: str, item: dict) -> tuple[object, Callable]:
    """optuna's distribution for a range, and how a value of it is written in a hyperparameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if kind == "Categorical":
        return CategoricalDistribution(list(dict.fromkeys(item["Values"]))), str
    (low, high), scale = _bounds(kind, item), item.get("ScalingType")
    if scale == "ReverseLogarithmic":  # the distance from 1 is what has a logarithmic scale
        return FloatDistribution(1 - high, 1 - low, log=True), lambda gap: repr(min(max(1 - gap, low), high))
    made = IntDistribution if kind == "Integer" else FloatDistribution
    return made(low, high, log=scale == "Logarithmic"), repr
