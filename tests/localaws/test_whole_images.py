"""Images that nobody wrote for localaws: AWS's sample container, a system of its own, a server in C; in name spaces."""

import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import uuid
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
import tiny
import urllib3
from waiting import wait_until

from localaws.engines.process import ProcessEngine, Spec, StartError, Unpacked
from localaws.images import builder
from localaws.images.archive import UnsafeArchive, extract_whole
from localaws.sagemaker.hosting import instances

SAMPLE = Path(__file__).parent / "sample/decision_trees"
SERVER = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **arguments) {
    if (!strcmp(arguments[count - 1], "train")) {
        FILE *model = fopen("/opt/ml/model/model.txt", "w");
        char folder[4096];
        fprintf(model, "%s %d %d %s %s", getcwd(folder, sizeof folder), getuid(), getpid(), getenv("COLOUR"), arguments[1]);
        fprintf(model, " %s", getenv("HOME"));
        return fclose(model);
    }
    char word[4096] = {0}, request[65536], answer[8192];
    FILE *model = fopen("/opt/ml/model/model.txt", "r");
    fread(word, 1, sizeof word - 1, model);
    int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(8080)};
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (void *)&address, sizeof address)) { perror("bind"); return 1; }
    listen(listening, 8);
    for (;;) {
        int client = accept(listening, 0, 0);
        read(client, request, sizeof request);
        sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(word), word);
        write(client, answer, strlen(answer));
        close(client);
    }
}
"""


@pytest.fixture(scope="module")
def account(kernel, localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("images"))


def member(name: str, content: bytes | str | None = None, mode: int = 0o755, **fields) -> tuple:
    info = tarfile.TarInfo(name)
    info.mode = mode
    if content is None and not fields:
        info.type = tarfile.DIRTYPE
    for field, value in fields.items():
        setattr(info, field, value)
    content = content.encode() if isinstance(content, str) else content or b""
    info.size = len(content)
    return info, content


def link(name: str, target: str, hard: bool = False) -> tuple:
    return member(name, type=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=target)


def tar(*members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def push(account, *layers: bytes, **config) -> str:
    """Push an image of these layers, as another client does; its URI."""
    uri = account.aws.client("ecr").create_repository(repositoryName=f"whole-{uuid.uuid4().hex[:8]}")
    uri = uri["repository"]["repositoryUri"]
    host, _, name = uri.partition("/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALAWS_HOME", str(account.aws.home))
        client = builder._Client(host, name)

    def blob(content: bytes, kind: str) -> dict:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        file = account.folder / digest
        file.write_bytes(content)
        part = {"digest": digest, "size": len(content), "mediaType": kind}
        client.push_blob(part, file)
        return part

    digests = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    about = {"architecture": "amd64", "os": "linux", "config": config}
    about["rootfs"] = {"type": "layers", "diff_ids": digests}
    manifest = {
        "schemaVersion": 2,
        "mediaType": builder.MANIFEST,
        "config": blob(json.dumps(about).encode(), builder.CONFIG),
        "layers": [blob(gzip.compress(layer), builder.LAYER) for layer in layers],
    }
    body, headers = json.dumps(manifest).encode(), {"Content-Type": builder.MANIFEST}
    client.send("PUT", "manifests/latest", {201}, data=body, headers=headers)
    client.session.close()
    return f"{uri}:latest"


def train(account, image: str, **hyperparameters) -> dict:
    request = account.training_request(**hyperparameters)
    request["AlgorithmSpecification"]["TrainingImage"] = image
    return account.train(request)


def model(account, trained: dict, image: str) -> str:
    name = f"model-{uuid.uuid4().hex[:12]}"
    data = trained["ModelArtifacts"]["S3ModelArtifacts"]
    container = {"Image": image, "ModelDataUrl": data}
    account.sagemaker.create_model(ModelName=name, ExecutionRoleArn=account.role, PrimaryContainer=container)
    return name


def folder(path: Path) -> bytes:
    """A layer with the files of a folder as /opt/program."""
    files = sorted(path.iterdir())
    return tar(
        *(
            member(f"opt/program/{file.name}", file.read_bytes(), file.stat().st_mode & 0o777)
            for file in files
        )
    )


def first_lines(account, trained: dict) -> list[str]:
    return account.lines("/aws/sagemaker/TrainingJobs", trained["TrainingJobName"])


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx here: apt-get install nginx")
def test_awss_sample_container_trains_serves_and_transforms(account):
    image = push(
        account,
        folder(SAMPLE),
        Env=[
            "PATH=/usr/local/bin:/usr/bin:/bin:/opt/program",
            "PYTHONUNBUFFERED=TRUE",
            "PYTHONDONTWRITEBYTECODE=TRUE",
        ],
        WorkingDir="/opt/program",
    )
    rows = "".join(f"{'big' if number > 5 else 'small'},{number},1\n" for number in range(10))
    request = account.training_request(uri=account.put("sample/rows.csv", rows), max_leaf_nodes="5")
    request["AlgorithmSpecification"]["TrainingImage"] = image
    trained = account.train(request)
    lines = first_lines(account, trained)
    assert trained["TrainingJobStatus"] == "Completed", (trained["FailureReason"], lines)
    assert "name spaces" in lines[0] and "brings no operating system" in lines[0]
    assert lines[-1] == "Training complete."
    name = model(account, trained, image)
    endpoints = [account.endpoint(account.config(name)) for _ in range(2)]  # both on 8080
    for endpoint in endpoints:
        assert account.invoke(endpoint, b"3,1\n8,1\n", ContentType="text/csv")["Body"] == b"small\nbig\n"
    job, output = f"transform-{uuid.uuid4().hex[:8]}", f"s3://{account.bucket}/transformed"
    source = {"S3DataType": "S3Prefix", "S3Uri": account.put("in/rows.csv", "1,1\n9,1\n")}
    account.sagemaker.create_transform_job(
        TransformJobName=job,
        ModelName=name,
        TransformInput={
            "DataSource": {"S3DataSource": source},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        TransformOutput={"S3OutputPath": output},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
    account.sagemaker.get_waiter("transform_job_completed_or_stopped").wait(
        TransformJobName=job, WaiterConfig={"Delay": 1}
    )
    assert account.get(f"{output}/rows.csv.out") == b"small\nbig\n"
    for endpoint in endpoints:
        account.sagemaker.delete_endpoint(EndpointName=endpoint)


@pytest.fixture(scope="module")
def static(tmp_path_factory) -> bytes:
    """A server in one file that needs nothing else."""
    if not shutil.which("gcc"):
        pytest.skip("no C compiler here: apt-get install gcc libc6-dev")
    place = tmp_path_factory.mktemp("server")
    (place / "server.c").write_text(SERVER)
    done = subprocess.run(
        ["gcc", "-static", "-w", "-o", "server", "server.c"], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (place / "server").read_bytes()


PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1234::/home/app:/bin/sh\n"


@pytest.mark.parametrize(
    ("system", "user", "home"),
    [([member("etc/passwd", PASSWD), member("usr/bin")], "app", "/home/app"), ([], "1234", "/tmp")],
    ids=["own root", "no system"],
)
def test_a_server_in_c_is_run_as_its_entrypoint_says(account, static, system, user, home):
    how = {"Entrypoint": ["model-server", "--quiet"], "WorkingDir": "/made/for/it", "Cmd": ["never"]}
    image = push(
        account,
        tar(*system, member("srv/model/server", static), link("srv/model/model-server", "server")),
        Env=["PATH=/srv/model", "COLOUR=blue"],
        User=user,
        **how,
    )
    trained = train(account, image)
    assert trained["TrainingJobStatus"] == "Completed", (
        trained["FailureReason"],
        first_lines(account, trained),
    )
    name = model(account, trained, image)
    endpoint = account.endpoint(account.config(name, count=2))
    assert account.invoke(endpoint, b"x")["Body"] == f"/made/for/it 1234 1 blue --quiet {home}".encode()
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def shell_image(*programs: str) -> bytes:
    """A layer with this machine's programs and the libraries that they need, its /lib a link as in a merged system."""
    files, found = {}, []
    for program in programs:
        path = shutil.which(program)
        files[f"usr/bin/{program}"] = Path(path).read_bytes()
        told = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        found += [word for word in told.split() if word.startswith("/")]
    for library in found:
        files[f"usr/lib64/{Path(library).name}"] = Path(library).read_bytes()
    links = [link(name, f"usr/{name}") for name in ("bin", "lib", "lib64")]
    return tar(member("usr/bin"), member("usr/lib"), member("usr/lib64"), *links, *(member(*file) for file in files.items()),
               *(link(f"lib/{Path(library).name}", f"../lib64/{Path(library).name}") for library in sorted(set(found))))  # fmt: skip


def test_an_image_with_a_system_of_its_own_is_run_whole(account):
    script = """#!/bin/sh
set -e
[ ! -e /home ] && [ ! -e /root ] && [ ! -e /gone ]
[ -r $AWS_CONFIG_FILE ] && [ -r $AWS_SHARED_CREDENTIALS_FILE ] && [ -r $AWS_CA_BUNDLE ]
cat /etc/hosts > /opt/ml/model/hosts
echo $HOME $COLOUR $(ls /proc | cat) > /opt/ml/model/seen
echo x > /usr/written; echo x > /tmp/written; echo x > /dev/null; cat /dev/zero | true
chown 33:33 /tmp/written
echo done
"""
    upper = tar(member("opt/tool/train", script), member(".wh.gone", ""), member("bin/.wh.true", ""))
    lower = shell_image("sh", "cat", "ls", "chown", "true")
    image = push(
        account,
        lower,
        tar(member("gone", "x"), link("usr/bin/true2", "bin/true", hard=True)),
        upper,
        tar(link("usr/bin/true", "true2")),
        Env=["PATH=/opt/tool:/bin", "COLOUR=blue"],
    )
    for _ in range(2):  # what the first has written is not there for the second
        trained = train(account, image)
        lines = first_lines(account, trained)
        assert trained["TrainingJobStatus"] == "Completed", (trained["FailureReason"], lines)
        assert lines[-1] == "done"
        assert "no operating system" not in lines[0]


# The head of a program for linux/arm64 (man 5 elf).
FOREIGN = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 2, 183, 1) + bytes(40)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("#!/usr/bin/env python\nimport no_such_module\n", "AlgorithmError: ModuleNotFoundError: No module named 'no_such_module', exit code: 1"),
        ("#!/bin/sh\nno-such-command\n", "no-such-command: not found, exit code: 127"),
        ("#!/bin/sh\n/etc/passwd\n", "/etc/passwd: Permission denied, exit code: 126"),
        ("#!/usr/bin/python3 /no/such.py\n", "can't open file '/no/such.py': [Errno 2] No such file or directory, exit code: 2"),
        ("#!/etc/passwd\n", "AlgorithmError: exec /opt/program/train: permission denied, exit code: 1"),
        (FOREIGN, "AlgorithmError: exec /opt/program/train: exec format error, exit code: 1"),
        ("#!/no/such/interpreter\n", "AlgorithmError: exec /opt/program/train: no such file or directory, exit code: 1"),
        (None, 'ClientError: Unable to start the training container: exec: "train": executable file not found in $PATH'),
    ],
    ids=["module", "command", "command's permission", "script", "permission", "architecture", "interpreter", "program"],
)  # fmt: skip
def test_what_an_image_lacks_is_named(account, lines, reason):
    files = [member("opt/program/train", lines)] if lines else [member("opt/program/other", "x")]
    trained = train(account, push(account, tar(*files), Env=["PATH=/usr/bin:/bin:/opt/program"]))
    assert trained["TrainingJobStatus"] == "Failed"
    assert reason in trained["FailureReason"]


def test_a_program_that_is_not_executable_is_named(account):
    image = push(account, tar(member("opt/program/train", "#!/bin/sh\n", 0o644)), Env=["PATH=/opt/program"])
    reason = train(account, image)["FailureReason"]
    assert reason == "AlgorithmError: exec /opt/program/train: permission denied, exit code: 1"


CALLER = """#!/usr/bin/env python3
import http.server, socket
import boto3

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        bucket, key = self.rfile.read(int(self.headers["Content-Length"])).decode().split()
        content = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        account = boto3.client("sts", endpoint_url="https://sts.us-west-2.amazonaws.com").get_caller_identity()
        try:
            socket.create_connection(("192.0.2.1", 80), 5)
        except OSError as error:
            self.answer(f"{content} {account['Account']} {error.strerror}".encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)

http.server.HTTPServer(("", 8080), Answers).serve_forever()
"""


def test_a_server_reaches_awss_services_here_and_nobody_else(account):
    image = push(account, tar(member("opt/program/serve", CALLER)), Env=["PATH=/opt/program:/usr/bin"])
    endpoint = account.endpoint(account.config(account.model(image=image)))
    account.put("looked/up", "found")
    said = account.invoke(endpoint, f"{account.bucket} looked/up".encode())["Body"]
    assert said == b"b'found' 000000000000 Network is unreachable"
    account.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_why_a_server_does_not_come_up_is_named(account):
    lines = "#!/bin/sh\nno-such-command\n"
    image = push(account, tar(member("opt/program/serve", lines)), Env=["PATH=/opt/program:/usr/bin:/bin"])
    name = f"endpoint-{uuid.uuid4().hex[:12]}"
    config = account.config(account.model(image=image))
    account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    reason = account.settled(name, "Failed")["FailureReason"]
    assert "exit code 127. Its last lines: " in reason and "no-such-command: not found" in reason
    account.sagemaker.delete_endpoint(EndpointName=name)


@pytest.mark.parametrize(
    ("listens", "reason"),
    [(False, "no program answers on port 8080"), (True, "the answer was 501")],
    ids=["on another port", "without ping"],
)
def test_why_a_health_check_fails_is_named(listens, reason):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        if listens:
            threading.Thread(target=server.handle_request, daemon=True).start()  # which knows no GET
        else:
            server.socket.close()
        with closing(urllib3.HTTPConnectionPool("127.0.0.1", server.server_port)) as pool:
            assert reason in instances._ill(pool)


def test_a_library_that_an_image_lacks_is_named(account, tmp_path):
    if not shutil.which("gcc"):
        pytest.skip("no C compiler here: apt-get install gcc libc6-dev")
    (tmp_path / "gone.c").write_text("int gone() { return 0; }")
    (tmp_path / "main.c").write_text("int gone(); int main() { return gone(); }")
    for line in ("-shared -fPIC -o libgone.so gone.c", "-o train main.c -L. -lgone"):
        subprocess.run(["gcc", "-w", *line.split()], cwd=tmp_path, check=True)
    program = member("opt/program/train", (tmp_path / "train").read_bytes())
    reason = train(account, push(account, tar(program), Env=["PATH=/opt/program"]))["FailureReason"]
    assert "error while loading shared libraries: libgone.so: cannot open" in reason


DAEMON = """#!/usr/bin/env python3
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if not os.fork():
    os.setsid()
    os.environ.clear()
print("daemon of {mark}", flush=True)
time.sleep(600)
"""


def running(mark: str) -> list[psutil.Process]:
    """The processes that run /opt/program/train-MARK."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(mark in word for word in process.cmdline()):
                found.append(process)
    return found


def start_daemon(account) -> tuple[str, str]:
    """A training job that runs, and a mark that its processes bear."""
    mark = f"daemon-{uuid.uuid4().hex}"
    return start(account, mark, DAEMON.replace("{mark}", mark), 2)[0], mark


def start(account, mark: str, program: str, processes: int) -> tuple[str, list[psutil.Process]]:
    """A training job that runs a program, by the name `mark`, and its processes once there are so many."""
    image = push(
        account,
        tar(member(f"opt/program/{mark}", program)),
        Env=["PATH=/opt/program:/usr/bin"],
        Entrypoint=[mark],
    )
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = image
    account.sagemaker.create_training_job(**request)
    wait_until(lambda: len(running(mark)) == processes)
    return request["TrainingJobName"], running(mark)


def test_a_job_is_stopped_with_all_that_its_program_left_behind(account):
    name, mark = start_daemon(account)
    account.sagemaker.stop_training_job(TrainingJobName=name)
    assert account.finish(name)["TrainingJobStatus"] == "Stopped"
    wait_until(lambda: not running(mark))


HUNGRY = """#!/usr/bin/env python3
import time
while "{mark}" not in open("/proc/self/cgroup").read():
    time.sleep(0.02)
b"x" * (1 << 28)
"""


@pytest.fixture
def small_memory():
    """A control group whose processes may have 64 MiB together, which who is not root, or is in a container, cannot make."""
    for folder, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", folder, f"hungry-{uuid.uuid4().hex}")
        with suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(64 << 20))
                yield group
                return
            finally:
                group.rmdir()
    pytest.skip("no control group for memory can be made here")


@pytest.mark.parametrize("eats", [True, False])
def test_a_program_that_was_killed_for_memory_is_said_to_be(account, small_memory, eats):
    mark = small_memory.name
    name, [program] = start(account, mark, HUNGRY.replace("{mark}", mark), 1)
    if eats:
        (small_memory / "cgroup.procs").write_text(str(program.pid))
    else:
        program.kill()
    reason = account.finish(name)["FailureReason"]
    assert ("use an instance type with more memory" in reason) == eats
    assert ("exit code: 137" in reason) != eats


@pytest.mark.parametrize("victim", ["server", "keeper"])
def test_nothing_is_left_of_what_was_killed(kernel, fresh, victim):
    fresh.up()
    account = tiny.account(fresh, fresh.home.parent)
    name, mark = start_daemon(account)
    if victim == "server":
        psutil.Process(json.loads((fresh.home / "server.json").read_text())["pid"]).kill()
    else:
        one = next(process for process in running(mark) if len(process.parents()) and process.children())
        one.parent().kill()
        assert account.finish(name)["TrainingJobStatus"] == "Failed"
    wait_until(lambda: not running(mark))
    assert str(fresh.home) not in Path("/proc/self/mountinfo").read_text()


def test_a_program_without_network_reaches_nobody(account):
    script = (
        "#!/bin/sh\nls /sys/class/net > /dev/null; grep -v lo: /proc/net/dev | grep : && exit 3\nexit 0\n"
    )
    image = push(account, tar(member("opt/program/train", script)), Env=["PATH=/opt/program"])
    for isolated, status in ((True, "Completed"), (False, "Failed")):
        request = account.training_request() | {"EnableNetworkIsolation": isolated}
        request["AlgorithmSpecification"]["TrainingImage"] = image
        trained = account.train(request)
        if isolated or len(psutil.net_if_addrs()) > 1:
            assert trained["TrainingJobStatus"] == status, first_lines(account, trained)


RUN = """
import json, shutil, sys, time, urllib.request
from pathlib import Path
from localaws.engines.process import ProcessEngine, Spec, StartError, Unpacked
folder, port = Path(sys.argv[1]), sys.argv[2]
config = {"Env": ["PATH=/opt/program"], "WorkingDir": "/opt/program"}
engine = ProcessEngine(folder / "home", {})
image = Unpacked(folder / "image", config, whole=True)
try:
    container = engine.start(Spec("test", image, "train", folder / "one/ml", {}), print)
    assert container.wait(60)
    print("exit code", container.exit_code)
    (folder / "two").mkdir()
    shutil.copytree(folder / "one/ml/model", folder / "two/ml/model")
    variables = {"SAGEMAKER_BIND_TO_PORT": port}
    container = engine.start(Spec("test", image, "serve", folder / "two/ml", variables), print)
    deadline = time.monotonic() + 30
    while container.running and time.monotonic() < deadline:
        try:
            headers = {"Content-Type": "text/csv"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", b"3,1\\n8,1\\n", headers)
            print("answer", urllib.request.urlopen(request, timeout=5).read())
            break
        except OSError:
            time.sleep(0.1)
except StartError as error:
    print("refused:", error)
engine.close()
"""


def run_as(tmp_path, *before: str) -> str:
    """Have a program of its own train and serve the sample; what it says. `before`: the command that changes its rights."""
    ml = tmp_path / "one/ml"
    for path in ("model", "output", "input/config", "input/data/training"):
        (ml / path).mkdir(parents=True)
    (ml / "input/config/hyperparameters.json").write_text("{}")
    (ml / "input/data/training/a.csv").write_text("small,1,1\nbig,9,1\n")
    shutil.copytree(SAMPLE, tmp_path / "image/opt/program")
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = str(probe.getsockname()[1])
    command = [*before, sys.executable, "-c", RUN, str(tmp_path), port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx here: apt-get install nginx")
def test_an_ordinary_user_can_run_the_sample(kernel, tmp_path):
    # To the kernel whoever has no capability is one.
    said = run_as(tmp_path, "unshare", "--user", "--map-user=1000", "--map-group=1000")
    assert "exit code 0" in said
    assert "answer b'small\\nbig\\n'" in said


@pytest.mark.parametrize(
    ("platform", "machine", "reason"),
    [
        ("darwin", "arm64", "in Linux name spaces, and this is .*: install Docker and start localaws again"),
        ("linux", "aarch64", "The image is for linux/amd64, this machine is aarch64: install Docker"),
    ],
)
def test_a_machine_that_cannot_run_an_image_says_so(tmp_path, monkeypatch, platform, machine, reason):
    (tmp_path / "usr").mkdir()
    engine = ProcessEngine(tmp_path, {})
    spec = Spec("a test", Unpacked(tmp_path, {}, whole=True), "train", tmp_path, {})
    with monkeypatch.context() as patch, pytest.raises(StartError, match=reason):
        patch.setattr(sys, "platform", platform)
        patch.setattr("platform.machine", lambda: machine)
        engine.start(spec, print)


def test_an_image_whose_own_files_stand_in_the_way_is_named(account):
    image = push(account, tar(member("usr/bin"), member("opt/ml", "a file")))
    assert "The image cannot be run: /opt/ml in it: " in train(account, image)["FailureReason"]


@pytest.mark.parametrize("limit", ["max_user_namespaces", "max_mnt_namespaces"])
def test_where_the_kernel_refuses_name_spaces_it_is_said_why_and_what_mends_it(kernel, tmp_path, limit):
    shell = f'echo 0 > /proc/sys/user/{limit}; exec "$@"'
    said = run_as(tmp_path, "unshare", "--user", "--map-root-user", "sh", "-c", shell, "sh")
    [line] = [line for line in said.splitlines() if line.startswith("refused:")]
    assert "the kernel refuses them here (unshare: no space left on device)" in line
    assert f"sudo sysctl -w user.{limit}=10000, or install Docker" in line


# Hostile layers


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (tar(member("../escape", "x")), "would land outside"),
        (tar(member("/escape", "x")), "would land outside"),
        (tar(link("stolen", "../victim", hard=True)), "would land outside"),
        (tar(link("out", ".."), link("stolen", "out/victim", hard=True)), "which is no file"),
        (tar(link("a", "b"), link("b", "a"), member("a/x", "x")), "circle of links"),
        (tar(member("a/.wh...", "")), "hides no name"),
    ],
)
def test_a_layer_that_leads_out_is_refused(tmp_path, layer, reason):
    (tmp_path / "root").mkdir()
    (tmp_path / "victim").write_text("mine")
    with pytest.raises(UnsafeArchive, match=reason):
        extract_whole(io.BytesIO(layer), tmp_path / "root")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "escape").exists()


@pytest.mark.parametrize("away", ["../..", "/", "{outside}"])
def test_a_link_that_leads_out_is_followed_within_the_image(tmp_path, away):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("mine")
    away = away.format(outside=outside)
    layer = tar(
        link("out", away), member("out/victim", "theirs"), member("out/.wh.other", ""), member("real", "x")
    )
    extract_whole(io.BytesIO(layer), root)
    extract_whole(io.BytesIO(tar(member("out/.wh.victim", ""))), root)
    extract_whole(io.BytesIO(tar(member("out/.wh..wh..opq", ""), member("out", "file now"))), root)
    assert (outside / "victim").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]
    assert (root / "out").read_text() == "file now" and not (root / "out").is_symlink()


def test_modes_times_and_devices(tmp_path):
    layer = tar(
        member("su", "x", 0o4755, mtime=1000),
        member("closed", mode=0o000),
        member("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    )
    extract_whole(io.BytesIO(layer), tmp_path)
    assert (tmp_path / "su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "su").stat().st_mtime == 1000
    assert (tmp_path / "closed").stat().st_mode & 0o700 == 0o700
    assert not (tmp_path / "device").exists()
