"""Each lab's check, unsolved, half solved and solved: what is missing is said, with a hint, and never by a traceback.

The images are tiny: their programs do what a test's model or job asks of them by a variable or a hyperparameter.
"""

import io
import json
import tarfile
import time

import boto3
import nbformat
import pytest
from botocore.exceptions import ClientError
from nbclient import NotebookClient

import localaws
import workshop
from localaws import images
from workshop import (
    ROOT,
    CheckFailed,
    check,
    checks,
    connect,
    endpoint_status,
    exercises,
    latest_training_job,
    left_over,
)
from workshop.catch_up import LABS, tagged_cells

TRAIN = """#!/usr/bin/env python3
import json, os, pathlib, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
asked = json.loads((base / "input/config/hyperparameters.json").read_text())
(base / "model/model.txt").write_text("a model")
if "fail" in asked:
    (base / "output/failure").write_text(asked["fail"])
    sys.exit(1)
if "sleep" in asked:
    time.sleep(float(asked["sleep"]))
print("validation_accuracy=" + asked.get("accuracy", "1.0"))
"""

SERVE = """#!/usr/bin/env python3
import http.server, os, sys
if "EXIT" in os.environ:
    sys.exit(4)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, "")

    def do_POST(self):
        rows = self.rfile.read(int(self.headers["Content-Length"])).splitlines()
        self.reply(int(os.environ.get("STATUS", 200)), (os.environ.get("LABEL", "setosa") + "\\n") * len(rows))

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", "text/csv")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def shown(capsys):
    """Run a check; return what it printed. `missing`: how many [FAIL] it must print, each with a hint below it."""

    def run(lab: str, missing: int) -> str:
        capsys.readouterr()
        if missing:
            with pytest.raises(CheckFailed, match=rf"{lab}: missing results: {missing}"):
                check(lab)
        else:
            check(lab)
        out = capsys.readouterr().out
        lines = out.splitlines()
        marks = [line[:6] for line in lines if not line.startswith(" ")]
        assert marks.count("[FAIL]") == missing and set(marks) <= {"[FAIL]", "[OK]  "}, out
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("[FAIL]"):
                assert below.startswith("       ") and len(below.split()) > 2, f"no hint:\n{out}"
        assert "Traceback" not in out
        return out

    return run


def build(target, folder, train: str = TRAIN, serve: str = SERVE, name: str = "") -> None:
    """Build an image of these programs under the walk's name, or another."""
    container = folder / str(time.monotonic_ns()) / "container"
    (container / "tiny").mkdir(parents=True)
    (container / "stack").mkdir()
    (container / "stack" / "train").write_text(train)
    (container / "stack" / "serve").write_text(serve)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localaws.state.locate, "ROOT", container.parent)
        images.build("tiny", name or target.name)


def create_repository(target, name: str = "") -> str:
    made = boto3.client("ecr").create_repository(repositoryName=name or target.name)
    return made["repository"]["repositoryUri"]


def create_bucket(target) -> None:
    boto3.client("s3").create_bucket(
        Bucket=target.bucket, CreateBucketConfiguration={"LocationConstraint": target.region}
    )


def put(target, key: str, body) -> str:
    boto3.client("s3").put_object(Bucket=target.bucket, Key=key, Body=body)
    return f"s3://{target.bucket}/{key}"


@pytest.fixture
def pushed(target, tmp_path):
    """The URI of a tiny image of the target's; its bucket is there, too."""
    create_bucket(target)
    build(target, tmp_path)
    uri = create_repository(target)
    images.push(target.name, uri)
    return f"{uri}:latest"


def wait_until(condition):
    """Poll until `condition()` is true, for half a minute at most; return what it answered."""
    deadline = time.monotonic() + 30
    while not (answer := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def definition(target, image: str) -> dict:
    """What a training job and a tuning job's training jobs have in common."""
    source = {"S3DataType": "S3Prefix", "S3Uri": put(target, "training/iris.csv", "a,1\n")}
    return {
        "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"},
        "RoleArn": target.role,
        "InputDataConfig": [{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": f"s3://{target.bucket}/output"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }


def train(target, image: str, name: str, **hyperparameters) -> dict:
    """Run a training job to its end; its description."""
    sagemaker = boto3.client("sagemaker")
    sagemaker.create_training_job(
        TrainingJobName=name, HyperParameters=hyperparameters, **definition(target, image)
    )

    def ended():
        job = sagemaker.describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] != "InProgress" else None

    return wait_until(ended)


def create_model(target, image: str, name: str, **environment) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("model.txt"))
    artifact = put(target, "model.tar.gz", archive.getvalue())
    boto3.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=target.role,
        PrimaryContainer={"Image": image, "ModelDataUrl": artifact, "Environment": environment},
    )


def deploy(target, *variants: str, endpoint: str = "", **environment) -> None:
    """Create the walk's endpoint or another, or update it, with a variant for each image; wait where it comes to."""
    sagemaker, version = boto3.client("sagemaker"), f"{target.name}-{time.monotonic_ns()}"
    endpoint, made = endpoint or target.name, []
    for number, image in enumerate(variants):
        create_model(target, image, f"{version}-{number}", **environment)
        variant = {"VariantName": f"variant-{number}", "ModelName": f"{version}-{number}"}
        made.append(variant | {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1})
    sagemaker.create_endpoint_config(EndpointConfigName=version, ProductionVariants=made)
    change = sagemaker.update_endpoint if endpoint_status(endpoint) else sagemaker.create_endpoint
    change(EndpointName=endpoint, EndpointConfigName=version)

    def settled():
        return endpoint_status(endpoint) in ("InService", "Failed")

    wait_until(settled)


def test_00_setup(target, shown):
    assert "Run the cell with create_bucket in 00_setup" in shown("00_setup", missing=1)
    create_bucket(target)
    assert f"[OK]   bucket {target.bucket}" in shown("00_setup", missing=0)


def test_a_service_that_refuses_to_be_asked_is_a_finding(target, shown, monkeypatch):
    def refuse(call, **arguments):
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no rights"}}, "HeadBucket")

    monkeypatch.setattr(checks, "answer", refuse)
    out = shown("00_setup", missing=1)
    assert "(AccessDenied) when calling the HeadBucket operation: no rights" in out
    assert "then run the check again" in out


def test_01_build(target, shown, tmp_path):
    assert "Run the build cell of 01_build" in shown("01_build", missing=1)
    build(target, tmp_path, serve=SERVE.removeprefix("#!"))
    out = shown("01_build", missing=1)
    assert "[OK]   image" in out and "Not there, or not executable: serve" in out
    build(target, tmp_path)
    shown("01_build", missing=0)
    images.blob(images.inspect(target.name).digest).unlink()
    assert "Run the build cell of 01_build" in shown("01_build", missing=1)


def test_02_local_test(target, shown):
    base = target.folder / "local_test"
    assert "Run the train cell of 02_local_test" in shown("02_local_test", missing=1)
    (base / "model").mkdir(parents=True)
    (base / "output").mkdir()
    (base / "output" / "failure").write_text("training/iris.csv: row 2: no")
    assert "Training failed: training/iris.csv: row 2: no" in shown("02_local_test", missing=1)
    (base / "model" / "model.onnx").write_text("a model")
    assert "that start serve and ask it" in shown("02_local_test", missing=1)
    (base / "serve.log").write_text("serve: nothing works\n")
    assert "The last line of its log: serve: nothing works" in shown("02_local_test", missing=1)
    (base / "serve.log").write_text('status=200 method=GET path="/ping"\nstatus=200 method=POST path="/i"\n')
    assert "serve has answered 1 request" in shown("02_local_test", missing=0)


def test_03_push(target, shown, tmp_path):
    assert "that create the repository and push" in shown("03_push", missing=1)
    uri = create_repository(target)
    out = shown("03_push", missing=1)
    assert "[OK]   repository" in out and "Nothing was pushed with this tag" in out
    build(target, tmp_path)
    images.push(target.name, uri)
    shown("03_push", missing=0)


def test_04_train(target, pushed, shown):
    with pytest.raises(CheckFailed, match="There is no completed training job yet: run 04_train"):
        latest_training_job(target)
    assert "Run the cells of 04_train" in shown("04_train", missing=1)
    train(target, pushed, f"{target.walk}-bad", fail="row 7 is bad")
    assert f"{target.walk}-bad is Failed: AlgorithmError: row 7 is bad" in shown("04_train", missing=1)
    train(target, pushed, f"{target.name}-before")
    shown("04_train", missing=1)
    job = train(target, pushed, f"{target.walk}-good")
    train(target, pushed, f"{target.name}-after")
    assert latest_training_job(target)["TrainingJobName"] == f"{target.walk}-good", (
        "an exercise's job takes its place"
    )
    shown("04_train", missing=0)
    key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{target.bucket}/")
    boto3.client("s3").delete_object(Bucket=target.bucket, Key=key)
    assert "Somebody deleted it: train again" in shown("04_train", missing=1)


def test_05_deploy_and_06_invoke(target, pushed, shown):
    out = shown("05_deploy", missing=1)
    assert f"[FAIL] endpoint {target.name} is missing" in out and "run the deploy cells" in out
    assert "is missing" in shown("06_invoke", missing=1)

    deploy(target, pushed, STATUS="500")
    for lab in ("05_deploy", "06_invoke"):
        out = shown(lab, missing=1)
        assert "[FAIL] it answers 5.1,3.5,1.4,0.2 with 500" in out and "The container's log has more" in out

    deploy(target, pushed, LABEL="tulip")
    shown("05_deploy", missing=0)
    out = shown("06_invoke", missing=2)
    assert "[FAIL] the endpoint calls 5.1,3.5,1.4,0.2 tulip" in out and "Expected setosa" in out

    deploy(target, pushed)
    shown("05_deploy", missing=0)
    assert "run the cell of 06_invoke with `!aws`" in shown("06_invoke", missing=1)
    target.folder.mkdir(parents=True)
    (target.folder / "labels.csv").write_text("setosa\nvirginica\n")
    shown("06_invoke", missing=0)

    deploy(target, pushed, EXIT="yes")
    for lab in ("05_deploy", "06_invoke"):
        out = shown(lab, missing=1)
        assert (
            "The update failed, and the endpoint serves as before: " in out
            and "[FAIL] its last update" in out
        )
    # The hint leads to the lab's cells: the one that looks at what is there must let them update again.
    (look,) = [source for source in tagged_cells(LABS / "05_deploy.ipynb") if "delete_endpoint" in source]
    exec(look, vars(workshop) | {"boto3": boto3, "name": target.name})
    deploy(target, pushed)
    shown("05_deploy", missing=0)


def test_what_is_older_than_what_it_was_made_of(target, pushed, shown, tmp_path, monkeypatch):
    """A file that has changed, an image that was not pushed, a job and an endpoint of an image before it."""
    train(target, pushed, f"{target.walk}-first")
    deploy(target, pushed)
    for lab in ("01_build", "03_push", "04_train", "05_deploy"):
        shown(lab, missing=0)

    container = tmp_path / "changed" / "container"
    for program, text in (("train", TRAIN), ("serve", SERVE)):
        (container / "stack").mkdir(parents=True, exist_ok=True)
        (container / "stack" / program).write_text(text)
    (container / "tiny").mkdir()
    monkeypatch.setattr(localaws.state.locate, "ROOT", container.parent)
    shown("01_build", missing=0)
    (container / "stack" / "train").touch()
    shown("01_build", missing=0)
    (container / "stack" / "train").write_text(TRAIN + "# changed\n")
    (container / "tiny" / "new.py").write_text("")
    out = shown("01_build", missing=1)
    assert f"[FAIL] image {target.name} is older than container/tiny/new.py, container/stack/train" in out
    assert "run the build cell of 01_build again" in out
    shown("03_push", missing=0)

    images.build("tiny", target.name)
    shown("01_build", missing=0)
    assert "run the push cell of 03_push again" in shown("03_push", missing=1)
    shown("05_deploy", missing=0)

    images.push(target.name, pushed)
    shown("03_push", missing=0)
    assert f"[FAIL] {target.walk}-first ran an older image than the one in ECR" in shown(
        "04_train", missing=1
    )
    assert f"[FAIL] endpoint {target.name} runs an older image" in shown("05_deploy", missing=1)

    train(target, pushed, f"{target.walk}-second")
    deploy(target, pushed)
    for lab in ("04_train", "05_deploy"):
        shown(lab, missing=0)


def test_05_deploy_of_what_never_served(target, pushed, shown):
    deploy(target, pushed, EXIT="yes")
    for lab in ("05_deploy", "06_invoke"):
        out = shown(lab, missing=1)
        assert f"[FAIL] endpoint {target.name} is Failed" in out and "they replace it" in out
        assert "did not pass the ping health check" in out


def transform(target, name: str, output: str, **processing) -> None:
    """Run a batch transform of iris.csv to its end."""
    sagemaker = boto3.client("sagemaker")
    put(target, "batch/input/iris.csv", (ROOT / "data" / "iris.csv").read_bytes())
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{target.bucket}/batch/input/"}
    to = {"S3OutputPath": f"s3://{target.bucket}/{output}", "Accept": "text/csv", "AssembleWith": "Line"}
    sagemaker.create_transform_job(
        TransformJobName=name,
        ModelName=f"{target.name}-{processing.pop('model', 'good')}",
        BatchStrategy="MultiRecord",
        TransformInput={
            "DataSource": {"S3DataSource": source},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        TransformOutput=to,
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        DataProcessing=processing,
    )
    wait_until(
        lambda: sagemaker.describe_transform_job(TransformJobName=name)["TransformJobStatus"] != "InProgress"
    )


def test_07_batch_transform(target, pushed, shown):
    assert "Run the cells of 07_batch_transform" in shown("07_batch_transform", missing=1)
    create_model(target, pushed, f"{target.name}-bad", STATUS="500")
    create_model(target, pushed, f"{target.name}-good")
    transform(target, f"{target.walk}-bad", "batch/output", model="bad")
    assert f"{target.walk}-bad is Failed: " in shown("07_batch_transform", missing=1)
    joined = {"InputFilter": "$[1:]", "JoinSource": "Input"}
    transform(target, f"{target.walk}-good", "batch/output", **joined)
    shown("07_batch_transform", missing=0)
    transform(target, f"{target.name}-two", "batch/two", **joined, OutputFilter="$[0,-1]")
    shown("07_batch_transform", missing=0)

    key = {"Bucket": target.bucket, "Key": "batch/output/iris.csv.out"}
    boto3.client("s3").put_object(**key, Body="setosa,setosa\n" * 150)
    out = shown("07_batch_transform", missing=1)
    assert (
        "[FAIL] its output has 150 rows of 2 columns" in out
        and "Where another job has written over it" in out
    )
    boto3.client("s3").delete_object(**key)
    assert "[FAIL] its output has 0 rows" in shown("07_batch_transform", missing=1)


def start_tuning(
    target, image: str, number: int, regex: str = r"validation_accuracy=([0-9.]+)", **asked
) -> str:
    """Start a tuning job of one training job, which gets these hyperparameters; its name."""
    sagemaker, name = boto3.client("sagemaker"), f"{target.tuning}{number}"
    jobs = definition(target, image) | {"StaticHyperParameters": asked}
    jobs["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "validation_accuracy", "Regex": regex}]
    leaves = {"Name": "max_leaf_nodes", "MinValue": "2", "MaxValue": "9"}
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "validation_accuracy"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
            "ParameterRanges": {"IntegerParameterRanges": [leaves]},
        },
        TrainingJobDefinition=jobs,
    )
    return name


def tune(*arguments, **asked) -> None:
    """Run a tuning job to its end."""
    sagemaker, name = boto3.client("sagemaker"), start_tuning(*arguments, **asked)

    def ended():
        job = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        return job["HyperParameterTuningJobStatus"] not in ("InProgress", "Stopping")

    wait_until(ended)


def test_08_tune(target, pushed, shown):
    assert "Run the cells of 08_tune from the top" in shown("08_tune", missing=1)
    tune(target, pushed, 1, regex="no such line=([0-9.]+)")
    assert f"The newest, {target.tuning}1, is Failed. All training jobs failed" in shown("08_tune", missing=1)
    tune(target, pushed, 2, accuracy="0.667")
    assert "[FAIL] the best accuracy on unseen rows is 0.667" in shown("08_tune", missing=1)
    tune(target, pushed, 3, accuracy="0.967")
    tune(target, pushed, 4, accuracy="0.5")  # an exercise's
    assert "[OK]   the best accuracy on unseen rows is 0.967" in shown("08_tune", missing=0)
    boto3.resource("s3").Bucket(
        target.bucket
    ).objects.delete()  # as 99_cleanup: the next walk has to tune again
    shown("08_tune", missing=1)


def test_09_speed(target, shown, environment):
    assert "to the one that stops the server" in shown("09_speed", missing=1)
    speed = target.folder / "speed"
    speed.mkdir(parents=True)
    (speed / "measured.json").write_text("[]")
    shown("09_speed", missing=1)
    notes = {"rows": [1], "rows a second": [900.0], "same answers": False}
    (speed / "measured.json").write_text(json.dumps(notes))
    assert "a way that was changed says something else" in shown("09_speed", missing=1)
    (speed / "measured.json").write_text(json.dumps(notes | {"same answers": True}))
    shown("09_speed", missing=0)
    environment["WORKSHOP_LEARNER"] = f"n{environment['WORKSHOP_LEARNER'][1:]}"
    shown("09_speed", missing=1)


def test_10_bring_your_own(target, pushed, shown, tmp_path):
    assert "that build my_knn and push it" in shown("10_bring_your_own", missing=1)
    build(target, tmp_path, name=target.own)
    uri = create_repository(target, target.own)
    shown("10_bring_your_own", missing=1)
    images.push(target.own, uri)
    own = f"{uri}:latest"
    out = shown("10_bring_your_own", missing=1)
    assert f"[FAIL] endpoint {target.both} is missing" in out and "from its deploy cells on" in out

    deploy(target, pushed, own, endpoint=target.both)
    out = shown("10_bring_your_own", missing=1)
    assert "[FAIL] it has one variant, of your image: variant-0, variant-1" in out
    assert "run the cell that takes the old one off" in out
    deploy(target, pushed, endpoint=target.both)
    assert "Expected the newcomer alone" in shown("10_bring_your_own", missing=1)
    deploy(target, own, endpoint=target.both, STATUS="500")
    assert "[FAIL] it answers 5.1,3.5,1.4,0.2 with 500" in shown("10_bring_your_own", missing=1)
    deploy(target, own, endpoint=target.both)
    shown("10_bring_your_own", missing=0)

    left = left_over(target)
    assert f"ECR repository {target.own}" in left and f"endpoint {target.both}" in left


def test_10_bring_your_own_with_what_never_served(target, pushed, shown):
    images.push(target.name, create_repository(target, target.own))
    deploy(target, pushed, endpoint=target.both, EXIT="yes")
    out = shown("10_bring_your_own", missing=1)
    assert f"[FAIL] endpoint {target.both} is Failed" in out and "did not pass the ping health check" in out


def test_11_image_in_mask_out(target, pushed, shown, tmp_path):
    lab = "11_image_in_mask_out"
    assert "Run the cells of 11_image_in_mask_out that build and push" in shown(lab, missing=2)
    uri = create_repository(target, target.unet)
    build(target, tmp_path, name=f"{target.unet}:train")
    for tag in ("train", "serve"):
        images.push(f"{target.unet}:train", f"{uri}:{tag}")
    assert "[FAIL] they are two images\n       One image has both tags" in shown(lab, missing=4)
    build(target, tmp_path, serve=SERVE + "# another\n", name=f"{target.unet}:serve")
    images.push(f"{target.unet}:serve", f"{uri}:serve")

    train(target, f"{uri}:train", f"{target.unet}-bad", fail="no picture")
    out = shown(lab, missing=3)
    assert f"{target.unet}-bad is Failed: AlgorithmError: no picture" in out
    assert f"[FAIL] endpoint {target.unet} is missing" in out and "from its CreateModel cell on" in out
    train(target, f"{uri}:train", f"{target.unet}-good")
    deploy(target, f"{uri}:train", endpoint=target.unet)
    out = shown(lab, missing=2)
    assert "[FAIL] it runs the image that was pushed to serve" in out
    deploy(target, f"{uri}:serve", endpoint=target.unet)
    create_model(target, f"{uri}:serve", f"{target.name}-good")
    shown(lab, missing=1)

    transform(target, f"{target.unet}-masks", "unet/masks")
    assert "[OK]   it has written 1 masks for 1 pictures" in shown(lab, missing=0)
    boto3.client("s3").delete_object(Bucket=target.bucket, Key="unet/masks/iris.csv.out")
    assert "[FAIL] it has written 0 masks for 1 pictures" in shown(lab, missing=1)

    left = left_over(target)
    assert f"ECR repository {target.unet}" in left and f"endpoint {target.unet}" in left


def test_12_what_goes_wrong(target, pushed, shown):
    lab, name = "12_what_goes_wrong", f"{target.wrong}-0101000000"
    out = shown(lab, missing=1)
    assert "[FAIL] 0 training jobs have failed" in out and "from the cell on that starts them all" in out
    for number in range(8):
        train(target, pushed, f"{name}-0{number}", fail="as it was to")
    train(target, pushed, f"{target.wrong}-0102000000-07", fail="once more: no other kind")
    assert "[FAIL] 8 training jobs have failed" in shown(lab, missing=1)
    train(target, pushed, f"{name}-2b", fail="as it was to")
    assert "[OK]   9 training jobs have failed, each in its own way" in shown(lab, missing=0)

    deploy(target, pushed, endpoint=target.wrong, EXIT="1")
    assert f"[FAIL] endpoint {target.wrong} is gone\n       It is Failed" in shown(lab, missing=1)
    assert {f"endpoint {target.wrong}"} <= set(left_over(target))
    boto3.client("sagemaker").delete_endpoint(EndpointName=target.wrong)
    wait_until(lambda: endpoint_status(target.wrong) is None)
    create_repository(target, target.wrong)
    assert f"ECR repository {target.wrong}" in left_over(target)

    train(target, pushed, f"{target.wrong}-my-1", fail="the second fault")
    shown(lab, missing=0)
    (healed,) = exercises.findings(lab, target)
    assert not healed[0] and "the second fault" in healed[2]
    train(target, pushed, f"{target.wrong}-my-2")
    (healed,) = exercises.findings(lab, target)
    assert healed[0]


def test_13_outgrow_one_machine(target, pushed, shown):
    lab = "13_outgrow_one_machine"
    assert "that build and push" in shown(lab, missing=1)
    uri = create_repository(target, target.large)
    images.push(target.name, uri)
    image = f"{uri}:latest"
    train(target, image, f"{target.large}-0101000000-1")
    out = shown(lab, missing=3)
    assert f"[OK]   a completed training job {target.large}-…-1" in out
    assert f"[FAIL] a completed training job {target.large}-…-4" in out
    assert f"[FAIL] endpoint {target.large} is missing" in out
    train(target, image, f"{target.large}-0101000000-4")
    deploy(target, image, endpoint=target.large)
    create_model(target, image, f"{target.name}-good")
    transform(target, f"{target.large}-0101000000-4", "visits/answers/4")
    shown(lab, missing=0)

    capacity = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{target.large}/variant/variant-0",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling = boto3.client("application-autoscaling")
    scaling.register_scalable_target(**capacity, MinCapacity=1, MaxCapacity=1)
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    scaling.put_scaling_policy(
        **capacity,
        PolicyName="left",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 1000,
            "PredefinedMetricSpecification": metric,
        },
    )
    assert "[FAIL] no policy changes its instances" in shown(lab, missing=1)
    scaling.deregister_scalable_target(**capacity)

    left = left_over(target)
    assert f"ECR repository {target.large}" in left and f"endpoint {target.large}" in left


def test_what_was_done_in_another_home_is_not_taken_for_this_ones(home, environment, shown, tmp_path):
    """Nor the labs' own files: they lie where the rest of that walk does."""
    folder = connect(quiet=True).folder
    assert folder.is_relative_to(home)
    (folder / "speed").mkdir(parents=True)
    (folder / "speed" / "measured.json").write_text('{"rows a second": [900.0], "same answers": true}')
    shown("09_speed", missing=0)
    environment["LOCALAWS_HOME"] = str(tmp_path / "another")
    try:
        for lab in ("01_build", "02_local_test", "09_speed"):
            shown(lab, missing=1)
    finally:
        localaws.stop()


def test_99_cleanup(target, shown):
    shown("99_cleanup", missing=0)
    create_bucket(target)
    target.folder.mkdir(parents=True)
    out = shown("99_cleanup", missing=1)
    assert f"Still there: bucket {target.bucket}, folder {target.folder}. Run the delete cells" in out
    boto3.client("s3").delete_bucket(Bucket=target.bucket)
    assert f"Still there: folder {target.folder}." in shown("99_cleanup", missing=1)
    target.folder.rmdir()
    shown("99_cleanup", missing=0)


def test_99_ends_a_search_that_nobody_waited_for(target, pushed):
    """An exercise's, say: lab 99 stops it, waits until it writes nothing any more, and leaves nothing behind."""
    name = start_tuning(target, pushed, 1, sleep="600")
    notebook = nbformat.read(LABS / "99_cleanup.ipynb", as_version=4)
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    job = boto3.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert job["HyperParameterTuningJobStatus"] == "Stopped"
    assert left_over(target) == []
