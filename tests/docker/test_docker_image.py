"""The three images: what is in them, how large they are, how they run; and the contract suite on the real thing."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from docker_tools import BOTH, NAME, ROOT, SAMPLE, SERVE, TRAIN, lay_out, until

from localaws import images
from workshop import image as workshop_image
from workshop import image_check

# The algorithms beside decision_trees, whose images .ci/docker builds by their names, and what they learn from.
OTHERS = {
    folder: "diabetes.csv" if folder.endswith("regressor") else "iris.csv"
    for folder in ("gradient_boosting", "knn", "logistic_regression", "random_forest_regressor")
}
# It looks at this machine's own paths; its twin for an image is below.
NOT_FOR_IMAGES = "test_a_model_folder_that_cannot_be_written"


def ping(address: str) -> int | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(f"http://{address}/ping", timeout=2).status
    except OSError:
        return None


@pytest.fixture
def server(run, engine, model):
    """server(IMAGE, *options): (container, address) of a server that is ready."""

    def start(image=BOTH, *options: str):
        mount = f"--volume={model}/model:/opt/ml/model:ro"
        container = run(image, "serve", options=("--publish=127.0.0.1::8080", mount, *options))
        address = engine("port", container, "8080/tcp").stdout.split()[0]
        until(lambda: ping(address) == 200, 30, "the first 200 on /ping")
        return container, address

    return start


@pytest.mark.timeout(600)
def test_the_contract_suite_passes_on_the_image(engine):
    in_image = shlex.quote(str(ROOT / "tests/docker/in_image"))
    suites = [f"tests/container/test_contract_{part}.py" for part in ("training", "serving")]
    skipped = f"--deselect={suites[0]}::{NOT_FOR_IMAGES}"
    commands = [f"--{verb}-command={in_image} {BOTH} {verb}" for verb in ("train", "serve")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, skipped, *commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout[-5000:])
    assert done.returncode == 0


# -- what is in them


def test_they_are_smaller_than_the_sample_s(engine):
    """The sample's way: Debian, pip install of numpy scipy scikit-learn pandas flask gunicorn, nginx; see .ci/docker."""
    size = {
        image: json.loads(engine("inspect", image).stdout)[0]["Size"]
        for image in (BOTH, TRAIN, SERVE, SAMPLE)
    }
    print({image: f"{bytes / 1e6:.0f} MB, {bytes / size[SAMPLE]:.0%}" for image, bytes in size.items()})
    assert size[BOTH] <= 0.85 * size[SAMPLE]
    assert size[SERVE] <= 0.50 * size[SAMPLE]


def listed(engine, image: str) -> list[str]:
    return engine("run", "--rm", "--network=none", image, "find", "/opt", "/root", "/tmp").stdout.splitlines()


@pytest.mark.parametrize("image", [BOTH, TRAIN, SERVE])
def test_no_tests_caches_or_installers_are_left_in_them(engine, image):
    files = listed(engine, image)
    assert len(files) > 100
    left = [
        file for file in files if file.rsplit("/", 1)[-1] in ("test", "tests", "pip", ".cache", "setuptools")
    ]
    assert not left
    which = engine(
        "run", "--rm", "--network=none", image, "sh", "-c", "command -v gcc cc make git", check=False
    )
    assert which.stdout == ""


def test_only_the_packages_of_its_own_programs_are_in_an_image(engine):
    def packages(image):
        code = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions(path=['%s'])))"
        site = "/opt/venv/lib/python3.11/site-packages"
        return set(
            engine("run", "--rm", "--network=none", image, "python3", "-c", code % site).stdout.split()
        )

    assert not packages(SERVE) & {"scikit-learn", "scipy", "pandas", "onnx"}
    assert not packages(TRAIN) & {"flask", "gunicorn", "pandas"}
    assert packages(BOTH) == packages(TRAIN) | packages(SERVE)


@pytest.mark.parametrize("image", [BOTH, TRAIN, SERVE])
def test_the_compiled_reader_is_in_them(engine, image):
    code = "from stack.tables import fast; print(fast.read_rows(b'5.1,3.5')[0].tolist() != [], fast.LIBRARY is not None)"
    assert engine("run", "--rm", "--network=none", image, "python3", "-c", code).stdout == "True True\n"


def test_what_has_changed_since_it_was_built_is_seen(engine, tmp_path, monkeypatch):
    target = SimpleNamespace(docker=True, name=BOTH, algorithm="decision_trees")
    assert workshop_image.changed_files(target) == []
    changed = tmp_path / "training.py"
    changed.write_text("another")
    found = images.sources("decision_trees") | {"training.py": changed}
    monkeypatch.setattr(images, "sources", lambda algorithm: found)
    monkeypatch.setattr(workshop_image, "ROOT", tmp_path)
    assert workshop_image.changed_files(target) == ["training.py"]


@pytest.mark.parametrize("verb", ["train", "serve"])
def test_the_lock_files_agree_with_this_machine_s(verb):
    def pinned(file):
        lines = file.read_text().splitlines()
        return {line.split(" ")[0] for line in lines if line[:1].isalnum()}

    lock = pinned(ROOT / f"container/decision_trees/requirements-{verb}.lock")
    assert lock
    assert lock <= pinned(ROOT / "requirements.lock"), "make them anew: container/lock.sh decision_trees"


@pytest.mark.parametrize("image", [BOTH, TRAIN, SERVE])
def test_config(engine, image):
    config = json.loads(engine("inspect", image).stdout)[0]["Config"]
    assert not config["Entrypoint"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "decision_trees"
    port = labels.get("com.amazonaws.sagemaker.capabilities.accept-bind-to-port")
    assert port == (None if image == TRAIN else "true")
    assert bool(config.get("Healthcheck")) == (image != TRAIN)


def test_build_secrets_are_in_no_layer_and_no_history(engine, tmp_path):
    """A real build of one small package, with both secrets marked: neither mark is anywhere in what the build made."""
    context = shutil.copytree(ROOT / "container", tmp_path / "container")
    lock = context / "decision_trees/requirements-serve.lock"
    one = re.search(r"^itsdangerous==.*?(?=^\S)", lock.read_text(), re.MULTILINE | re.DOTALL)[0]
    mark = uuid.uuid4().hex
    lock.write_text(f"{one}# {mark[::-1]}: no step of an earlier build will do\n")
    # What the recipe has imported in the end needs more packages than this one.
    (context / "stack/algorithm.py").write_text("def predictor():\n    pass\n")
    secrets = []
    for option, variable, default in (
        ("--pip-conf", "PIP_CONFIG_FILE", None),
        ("--ca", "PIP_CERT", requests.certs.where()),
    ):
        given = os.environ.get(variable) or default
        file = tmp_path / f"{variable} of a company"
        file.write_text(f"# {mark}\n" + (Path(given).read_text() if given else ""))
        secrets += [option, str(file)]
    image = f"{NAME}-secrets"
    build = [str(context / "build_local.sh"), image, "--target", "serve", *secrets]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    try:
        docker = image_check.Docker(image)
        files = dict(docker.files())
        history = engine("history", "--no-trunc", image).stdout + json.dumps(docker.about)
    finally:
        engine("rmi", "--force", image)
    assert any("site-packages/itsdangerous/" in path for path in files), "the build has installed it"
    assert "install.sh" not in history + " ".join(files)  # its stage stays behind
    assert mark not in history
    assert not [path for path, content in files.items() if mark.encode() in content]


def test_line_ends_and_run_bits_come_from_the_recipe(engine, tmp_path):
    """A clone on Windows: CRLF and no run bits. Packages come from the builder's cache."""
    context = shutil.copytree(ROOT / "container", tmp_path / "a clone/container")
    for file in [*context.glob("stack/**/*"), *context.glob("decision_trees/*.py"), context / "refuse.sh"]:
        if file.is_file():
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
            file.chmod(0o644)
    image = f"{NAME}-crlf"
    build = [str(context / "build_local.sh"), image, "--target", "serve"]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    try:
        look = "grep -rlI \"$(printf '\\r')\" .; ls -l stack/train stack/serve"
        asked = engine("run", "--rm", "--network=none", image, "sh", "-c", look)
        assert [line.split()[0] for line in asked.stdout.splitlines()] == ["-rwxr-xr-x", "-rwxr-xr-x"]
        assert engine("run", "--rm", image, "train", check=False).stderr.startswith(
            "train: this image only serves"
        )
    finally:
        engine("rmi", "--force", image)


# -- how they run


@pytest.mark.parametrize(("image", "verb"), [(SERVE, "train"), (TRAIN, "serve")])
def test_the_other_verb_is_refused(engine, tmp_path, image, verb):
    (tmp_path / "output").mkdir()
    done = engine("run", "--rm", f"--volume={tmp_path}:/opt/ml", image, verb, check=False)
    assert done.returncode == 2
    assert "build it with --target" in done.stderr
    failure = tmp_path / "output/failure"
    assert failure.exists() == (verb == "train")


@pytest.mark.parametrize("image", [BOTH, TRAIN])
def test_training_on_a_read_only_file_system_without_network(engine, tmp_path, image):
    base = lay_out(tmp_path / "ml")
    options = ["--rm", "--read-only", "--network=none", f"--volume={base}:/opt/ml"]
    assert "training_accuracy=1" in engine("run", *options, image, "train").stdout
    assert list((base / "model").iterdir())


@pytest.mark.parametrize("algorithm", OTHERS)
def test_every_algorithm_trains_and_serves_in_its_image(engine, run, tmp_path, algorithm):
    image, folder = f"{NAME}:{algorithm}", ROOT / "container" / algorithm
    base = lay_out(tmp_path / "ml", (ROOT / "data" / OTHERS[algorithm]).read_text())
    options = ["--rm", "--read-only", "--network=none", f"--volume={base}:/opt/ml"]
    assert "agreement=1\n" in engine("run", *options, image, "train").stdout
    mount = f"--volume={base}/model:/opt/ml/model:ro"
    container = run(
        image, "serve", options=("--publish=127.0.0.1::8080", "--read-only", "--tmpfs=/tmp", mount)
    )
    address = engine("port", container, "8080/tcp").stdout.split()[0]
    until(lambda: ping(address) == 200, 30, "the first 200 on /ping")
    payload = (folder / "payload.csv").read_bytes()
    request = urllib.request.Request(f"http://{address}/invocations", payload, {"Content-Type": "text/csv"})
    answers = urllib.request.urlopen(request, timeout=10).read().decode().splitlines()
    assert len(answers) == len(payload.splitlines())
    assert engine("run", "--rm", image, "ls", "/opt/program").stdout.count("_test.py") == 0


@pytest.mark.parametrize("image", [BOTH, SERVE])
def test_serving_on_a_read_only_file_system(server, engine, image):
    _, address = server(image, "--read-only", "--tmpfs=/tmp")
    request = urllib.request.Request(
        f"http://{address}/invocations", b"5.1,3.5,1.4,0.2\n", {"Content-Type": "text/csv"}
    )
    assert urllib.request.urlopen(request, timeout=10).read() == b"setosa\n"


def test_the_workers_are_not_root(server, engine):
    container, _ = server()
    rows = [row.split(None, 2) for row in engine("top", container, "-eo", "pid,uid,args").stdout.splitlines()]
    users = {
        what: [uid for _, uid, command in rows if what in command] for what in ("nginx: worker", "gunicorn")
    }
    # The parent and the masters of nginx and gunicorn are root; what reads requests is nobody.
    assert set(users["nginx: worker"]) == {"65534"}
    assert users["gunicorn"].count("0") == 1
    assert users["gunicorn"].count("65534") >= 2


def test_a_stop_is_clean(server, engine):
    container, _ = server()
    engine("stop", "--time=30", container)
    assert engine("wait", container).stdout.strip() == "0"


def test_a_killed_master_ends_the_container(server, engine):
    container, _ = server()
    code = (
        "import os,pathlib,signal\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    if b'nginx: master' in (p / 'cmdline').read_bytes(): os.kill(int(p.name), signal.SIGKILL)"
    )
    engine("exec", container, "python3", "-c", code, check=False)  # it ends with the container
    assert engine("wait", container, timeout=15).stdout.strip() not in ("0", "")


def test_it_becomes_healthy(server, engine):
    container, _ = server(BOTH, "--health-interval=1s")

    def healthy():
        return (
            engine("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip() == "healthy"
        )

    until(healthy, 30, "healthy")


def test_a_killed_algorithm_is_a_failure(run, engine, tmp_path):
    base = lay_out(tmp_path / "ml")
    (base / "input/data/training/data.csv").unlink()
    config = {"training": {"TrainingInputMode": "Pipe"}}
    (base / "input/config/inputdataconfig.json").write_text(json.dumps(config))
    os.mkfifo(base / "input/data/training_0")  # nobody ever writes: train waits
    container = run(BOTH, "train", options=(f"--volume={base}:/opt/ml",))
    until(lambda: (base / "model/.partial").exists(), 30, "the beginning")
    child = "import os,pathlib; print(pathlib.Path('/proc/1/task/1/children').read_text()); "
    kill = "os.kill(int(pathlib.Path('/proc/1/task/1/children').read_text().split()[0]), 9)"
    engine("exec", container, "python3", "-c", child + kill)
    assert engine("wait", container).stdout.strip() == "1"
    assert "SIGKILL" in (base / "output/failure").read_text()


def test_a_model_folder_that_cannot_be_written(engine, tmp_path):
    base = lay_out(tmp_path / "ml")
    mounts = [f"--volume={base}:/opt/ml", f"--volume={base}/model:/opt/ml/model:ro"]
    done = engine("run", "--rm", *mounts, BOTH, "train", check=False)
    assert done.returncode == 1
    assert "/opt/ml/model cannot be written" in (base / "output/failure").read_text()
