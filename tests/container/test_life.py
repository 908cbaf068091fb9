"""How serve lives and dies: readiness, load, faults, draining, limits, settings."""

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import (
    ALGORITHM,
    ROOT,
    ROWS,
    SAMPLE,
    STACK,
    TREES,
    Client,
    Server,
    environment,
    lay_out,
    run_training,
    until,
)
from stack.errors import InputError
from stack.server import settings

# What follows is the stack's, and tried with decision_trees; what is marked `own` depends on the algorithm, too.
pytestmark = pytest.mark.trees
own = pytest.mark.own
FOLDER = ROOT / "container" / ALGORITHM.name
ROW = ROWS[0]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# An algorithm of a test's own: its two functions' worth shows what a second algorithm needs.
SLOW = """
import os, time

def model_fn(model_dir):
    return os.getpid()

def input_fn(body, content_type):
    return body.decode().split()

def predict_fn(data, model):
    if data[0] == "crash":
        os._exit(9)
    if data[0] == "raise":
        raise RuntimeError("a bug with the payload " + data[1])
    time.sleep(float(data[0]))
    return {"predicted_label": data, "probability": data}

def output_fn(prediction, accept):
    return (" ".join(prediction["predicted_label"]) + f" {os.getuid()}").encode()
"""


HEADERS = {"Content-Type": ALGORITHM.content_type}
SERVE = [sys.executable, str(STACK / "serve")]


@pytest.fixture(scope="module")
def slow_algorithm(tmp_path_factory) -> Path:
    """The folder of an algorithm whose predictions take as many seconds as the request says."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "predictor.py").write_text(SLOW)
    return folder


@pytest.fixture
def start_slow(start, slow_algorithm):
    """Starts servers with slow predictions."""
    return lambda **variables: start(args=SERVE, ALGORITHM_DIR=slow_algorithm, **variables)


@pytest.fixture(scope="module")
def slow_server(slow_algorithm, trained):
    """One server with slow predictions and two workers, for all tests that do it no harm."""
    log = slow_algorithm / "serve.log"
    server = Server(SERVE, trained, log, ALGORITHM_DIR=slow_algorithm, MODEL_SERVER_WORKERS=2)
    yield server
    server.close()


def tree(pid: int) -> dict[int, str]:
    """The processes below a process: pid to command line."""
    listing = subprocess.run(
        ["ps", "-wwaxo", "pid=,ppid=,command="], stdout=subprocess.PIPE, text=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    found, parents = {}, {pid}
    while parents:
        below = {int(p): text for p, parent, text in rows if int(parent) in parents}
        found |= below
        parents = set(below)
    return found


def parts(server) -> dict[str, list[int]]:
    """The server's processes by what they are; the worker for /ping is the first worker."""
    below = tree(server.process.pid)
    found = {"nginx": [], "nginx worker": [], "gunicorn": [], "worker": []}
    masters = [pid for pid, text in below.items() if "gunicorn" in text and " -m " in text]
    for pid, text in below.items():
        if "nginx: master" in text:
            found["nginx"].append(pid)
        elif "nginx: worker" in text:
            found["nginx worker"].append(pid)
        elif pid in masters:
            found["gunicorn" if pid == min(masters) else "worker"].append(pid)
    return {name: sorted(pids) for name, pids in found.items()}


def is_gone(pids) -> bool:
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        if Path(f"/proc/{pid}/stat").exists() and " Z " in Path(f"/proc/{pid}/stat").read_text():
            continue  # dead; this container's init is slow to reap
        return False
    return True


def is_right(reply) -> bool:
    """Whether it is the answer to SAMPLE."""
    return reply.status == 200 and ALGORITHM.right(0, reply.body) > 0.9


# -- readiness


@own
def test_the_first_200_on_ping_means_ready(start):
    server = start()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(server.predict, [SAMPLE] * 8))
    assert all(is_right(reply) for reply in replies)


@pytest.mark.slow
def test_twenty_cold_starts(start):
    for _ in range(20):
        server = start()
        with ThreadPoolExecutor(8) as pool:
            assert [reply.text for reply in pool.map(server.predict, [ROW] * 8)] == ["setosa\n"] * 8
        assert server.stop() == 0


@own
def test_the_model_is_loaded_once(start, tmp_path, trained):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "def hook(event, args):\n"
        "    if event == 'import' and args[0] == 'onnxruntime':\n"
        "        print('onnxruntime is imported', file=sys.stderr)\n"
        "sys.addaudithook(hook)\n"
    )
    server = start(
        args=SERVE,
        PYTHONPATH=tmp_path,
        ALGORITHM_DIR=FOLDER,
        MODEL_SERVER_WORKERS=4,
    )
    for _ in range(20):
        assert server.predict(SAMPLE).status == 200
    assert server.log.count("onnxruntime is imported") == 1


BATTERY = """
import gzip, io, json, sys
from stack import wsgi
before = set(sys.modules)
def call(method, path, body=b"", **headers):
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body)), "SERVER_NAME": "x",
               "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
               "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr} | headers
    status = []
    b"".join(wsgi.application(environ, lambda s, h, e=None: status.append(s)))
    return int(status[0][:3])
row = bytes.fromhex(sys.argv[1])
seen = set()
for body in (row, row[:-1], b"", b"x", b"1", b'{"instances": [[5.1, 3.5, 1.4, 0.2]]}', b"[5.1, 3.5, 1.4, 0.2]", gzip.compress(row), b"\\x93NUMPY"):
    for media in ("text/csv", "application/json", "application/jsonlines", "application/x-npy", "text/csv; charset=x", "x", "image/png"):
        for accept in ("", "application/json", "application/jsonlines", "application/x-npy", "image/png", "x/y"):
            for encoding in ({}, {"HTTP_CONTENT_ENCODING": "gzip"}, {"HTTP_CONTENT_ENCODING": "br"}):
                seen.add(call("POST", "/invocations", body, CONTENT_TYPE=media, HTTP_ACCEPT=accept, **encoding))
seen |= {call("GET", "/ping"), call("GET", "/x"), call("PUT", "/ping"), call("GET", "/execution-parameters")}
assert seen == {200, 400, 404, 405, 406, 415}, seen
print(sorted(set(sys.modules) - before))
"""


@own
def test_workers_import_nothing_late(trained):
    env = environment(SAGEMAKER_BASE_DIR=trained, PYTHONPATH=STACK.parent, ALGORITHM_DIR=FOLDER)
    ended = subprocess.run(
        [sys.executable, "-c", BATTERY, SAMPLE.hex()], env=env, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert ended.stdout == "[]\n"


@own
@linux
def test_nothing_else_listens(shared_server):
    server = shared_server
    pids = {server.process.pid, *tree(server.process.pid)}
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                match = re.match(r"socket:\[(\d+)\]", os.readlink(fd))
            except OSError:
                continue
            inodes |= {match[1]} if match else set()
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    assert ports == {server.port}


@pytest.mark.nginx
@pytest.mark.root("has rights to give up")
def test_workers_are_not_root(slow_server):
    assert slow_server.predict("0").text.split()[-1] != "0"
    status = Path(f"/proc/{parts(slow_server)['nginx worker'][0]}/status")
    if status.exists():
        assert re.search(r"^Uid:\s+[1-9]", status.read_text(), re.M)


# -- busy


def test_ping_answers_while_every_worker_is_busy(slow_server):
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(slow_server.predict, "0.6") for _ in range(4)]
        until(lambda: any(future.running() for future in running), 5, "a running request")
        slowest, rounds = 0.0, 0
        while not all(future.done() for future in running):
            begin = time.perf_counter()
            assert slow_server.ping().status == 200
            slowest, rounds = max(slowest, time.perf_counter() - begin), rounds + 1
    assert [future.result().status for future in running] == [200] * 4
    assert rounds > 20
    assert slowest < 1


@pytest.mark.nginx
def test_a_prediction_that_takes_too_long_is_given_up(start_slow):
    server = start_slow(MODEL_SERVER_TIMEOUT=1, MODEL_SERVER_WORKERS=1)
    reply = server.predict("30")
    assert reply.status == 504
    assert "MODEL_SERVER_TIMEOUT" in reply.error["message"]
    until(lambda: server.predict("0").status == 200, 10, "a new worker")


@pytest.mark.nginx
def test_a_prediction_has_all_its_time_after_idle_seconds(start_slow):
    server = start_slow(MODEL_SERVER_TIMEOUT=6, MODEL_SERVER_WORKERS=1)
    assert server.predict("0").status == 200
    time.sleep(3.3)  # a little less than a worker waits before it says once more that it lives
    assert server.predict("5").status == 200
    assert "WORKER TIMEOUT" not in server.log  # and computed by another one, that is


@pytest.mark.nginx
def test_a_worker_rests_after_a_signal(start):
    server = start(MODEL_SERVER_WORKERS=1)
    workers = [psutil.Process(pid) for pid in parts(server)["worker"]]
    for worker in workers:
        worker.send_signal(signal.SIGUSR1)  # gunicorn: open the log files again
    before = [sum(worker.cpu_times()[:2]) for worker in workers]
    time.sleep(1)
    assert all(
        sum(worker.cpu_times()[:2]) - spent < 0.1 for worker, spent in zip(workers, before, strict=True)
    )
    assert server.predict("5.1,3.5,1.4,0.2").status == 200


def test_a_bug_in_the_algorithm_is_a_json_500(slow_server):
    reply = slow_server.predict("raise secret-payload")
    assert reply.status == 500
    assert "secret" not in reply.error["message"]
    assert "a bug with the payload" in slow_server.log  # for the one who wrote it
    assert slow_server.predict("0").status == 200


def test_the_log_has_one_line_a_request_without_payload(shared_server):
    before = len(shared_server.log)
    headers = {"X_Amzn_SageMaker_Inference_Id": "id-42"}
    for request, status in (
        (lambda: shared_server.predict("\n".join(ROWS), **headers), 200),
        (lambda: shared_server.predict("5.1,3.5,1.4,4711.11x", **headers), 400),
        (lambda: shared_server.request("GET", "/nowhere?4711.11=x"), 404),
    ):
        request()
        # Each worker writes its own, after the reply: another's may come first.
        until(lambda code=f"status={status}": code in shared_server.log[before:], 5, "its line")
    lines = shared_server.log[before:].splitlines()
    assert len(lines) == 3
    words = ("status=200", "rows=150", 'inference_id="id-42"', "request_bytes=", "seconds=")
    assert all(word in lines[0] for word in words)
    assert "status=400" in lines[1]
    assert "status=404" in lines[2]
    assert "4711.11" not in "".join(lines)
    assert "notice" not in shared_server.log


@linux
def test_the_log_goes_to_a_socket_too(iris):
    ours, theirs = socket.socketpair()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment(SAGEMAKER_BASE_DIR=iris, SAGEMAKER_BIND_TO_PORT=port)
    args = [str(ROOT / "container/run"), ALGORITHM.name, "serve"]
    process = subprocess.Popen(args, env=env, stdout=theirs, stderr=subprocess.DEVNULL)
    theirs.close()
    client = Client(f"http://127.0.0.1:{port}")

    def is_ready():
        try:
            return client.ping().status == 200
        except OSError:
            return False

    try:
        until(is_ready, 30, "the first 200 on /ping")
        assert client.predict(ROW, X_Amzn_SageMaker_Inference_Id="id-7").status == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
    ours.settimeout(10)
    log = b"".join(iter(lambda: ours.recv(65536), b""))
    assert b'inference_id="id-7"' in log


@own
@pytest.mark.root("can become another user")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="by setpriv")
def test_it_runs_without_root(start):
    # The Python of a test may lie where only root reads, so this user may read all.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    user += ["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]
    server = start(args=[*user, str(ROOT / "container/run"), ALGORITHM.name, "serve"])
    assert is_right(server.predict(SAMPLE))
    assert server.stop() == 0
    assert "status=200" in server.log


# -- faults


def can_predict(server) -> bool:
    try:
        reply = server.request("POST", "/invocations", SAMPLE, HEADERS, timeout=1)
        return reply.status == 200 and server.ping(1).status == 200
    except OSError:
        return False


@own
@pytest.mark.nginx
def test_killed_and_frozen_workers_are_replaced(start):
    """Those of gunicorn, the one for /ping too, and nginx's; the frozen ones all at once."""
    server = start(MODEL_SERVER_WORKERS=2)
    ours = [parts(server)[part] for part in ("worker", "nginx worker")]
    rounds = [(pids, signal.SIGKILL) for pids in ours]
    if sys.platform.startswith("linux"):
        rounds.append((None, signal.SIGSTOP))
    for pids, how in rounds:
        hit = pids or parts(server)["worker"] + parts(server)["nginx worker"]
        for pid in hit:
            os.kill(pid, how)
        until(lambda: can_predict(server), 10, f"predictions after {how.name}")
        until(lambda pids=hit: is_gone(pids), 5, "the end of what was hit")
        until(lambda: len(parts(server)["worker"]) == 3, 5, "new workers")
    assert server.stop() == 0


@own
@pytest.mark.nginx
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=linux)])
def test_a_dead_master_ends_the_container(start, how):
    servers = {part: start() for part in ("nginx", "gunicorn")}
    below = [pid for server in servers.values() for pid in tree(server.process.pid)]
    for part, server in servers.items():
        os.kill(parts(server)[part][0], how)
    for server in servers.values():
        assert server.process.wait(10) != 0
    until(lambda: is_gone(below), 5, "the end of all processes")


@pytest.mark.nginx
def test_a_worker_that_dies_in_a_request_costs_no_other_request(start_slow):
    server = start_slow(MODEL_SERVER_WORKERS=2)
    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(server.predict, "0.2") for _ in range(8)]
        reply = pool.submit(server.predict, "crash").result()
        assert reply.status in (502, 503)
        assert reply.error
        assert [other.result().status for other in others] == [200] * 8
    until(lambda: server.predict("0").status == 200, 10, "new workers")


@pytest.mark.nginx
def test_a_killed_worker_loses_no_request(start_slow):
    server = start_slow(MODEL_SERVER_WORKERS=2)
    workers = parts(server)["worker"]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(server.predict, "0.6") for _ in range(2)]
        time.sleep(0.3)  # the requests are under way; nothing to poll says so
        os.kill(workers[1], signal.SIGKILL)
        assert [future.result().status for future in running] == [200] * 2


# -- the end


def test_sigterm_answers_what_runs(start_slow):
    server = start_slow(MODEL_SERVER_WORKERS=2)
    below = tree(server.process.pid)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.predict, "0.6") for _ in range(4)]
        until(lambda: sum(future.running() for future in running) == 4, 5, "running requests")
        time.sleep(0.3)
        assert server.stop() == 0
        assert [future.result().status for future in running] == [200] * 4
    assert is_gone(below)


def stop_under_load(server) -> tuple[int, int]:
    """Stops a server that twelve clients keep busy; returns (answered, lost).

    Four have a connection a request. The others keep theirs, and four of them pause a little between requests:
    a request is lost if a connection that the server has not said it would close is closed under it. (Who says
    nothing for as long as serve waits, one second, may be cut: HTTP/1.1 lets a server close an idle connection
    at any time, so that a request may be on its way, and asks the client to send it again.)
    """
    answered, lost = [], []
    bodies = [ALGORITHM.sample(i % ALGORITHM.samples) for i in range(12)]
    right = [server.predict(body).body for body in bodies]

    def client(i):
        connection = http.client.HTTPConnection(*server.address, timeout=60)
        while True:
            try:
                connection.request("POST", "/invocations", bodies[i], HEADERS)
                reply = connection.getresponse().read()
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
                return
            (answered if reply == right[i] else lost).append(reply)
            if i < 4:
                connection.close()
            elif i < 8:
                time.sleep(0.01)

    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(client, i) for i in range(12)]
        until(lambda: len(answered) > 100, 10, "load")
        assert server.stop() == 0
        for each in clients:
            each.result()
    print(f"answered {len(answered)}, lost {lost}")
    return len(answered), len(lost)


@pytest.mark.nginx
@linux
def test_an_idle_connection_delays_the_end_little(start):
    server = start()
    idle = http.client.HTTPConnection(*server.address)
    idle.request("GET", "/ping")
    assert not idle.getresponse().will_close
    begin = time.monotonic()
    assert server.stop() == 0
    assert 0.9 < time.monotonic() - begin < 5
    assert idle.sock.recv(1) == b""


@own
def test_a_stop_under_load_loses_nothing(start):
    answered, lost = stop_under_load(start())
    assert answered
    assert lost == 0


@pytest.mark.slow
def test_fifty_stops_under_load(start):
    results = [stop_under_load(start()) for _ in range(50)]
    print(f"answered {sum(a for a, _ in results)}, lost {sum(n for _, n in results)}")
    assert sum(lost for _, lost in results) == 0


@own
def test_sigterm_before_it_is_ready(start):
    server = start(ready=False)
    until(lambda: "gunicorn" in "".join(tree(server.process.pid).values()), 10, "a first part")
    assert server.stop(10) == 0


def new_pid_namespace() -> list[str]:
    """The command that runs another one as PID 1."""
    unshare = ["unshare", "--fork", "--pid", "--kill-child", "--mount-proc"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("this kernel or user may not make PID namespaces")
    return unshare


@own
@linux
def test_stops_as_pid_1(start):
    server = start(args=[*new_pid_namespace(), str(ROOT / "container/run"), ALGORITHM.name, "serve"])
    assert server.predict(SAMPLE).status == 200
    (first,) = (pid for pid, text in tree(server.process.pid).items() if text.endswith("stack/serve"))
    below = tree(server.process.pid)
    begin = time.monotonic()
    os.kill(first, signal.SIGTERM)
    assert server.process.wait(10) == 0
    assert time.monotonic() - begin < 5
    assert is_gone(below)


def test_without_an_environment_it_runs_with_the_workshops_python(start):
    """As in a terminal in which nothing was activated."""
    if not (ROOT / ".venv/bin/python3").exists():
        pytest.skip("set up by conda: its environment is active or there is none")
    assert start(PATH=os.defpath).predict(ROW).text == "setosa\n"


def test_a_taken_port_is_said(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = start(ready=False, SAGEMAKER_BIND_TO_PORT=taken.getsockname()[1])
        assert server.process.wait(20) != 0
    assert "Address already in use" in server.log
    assert "SAGEMAKER_BIND_TO_PORT" in server.log


# -- settings

BAD_SETTINGS = [
    ("MODEL_SERVER_WORKERS", value)
    for value in ("0", "-1", "abc", "", "1.5", "1e3", "1000", "٣", " 2", "0x2")
]
BAD_SETTINGS += [("MODEL_SERVER_TIMEOUT", value) for value in ("0", "-5", "x", "99999")]
BAD_SETTINGS += [("SAGEMAKER_BIND_TO_PORT", value) for value in ("0", "http", "65536")]
BAD_SETTINGS += [
    ("SAGEMAKER_BATCH", "maybe"),
    ("SAGEMAKER_BATCH_STRATEGY", "ONE"),
    ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "101"),
]
BAD_SETTINGS += [("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", "-1")]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_a_bad_setting_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refusal:
        settings.read()
    assert f"{name}={value!r}" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"), [("MODEL_SERVER_WORKERS", "1000"), ("SAGEMAKER_INFERENCE_OUTPUT", "label")]
)
def test_a_bad_setting_ends_serve(start, name, value):
    server = start(ready=False, **{name: value})
    assert server.process.wait(20) != 0
    assert f"{name}={value!r}" in server.log
    assert "Traceback" not in server.log


def test_settings_have_their_defaults(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SAGEMAKER_", "MODEL_SERVER_"))]:
        monkeypatch.delenv(name)
    found = settings.read()
    assert (found.model_dir, found.address, found.port) == (Path("/opt/ml/model"), "0.0.0.0", 8080)
    assert (found.timeout, found.max_body >> 20, found.workers) == (60, 25, settings.default_workers())
    monkeypatch.setenv("SAGEMAKER_BATCH", "true")
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "0")  # batch transform's word for no limit
    assert settings.read().max_body == 100 << 20


LIMITS = {
    "none": ({}, 64),
    "cgroup v2, one and a half CPUs": ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
    "cgroup v2, no quota": ({"sys/fs/cgroup/cpu.max": "max 100000"}, 64),
    "cgroup v2, a parent's": ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
    "cgroup v2, memory": ({"sys/fs/cgroup/memory.max": str(512 << 20)}, 4),
    "cgroup v2, little memory": ({"sys/fs/cgroup/memory.max": str(64 << 20)}, 1),
    "cgroup v1": (
        {
            "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/x",
            "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "500000",
            "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
        },
        5,
    ),
    "cgroup v1, no quota": (
        {
            "proc/self/cgroup": "2:cpu,cpuacct:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        64,
    ),
    "cgroup v1, memory of the host's path": (
        {
            "proc/self/cgroup": "4:memory:/docker/0123",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(384 << 20),
        },
        3,
    ),
}


@pytest.mark.parametrize(("files", "expected"), LIMITS.values(), ids=LIMITS)
def test_workers_follow_the_limits_of_the_container(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    for name, text in ({"proc/self/cgroup": "0::/"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert settings.default_workers(tmp_path) == expected


@own
def test_batch_settings(start):
    server = start(
        SAGEMAKER_BATCH="true",
        SAGEMAKER_MAX_PAYLOAD_IN_MB=1,
        SAGEMAKER_BATCH_STRATEGY="SingleRecord",
        SAGEMAKER_MAX_CONCURRENT_TRANSFORMS=3,
    )
    reply = server.request("GET", "/execution-parameters")
    assert reply.text == '{"BatchStrategy":"SINGLE_RECORD","MaxConcurrentTransforms":3,"MaxPayloadInMB":1}\n'
    assert server.predict(ALGORITHM.large(1 << 20)).status == 200
    assert server.predict(ALGORITHM.large((1 << 20) + 16)).status == 413


@pytest.mark.slow
def test_a_hundred_megabytes_of_batch_transform(start):
    server = start(SAGEMAKER_BATCH="true", SAGEMAKER_MAX_PAYLOAD_IN_MB=100, MODEL_SERVER_WORKERS=1)
    rows = (100 << 20) // 16
    reply = server.predict(b"5.1,3.5,1.4,0.2\n" * rows)
    assert (reply.status, reply.body == b"setosa\n" * rows) == (200, True)


OUTPUTS = {
    "predicted_label": "setosa\n",
    "probability": "1.0\n",
    "predicted_label, probability": "setosa,1.0\n",
    "probabilities": '"[1.0, 0.0, 0.0]"\n',
    "labels,probabilities,probability": (
        '"[""setosa"", ""versicolor"", ""virginica""]","[1.0, 0.0, 0.0]",1.0\n'
    ),
}


def test_inference_output(iris, monkeypatch):
    from stack import onnx_model, tables

    for wanted, expected in OUTPUTS.items():
        monkeypatch.setenv("SAGEMAKER_INFERENCE_OUTPUT", wanted)
        model = onnx_model.model_fn(iris / "model")
        prediction = onnx_model.predict_fn(tables.input_fn(ROW.encode(), "text/csv"), model)
        assert tables.output_fn(prediction, "text/csv").decode() == expected


def test_npy_gives_way_where_it_cannot_hold_the_answer(start):
    server = start(SAGEMAKER_INFERENCE_OUTPUT="predicted_label,probability")
    wishes = {
        "application/x-npy, application/jsonlines;q=0.5, text/csv;q=0.1": "application/jsonlines",
        "application/x-npy, */*;q=0.1": "text/csv",
        "application/*, application/json;q=0": "application/jsonlines",
        "*/*, text/csv;q=0": "application/json",
    }
    for accept, media in wishes.items():
        reply = server.predict(ROW, Accept=accept)
        assert (reply.status, reply.headers["content-type"]) == (200, media)
    for accept in ("application/x-npy", "application/x-npy, image/png", "application/x-npy, text/csv;q=0"):
        reply = server.predict(ROW, Accept=accept)
        assert reply.status == 406
        assert "predicted_label, probability" in reply.error["message"]
        assert "application/json" in reply.error["message"]


@pytest.mark.nginx
def test_what_keeps_nginx_from_starting_is_said(start, tmp_path):
    shutil.copytree(STACK, tmp_path / "stack")
    with open(tmp_path / "stack/nginx.conf", "a") as conf:
        conf.write("nonsense on;\n")
    server = start(
        args=[sys.executable, str(tmp_path / "stack/serve")],
        ready=False,
        ALGORITHM_DIR=TREES,
    )
    assert server.process.wait(20) == 1
    assert 'unknown directive "nonsense"' in server.log


@pytest.fixture
def without_nginx(start, tmp_path):
    """A server that finds no nginx."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)
    script = (STACK / "serve").read_text().replace("/usr/sbin:/usr/local/sbin", "")
    copy = tmp_path / "stack"
    shutil.copytree(STACK, copy)
    (copy / "serve").write_text(script)
    return start(args=[sys.executable, str(copy / "serve")], PATH=folder, ALGORITHM_DIR=FOLDER)


@own
def test_without_nginx_gunicorn_listens_itself(without_nginx):
    server = without_nginx
    assert "nginx is not installed" in server.log
    assert is_right(server.predict(SAMPLE))
    assert server.predict("x").error["message"]
    assert server.request("GET", "/pingfoo").status == 404
    assert server.request("GET", "/invocations").status == 405
    assert server.predict(ALGORITHM.large(26 << 20)).status == 413
    assert b'{"error"' in server.raw(b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n")
    assert "status=200" in server.log
    assert server.stop() == 0


@own
def test_without_nginx_a_stop_loses_nothing_either(without_nginx):
    answered, lost = stop_under_load(without_nginx)
    assert answered
    assert lost == 0


def test_without_nginx_no_idle_connection_holds_up_a_stop(without_nginx):
    """gunicorn's threads would wait for it as long as for a request."""
    idle = http.client.HTTPConnection(*without_nginx.address)
    idle.request("GET", "/ping")
    assert idle.getresponse().will_close
    begin = time.monotonic()
    assert without_nginx.stop() == 0
    assert time.monotonic() - begin < 10  # DRAIN is 25


# -- clients that do not behave


@pytest.mark.nginx
def test_idle_and_slow_clients_stop_nobody(start):
    server = start(MODEL_SERVER_WORKERS=2)
    address = ("127.0.0.1", server.port)
    held = [socket.create_connection(address) for _ in range(500)]
    for i, connection in enumerate(held[:300]):
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"[: 10 + i % 60]
        )
    for connection in held[300:400]:
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 1000\r\n\r\n5.1,"
        connection.sendall(head)
    # More of those that never read their answers, which no socket buffer holds, than there are workers.
    body = (ROW + "\n").encode() * 1_600_000
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(3):
        held.append(reader := socket.socket())
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(address)
        reader.sendall(head.encode() + body)
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(server.predict, [ROW] * 100))
    assert {reply.status for reply in replies} == {200}
    assert time.monotonic() - begin < 8  # nginx gives slow readers up after ten seconds
    for connection in held:
        connection.close()
    assert server.predict(ROW).status == 200
    begin = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begin < 10


@own
def test_clients_that_vanish_leave_no_mark(shared_server):
    server, before = shared_server, len(shared_server.log)
    body = ALGORITHM.large(320_000)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {ALGORITHM.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    for sent in (head.encode(), head.encode() + body[:1000], head.encode() + body):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
    assert is_right(server.predict(SAMPLE))
    assert "status=5" not in server.log[before:]


def memory(server) -> int:
    """What the server's processes take together, in kB; what they share counts once.

    Without what lies in files: of that others on this machine have a part, and it changes with them.
    """
    pids = [server.process.pid, *tree(server.process.pid)]
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(re.search(r"^Pss_Anon:\s+(\d+)", text, re.M)[1]) for text in rollups)


def peak(server) -> int:
    """The most that one of the server's workers took until now, in MB."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in parts(server)["worker"]]
    return max(int(re.search(r"^VmHWM:\s+(\d+)", status, re.M)[1]) for status in statuses) >> 10


@own
@pytest.mark.nginx
@linux
def test_a_bomb_takes_no_memory(start):
    """Of 256 MB no more is inflated, before they are refused, than the 25 MB that a body may have."""
    server = start(MODEL_SERVER_WORKERS=1)
    before = peak(server)
    bomb = gzip.compress(bytes(256 << 20), 1)
    for _ in range(5):
        reply = server.predict(bomb, Content_Encoding="gzip")
        assert (reply.status, reply.error["code"]) == (413, "payload_too_large")
    assert peak(server) < before + 100


def filled(row: str, head: str = '{"instances": [', tail: str = "]}", between: str = ",") -> bytes:
    """A body of 25 MB, the most that is taken, of one row again and again."""
    room = (25 << 20) - len(head) - len(tail.encode())
    return (head + between.join([row] * (room // (len(row) + len(between)))) + tail).encode()


FEATURES = json.dumps([float(cell) for cell in ROW.split(",")])
# What `filled` gets, and what is found in the error; None where there is none.
LARGE_JSON = {
    "lines": ((FEATURES, "", "", "\n"), None),
    "rows": (("[1,2,3,4]",), None),
    "one column": (("[1]",), {"code": "bad_columns"}),
    "one row": (("1.5", '{"instances": [[', "]]}"), {"code": "bad_row", "row": 1}),
    "one line": (("1.5", "[", "]"), {"code": "bad_row", "row": 1}),
    "numbers": (("1",), {"code": "bad_row", "row": 1}),
    "objects": (("{}",), {"code": "bad_row", "row": 1}),
    "objects in a row": (("{}", '{"instances": [[', "]]}"), {"code": "bad_json"}),
    "lines of null": (("null", "", "", "\n"), {"code": "bad_row", "row": 1}),
    "lines of objects": (("{}", "", "", "\n"), {"code": "bad_row", "row": 1}),
    "nested": (("[", '{"instances": [', "", ""), {"code": "bad_row", "row": 1}),
    "no object": (("[1]", "[", "]"), {"code": "bad_json"}),
    "records": (('{"a": 1, "b": 2, "c": 3, "d": 4}', '{"dataframe_records": ['), None),
    "a record of numbers": (("1", '{"dataframe_records": ['), {"code": "bad_row", "row": 1}),
    # What is not made of rows is read as a whole, and refused where that is large.
    "a split frame": (
        ("[1]", '{"dataframe_split": {"columns": ["a"], "data": [', "]}}"),
        {"code": "bad_json"},
    ),
    "a list in a row": (
        ("[1,2,3,4]", '{"instances": [[[1],[2]],', "]}"),
        {"code": "bad_value", "row": 1, "column": 1, "value": "[1]"},
    ),
    "text in the last row": (
        ("[1,2,3,4]", '{"instances": [', ',[1,2,"\U0001f600",4]]}'),
        {"code": "bad_value", "row": 2_621_437, "column": 3, "value": '"\U0001f600"'},
    ),
}


@pytest.mark.nginx
@linux
def test_large_json_takes_little_memory(start):
    """As Python's objects, one for each number or bracket, it took up to a gigabyte; the answer some more."""
    server = start(MODEL_SERVER_WORKERS=1)
    before = peak(server)
    for name, (content, error) in LARGE_JSON.items():
        content_type = "application/jsonlines" if "line" in name else "application/json"
        reply = server.predict(filled(*content), content_type, Accept="application/json")
        assert reply.status == (200 if error is None else 400), name
        if error:
            assert error.items() <= reply.error.items(), name
    assert peak(server) < before + 400


@pytest.mark.nginx
@linux
def test_a_refused_body_is_not_kept(start):
    server = start(MODEL_SERVER_WORKERS=1)
    wrong = [filled("{}"), filled("[1]", "["), filled("1.5", '{"instances": [[', "]]}")]
    for i, body in enumerate(wrong * 2):
        assert server.predict(body, "application/json").status == 400
        if i < len(wrong):
            before = memory(server)
    assert memory(server) < before + 10_000


@own
@pytest.mark.nginx
@linux
def test_memory_stays_flat(start):
    server = start(MODEL_SERVER_WORKERS=1)
    body = ALGORITHM.large(1 << 20)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(server.predict, [body] * 10))
        before = memory(server)
        for _ in range(3):
            list(pool.map(server.predict, [SAMPLE] * 300))
            list(pool.map(server.predict, [body, "x", body[:1000]] * 5))
    assert memory(server) < before + 10_000


@linux
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_requests_of_6_megabytes_leave_memory_flat(start):
    server = start(MODEL_SERVER_WORKERS=2)
    line = f"{ROW}\n".encode()
    body = line * (6_291_456 // len(line))
    figures = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(11):
            replies = pool.map(lambda _: server.predict(body), range(100))
            assert {(reply.status, len(reply.body)) for reply in replies} == {(200, len(body) // 16 * 7)}
            figures.append(memory(server) >> 10)
    print(f"MiB after each hundred requests: {figures}")
    assert max(figures[1:]) < figures[0] + 20


# -- training that is stopped

LONG_FIT = """
import numpy as np
from sklearn.tree import DecisionTreeClassifier
from stack import onnx_model, tables

def train(hyperparameters, channels, model_dir):
    generator = np.random.default_rng(0)
    features = generator.random((1_000_000, 20), np.float32)
    targets = generator.integers(0, 2, len(features))
    (model_dir / "half").write_text("a model")
    print("the fit begins")
    onnx_model.fit(DecisionTreeClassifier(), tables.Table(features, targets, ("a", "b")), {})
    print("the fit has ended")
    return {}
"""


def test_sigterm_in_the_middle_of_a_fit(tmp_path):
    """The fit takes more than a minute, in compiled code that looks at no signal."""
    (tmp_path / "training.py").write_text(LONG_FIT)
    base = lay_out(tmp_path / "ml", {"training": {}})
    env = environment(SAGEMAKER_BASE_DIR=base, ALGORITHM_DIR=tmp_path)
    with open(tmp_path / "log", "w+b") as log:
        args = [sys.executable, str(STACK / "train")]
        process = subprocess.Popen(args, env=env, stdout=log, stderr=subprocess.STDOUT)
    until(lambda: "the fit begins" in (tmp_path / "log").read_text(), 60, "the fit")
    (child,) = psutil.Process(process.pid).children()
    used = child.cpu_times().user
    until(lambda: child.cpu_times().user > used + 1, 60, "a second of the fit")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) != 0
    assert time.monotonic() - begin < 20
    output = (tmp_path / "log").read_text()
    assert "SIGTERM" in output
    assert "the fit has ended" not in output
    assert is_gone([child.pid])
    assert not list((base / "model").iterdir())


def test_a_bug_in_the_algorithm_is_a_failure_without_a_traceback(tmp_path):
    (tmp_path / "training.py").write_text(
        "def train(hyperparameters, channels, model_dir):\n    raise RuntimeError('é, a bug')\n"
    )
    base = lay_out(tmp_path / "ml", {"training": {}})
    ended = run_training([sys.executable, str(STACK / "train")], base, ALGORITHM_DIR=tmp_path)
    assert ended.code == 1
    assert ended.failure == "training.py, line 2: RuntimeError: é, a bug"
    assert "Traceback" in ended.output


def waiting_train(base, *before) -> tuple[subprocess.Popen, psutil.Process]:
    """A train that waits for its pipe, and the process in which the algorithm runs."""
    inputs = {"training": {"TrainingInputMode": "Pipe"}}
    os.mkfifo(
        lay_out(base, {"training": {}}, config={"inputdataconfig.json": inputs}) / "input/data/training_0"
    )
    args = [*before, str(ROOT / "container/run"), "decision_trees", "train"]
    env = environment(SAGEMAKER_BASE_DIR=base)
    process = subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(lambda: (base / "model/.partial").exists(), 30, "the beginning")
    return process, psutil.Process(process.pid).children(recursive=True)[-1]


def test_a_killed_algorithm_is_a_failure(tmp_path):
    process, algorithm = waiting_train(tmp_path)
    algorithm.kill()  # as the kernel does when memory runs out
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert "SIGKILL" in (tmp_path / "output/failure").read_text()


@linux
def test_sigterm_stops_training_as_pid_1(tmp_path):
    process, algorithm = waiting_train(tmp_path, *new_pid_namespace())
    algorithm.parent().terminate()
    assert "SIGTERM" in process.communicate(timeout=20)[0].decode()
    assert not list((tmp_path / "model").iterdir())
