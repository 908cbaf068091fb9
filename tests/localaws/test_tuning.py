"""CreateHyperParameterTuningJob, end to end, and the search by itself."""

import json
import os
import signal
import statistics
import uuid

import pytest
import tiny
from botocore.exceptions import ClientError
from tiny import wait_until

from localaws.sagemaker.jobs.tuning import _Search

# `x` is best at 0.3; `say` lists what is printed before that; a job may be asked to sleep or to fail.
TRAIN = """#!/usr/bin/env -S python3 -S
import json, os, signal, sys, time
with open(os.environ["SAGEMAKER_BASE_DIR"] + "/input/config/hyperparameters.json") as file:
    asked = json.load(file)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for value in asked.get("say", "").split():
    print(f"score={value};", flush=True)
time.sleep(float(asked.get("sleep", 0)))
if "silent" not in asked:
    print(f"score={1 - (float(asked.get('x', 0)) - 0.3) ** 2};")
sys.exit(int(asked.get("exit", 0)))
"""


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    made = tiny.account(localaws, tmp_path_factory.mktemp("account"))
    made.image = made.push(f"tuned-{uuid.uuid4().hex[:8]}", train=TRAIN)
    return made


def continuous(name="x", low="0", high="1", **fields) -> dict:
    return {"ContinuousParameterRanges": [{"Name": name, "MinValue": low, "MaxValue": high, **fields}]}


def categorical(**names) -> dict:
    return {
        "CategoricalParameterRanges": [{"Name": name, "Values": values} for name, values in names.items()]
    }


def request(account, strategy="Random", jobs=3, parallel=2, ranges=None, static=None, **config) -> dict:
    """A CreateHyperParameterTuningJob request that maximises `score`."""
    definition = account.training_request()
    for field in ("TrainingJobName", "HyperParameters"):
        del definition[field]
    definition["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "score", "Regex": "score=(.*);"}]
    limits = {"MaxParallelTrainingJobs": parallel} | ({"MaxNumberOfTrainingJobs": jobs} if jobs else {})
    return {
        "HyperParameterTuningJobName": f"tune-{uuid.uuid4().hex[:12]}",
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "score"},
            "ResourceLimits": limits,
            "ParameterRanges": ranges or continuous(),
            **config,
        },
        "TrainingJobDefinition": definition | {"StaticHyperParameters": static or {}},
    }


def run(account, made: dict) -> dict:
    account.sagemaker.create_hyper_parameter_tuning_job(**made)
    return finish(account, made)


def finish(account, made: dict) -> dict:
    name = made["HyperParameterTuningJobName"]

    def ended():
        job = account.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        return job if job["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return wait_until(ended)


def trained(account, made: dict, **arguments) -> list[dict]:
    """The training jobs of a tuning job."""
    return account.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=made["HyperParameterTuningJobName"], **arguments
    )["TrainingJobSummaries"]


def test_a_random_search_over_real_training_jobs(account):
    ranges = continuous() | {"IntegerParameterRanges": [{"Name": "n", "MinValue": "2", "MaxValue": "9"}]}
    made = request(account, jobs=4, ranges=ranges, static={"kept": "as it is"})
    made["Tags"] = [{"Key": "team", "Value": "blue"}]
    job = run(account, made)
    assert job["HyperParameterTuningJobStatus"] == "Completed", job
    assert job["TrainingJobStatusCounters"] == {
        "Completed": 4,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}
    name = made["HyperParameterTuningJobName"]

    by_name = trained(account, made)
    assert [summary["TrainingJobName"][:-9] for summary in by_name] == [f"{name}-00{n}" for n in range(1, 5)]
    for summary in by_name:
        tuned = summary["TunedHyperParameters"]
        assert sorted(tuned) == ["n", "x"]
        assert 2 <= int(tuned["n"]) <= 9
        metric = summary["FinalHyperParameterTuningJobObjectiveMetric"]
        assert (metric["Type"], metric["MetricName"]) == ("Maximize", "score")
        assert metric["Value"] == pytest.approx(1 - (float(tuned["x"]) - 0.3) ** 2)
        described = account.sagemaker.describe_training_job(TrainingJobName=summary["TrainingJobName"])
        fixed = {"kept": "as it is", "_tuning_objective_metric": "score"}
        assert described["HyperParameters"] == fixed | tuned
        assert described["TuningJobArn"] == job["HyperParameterTuningJobArn"]
    tags = account.sagemaker.list_tags(ResourceArn=by_name[0]["TrainingJobArn"])["Tags"]
    assert tags == made["Tags"]

    by_value = trained(account, made, SortBy="FinalObjectiveMetricValue", SortOrder="Descending")
    values = [summary["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for summary in by_value]
    assert values == sorted(values, reverse=True)
    assert job["BestTrainingJob"] == by_value[0]
    assert trained(account, made, StatusEquals="Failed") == []
    assert len(trained(account, made, MaxResults=3)) == 3

    listed = account.sagemaker.list_hyper_parameter_tuning_jobs(NameContains=name)
    (summary,) = listed["HyperParameterTuningJobSummaries"]
    assert (summary["Strategy"], summary["ResourceLimits"]["MaxNumberOfTrainingJobs"]) == ("Random", 4)
    account.sagemaker.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    with pytest.raises(
        account.sagemaker.exceptions.ResourceNotFound, match=f"called {name}. Type another name"
    ):
        account.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    account.sagemaker.describe_training_job(TrainingJobName=by_name[0]["TrainingJobName"])  # they stay


def test_of_several_instance_types_the_first_is_used(account):
    made = request(account, jobs=1, static={"colour": "blue"})
    resources = made["TrainingJobDefinition"].pop("ResourceConfig")
    first = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1}
    flexible = {"AllocationStrategy": "Prioritized", "InstanceConfigs": [first, resources]}
    made["TrainingJobDefinition"]["HyperParameterTuningResourceConfig"] = flexible
    definition = run(account, made)["TrainingJobDefinition"]
    assert definition["HyperParameterTuningResourceConfig"] == flexible
    assert definition["ResourceConfig"] == first
    assert definition["StaticHyperParameters"] == {"colour": "blue", "_tuning_objective_metric": "score"}
    (job,) = account.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=made["HyperParameterTuningJobName"]
    )["TrainingJobSummaries"]
    described = account.sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
    assert described["ResourceConfig"] == first


def test_a_grid_has_each_combination_once(account):
    ranges = categorical(x=["0.1", "0.3"], colour=["red", "blue"])
    made = request(account, "Grid", jobs=None, parallel=4, ranges=ranges)
    job = run(account, made)
    assert job["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 4
    points = {tuple(sorted(s["TunedHyperParameters"].items())) for s in trained(account, made)}
    assert points == {(("colour", c), ("x", x)) for c in ("red", "blue") for x in ("0.1", "0.3")}
    assert job["BestTrainingJob"]["TunedHyperParameters"]["x"] == "0.3"


def test_no_more_jobs_at_once_than_asked_and_a_stop_ends_them(account):
    made = request(account, jobs=9, parallel=2, static={"sleep": "600", "say": "0.5"})
    account.sagemaker.create_hyper_parameter_tuning_job(**made)
    names = [
        summary["TrainingJobName"]
        for summary in wait_until(lambda: len(trained(account, made)) == 2 and trained(account, made))
    ]
    for name in names:
        wait_until(
            lambda name=name: account.lines("/aws/sagemaker/TrainingJobs", name)[-1:] == ["score=0.5;"]
        )
    assert len(trained(account, made)) == 2
    name = {"HyperParameterTuningJobName": made["HyperParameterTuningJobName"]}
    account.sagemaker.stop_hyper_parameter_tuning_job(**name)
    job = finish(account, made)
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    assert job["TrainingJobStatusCounters"]["Stopped"] == 2
    assert len(trained(account, made)) == 2
    with pytest.raises(ClientError, match="tuning job is in status Stopped"):
        account.sagemaker.stop_hyper_parameter_tuning_job(**name)


def test_a_job_that_falls_behind_is_stopped_early(account):
    ranges = categorical(say=["0.9 0.9", "0.2"], sleep=["600"])
    made = request(account, "Grid", jobs=None, parallel=2, ranges=ranges, TrainingJobEarlyStoppingType="Auto")
    account.sagemaker.create_hyper_parameter_tuning_job(**made)
    good, poor = wait_until(lambda: len(trained(account, made)) == 2 and trained(account, made))
    # Nothing has ended, so nothing can be told to be worse; then the good one does.
    wait_until(
        lambda: account.lines("/aws/sagemaker/TrainingJobs", good["TrainingJobName"])[-1:] == ["score=0.9;"]
    )
    account.sagemaker.stop_training_job(TrainingJobName=good["TrainingJobName"])
    assert finish(account, made)["HyperParameterTuningJobStatus"] == "Completed"
    good, poor = trained(account, made)
    assert [job["TrainingJobStatus"] for job in (good, poor)] == ["Stopped", "Stopped"]
    assert poor["ObjectiveStatus"] == "Succeeded"
    assert poor["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("static", "reason"),
    [
        (
            {"exit": "1"},
            "No training job succeeded after 5 attempts. Please take a look at the training job failures",
        ),
        ({"silent": "yes"}, "No objective metrics found after running 5 training jobs. Please ensure that"),
    ],
)
def test_a_search_without_an_objective_gives_up(account, static, reason):
    made = request(account, jobs=50, parallel=1, static=static)
    job = run(account, made)
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(reason)
    assert job["ObjectiveStatusCounters"] == {"Succeeded": 0, "Pending": 0, "Failed": 5}
    assert "BestTrainingJob" not in job
    assert trained(account, made, SortBy="FinalObjectiveMetricValue") == []


def test_all_that_were_asked_for_failed(account):
    job = run(account, request(account, jobs=1, static={"exit": "1"}))
    assert job["FailureReason"].startswith("All training jobs failed.")
    assert job["TrainingJobStatusCounters"]["NonRetryableError"] == 1


@pytest.mark.parametrize(
    ("criteria", "jobs"),
    [
        ({"TargetObjectiveMetricValue": 0.9}, 2),
        ({"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}, 5),
    ],
)
def test_a_search_that_has_what_it_wants_ends(account, criteria, jobs):
    values = ["-9", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]
    made = request(account, "Grid", None, 1, categorical(x=values), TuningJobCompletionCriteria=criteria)
    assert run(account, made)["HyperParameterTuningJobStatus"] == "Completed"
    assert [summary["TunedHyperParameters"]["x"] for summary in trained(account, made)] == values[:jobs]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"objective": "accuracy"}, "ValidationException", "A metric is required for this hyperparameter tuning job"),
        ({"ranges": {"IntegerParameterRanges": []}}, "ValidationException", "ParameterRanges is required"),
        ({"ranges": continuous("kept")}, "ValidationException", "must be unique"),
        ({"ranges": continuous(low="1", high="0")}, "ValidationException", "the first not above the second"),
        ({"ranges": continuous(high="much")}, "ValidationException", 'MaxValue "much" must be numbers'),
        ({"ranges": continuous(ScalingType="Logarithmic")}, "ValidationException", "values greater than 0"),
        ({"ranges": continuous(ScalingType="ReverseLogarithmic")}, "ValidationException", "0<=x<1.0"),
        ({"strategy": "Grid"}, "ValidationException", "categorical hyperparameters only"),
        ({"strategy": "Grid", "ranges": categorical(x=["1", "2"])}, "ValidationException", "has 2 combinations"),
        ({"jobs": None}, "ValidationException", "MaxNumberOfTrainingJobs is required"),
        ({"image": "127.0.0.1:1/none:1"}, "ValidationException", "Cannot find the requested image"),
        ({"strategy": "Hyperband"}, "NotServedByLocalaws", 'Strategy "Hyperband"'),
        ({"ranges": {"AutoParameters": [{"Name": "x", "ValueHint": "1"}]}}, "NotServedByLocalaws", "AutoParameters"),
        ({"WarmStartConfig": {"ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "x"}], "WarmStartType": "TransferLearning"}}, "NotServedByLocalaws", "WarmStartConfig"),
        ({"Autotune": {"Mode": "Enabled"}}, "NotServedByLocalaws", "Autotune"),
    ],
)  # fmt: skip
def test_what_is_refused(account, change, code, message):
    ours = {name: change[name] for name in ("strategy", "jobs", "ranges") if name in change}
    made = request(account, static={"kept": "1"}, **ours)
    if "objective" in change:
        objective = made["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        objective["MetricName"] = change["objective"]
    if "image" in change:
        made["TrainingJobDefinition"]["AlgorithmSpecification"]["TrainingImage"] = change["image"]
    made |= {name: value for name, value in change.items() if name[0].isupper()}
    with pytest.raises(ClientError) as refused:
        account.sagemaker.create_hyper_parameter_tuning_job(**made)
    error = refused.value.response
    assert error["Error"]["Code"] == code
    assert message in error["Error"]["Message"]
    assert error["ResponseMetadata"]["HTTPStatusCode"] == (501 if code == "NotServedByLocalaws" else 400)


def test_a_name_is_used_once(account):
    made = request(account, jobs=1)
    run(account, made)
    name = made["HyperParameterTuningJobName"]
    with pytest.raises(
        account.sagemaker.exceptions.ResourceInUse, match=f"with the name, {name}, already exists"
    ):
        account.sagemaker.create_hyper_parameter_tuning_job(**made)


def search(strategy, ranges, seed=7) -> _Search:
    return _Search(
        {
            "Strategy": strategy,
            "RandomSeed": seed,
            "ParameterRanges": ranges,
            "HyperParameterTuningJobObjective": {"Type": "Maximize"},
        }
    )


def asked(strategy, ranges, count, tell=lambda x: x, seed=7) -> list[float]:
    """The values of `x` that a search proposes, told `tell(x)` each time."""
    proposer, values = search(strategy, ranges, seed), []
    for _ in range(count):
        point, tuned = proposer.ask()
        values.append(float(tuned["x"]))
        proposer.tell(point, tell(values[-1]))
    return values


def test_a_bayesian_search_learns_where_a_random_one_does_not():
    def distance(strategy):
        return statistics.fmean(
            abs(x - 0.3)
            for seed in range(5)
            for x in asked(strategy, continuous(), 30, lambda x: -((x - 0.3) ** 2), seed)[-10:]
        )

    assert distance("Bayesian") < 0.6 * distance("Random")


def test_a_search_goes_on_after_a_job_that_failed():
    assert len(asked("Bayesian", continuous(), 8, lambda x: None)) == 8


def test_a_seed_gives_the_same_points():
    assert asked("Random", continuous(), 5) == asked("Random", continuous(), 5)
    assert asked("Random", continuous(), 5) != asked("Random", continuous(), 5, seed=8)


@pytest.mark.parametrize(
    ("scale", "low", "high", "middle"),
    [("Linear", "0", "1", 0.5), ("Auto", "0", "1", 0.5), ("Logarithmic", "0.0001", "1", 0.01), ("ReverseLogarithmic", "0", "0.9999", 0.99)],
)  # fmt: skip
def test_scales(scale, low, high, middle):
    values = asked("Random", continuous(low=low, high=high, ScalingType=scale), 400)
    assert all(float(low) <= value <= float(high) for value in values)
    assert 150 < sum(value < middle for value in values) < 250  # 200 expected; five standard deviations


def test_integers_are_written_as_integers():
    ranges = {"IntegerParameterRanges": [{"Name": "x", "MinValue": "1", "MaxValue": "3"}]}
    proposer = search("Random", ranges)
    assert {proposer.ask()[1]["x"] for _ in range(50)} == {"1", "2", "3"}


def test_after_a_kill_a_tuning_job_has_failed_with_all_that_it_ran(fresh, tmp_path):
    fresh.up()
    account = tiny.account(fresh, tmp_path)
    account.image = account.push("tuned", train=TRAIN)
    made = request(account, "Grid", None, 1, categorical(sleep=["0", "600"]))
    account.sagemaker.create_hyper_parameter_tuning_job(**made)
    wait_until(lambda: ["TrainingStartTime" in summary for summary in trained(account, made)] == [True, True])
    os.kill(json.loads((fresh.home / "server.json").read_text())["pid"], signal.SIGKILL)
    fresh.up()
    account.__post_init__()  # the port may be another
    job = finish(account, made)
    assert job["HyperParameterTuningJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: localaws was stopped while this job ran")
    assert job["TrainingJobStatusCounters"]["Completed"] == 1
    assert job["TrainingJobStatusCounters"]["RetryableError"] == 1
    assert job["BestTrainingJob"]["TunedHyperParameters"] == {"sleep": "0"}
