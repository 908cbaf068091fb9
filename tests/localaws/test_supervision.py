"""What a job or an endpoint started ends with it, whatever it did; and nothing that it does holds up localaws."""

import json
import os
import random
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import tiny
from botocore.config import Config
from tiny import wait_until

from localaws.engines import process as engine
from localaws.state import processes

GROUP = "/aws/sagemaker/TrainingJobs"
# Starts `sleep SECONDS`, the number being a mark to find it by, then does what its hyperparameters ask for.
TRAIN = """#!/usr/bin/env python3
import json, os, pathlib, signal, subprocess, sys, tempfile, time
asked = json.loads(pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "input/config/hyperparameters.json").read_text())
stray = ["sleep", asked["mark"]]
match asked["stray"]:
    case "session":  # it holds the pipe
        subprocess.Popen(stray, start_new_session=True)
    case "daemon":  # nobody's child, with nothing of ours: no pipe, no session, no environment
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 100)
                os.execve("/bin/sleep", stray, {})
            os._exit(0)
handle, file = tempfile.mkstemp()
print("temporary", file)
print("started")
match asked["then"]:
    case "wait":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(600)
    case "kill":  # what keeps it
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
"""
SERVE = """#!/usr/bin/env python3
import os, subprocess
subprocess.Popen(["sleep", os.environ["MARK"]], start_new_session=True, env={})
""" + tiny.SERVE.split("\n", 1)[1]
FLOOD = """#!/usr/bin/env python3
import os, sys
sys.stdout.write("first\\n")
sys.stdout.flush()
for n in range(100):
    os.write(1, b"y\\n" * 10_000)
print("accuracy=0.75;")
print("Traceback: last")
sys.exit(3)
"""


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    made = tiny.account(localaws, tmp_path_factory.mktemp("account"))
    made.image = made.push("supervised", train=TRAIN, serve=SERVE)
    return made


@pytest.fixture
def mark():
    """Seconds that only one `sleep` sleeps; it is ended after the test, should localaws not have done so."""
    seconds = f"{random.randrange(10**6, 10**9)}"
    yield seconds
    for process in strays(seconds):
        process.kill()


def strays(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[1:] == [mark]]


def start(account, mark, stray, then, seconds=3600):
    request = account.training_request(mark=mark, stray=stray, then=then)
    request["StoppingCondition"]["MaxRuntimeInSeconds"] = seconds
    account.sagemaker.create_training_job(**request)
    return request["TrainingJobName"]


@pytest.mark.parametrize("stray", ["session", "daemon"])
@pytest.mark.parametrize(
    ("then", "seconds", "status"),
    [("end", 3600, "Completed"), ("wait", 1, "MaxRuntimeExceeded"), ("wait", 3600, "Stopped")],
)
def test_a_job_ends_with_all_that_it_started(account, mark, stray, then, seconds, status):
    name = start(account, mark, stray, then, seconds)
    if status == "Stopped":
        wait_until(lambda: "started" in account.lines(GROUP, name) and strays(mark))
        account.sagemaker.stop_training_job(TrainingJobName=name)
    assert account.finish(name)["SecondaryStatus"] == status
    lines = account.lines(GROUP, name)
    assert "started" in lines
    assert not strays(mark)
    (file,) = [Path(line.split()[1]) for line in lines if line.startswith("temporary ")]
    assert file.parent != Path(tempfile.gettempdir()) and not file.parent.exists()


def test_a_program_that_kills_its_keeper_is_ended(account, mark):
    job = account.finish(start(account, mark, "session", "kill"))
    assert job["FailureReason"] == "AlgorithmError: , exit code: 137"
    assert not strays(mark)


def test_a_daemon_does_not_outlive_localaws_that_was_killed(fresh, tmp_path, mark):
    fresh.up()
    account = tiny.account(fresh, tmp_path)
    account.image = account.push("supervised", train=TRAIN)
    start(account, mark, "daemon", "wait")
    wait_until(lambda: strays(mark))
    os.kill(json.loads((fresh.home / "server.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: not strays(mark))
    (record,) = [json.loads(file.read_text()) for file in (fresh.home / "processes").glob("*.json")]
    assert Path(record["temporary"]).is_dir()
    fresh.up()
    assert not Path(record["temporary"]).exists()


def test_the_death_of_serve_ends_what_it_started_and_the_endpoint_can_be_deleted(account, mark):
    endpoint = account.endpoint(account.config(account.model(image=account.image, MARK=mark)))
    (first,) = strays(mark)
    os.kill(json.loads(account.invoke(endpoint, b"tell")["Body"])["pid"], signal.SIGKILL)
    wait_until(lambda: strays(mark) not in ([], [first]) and first not in strays(mark))
    account.sagemaker.delete_endpoint(EndpointName=endpoint)
    account.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=endpoint, WaiterConfig={"Delay": 1})
    assert not strays(mark)


def test_what_sigkill_does_not_end_is_given_up_in_words(tmp_path, monkeypatch):
    said, ended = [], threading.Event()
    program = subprocess.Popen(["sleep", "600"], stdout=subprocess.PIPE, start_new_session=True)
    link, _ = engine.socket.socketpair()
    monkeypatch.setattr(engine.Container, "kill_seconds", 0.1)
    monkeypatch.setattr(engine, "LAST_LINES_SECONDS", 0.1)
    monkeypatch.setattr(processes, "kill", lambda home, pid: None)  # as if the kernel did not do it
    try:
        container = engine.Container(program, tmp_path, said.append, lambda _: ended.set(), link)
        container.kill()
        assert ended.wait(10)
        assert container.exit_code == 137
        assert "still there" in said[0]
    finally:
        program.kill()
        program.wait()


def test_of_a_flood_of_lines_the_first_and_the_last_are_kept(account):
    image = account.push("flood", train=FLOOD)
    request = account.training_request()
    request["AlgorithmSpecification"] |= {
        "TrainingImage": image,
        "MetricDefinitions": [{"Name": "accuracy", "Regex": "accuracy=([0-9.]+);"}],
    }
    server = psutil.Process(json.loads((account.aws.home / "server.json").read_text())["pid"])
    before = server.memory_info().rss
    job = account.train(request)
    assert job["FailureReason"] == "AlgorithmError: , exit code: 3"
    assert job["FinalMetricDataList"][0]["Value"] == 0.75
    assert server.memory_info().rss - before < 200 << 20
    lines = every_line(account, request["TrainingJobName"])
    assert lines[1] == "first"
    assert lines[-2:] == ["accuracy=0.75;", "Traceback: last"]
    told = [line for line in lines if "are left out here" in line]
    assert told
    left_out = sum(int(line.split()[1].replace(",", "")) for line in told)
    assert len(lines) - len(told) + left_out == 1_000_000 + 4


def every_line(account, job):
    (stream,) = account.logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=job)["logStreams"]
    found, where = [], {"logGroupName": GROUP, "logStreamName": stream["logStreamName"]}
    page = account.logs.get_log_events(**where, startFromHead=True)
    while page["events"]:
        found += [event["message"] for event in page["events"]]
        page = account.logs.get_log_events(**where, nextToken=page["nextForwardToken"])
    return found


def test_a_regex_that_takes_for_ever_is_named_and_the_job_goes_on(account):
    train = "#!/bin/sh\nfor n in 1 2 3; do echo %s; echo loss=0.5; done\n" % ("a" * 100 + "b")
    request = account.training_request()
    request["AlgorithmSpecification"] |= {
        "TrainingImage": account.push("slow-regex", train=train),
        "MetricDefinitions": [
            {"Name": "slow", "Regex": "(a|aa)+$"},
            {"Name": "loss", "Regex": "loss=([0-9.]+)"},
        ],
    }
    job = account.train(request)
    assert job["TrainingJobStatus"] == "Completed"
    assert [(m["MetricName"], m["Value"]) for m in job["FinalMetricDataList"]] == [("loss", 0.5)]
    named = [line for line in account.lines(GROUP, request["TrainingJobName"]) if 'Metric "slow"' in line]
    assert len(named) == 1
    assert '"(a|aa)+$" took more than' in named[0]


@pytest.mark.parametrize("regex", ["loss=(", "(a{1000}){1000}{1000}"])
def test_a_regex_that_cannot_be_compiled_is_refused(account, regex):
    request = account.training_request()
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": regex}]
    with pytest.raises(account.sagemaker.exceptions.ClientError, match='Metric "loss": invalid regex'):
        account.sagemaker.create_training_job(**request)


def test_500_models_at_once_and_somebody_who_looks_on(account):
    arguments = {"ExecutionRoleArn": account.role, "PrimaryContainer": {"Image": account.image}}
    arguments["PrimaryContainer"]["ModelDataUrl"] = account.put("models/some.tar.gz", b"x")
    job = account.train(account.training_request(mark="1", stray="", then=""))["TrainingJobName"]
    once = Config(retries={"total_max_attempts": 1}, read_timeout=120, max_pool_connections=500)
    client = account.aws.client("sagemaker", config=once)

    def create(number):
        client.create_model(ModelName=f"many-{number}", **arguments)

    with ThreadPoolExecutor(500) as pool:
        created = [pool.submit(create, number) for number in range(500)]
        wait_until(lambda: any(one.done() for one in created))
        looked = 0
        while not all(one.done() for one in created):
            account.sagemaker.describe_training_job(TrainingJobName=job)
            looked += 1
        for one in created:
            one.result()
    assert looked > 1
