"""The command, and what it leaves behind: nothing."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

import localaws


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def server_of(aws):
    return psutil.Process(json.loads((aws.home / "server.json").read_text())["pid"])


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_up_status_down(fresh):
    done = fresh.command("status", check=False)
    assert (done.returncode, done.stdout) == (1, "localaws is not running. Start it: python -m localaws up\n")
    assert fresh.command("env", check=False).returncode == 1
    first = fresh.command("up").stdout
    server = server_of(fresh)
    assert fresh.command("up").stdout == first, "a second `up` finds the first one's server"
    assert server_of(fresh) == server
    assert f"pid          {server.pid}" in fresh.command("status").stdout
    assert os.getsid(server.pid) != os.getsid(0), "it outlives the terminal and the kernel that started it"
    assert server.ppid() != os.getpid()
    assert fresh.command("down").stdout == f"stopped localaws (pid {server.pid})\n"
    assert gone(server)
    assert "was not running" in fresh.command("down").stdout


def test_several_ups_at_once_give_one_server(fresh):
    with ThreadPoolExecutor(4) as pool:
        outputs = {future.stdout for future in pool.map(lambda _: fresh.command("up"), range(4))}
    assert len(outputs) == 1
    # Of another user's process, which cannot be ours, the environment is None.
    homes = [
        p
        for p in psutil.process_iter(["cmdline", "environ"])
        if "localaws.door.server" in (p.info["cmdline"] or [])
        and (p.info["environ"] or {}).get("LOCALAWS_HOME") == str(fresh.home)
    ]
    assert homes == [server_of(fresh)]


def test_a_port_that_is_taken_is_said_and_another_used(fresh):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        fresh.env["LOCALAWS_PORT"] = str(taken)
        first = fresh.command("up").stdout
        assert f"port {taken} is taken by another program, so this one listens on" in first
        used = json.loads((fresh.home / "server.json").read_text())["endpoint_url"]
        assert used != f"http://127.0.0.1:{taken}"
        fresh.command("down")
        fresh.command("up")
        assert json.loads((fresh.home / "server.json").read_text())["endpoint_url"] == used, (
            "the one used last"
        )
        fresh.command("down")
    fresh.command("up")
    assert fresh.command("status").stdout.startswith(f"endpoint_url http://127.0.0.1:{taken}\n")


def test_a_port_of_another_localaws_is_said(fresh, localaws):
    taken = localaws.endpoint_url.rpartition(":")[2]
    fresh.env["LOCALAWS_PORT"] = taken
    assert f"port {taken} is taken by another localaws, so this one listens on" in fresh.command("up").stdout


def test_learners_of_one_machine_may_start_theirs_at_once(tmp_path, fresh, free_port):
    """Each has a folder of their own; one gets the port, the others are told who has it and where theirs listens."""
    learners = [replace(fresh, home=tmp_path / name) for name in ("ana", "ben", "cy")]
    for one in learners:
        one.env = {**fresh.env, "LOCALAWS_HOME": str(one.home), "LOCALAWS_PORT": str(free_port)}
    try:
        with ThreadPoolExecutor(len(learners)) as pool:
            told = list(pool.map(lambda one: one.command("up").stdout, learners))
        addresses = {
            line.split()[3] for text in told for line in text.splitlines() if " listens on http" in line
        }
        assert len(addresses) == len(learners)
        assert sum(f"port {free_port} is taken by another" in text for text in told) == len(learners) - 1
    finally:
        for one in learners:
            one.command("down")


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_folder_that_cannot_be_written_is_named(fresh, monkeypatch, command):
    monkeypatch.setitem(fresh.env, "LOCALAWS_HOME", "/dev/null/localaws")
    done = fresh.command(command, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "localaws: localaws cannot write to its folder /dev/null/localaws (Not a directory). Make it yours, or choose "
        "another: export LOCALAWS_HOME=FOLDER\n"
    )


def test_a_server_that_does_not_get_ready_is_stopped(fresh):
    fresh.home.mkdir()
    (fresh.home / "moto").mkdir()
    os.mkfifo(fresh.home / "moto" / "journal.jsonl")  # its replay waits for a writer
    code = "import localaws; localaws.start(timeout=1.5)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=fresh.env, capture_output=True, text=True, timeout=60
    )
    assert "localaws is not ready after 2 s" in done.stderr
    assert not [p for p in psutil.process_iter() if serves(p, fresh.home)]


def serves(process, home):
    try:
        return process.environ().get("LOCALAWS_HOME") == str(home) and not gone(process)
    except psutil.Error:
        return False


def start_recorded(aws, code):
    """Start a process as the engine does: a session of its own, and a record."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    record = {
        "pid": process.pid,
        "create_time": psutil.Process(process.pid).create_time(),
        "what": "a test's job",
    }
    folder = aws.home / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{process.pid}.json").write_text(json.dumps(record))
    return process


STUBBORN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(child.pid, flush=True)
time.sleep(600)
"""
LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
"""


def test_down_ends_jobs_of_a_killed_server_and_nobody_elses(fresh):
    fresh.up()
    server = server_of(fresh)
    job = start_recorded(fresh, STUBBORN)
    child = psutil.Process(int(job.stdout.readline()))
    orphan_maker = start_recorded(fresh, LEAVES_A_CHILD)
    orphan = psutil.Process(int(orphan_maker.stdout.readline()))
    orphan_maker.wait()
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    ) as stranger:
        # A record of a process that has ended, and whose pid somebody else has by now.
        record = {"pid": stranger.pid, "create_time": time.time() - 1000, "what": "long gone"}
        (fresh.home / "processes" / f"{stranger.pid}.json").write_text(json.dumps(record))
        server.kill()
        wait_until(lambda: gone(server))
        words = fresh.command("down").stdout
        assert f"stopped a test's job (pid {job.pid})" in words
        assert "long gone" not in words
        assert stranger.poll() is None
        stranger.kill()
    assert job.wait(10) < 0
    assert gone(child)
    assert gone(orphan)
    assert list((fresh.home / "processes").iterdir()) == []


def test_up_while_a_killed_server_is_not_gone_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALAWS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOCALAWS_PORT", "0")
    running, ended = localaws.locate.running, subprocess.Popen(["true"])
    ended.wait()
    killed = localaws.Status("http://127.0.0.1:1", ended.pid, 0, str(tmp_path / "home"))
    answers = iter([killed])
    monkeypatch.setattr(localaws.locate, "running", lambda: next(answers, None) or running())
    try:
        assert localaws.start().pid != ended.pid
    finally:
        localaws.stop()


def test_up_after_a_kill_ends_what_was_left(fresh):
    fresh.up()
    job = start_recorded(fresh, "import time; time.sleep(600)")
    server = server_of(fresh)
    server.kill()
    wait_until(lambda: gone(server))
    assert "not running" in fresh.command("status", check=False).stdout
    fresh.up()
    assert job.wait(10) < 0


@pytest.mark.parametrize("port", ["not-a-port", "-1", "65536", "1.5"])
def test_a_bad_port_is_refused_by_name(fresh, port):
    fresh.env["LOCALAWS_PORT"] = port
    done = fresh.command("up", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"localaws: LOCALAWS_PORT={port} is not a port")


def test_a_server_that_cannot_start_shows_the_end_of_its_log(fresh):
    fresh.home.mkdir()
    (fresh.home / "registry").write_text("a file where a folder belongs")
    done = fresh.command("up", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"localaws: localaws ended before it was ready. The end of {fresh.home}/server.log"
    )
    assert "NotADirectoryError" in done.stderr


def test_env_keeps_a_real_account_out(localaws, tmp_path):
    """The profile, keys and endpoints of a learner never meet a local run."""
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = REAL\naws_secret_access_key = REAL\n")
    mine = {
        "AWS_PROFILE": "mine",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_ACCESS_KEY_ID": "REAL",
        "AWS_SESSION_TOKEN": "REAL",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    env = {name: value for name, value in localaws.env.items() if not name.startswith("AWS_")}
    show = "import boto3; s = boto3.Session(); c = s.get_credentials(); print(c.access_key, c.token, s.region_name)"
    call = "boto3.client('s3').list_buckets(); print(boto3.client('sts').get_caller_identity()['Account'])"
    script = f'eval "$("$0" -m localaws env)"; "$0" -c "{show}; {call}"; env'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], env={**env, **mine}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("localaws-not-a-key None us-west-2\n000000000000\n"), (
        done.stdout + done.stderr
    )
    assert "REAL" not in done.stdout


def aws(localaws, *arguments):
    command = [sys.executable, "-m", "awscli", *arguments, "--output", "json"]
    done = subprocess.run(
        command, env=localaws.env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_aws_command(localaws, tmp_path):
    assert json.loads(aws(localaws, "sts", "get-caller-identity"))["Account"] == "000000000000"
    aws(localaws, "s3", "mb", "s3://sagemaker-aws-command")
    big = tmp_path / "big file.bin"
    big.write_bytes(os.urandom(9 * 2**20))  # enough to be sent in parts
    aws(localaws, "s3", "cp", "--no-progress", str(big), "s3://sagemaker-aws-command/in/")
    aws(
        localaws,
        "s3",
        "cp",
        "--no-progress",
        "s3://sagemaker-aws-command/in/big file.bin",
        str(tmp_path / "back"),
    )
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    repository = json.loads(
        aws(localaws, "ecr", "create-repository", "--repository-name", "sagemaker-aws-command")
    )
    assert repository["repository"]["repositoryUri"].startswith("127.0.0.1:")


def test_build_push_and_images(localaws):
    localaws.client("ecr").create_repository(repositoryName="sagemaker-cli")
    built = localaws.command("build", "decision_trees", "-t", "sagemaker-cli:v1").stdout
    digest = built.split()[2]
    host = localaws.endpoint_url.removeprefix("http://")
    assert localaws.command("push", "sagemaker-cli:v1", f"{host}/sagemaker-cli").stdout.endswith(
        f"@{digest}\n"
    )
    assert "sagemaker-cli:v1" in localaws.command("images").stdout
    done = localaws.command("push", "sagemaker-cli:v2", f"{host}/sagemaker-cli", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("localaws: There is no local image sagemaker-cli:v2")
    assert done.stderr.count("\n") == 1


def test_logs(localaws):
    assert "localaws listens on" in localaws.command("logs").stdout


@pytest.mark.parametrize(
    "word", ["up", "down", "status", "env", "logs", "build", "push", "images", "fidelity"]
)
def test_help(localaws, word):
    assert word in localaws.command("--help").stdout
    assert localaws.command(word, "--help").stdout.startswith(f"usage: python -m localaws {word}")


def test_importing_it_is_quick():
    """The labs import it: no moto, no boto3."""
    code = "import sys, localaws; print(sorted({'moto', 'boto3', 'botocore', 'flask', 'waitress'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1, "of_another_version": true}'])
def test_a_damaged_record_of_the_server_counts_as_none(fresh, content):
    fresh.home.mkdir(parents=True)
    (fresh.home / "server.json").write_text(content)
    assert "localaws is not running" in fresh.command("status", check=False).stdout
    fresh.up()


def test_what_a_power_cut_has_damaged_is_named_and_the_rest_comes_back(fresh):
    """A file whose bytes were not on the disk yet is there, and empty."""
    for damaged in ("sagemaker/Model/lost.json", "processes/1.json"):
        (fresh.home / damaged).parent.mkdir(parents=True)
        (fresh.home / damaged).touch()
    fresh.up()
    assert "Not brought back: sagemaker Model lost: Expecting value" in fresh.command("logs").stdout
    assert fresh.client("sagemaker").list_models()["Models"] == []
