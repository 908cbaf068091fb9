"""Jobs on several hosts: each has a network, an address and a name of its own, and reaches the others by name."""

import io
import json
import subprocess
import sys
import tarfile
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import tiny
from test_processing import outputs, run
from test_processing import request as processing_request
from test_whole_images import member, push, tar
from waiting import wait_until

from localaws.engines.process import ProcessEngine, Spec, StartError, Unpacked

# Every host answers on port 7000 with its hostname and asks all; once all have asked it, it does what it is told.
TRAIN = """#!/usr/bin/env python3
import fcntl, json, os, pathlib, signal, socket, struct, sys, threading, time, urllib.request
base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
config = json.loads((base / "input/config/resourceconfig.json").read_text())
asked = json.loads((base / "input/config/hyperparameters.json").read_text())
me, hosts, interface = config["current_host"], config["hosts"], config["network_interface_name"]
server, told = socket.create_server(("", 7000)), set()
leaned_on = socket.create_server(("", 7001))

def answer():
    while True:
        client, (address, _) = server.accept()
        client.sendall(socket.gethostname().encode())
        told.add(client.recv(100).decode())
        client.close()

def call(host):
    for attempt in range(300):
        try:
            with socket.create_connection((host, 7000), 5) as other:
                other.sendall(me.encode())
                return other.recv(100).decode()
        except OSError:
            time.sleep(0.1)

threading.Thread(target=answer, daemon=True).start()
heard = {host: call(host) for host in hosts}
while told < set(hosts):
    time.sleep(0.01)
if asked.get("exit") == me:
    if "cause" in asked:
        (base / "output/failure").write_text(asked["cause"])
    os._exit(3)  # at once: sys.exit would close what others lean on, and then take its time
if "exit" in asked:  # as a program does that cannot go on without another host
    socket.create_connection((asked["exit"], 7001)).recv(1)
    sys.exit(1)
seen = base / "checkpoints" / me
if "sleep" in asked and not seen.exists():
    seen.touch()
    signal.signal(signal.SIGTERM, lambda *_: ((base / "model" / f"{me}.stopped").touch(), sys.exit(0)))
    print("sleeping", flush=True)
    time.sleep(600)
request = struct.pack("256s", interface.encode())
said = {
    "heard": heard,
    "address": socket.inet_ntoa(fcntl.ioctl(server.fileno(), 0x8915, request)[20:24]),
    "by name": socket.gethostbyname(socket.gethostname()),
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
}
try:
    url = os.environ.get("AWS_ENDPOINT_URL", "") + "/_localaws/health"
    said["localaws"] = urllib.request.urlopen(url, timeout=5).status
except OSError as error:
    said["localaws"] = str(error)
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    said["elsewhere"] = error.strerror
(base / "model" / f"{me}.json").write_text(json.dumps(said))
"""
HOSTS = ["algo-1", "algo-2", "algo-3"]


@pytest.fixture(scope="module")
def account(kernel, localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def ours(account) -> str:
    """An image of localaws' own."""
    return account.push(f"hosts-{uuid.uuid4().hex[:8]}", train=TRAIN)


@pytest.fixture(scope="module")
def foreign(account) -> str:
    """An image that is run in name spaces."""
    return push(account, tar(member("opt/program/train", TRAIN)), Env=["PATH=/opt/program:/usr/bin"])


def create(account, image: str, fields: dict | None = None, **hyperparameters) -> str:
    request = account.training_request(**hyperparameters) | (fields or {})
    request["AlgorithmSpecification"]["TrainingImage"] = image
    request["ResourceConfig"]["InstanceCount"] = len(HOSTS)
    account.sagemaker.create_training_job(**request)
    return request["TrainingJobName"]


def logs(account, name: str) -> list[str]:
    return account.lines("/aws/sagemaker/TrainingJobs", f"{name}/")


def left(account, job: dict) -> dict:
    """What the hosts of a job have left as its model, by file."""
    packed = account.get(job["ModelArtifacts"]["S3ModelArtifacts"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        return {file.name: files.extractfile(file).read() for file in files}


def running(name: str) -> list[psutil.Process]:
    """What runs of a job: programs, which have its name in their environment, their keepers and relays."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if name in f"{process.cmdline()} {process.environ()}":
                found.append(process)
    return found


def program(name: str, host: str) -> psutil.Process:
    """A host's program itself: of those that a host's keeper has started the one that is no relay."""
    for process in running(name):
        with suppress(psutil.Error):
            keeper = process.parent().environ().get("SAGEMAKER_BASE_DIR", "")
            if keeper.endswith(f"/{name}/{host}/ml") and process.cmdline()[1].endswith("/train"):
                return process
    raise AssertionError(f"no program of {host}'s among {[one.cmdline() for one in running(name)]}")


def asleep(account, image: str, **fields) -> str:
    """A job whose hosts sleep."""
    name = create(account, image, fields, sleep="yes")
    wait_until(lambda: logs(account, name).count("sleeping") == len(HOSTS))
    return name


@pytest.mark.parametrize("image", ["ours", "foreign", "isolated"])
def test_hosts_reach_each_other_by_name_and_localaws_and_nobody_else(account, request, image):
    isolated = image == "isolated"
    uri = request.getfixturevalue("foreign" if isolated else image)
    job = account.finish(name := create(account, uri, {"EnableNetworkIsolation": isolated}))
    assert job["TrainingJobStatus"] == "Completed", (job.get("FailureReason"), logs(account, name))
    files = left(account, job)
    said = {host: json.loads(files[f"{host}.json"]) for host in HOSTS}
    for host in HOSTS:
        assert said[host]["heard"] == dict(zip(HOSTS, HOSTS, strict=True))
        assert said[host]["address"] == said[host]["by name"]
        assert said[host]["interfaces"] == ["eth0", "lo"]
        assert (said[host]["localaws"] == 200) is not isolated, said[host]["localaws"]
        assert said[host]["elsewhere"] == "Network is unreachable"
    assert len({said[host]["address"] for host in HOSTS}) == 3
    first = [line for line in logs(account, name) if line.startswith("[localaws] engine: process.")]
    assert len(first) == 3
    ending = "and nobody else." if isolated else "and localaws, and nobody else."
    assert all(
        "by which its hosts reach each other by name" in line and line.endswith(ending) for line in first
    )


@pytest.mark.parametrize("image", ["ours", "foreign"])
@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ({}, "AlgorithmError: algo-2, exit code: 3"),
        ({"cause": "no rows"}, "AlgorithmError: algo-2: no rows, exit code: 3"),
    ],
    ids=["silent", "told"],
)
def test_the_host_that_failed_first_is_named_and_nothing_is_left(account, request, image, cause, reason):
    name = create(account, request.getfixturevalue(image), exit="algo-2", **cause)
    job = account.finish(name)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == reason
    assert not running(name)


@pytest.mark.parametrize("image", ["ours", "foreign"])
def test_a_killed_host_is_named_and_nothing_is_left(account, request, image):
    name = asleep(account, request.getfixturevalue(image))
    program(name, "algo-3").kill()
    assert account.finish(name)["FailureReason"] == "AlgorithmError: algo-3, exit code: 137"
    assert not running(name)


@pytest.mark.parametrize("image", ["ours", "foreign"])
def test_all_hosts_are_stopped_with_their_job(account, request, image):
    name = asleep(account, request.getfixturevalue(image))
    account.sagemaker.stop_training_job(TrainingJobName=name)
    job = account.finish(name)
    assert job["TrainingJobStatus"] == "Stopped"
    assert sorted(left(account, job)) == [f"{host}.stopped" for host in HOSTS]
    assert not running(name)


def test_all_hosts_lose_their_instances_and_begin_again(account, ours):
    spot = {
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60},
        "CheckpointConfig": {"S3Uri": f"s3://{account.bucket}/{uuid.uuid4().hex}"},
        "Environment": {"LOCALAWS_SPOT_INTERRUPTION_CHECKPOINTS": str(len(HOSTS))},
    }
    job = account.finish(name := create(account, ours, spot, sleep="yes"))
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert [entry["Status"] for entry in job["SecondaryStatusTransitions"]].count("Training") == 2
    assert sorted(left(account, job)) == [f"{host}.json" for host in HOSTS]
    assert logs(account, name).count("sleeping") == len(HOSTS)


def test_nothing_is_left_of_a_killed_server(kernel, fresh):
    fresh.up()
    account = tiny.account(fresh, fresh.home.parent)
    name = asleep(account, account.push("hosts", train=TRAIN))
    psutil.Process(json.loads((fresh.home / "server.json").read_text())["pid"]).kill()
    wait_until(lambda: not running(name))


def test_a_processing_job_has_hosts_that_reach_each_other(account, ours):
    talk = """import json, pathlib, socket, time
host = socket.gethostname()
if host == "algo-1":
    server = socket.create_server((host, 80))
    heard = server.accept()[0].recv(100).decode()
    pathlib.Path("/opt/ml/processing/out/heard").write_text(heard)
else:
    for attempt in range(300):
        try:
            socket.create_connection(("algo-1", 80)).sendall(host.encode())
            break
        except OSError:
            time.sleep(0.1)
"""
    account.put("code.py", talk)
    account.put("in/a.csv", "1,2\n")
    made = processing_request(account, count=2)
    assert run(account, made)["ProcessingJobStatus"] == "Completed"
    assert outputs(account, made) == ["out/heard"]


# What an engine that stands alone says of a job of two hosts.
RUN = """
import sys
from pathlib import Path
from localaws.engines.process import ProcessEngine, Spec, StartError, Unpacked
folder = Path(sys.argv[1])
try:
    spec = Spec("test", Unpacked(folder, {}), "train", folder / "algo-1/ml", {})
    print(ProcessEngine(folder, {}).new_network(spec, ["algo-1", "algo-2"]).seat("algo-2", 0).address)
except StartError as error:
    print("refused:", error)
"""


def said(folder: Path, *before: str) -> str:
    """The same of one whose rights a command changes."""
    command = ["unshare", "--user", *before, sys.executable, "-c", RUN, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_who_is_not_root_has_a_network_too(kernel, tmp_path):
    # To the kernel whoever has no capability is one.
    assert said(tmp_path, "--map-user=1000", "--map-group=1000") == "10.0.0.2\n"


def test_where_the_kernel_refuses_networks_it_is_said_why_and_what_mends_it(kernel, tmp_path):
    limit = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"'
    line = said(tmp_path, "--map-root-user", "sh", "-c", limit, "sh")
    assert line.startswith(
        "refused: The hosts of a job with an InstanceCount of more than 1 have a network of their own"
    )
    assert "the kernel refuses them here (unshare: no space left on device)" in line
    assert "sudo sysctl -w user.max_net_namespaces=10000, or set InstanceCount to 1" in line


def test_a_machine_without_name_spaces_says_so(tmp_path, monkeypatch):
    spec = Spec("test", Unpacked(tmp_path, {}), "train", tmp_path / "algo-1/ml", {})
    with (
        monkeypatch.context() as patch,
        pytest.raises(StartError, match=r"and this is .*: set InstanceCount to 1, or"),
    ):
        patch.setattr(sys, "platform", "darwin")
        ProcessEngine(tmp_path, {}).new_network(spec, ["algo-1", "algo-2"])
