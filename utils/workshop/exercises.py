"""What each lab's "Your turn" must have brought about: `check("04_train", your_turn=True)` in the cell below it.

Asked of the services where the exercise makes something there, else of the variable that the exercise names.
"""

import math
import subprocess
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlparse

import boto3

from .aws import answer
from .costs import price_of
from .errors import UnknownLab
from .language import _
from .notebook import names
from .target import Target

#: One finding: is it there, what it is, what to do where it is not.
Finding = tuple[bool, str, str]


def findings(lab: str, target: Target) -> Iterator[Finding]:
    """What the lab's exercise has brought about, one finding each. Raises UnknownLab."""
    if lab not in _EXERCISES:
        raise UnknownLab(lab, _EXERCISES)
    return _EXERCISES[lab](target, names())


def _setup(target: Target, given: dict) -> Iterator[Finding]:
    buckets = given.get("buckets")
    if not isinstance(buckets, list):
        yield (
            False,
            _("a list `buckets`"),
            _("Give your list this name: buckets = …, from what list_buckets answers."),
        )
        return
    true = {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]}
    hint = _("Expected {names}.", names=sorted(true))
    if any(isinstance(bucket, dict) for bucket in buckets):
        hint = _('Each entry is a dict, with its creation date: take its ["Name"].')
    elif not buckets:
        hint = _('The answer of list_buckets is a dict: the buckets are below "Buckets".')
    yield (
        not any(isinstance(bucket, dict) for bucket in buckets) and set(buckets) == true,
        _("`buckets` has the names of all your buckets: {count}", count=len(true)),
        hint,
    )


def _build(target: Target, given: dict) -> Iterator[Finding]:
    called = {"train", "model_fn", "input_fn", "predict_fn", "output_fn"}
    mine = given.get("names_of_mine")
    if not isinstance(mine, list | set | tuple) or not mine:
        yield False, _("a list `names_of_mine`"), _('Give your list this name: names_of_mine = ["train", …].')
        return
    mine = set(mine)
    hint = []
    if missing := called - mine:
        hint.append(
            _(
                "{count} more are called: look for the names that algorithm.py has in quotes.",
                count=len(missing),
            )
        )
    if too_many := mine - called:
        hint.append(
            _("None of yours is called {names}.", names=", ".join(map(repr, sorted(too_many, key=str))))
        )
    yield (
        mine == called,
        _("`names_of_mine` has {count} of the five names", count=len(mine & called)),
        " ".join(hint),
    )


def _local_test(target: Target, given: dict) -> Iterator[Finding]:
    run = given.get("run")
    if not isinstance(run, subprocess.CompletedProcess):
        yield (
            False,
            _("`run`, what subprocess.run has answered"),
            'run = subprocess.run([program, target.algorithm, "serve"], env=os.environ | {…}, capture_output=True, '
            "text=True)",
        )
        return
    said = "".join(part if isinstance(part, str) else "" for part in (run.stdout, run.stderr))
    yield (
        run.returncode > 0,
        _("serve has ended with exit code {code}", code=run.returncode),
        _("Expected one above 0: did your abc reach it? Its variables are what you give as env."),
    )
    yield (
        "MODEL_SERVER_WORKERS" in said and "abc" in said,
        _("its message names the variable and the value"),
        _(
            "Nothing of the kind was caught: ask for capture_output=True and text=True, and set the variable to abc."
        ),
    )


def _push(target: Target, given: dict) -> Iterator[Finding]:
    def digest(tag: str) -> str | None:
        image = {"repositoryName": target.name, "imageIds": [{"imageTag": tag}]}
        found = answer(boto3.client("ecr").describe_images, **image)
        return found["imageDetails"][0]["imageDigest"] if found else None

    yield (
        bool(digest("v1")),
        _("an image {name}:v1 is in ECR", name=target.name),
        _("Push once more, as above, with :v1 behind the address: the tag is the part behind the colon."),
    )
    if digest("v1"):
        yield (
            digest("v1") == digest("latest"),
            _("v1 and latest are one image: they have one digest"),
            _("Two images: latest was pushed anew since then. Push v1 again."),
        )


def _train(target: Target, given: dict) -> Iterator[Finding]:
    job = _newest("training", "TrainingJob", target, lambda job: len(job.get("InputDataConfig", ())) == 2)
    hint = _("InputDataConfig is a list: give it two channels, each with a prefix of its own.")
    if job is None:
        yield False, _("a training job with two channels"), hint
        return
    name = job["TrainingJobName"]
    rows, species = {}, set()
    for channel in job["InputDataConfig"]:
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        lines = [line for content in _contents(uri) for line in content.splitlines()]
        rows[channel["ChannelName"]] = len(lines)
        if channel["ChannelName"] == "validation":
            species = {line.partition(",")[0] for line in lines}
    yield (
        set(rows) == {"training", "validation"},
        _("{name} has the channels {channels}", name=name, channels=_(" and ").join(rows)),
        _(
            "Expected training and validation: channel_of makes one called training; for the other change its ChannelName."
        ),
    )
    if set(rows) != {"training", "validation"}:
        return
    yield (
        (rows["training"], rows["validation"]) == (120, 30),
        _("they have {counts} rows", counts=_(" and ").join(map(str, rows.values()))),
        _(
            "Expected 120 rows to train on and 30 held out, none in both: does each prefix hold its own file alone?"
        ),
    )
    yield (
        len(species) == 3,
        _("the rows held out are of {count} species", count=len(species)),
        _(
            "Expected all three: the file is sorted by species, so its last 30 rows are virginica alone. Mix them first."
        ),
    )
    status, reason = job["TrainingJobStatus"], job.get("FailureReason", "")
    yield (
        status == "Completed",
        _("it is {status}", status=status),
        _("{reason}\nMend what it names, and start another one.", reason=reason),
    )


def _deploy(target: Target, given: dict) -> Iterator[Finding]:
    last = given.get("last")
    if not isinstance(last, list) or not last:
        yield False, _("a list `last` of log lines"), _("Give the ten lines this name: last = […].")
        return
    pages = boto3.client("logs").get_paginator("filter_log_events")
    group = f"/aws/sagemaker/Endpoints/{target.name}"
    lines = [event["message"] for page in pages.paginate(logGroupName=group) for event in page["events"]]
    hint = _("Expected strings, the last ten messages of the log group {group}.", group=group)
    if any(isinstance(line, dict) for line in last):
        hint = _('Each event is a dict, with its time: take its ["message"].')
    elif len(last) != 10:
        hint = _("These are {count}: [-10:] takes the last ten of a list.", count=len(last))
    # The log goes on: what was the end of it some seconds ago may be a line or two from it now.
    there = any(lines[: len(lines) - since][-len(last) :] == last for since in range(3))
    yield (
        len(last) == min(10, len(lines)) and there,
        _("`last` has {count} lines of the endpoint's log", count=len(last)),
        hint,
    )


def _invoke(target: Target, given: dict) -> Iterator[Finding]:
    said = given.get("with_header")
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    if not isinstance(said, str):
        yield (
            False,
            _("`with_header`, what the endpoint answered"),
            _('Give the text of the answer this name: with_header = answer["Body"].read().decode().'),
        )
        return
    hint = _("Expected a label for each of the two rows, and none for the header.")
    if "error" in said:
        hint = _('This is a refusal: the header needs ContentType="text/csv; header=present".')
    yield said.split() == ["setosa", "virginica"], _("`with_header` is {labels}", labels=said.split()), hint


def _batch_transform(target: Target, given: dict) -> Iterator[Finding]:
    job = _newest(
        "transform", "TransformJob", target, lambda job: "OutputFilter" in job.get("DataProcessing", {})
    )
    if job is None:
        yield (
            False,
            _("a transform job with an OutputFilter"),
            _('It belongs into DataProcessing, beside InputFilter: "OutputFilter": "$[…]".'),
        )
        return
    status, reason = job["TransformJobStatus"], job.get("FailureReason", "")
    yield (
        status == "Completed",
        _("{name} is {status}", name=job["TransformJobName"], status=status),
        _("{reason}\nMend what it names, run another.", reason=reason),
    )
    if status != "Completed":
        return
    place = job["TransformOutput"]["S3OutputPath"]
    yield (
        not place.rstrip("/").endswith("batch/output"),
        _("its output has a place of its own: {place}", place=place),
        _(
            "Give TransformOutput another S3OutputPath; then run the transform cell above again, to have its output back."
        ),
    )
    lines = [line.split(",") for content in _contents(place + "/") for line in content.splitlines()]
    species = {"setosa", "versicolor", "virginica"}
    yield (
        len(lines) == 150 and all(len(line) == 2 and set(line) <= species for line in lines),
        _(
            "it has {count} rows, the first of them {row}",
            count=len(lines),
            row=",".join(lines[0]) if lines else _("missing"),
        ),
        _(
            "Expected 150 rows of two columns, the species and the prediction: after the join they are the first column, 0, "
            "and the last one, -1."
        ),
    )


def _tune(target: Target, given: dict) -> Iterator[Finding]:
    client = boto3.client("sagemaker")
    pages = client.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
        NameContains=target.tuning, SortBy="CreationTime", SortOrder="Descending"
    )
    listed = [
        job["HyperParameterTuningJobName"]
        for page in pages
        for job in page["HyperParameterTuningJobSummaries"]
    ]
    for name in listed:
        job = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        config = job["HyperParameterTuningJobConfig"]
        if config["Strategy"] == "Grid":
            break
    else:
        yield (
            False,
            _("a tuning job with the strategy Grid"),
            _('"Strategy": "Grid" in HyperParameterTuningJobConfig.'),
        )
        return
    ranges = config.get("ParameterRanges", {}).get("CategoricalParameterRanges", [])
    values = {found["Name"]: set(found["Values"]) for found in ranges}
    yield (
        values == {"criterion": {"gini", "entropy", "log_loss"}},
        _("{name} searches {what}", name=name, what=", ".join(values) or _("nothing")),
        _("Expected CategoricalParameterRanges with criterion and its three values, and no other range."),
    )
    status, done = job["HyperParameterTuningJobStatus"], job["TrainingJobStatusCounters"]["Completed"]
    yield (
        status == "Completed" and done == 3,
        _("it is {status}, and {done} of its training jobs have completed", status=status, done=done),
        _(
            "{reason}\nExpected three. StaticHyperParameters must not name what is searched for.",
            reason=job.get("FailureReason", ""),
        ),
    )


def _speed(target: Target, given: dict) -> Iterator[Finding]:
    took = given.get("took")
    if not isinstance(took, dict):
        yield (
            False,
            _("a dict `took`"),
            _('Note the seconds by number of workers: took = {}, then took["1"] = … and took["2"] = ….'),
        )
        return
    yield (
        {"1", "2"} <= set(map(str, took)),
        _("`took` has the seconds with {counts} workers", counts=_(" and with ").join(map(str, took)))
        if took
        else _("`took` has the seconds with no workers"),
        _("Measure both: one worker, and two."),
    )
    yield (
        bool(took) and all(isinstance(seconds, int | float) and seconds > 0 for seconds in took.values()),
        _("they are seconds"),
        _("time.perf_counter() before and after, and the difference."),
    )


def _bring_your_own(target: Target, given: dict) -> Iterator[Finding]:
    source = target.source.parent / "my_bayes" / "training.py"
    yield (
        source.is_file(),
        _("container/my_bayes/training.py is there"),
        _("Make the folder: !make --no-print-directory -C .. new NAME=my_bayes LIKE=tabular"),
    )
    if not source.is_file():
        return
    untouched = source.parents[1] / "templates" / "tabular" / "training.py"
    yield (
        source.read_text() != untouched.read_text(),
        _("it is not what `make new` left"),
        _("Its TODO says where your estimator goes: from sklearn.naive_bayes import GaussianNB."),
    )
    held = given.get("bayes")
    if not held:
        yield (
            False,
            _("`bayes`, what the contract has found"),
            _('Hold it to the contract: bayes = held_to_contract("my_bayes").'),
        )
        return
    broken = [finding.name for finding in held if finding.ok is False and finding.level == "must"]
    yield (
        not broken,
        _("it breaks no promise that SageMaker must have kept"),
        _("Broken: {broken}. See above how to mend it.", broken=", ".join(broken)),
    )


def _image_in_mask_out(target: Target, given: dict) -> Iterator[Finding]:
    mask = given.get("mask")
    shape = getattr(mask, "shape", None)
    if shape is None:
        yield False, _("`mask`, an array"), _("mask = mask_in(ask(large)), where large is your picture.")
        return
    hint = _("Expected 130 rows of 250 pixels: an array's rows come first, [:130, :250].")
    if shape == (250, 130):
        hint = _("Rows and columns have changed places: {hint}", hint=hint)
    yield shape == (130, 250), _("`mask` is {shape}", shape=" x ".join(map(str, shape))), hint
    share = float(mask.mean())
    yield (
        0.02 < share < 0.6,
        _("{share:.0%} of its pixels are cells", share=share),
        _(
            "Expected some cells, and ground between them: is it the endpoint's mask of pictures put together?"
        ),
    )


def _what_goes_wrong(target: Target, given: dict) -> Iterator[Finding]:
    attempts = f"{target.wrong}-my-"
    tried = _newest(
        "training", "TrainingJob", target, lambda job: job["TrainingJobName"].startswith(attempts)
    )
    if tried is None:
        yield (
            False,
            _("an attempt to cure the patient"),
            _("treat() shows what it says first; then treat(COMMAND)."),
        )
        return
    status, reason = tried["TrainingJobStatus"], tried.get("FailureReason", "")
    hint = _(
        "The index says what mends it. A mend of one fault may show the next: keep the first in your command. And what a program imports and never uses may go from it."
    )
    yield (
        status == "Completed",
        _("your last attempt, {name}, is {status}", name=tried["TrainingJobName"], status=status),
        f"{reason}\n{hint}",
    )


def _outgrow_one_machine(target: Target, given: dict) -> Iterator[Finding]:
    jobs, dollars = given.get("jobs", {}), given.get("dollars")
    yield (
        2 in jobs,
        _("a job of two hosts"),
        _("train(2), which puts its description into `jobs`."),
    )
    if not isinstance(dollars, dict):
        yield False, _("`dollars`, a dict"), _("dollars = {hosts: …}, of each job in `jobs`.")
        return
    billed = {
        hosts: job["BillableTimeInSeconds"] / 3600 * price_of("ml.m5.large") for hosts, job in jobs.items()
    }
    hint = _("A dollar amount for each of {hosts} hosts.", hosts=", ".join(map(str, sorted(billed))))
    if dollars.keys() == billed.keys() and all(map(math.isclose, map(dollars.get, billed), billed.values())):
        hint = _("That is one instance's: SageMaker bills the seconds of each.")
    true = {hosts: price * hosts for hosts, price in billed.items()}
    yield (
        dollars.keys() == true.keys()
        and all(math.isclose(dollars[hosts], true[hosts], rel_tol=0.01) for hosts in true),
        _("`dollars` has what SageMaker bills of each job"),
        hint,
    )


def _cleanup(target: Target, given: dict) -> Iterator[Finding]:
    ended = given.get("ended")
    if not isinstance(ended, dict):
        yield False, _("`ended`, a Counter"), _("ended = Counter(…), of each job's TrainingJobStatus.")
        return
    pages = boto3.client("sagemaker").get_paginator("list_training_jobs").paginate(NameContains=target.name)
    true = Counter(job["TrainingJobStatus"] for page in pages for job in page["TrainingJobSummaries"])
    yield (
        dict(ended) == dict(true),
        _("`ended` counts {count} training jobs", count=sum(ended.values())),
        _(
            "SageMaker knows {count}: walk all pages, list_training_jobs answers with ten jobs a page.",
            count=sum(true.values()),
        ),
    )


def _newest(kind: str, word: str, target: Target, wanted) -> dict | None:
    """The description of the newest job of the walk for which `wanted(description)` holds."""
    client = boto3.client("sagemaker")
    pages = client.get_paginator(f"list_{kind}_jobs").paginate(
        NameContains=target.name, SortBy="CreationTime", SortOrder="Descending"
    )
    for page in pages:
        for job in page[f"{word}Summaries"]:
            found = getattr(client, f"describe_{kind}_job")(**{f"{word}Name": job[f"{word}Name"]})
            # The walk's own have their check: this is about what the exercise made.
            if not found[f"{word}Name"].startswith(target.walk) and wanted(found):
                return found
    return None


def _contents(prefix: str) -> Iterator[str]:
    """The text of each object below a prefix in S3."""
    place = urlparse(prefix)
    for item in boto3.resource("s3").Bucket(place.netloc).objects.filter(Prefix=place.path.lstrip("/")):
        yield item.get()["Body"].read().decode(errors="replace")


_EXERCISES = {
    "00_setup": _setup,
    "01_build": _build,
    "02_local_test": _local_test,
    "03_push": _push,
    "04_train": _train,
    "05_deploy": _deploy,
    "06_invoke": _invoke,
    "07_batch_transform": _batch_transform,
    "08_tune": _tune,
    "09_speed": _speed,
    "10_bring_your_own": _bring_your_own,
    "11_image_in_mask_out": _image_in_mask_out,
    "12_what_goes_wrong": _what_goes_wrong,
    "13_outgrow_one_machine": _outgrow_one_machine,
    "99_cleanup": _cleanup,
}
