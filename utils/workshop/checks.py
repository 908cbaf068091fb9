"""What each lab must have brought about, asked of the services themselves: `check("04_train")` in the lab's last cell."""

import csv
import io
import json
import textwrap
from collections.abc import Generator, Iterator
from urllib.parse import urlparse

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import exercises, record
from .aws import answer
from .cleanup import left_over
from .errors import UnknownLab, WorkshopError
from .image import NoImage, changed_files, inspect_image
from .language import _
from .target import Target, connect

ROW = "5.1,3.5,1.4,0.2"  # a setosa
#: One try: an endpoint that does not answer is a finding, not something to wait for five times over.
ONCE = Config(read_timeout=70, retries={"total_max_attempts": 1})


BROKEN_JOBS = 9  # of 12_what_goes_wrong


class CheckFailed(WorkshopError):
    """Something that the lab was to bring about is not there."""


#: One finding: is it there, what it is, what to do where it is not.
Finding = tuple[bool, str, str]


def check(lab: str, your_turn: bool = False) -> None:
    """Print what the lab was to bring about, [OK] or [FAIL] with a hint; raise CheckFailed where something is missing.

    With `your_turn` it looks at the lab's exercise instead, and says [TODO] with a hint: whoever leaves an exercise out
    can go on. What is passed is kept for `make progress`.
    """
    target = connect(quiet=True)
    found = _explained(exercises.findings(lab, target)) if your_turn else findings(lab, target)
    mark, missing = _("[TODO]") if your_turn else "[FAIL]", 0
    for there, what, hint in found:
        print(f"[OK]   {what}" if there else f"{mark} {what}\n{textwrap.indent(hint, ' ' * 7)}")
        missing += not there
    if missing and not your_turn:
        raise CheckFailed(
            _(
                "{lab}: missing results: {missing}. The hints above say how to get them.",
                lab=lab,
                missing=missing,
            )
        )
    if not missing:
        record.note(target, lab, "your_turn" if your_turn else "checked")


def passed(lab: str, target: Target) -> bool:
    """Whether everything that the lab was to bring about is there."""
    return all(finding[0] for finding in findings(lab, target))


def findings(lab: str, target: Target) -> Iterator[Finding]:
    """The lab's results, one finding each, none after one that the others build on. Raises UnknownLab."""
    if lab not in _CHECKS:
        raise UnknownLab(lab, _CHECKS)
    return _explained(_CHECKS[lab](target))


def _explained(found: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; a service that refuses to be asked, or cannot be, is one more instead of a traceback."""
    try:
        yield from found
    except (ClientError, BotoCoreError) as error:
        yield (
            False,
            _("the services can be asked"),
            _("{error}\nMend what this names, then run the check again.", error=error),
        )


def _exists_in_s3(uri: str) -> bool:
    place = urlparse(uri)
    return bool(answer(boto3.client("s3").head_object, Bucket=place.netloc, Key=place.path.lstrip("/")))


def latest_training_job(target: Target) -> dict:
    """DescribeTrainingJob of the walk's newest completed training job. Raises CheckFailed where there is none.

    The walk's are those whose names begin with `target.walk`: what an exercise trains does not take their place.
    """
    job = _newest(target.walk, "training", "TrainingJob", StatusEquals="Completed")
    if job is None:
        raise CheckFailed(
            _("There is no completed training job yet: run 04_train, or this lab's catch_up cell.")
        )
    return job


def _newest(names: str, kind: str, word: str, **only) -> dict | None:
    """The description of the newest job whose name begins with `names`.

    Pages are walked, since AWS filters a page only after it has cut it.
    """
    client = boto3.client("sagemaker")
    pages = client.get_paginator(f"list_{kind}_jobs").paginate(
        NameContains=names, SortBy="CreationTime", SortOrder="Descending", **only
    )
    for page in pages:
        for job in page[f"{word}Summaries"]:
            return getattr(client, f"describe_{kind}_job")(**{f"{word}Name": job[f"{word}Name"]})
    return None


def _completed(names: str, kind: str, word: str, lab: str) -> Generator[Finding, None, dict | None]:
    """Find the newest completed job of these names and return its description; without one, say what became of the newest."""
    job = _newest(names, kind, word, StatusEquals="Completed")
    hint = _("Run the cells of {lab} that start the job and follow it to its end.", lab=lab)
    if job is None and (other := _newest(names, kind, word)):
        newest = _(
            "{name} is {status}: {reason}",
            name=other[f"{word}Name"],
            status=other[f"{word}Status"],
            reason=other.get("FailureReason") or _("no more is known yet"),
        )
        hint = f"{newest}\n{hint}"
    what = {
        "training": _("a completed training job {names}-…", names=names),
        "transform": _("a completed transform job {names}-…", names=names),
    }
    yield bool(job), what[kind], hint
    return job


def _setup(target: Target) -> Iterator[Finding]:
    bucket = answer(boto3.client("s3").head_bucket, Bucket=target.bucket)
    yield (
        bool(bucket),
        _("bucket {name}", name=target.bucket),
        _("Run the cell with create_bucket in 00_setup."),
    )


def _build(target: Target) -> Iterator[Finding]:
    hint = _("Run the build cell of 01_build and read what it prints.")
    try:
        image = inspect_image(target)
    except NoImage:
        image = None
    yield bool(image), _("image {name} is built on this machine", name=target.name), hint
    if image:
        # An image may bring a train or serve of its own; else they are the stack's.
        programs = {name.removeprefix("stack/") for mode, _size, name in image.files if mode == "755"}
        missing = {"train", "serve"} - programs
        yield (
            not missing,
            _("its programs train and serve can be executed"),
            _(
                "Not there, or not executable: {programs}. {hint}",
                programs=", ".join(sorted(missing)),
                hint=hint,
            ),
        )
    if files := changed_files(target):
        yield (
            False,
            _("image {name} is older than {files}", name=target.name, files=", ".join(files)),
            _("What you changed is not in it: run the build cell of 01_build again, then those of 03_push."),
        )


def _local_test(target: Target) -> Iterator[Finding]:
    base = target.folder / "local_test"
    trained = any(path.is_file() for path in (base / "model").glob("*"))
    hint = _("Run the train cell of 02_local_test.")
    if not trained and (base / "output" / "failure").is_file():
        hint = _(
            "Training failed: {reason}\nMend what it names. {hint}",
            reason=(base / "output" / "failure").read_text(),
            hint=hint,
        )
    yield trained, _("a model trained on this machine"), hint
    if trained:
        log = base / "serve.log"
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        answered = [line for line in lines if "status=200 method=POST" in line]
        hint = _("Run the cells of 02_local_test that start serve and ask it.")
        if lines and not answered:
            hint = _("{hint} The last line of its log: {line}", hint=hint, line=lines[-1])
        yield bool(answered), _("serve has answered {count} requests", count=len(answered)), hint


def _push(target: Target) -> Iterator[Finding]:
    ecr = boto3.client("ecr")
    yield (
        bool(there := answer(ecr.describe_repositories, repositoryNames=[target.name])),
        _("repository {name} is in ECR", name=target.name),
        _("Run the cells of 03_push that create the repository and push."),
    )
    if not there:
        return
    pushed = pushed_image(target)
    yield (
        bool(pushed),
        _("image {name}:latest is in it", name=target.name),
        _("Nothing was pushed with this tag: run the push cell of 03_push and read what it prints."),
    )
    try:
        built = inspect_image(target).digests
    except NoImage:  # pushed from another machine
        return
    if pushed and pushed["imageDigest"] not in built:
        yield (
            False,
            _("image {name}:latest in ECR is not the one that was built last", name=target.name),
            _("What you built is not in ECR: run the push cell of 03_push again."),
        )


def pushed_image(target: Target) -> dict | None:
    """What ECR says of the walk's image, None where there is none."""
    image = {"repositoryName": target.name, "imageIds": [{"imageTag": "latest"}]}
    found = answer(boto3.client("ecr").describe_images, **image)
    return found["imageDetails"][0] if found else None


def _train(target: Target) -> Iterator[Finding]:
    job = yield from _completed(target.walk, "training", "TrainingJob", "04_train")
    if job:
        artifact = job["ModelArtifacts"]["S3ModelArtifacts"]
        yield (
            _exists_in_s3(artifact),
            _("its model artifact {artifact}", artifact=artifact),
            _("Somebody deleted it: train again (04_train)."),
        )
        # A job does not say which digest it ran; ECR keeps the time of an image that is pushed a second time.
        pushed = pushed_image(target)
        if pushed and pushed["imagePushedAt"] > job["CreationTime"]:
            yield (
                False,
                _("{job} ran an older image than the one in ECR", job=job["TrainingJobName"]),
                _("Its model is of what you have changed since: run the cells of 04_train again."),
            )


def _deploy(target: Target) -> Iterator[Finding]:
    endpoint = answer(boto3.client("sagemaker").describe_endpoint, EndpointName=target.name) or {}
    status, reason = endpoint.get("EndpointStatus"), endpoint.get("FailureReason", "")
    hint = _("It is on its way, or not there yet: run the deploy cells of 05_deploy, which wait for it.")
    if status == "Failed":
        hint = _(
            "{reason}\nMend what this names, then run the deploy cells of 05_deploy: they replace it.",
            reason=reason,
        )
    yield status == "InService", _state(target.name, status), hint
    if status != "InService":
        return
    yield (
        not reason,
        _("its last update went well: it serves config {config}", config=endpoint["EndpointConfigName"]),
        _(
            "The update failed, and the endpoint serves as before: {reason}\n"
            "Mend what this names, then run the deploy cells of 05_deploy.",
            reason=reason,
        ),
    )
    runs = {
        image.get("ResolvedImage", "@").split("@")[-1]
        for variant in endpoint["ProductionVariants"]
        for image in variant.get("DeployedImages", ())
    }
    pushed = pushed_image(target)
    if pushed and pushed["imageDigest"] not in runs:
        yield (
            False,
            _("endpoint {name} runs an older image than the one in ECR", name=target.name),
            _(
                "An endpoint keeps the image that it was made with: run the deploy cells of 05_deploy, which update it."
            ),
        )
    yield _answers(
        target.name,
        _(
            "The container's log has more; 05_deploy's solution prints it. For the walk's model, run the deploy cells "
            "of 05_deploy."
        ),
    )


def _answers(endpoint: str, mend: str) -> Finding:
    code, said = _ask(endpoint)
    return (
        code == "200",
        _("it answers {row} with {code}", row=ROW, code=code),
        _("It says: {said}\n{mend}", said=said, mend=mend),
    )


def _ask(endpoint: str) -> tuple[str, str]:
    """What an endpoint says to a row: (the container's status, its words), or (AWS's error code, its message)."""
    runtime = boto3.client("sagemaker-runtime", config=ONCE)
    try:
        reply = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="text/csv", Body=f"{ROW}\n")
        return "200", reply["Body"].read().decode(errors="replace").strip()
    except ClientError as error:
        problem = error.response["Error"]
        code = str(error.response.get("OriginalStatusCode", problem["Code"]))
        return code, textwrap.shorten(error.response.get("OriginalMessage") or problem["Message"], 300)


def _invoke(target: Target) -> Iterator[Finding]:
    missing = [finding for finding in _deploy(target) if not finding[0]]
    yield from missing
    if missing:
        return
    _code, label = _ask(target.name)
    yield (
        label == "setosa",
        _("the endpoint calls {row} {label}", row=ROW, label=label),
        _(
            "Expected setosa: this is not the walk's model. Run the deploy cells of 05_deploy, which put it there."
        ),
    )
    labels = target.folder / "labels.csv"
    yield (
        labels.is_file() and labels.read_text().split() == ["setosa", "virginica"],
        _("what the aws command was answered"),
        _("Expected setosa and virginica in labels.csv: run the cell of 06_invoke with `!aws`."),
    )


def _batch_transform(target: Target) -> Iterator[Finding]:
    job = yield from _completed(target.walk, "transform", "TransformJob", "07_batch_transform")
    if not job:
        return
    place = urlparse(job["TransformOutput"]["S3OutputPath"])
    output = answer(
        boto3.client("s3").get_object, Bucket=place.netloc, Key=f"{place.path.strip('/')}/iris.csv.out"
    )
    text = output["Body"].read().decode(errors="replace") if output else ""
    rows = list(csv.reader(io.StringIO(text)))
    columns = {len(row) for row in rows} or {0}
    yield (
        len(rows) == 150 and columns == {6},
        _("its output has {count} rows of {columns} columns", count=len(rows), columns=max(columns)),
        _(
            "Expected 150 rows of 6 columns: the label, four features, the prediction joined to them. Where another job "
            "has written over it, run the transform cell of 07_batch_transform again."
        ),
    )


def _tune(target: Target) -> Iterator[Finding]:
    client = boto3.client("sagemaker")
    pages = client.get_paginator("list_hyper_parameter_tuning_jobs").paginate(
        NameContains=target.tuning, SortBy="CreationTime", SortOrder="Descending"
    )
    names = [
        job["HyperParameterTuningJobName"]
        for page in pages
        for job in page["HyperParameterTuningJobSummaries"]
    ]
    jobs = [client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name) for name in names]
    hint = _("Run the cells of 08_tune from the top.")
    if jobs:
        status, reason = jobs[0]["HyperParameterTuningJobStatus"], jobs[0].get("FailureReason", "")
        hint = _(
            "The newest, {name}, is {status}. {reason}\n{hint}",
            name=names[0],
            status=status,
            reason=reason,
            hint=hint,
        )
    # A learner's algorithms share the beginning of these names.
    jobs = [
        job
        for job in jobs
        if f"/{target.name}:" in job["TrainingJobDefinition"]["AlgorithmSpecification"]["TrainingImage"]
    ]
    found = [job["BestTrainingJob"] for job in jobs if "BestTrainingJob" in job]
    # AWS keeps an earlier walk's jobs as records; their models went with the bucket.
    best = [job for job in found if _exists_in_s3(_artifact(client, job["TrainingJobName"]))]
    yield bool(best), _("a tuning job with a best training job"), hint
    if best:
        # The best of all: an exercise's search cannot take anything from it.
        value = max(job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for job in best)
        yield (
            value > 0.9,
            _("the best accuracy on unseen rows is {value:.3f}", value=value),
            _(
                "Expected more than 0.9 for iris: has the search tried more than two leaves? Run 08_tune from the top."
            ),
        )


def _artifact(client, training_job: str) -> str:
    return client.describe_training_job(TrainingJobName=training_job)["ModelArtifacts"]["S3ModelArtifacts"]


def _speed(target: Target) -> Iterator[Finding]:
    file = target.folder / "speed" / "measured.json"
    try:
        notes = json.loads(file.read_text())
    except (OSError, ValueError):
        notes = None
    there = isinstance(notes, dict) and "rows a second" in notes
    yield there, _("your measurements"), _("Run the cells of 09_speed to the one that stops the server.")
    if there:
        yield (
            notes.get("same answers", False),
            _("all ways to answer say the same"),
            _("Run 09_speed again from the top: a way that was changed says something else."),
        )


def _bring_your_own(target: Target) -> Iterator[Finding]:
    image = {"repositoryName": target.own, "imageIds": [{"imageTag": "latest"}]}
    pushed = answer(boto3.client("ecr").describe_images, **image)
    hint = _("Run the cells of 10_bring_your_own that build my_knn and push it.")
    yield bool(pushed), _("image {name}:latest is in ECR", name=target.own), hint
    if not pushed:
        return
    endpoint = answer(boto3.client("sagemaker").describe_endpoint, EndpointName=target.both) or {}
    status = endpoint.get("EndpointStatus")
    yield (
        status == "InService",
        _state(target.both, status),
        _(
            "{reason}\nFor one that serves, run 10_bring_your_own from its deploy cells on.",
            reason=endpoint.get("FailureReason") or _("It is on its way, or not there yet."),
        ),
    )
    if status != "InService":
        return
    variants = {
        variant["VariantName"]: variant["DeployedImages"][0]["SpecifiedImage"]
        for variant in endpoint["ProductionVariants"]
    }
    yield (
        len(variants) == 1 and all(f"/{target.own}" in image for image in variants.values()),
        _("it has one variant, of your image: {variants}", variants=", ".join(variants)),
        _(
            "Expected the newcomer alone, and found {variants}: run the cell that takes the old one off; if it is not "
            "there to be taken off, run 10_bring_your_own from its deploy cells on.",
            variants=variants,
        ),
    )
    yield _answers(
        target.both, _("For a model that answers, run 10_bring_your_own from its deploy cells on.")
    )


def _image_in_mask_out(target: Target) -> Iterator[Finding]:
    lab, ecr = "11_image_in_mask_out", boto3.client("ecr")
    digests = {}
    for tag in ("train", "serve"):
        found = answer(ecr.describe_images, repositoryName=target.unet, imageIds=[{"imageTag": tag}])
        if found:
            digests[tag] = found["imageDetails"][0]["imageDigest"]
        hint = _("Run the cells of {lab} that build and push, and read what they print.", lab=lab)
        yield tag in digests, _("image {name}:{tag} is in ECR", name=target.unet, tag=tag), hint
    if len(digests) < 2:
        return
    yield (
        digests["train"] != digests["serve"],
        _("they are two images"),
        _(
            "One image has both tags: build one with --target train, the other with --target serve, as {lab} does.",
            lab=lab,
        ),
    )
    job = yield from _completed(target.unet, "training", "TrainingJob", lab)
    if job:
        artifact = job["ModelArtifacts"]["S3ModelArtifacts"]
        yield (
            _exists_in_s3(artifact),
            _("its model artifact {artifact}", artifact=artifact),
            _("Somebody deleted it: train again ({lab}).", lab=lab),
        )
    yield from _serves(target.unet, digests["serve"], lab)
    transform = yield from _completed(target.unet, "transform", "TransformJob", lab)
    if transform:
        asked = _keys(transform["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        masks = {f"{name}.out" for name in asked} & _keys(transform["TransformOutput"]["S3OutputPath"] + "/")
        yield (
            bool(asked) and len(masks) == len(asked),
            _("it has written {masks} masks for {pictures} pictures", masks=len(masks), pictures=len(asked)),
            _(
                "Expected one NAME.png.out for each NAME.png: run the transform cells of {lab} again.",
                lab=lab,
            ),
        )


def _what_goes_wrong(target: Target) -> Iterator[Finding]:
    lab, client = "12_what_goes_wrong", boto3.client("sagemaker")
    pages = client.get_paginator("list_training_jobs").paginate(
        NameContains=f"{target.wrong}-", StatusEquals="Failed"
    )
    failed = [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]
    kinds = {name.rpartition("-")[2] for name in failed if "-my-" not in name}
    yield (
        len(kinds) >= BROKEN_JOBS,
        _("{count} training jobs have failed, each in its own way", count=len(kinds)),
        _("Expected {count}: run {lab} from the cell on that starts them all.", count=BROKEN_JOBS, lab=lab),
    )
    status = (answer(client.describe_endpoint, EndpointName=target.wrong) or {}).get("EndpointStatus")
    yield (
        status in (None, "Deleting"),
        _("endpoint {name} is gone", name=target.wrong),
        _("It is {status}: run the cell of {lab} that deletes it.", status=status, lab=lab),
    )


def _outgrow_one_machine(target: Target) -> Iterator[Finding]:
    lab, client = "13_outgrow_one_machine", boto3.client("sagemaker")
    image = {"repositoryName": target.large, "imageIds": [{"imageTag": "latest"}]}
    pushed = answer(boto3.client("ecr").describe_images, **image)
    hint = _("Run the cells of {lab} that build and push, and read what they print.", lab=lab)
    yield bool(pushed), _("image {name}:latest is in ECR", name=target.large), hint
    if not pushed:
        return
    pages = client.get_paginator("list_training_jobs").paginate(
        NameContains=f"{target.large}-", StatusEquals="Completed"
    )
    hosts = {
        job["TrainingJobName"].rpartition("-")[2] for page in pages for job in page["TrainingJobSummaries"]
    }
    for count in ("1", "4"):
        yield (
            count in hosts,
            _("a completed training job {names}-…", names=f"{target.large}-…-{count}"),
            _("Run the cells of {lab} that start the job and follow it to its end.", lab=lab),
        )
    yield from _serves(target.large, pushed["imageDetails"][0]["imageDigest"], lab)
    pages = boto3.client("application-autoscaling").get_paginator("describe_scaling_policies")
    policies = [
        policy
        for page in pages.paginate(ServiceNamespace="sagemaker")
        for policy in page["ScalingPolicies"]
        if policy["ResourceId"].startswith(f"endpoint/{target.large}/")
    ]
    yield (
        not policies,
        _("no policy changes its instances any more"),
        _("Run the cell of {lab} with deregister_scalable_target.", lab=lab),
    )
    yield from _completed(target.large, "transform", "TransformJob", lab)


def _state(endpoint: str, status: str | None) -> str:
    """What an endpoint is said to be: its status, None where there is no such endpoint."""
    if status is None:
        return _("endpoint {name} is missing", name=endpoint)
    return _("endpoint {name} is {status}", name=endpoint, status=status)


def _serves(endpoint: str, digest: str, lab: str) -> Iterator[Finding]:
    """Whether an endpoint is in service, with an image; the CreateModel cell of `lab`, and what follows, bring one about."""
    found = answer(boto3.client("sagemaker").describe_endpoint, EndpointName=endpoint) or {}
    status = found.get("EndpointStatus")
    yield (
        status == "InService",
        _state(endpoint, status),
        _(
            "{reason}\nFor one that serves, run {lab} from its CreateModel cell on.",
            reason=found.get("FailureReason") or _("It is on its way, or not there yet."),
            lab=lab,
        ),
    )
    if status == "InService":
        images = [image for variant in found["ProductionVariants"] for image in variant["DeployedImages"]]
        yield (
            all(image["ResolvedImage"].endswith(f"@{digest}") for image in images),
            _("it runs the image that was pushed to serve"),
            _("It runs another one, say an older one: run {lab} from its CreateModel cell on.", lab=lab),
        )


def _keys(prefix: str) -> set[str]:
    """The names of the objects below a prefix in S3, from there on."""
    place = urlparse(prefix)
    where = {"Bucket": place.netloc, "Prefix": place.path.lstrip("/")}
    try:
        pages = list(boto3.client("s3").get_paginator("list_objects_v2").paginate(**where))
    except boto3.client("s3").exceptions.NoSuchBucket:
        return set()
    return {item["Key"].removeprefix(where["Prefix"]) for page in pages for item in page.get("Contents", ())}


def _cleanup(target: Target) -> Iterator[Finding]:
    things = left_over(target)
    yield (
        not things,
        _("nothing of the walk is left"),
        _("Still there: {things}. Run the delete cells again.", things=", ".join(things)),
    )


_CHECKS = {
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
