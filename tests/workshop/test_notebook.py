"""What a learner sees in a real kernel: predictions, AWS's errors, an interrupt, a second kernel."""

import dataclasses
import json
import os
import subprocess
import sys

import boto3
import psutil
from test_target import run_cells

from workshop import catch_up, connect, kernels, record, running
from workshop.predict import Prediction


def test_an_error_of_aws_is_its_words_and_the_line_that_asked(home):
    _, refused, code, all_frames, other = run_cells(
        "from workshop import connect\nimport boto3\nconnect()",
        "s3 = boto3.client('s3')\ns3.list_objects_v2(Bucket='nobodys-bucket')",
        "import sys\nprint(sys.last_value.response['Error']['Code'])",
        "%tb",
        "1 / 0",
    )
    assert refused.splitlines()[0] == "line 2 of the cell:  s3.list_objects_v2(Bucket='nobodys-bucket')"
    assert refused.splitlines()[1].startswith("NoSuchBucket: An error occurred (NoSuchBucket) when calling")
    assert len(refused.splitlines()) == 3
    assert code.strip() == "NoSuchBucket"
    assert "botocore" in all_frames and "Traceback" in all_frames
    assert "ZeroDivisionError" in other and "Traceback" in other, "other errors stay Python's"


def test_a_prediction_is_kept_and_held_against_what_came(home):
    cells = run_cells(
        "from workshop import connect, predict\ntarget = connect()",
        "best = predict('04 the longest', 'Starting', 'Training')",
        "best.held_against('Training')",
        "best.choose('Starting')\nbest.held_against('Training')",
        "best = predict('04 the longest', 'Starting', 'Training')\nbest.held_against('Starting')",
        "best.choose('Uploading')",
        "predict('the longest', 'Starting', 'Training')",
    )
    assert "It was: Training. (You have not written a prediction down.)" in cells[2]
    assert "You have predicted: Starting" in cells[3]
    assert "as you have predicted" in cells[4], "it is kept"
    assert "'Uploading' is none of the choices: Starting, Training" in cells[5]
    assert "needs a lab's number first" in cells[6] and "Traceback" not in cells[6]


def test_a_click_is_a_prediction_and_a_page_without_a_kernel_has_the_choices(target):
    prediction = Prediction("04_train", "04 of a click", ("one & two", "three"))
    shown = prediction.shown()
    assert shown["text/plain"] == "( ) one & two\n( ) three"
    assert "<li>one &amp; two</li>" in shown["text/html"]
    import ipywidgets

    (buttons,) = [
        widget
        for widget in ipywidgets.widgets.widget._instances.values()
        if getattr(widget, "options", None) == ("one & two", "three")
    ]
    assert buttons.value is None
    buttons.value = "three"
    assert record.prediction(target, "04_train", "04 of a click") == "three"


def test_who_stops_waiting_is_told_that_the_job_goes_on(home):
    waited, after = run_cells(
        """
        import _thread, threading
        from workshop import progress
        began = threading.Timer(1, _thread.interrupt_main)
        progress._described = lambda *_: {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
        progress._Logs.new_lines = lambda self: []
        import os
        os.environ |= {"AWS_DEFAULT_REGION": "us-west-2"}
        began.start()
        progress.follow_training_job("mine")
        """,
        "print('the kernel is well')",
    )
    assert "Training job mine goes on, and on AWS it goes on costing" in waited
    assert 'follow_training_job("mine")' in waited
    assert 'boto3.client("sagemaker").stop_training_job(TrainingJobName="mine")' in waited
    assert "Traceback" not in waited and "the kernel is well" in after


def test_two_kernels_of_one_lab_are_told_of_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "/some/where/04_train.ipynb")
    assert kernels.others(tmp_path) == []
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "04_train" / str(other.pid)).touch()
        assert [f"process {other.pid}, since" in line for line in kernels.others(tmp_path)] == [True]
        kernels.warn("sagemaker-byoa", tmp_path)
        assert "WORKSHOP_LEARNER" in capsys.readouterr().out
        monkeypatch.setenv("JPY_SESSION_NAME", "/some/where/05_deploy.ipynb")
        assert kernels.others(tmp_path) == [], "another lab"
    finally:
        other.communicate(b"\n")
    monkeypatch.setenv("JPY_SESSION_NAME", "/some/where/04_train.ipynb")
    assert kernels.others(tmp_path) == [], "it has ended"
    # Its number was given to a process that began after the note was written.
    old = tmp_path / "04_train" / str(os.getppid())
    old.touch()
    os.utime(old, (1, psutil.Process(os.getppid()).create_time() - 60))
    assert kernels.others(tmp_path) == [] and not old.exists()
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert kernels.others(tmp_path) == []


def test_two_people_of_one_account_are_told_of_each_other(target, capsys):
    place = {"CreateBucketConfiguration": {"LocationConstraint": target.region}}
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=target.bucket, **place)
    connect()
    assert "[!]" not in capsys.readouterr().out, "it has no tags"
    s3.put_bucket_tagging(Bucket=target.bucket, Tagging={"TagSet": target.tags})
    connect()
    assert "[!]" not in capsys.readouterr().out, "it is one's own"
    theirs = dataclasses.replace(target, who="user/ben").tags
    s3.put_bucket_tagging(Bucket=target.bucket, Tagging={"TagSet": theirs})
    connect()
    said = capsys.readouterr().out
    assert "was made by user/ben, and you are this machine" in said and "WORKSHOP_LEARNER" in said


def test_what_still_runs_is_told_and_nothing_is_started(environment, tmp_path):
    def said(**variables) -> str:
        command = [sys.executable, "-m", "workshop", "running"]
        run = subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout

    silent = tmp_path / "silent"
    assert said(LOCALAWS_HOME=str(silent)) == "" and not silent.exists()


def test_an_endpoint_that_goes_on_is_told_with_its_price(target, capsys):
    sagemaker, name = boto3.client("sagemaker"), target.name
    running.tell()
    assert capsys.readouterr().out.splitlines()[0].endswith(f"goes on at {target.endpoint_url}.")
    # Whatever becomes of its container, it is there.
    catch_up("04_train")
    ecr = boto3.client("ecr").describe_repositories(repositoryNames=[name])["repositories"][0]
    container = {"Image": f"{ecr['repositoryUri']}:latest"}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=target.role)
    kind = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 2}
    variant = {"VariantName": "AllTraffic", "ModelName": name} | kind
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    capsys.readouterr()
    running.tell()
    said = capsys.readouterr().out
    assert f"  endpoint {name}, $0." in said and "an hour on AWS, nothing here" in said
    assert "python -m localaws down" in said


def test_the_kept_file_is_what_the_page_reads(target):
    record.note(target, "04_train", "your_turn")
    kept = json.loads((target.folder.parent / "progress" / f"{target.name}.json").read_text())
    assert set(kept) == {"name", "labs", "next"}
    assert {"lab", "title", "checked", "your_turn", "predictions"} <= set(kept["labs"][0])
