"""`workshop.contract` says what is true of a container: of ours, of one as AWS's sample, of one in Perl, of broken ones."""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from workshop import ROOT, contract
from workshop.contract import __main__, serving, training
from workshop.contract.program import Program, free_port

HERE = Path(__file__).parent
OURS = shlex.quote(str(ROOT / "container/run"))
BASELINE = ROOT / "utils/bench/programs/baseline"
TRACKED = subprocess.run(
    ["git", "ls-files", ":(glob)container/*/requirements-train.lock"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
)
ALGORITHMS = [Path(name).parent.name for name in TRACKED.stdout.split()]
IRIS = {"training": ROOT / "data/iris.csv", "payload": ROOT / "container/decision_trees/payload.csv"}
NUMBERS = {"content_type": "application/x-numbers", "patience": 5}
STOPPED = "train ends within "  # left out where a training is over too soon to be stopped


def names(findings, ok) -> set[str]:
    return {each.name for each in findings if each.ok is ok and not each.name.startswith(STOPPED)}


def tiny(verb: str, fault: str = "") -> str:
    return shlex.join([sys.executable, str(HERE / "tiny.py"), verb, fault])


@pytest.fixture
def files(tmp_path) -> dict:
    """Something to learn from, a model, a payload; and where tiny.py leaves its children's ids."""
    for name, text in {"data/text": "1 2 3", "model/model": "1 2 3", "payload": "4 5 6\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return {"payload": tmp_path / "payload", "training": tmp_path / "data"}


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def pids(tmp_path, monkeypatch):
    """A function that gives the processes whose ids tiny.py has left."""
    path = tmp_path / "pids"
    monkeypatch.setenv("TINY_PIDS", str(path))
    return lambda: [int(pid) for pid in path.read_text().split()] if path.exists() else []


# -- containers that somebody would point it at


# As little to learn as there can be, where the data of labs.json take long.
HYPERPARAMETERS = {"decision_trees": {"max_leaf_nodes": 5}, "unet": {"epochs": 1, "width": 2, "depth": 1}}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_our_own_containers_keep_every_promise(algorithm, tmp_path):
    training = ROOT / "data" / ("diabetes.csv" if algorithm.endswith("regressor") else "iris.csv")
    (payload,) = (ROOT / "container" / algorithm).glob("payload.*")
    media = {".csv": "text/csv", ".png": "image/png"}[payload.suffix]
    if media == "image/png":
        made = [sys.executable, str(ROOT / "data/cells.py"), str(tmp_path / "cells")]
        subprocess.run(made, check=True)
        training = {name: tmp_path / "cells" / name for name in ("training", "validation")}
    findings = contract.check(
        train=f"{OURS} {algorithm} train",
        serve=f"{OURS} {algorithm} serve",
        training=training,
        payload=payload,
        content_type=media,
        accept=media,
        hyperparameters=HYPERPARAMETERS.get(algorithm, {}),
    )
    assert names(findings, False) == names(findings, None) == set()
    assert len(findings) == 37


@pytest.fixture
def run_folder():
    """A folder that nginx's workers reach, which are another user's where this is root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield folder


def test_a_container_as_aws_sample(run_folder):
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not nginx:
        pytest.skip("nginx is not installed, which the sample needs")
    variables = (
        f"MODEL_SERVER_WORKERS=1 BENCH_RUN={run_folder} BENCH_TRAINING={shlex.quote(str(IRIS['training']))}"
    )
    words = f"env {variables} {shlex.quote(sys.executable)}"
    findings = contract.check(
        train=f"{words} {shlex.quote(str(BASELINE / 'train.py'))}",
        serve=f"{words} {shlex.quote(str(BASELINE / 'serve.py'))}",
        content_type="text/csv",
        **IRIS,
    )
    assert names(findings, False) == {
        "train writes output/failure when it fails",
        "an empty body gets a 4xx",
        "random bytes get a 4xx",
        "a refusal is neither HTML nor a traceback",
        "without a model serve ends with an exit code that is not 0, or /ping does not answer 200",
    }


def test_a_container_in_another_language_and_format(tmp_path):
    if not shutil.which("perl"):
        pytest.skip("perl is not installed")
    (tmp_path / "text").write_text("to be or not to be\n")
    (tmp_path / "payload").write_text("be\nthat\n")
    command = f"perl {shlex.quote(str(HERE / 'words.pl'))}"
    findings = contract.check(
        train=f"{command} train",
        serve=f"{command} serve",
        content_type="text/plain",
        training=tmp_path / "text",
        payload=tmp_path / "payload",
        accept="application/json",
    )
    assert names(findings, False) == set()
    assert names(findings, None) == {
        "GET /execution-parameters, where there is one, is JSON with the three names"
    }


# -- containers that break one promise each: the fault, what is broken, a word of what was found


TRAINING_FAULTS = {
    "": {},
    "exits 3": {
        "train ends with exit code 0 on the data, every hyperparameter being a string": "exit code 3"
    },
    "no model": {"train leaves a model under model/": "no file"},
    "writes into input": {"train leaves everything under input/ as it was": "input/data/training/index"},
    "writes elsewhere": {"train writes to model/, output/ and checkpoints/ alone": "cache"},
    "leaves a child": {"train leaves no process behind when it ends": "("},
    "always 0": {
        "train ends with an exit code that is not 0 when its channel is empty, or missing": "an empty channel: exit code 0"
    },
    "says nothing": {"train writes output/failure when it fails": "no channel: 0 bytes"},
    "traceback": {"output/failure is UTF-8, of at most 1,024 characters, without a traceback": "a traceback"},
    "long": {"output/failure is UTF-8, of at most 1,024 characters, without a traceback": "2,000 characters"},
}


@pytest.mark.parametrize(
    ("fault", "broken"), TRAINING_FAULTS.items(), ids=[fault or "none" for fault in TRAINING_FAULTS]
)
def test_a_training_that_breaks_a_promise(files, pids, fault, broken):
    hold(contract.check(train=tiny("train", fault), training=files["training"]), broken)
    assert not any(map(runs, pids()))


def test_a_training_that_does_not_stop(files, monkeypatch):
    monkeypatch.setattr(training, "STOP", 0.3)
    findings = contract.check(train=tiny("train", "ignores SIGTERM"), training=files["training"])
    broken = [each for each in findings if each.ok is False]
    assert [each.level for each in broken] == ["must", "should"]
    assert all(each.name.startswith(STOPPED) and each.found.startswith("no end") for each in broken)


LISTENS = "serve listens on its port"
PING = "GET /ping answers 200 within 2 s"
IN_A_CROWD = f"{PING} while eight requests run"
# http.server knows nothing of it: 411, or no answer where that comes while the body is still being sent.
CHUNKS = {"a chunked body gets 200": ""}
BATCH = "a server that was started for a batch transform answers the payload with 200"
SERVING_FAULTS = {
    "": CHUNKS,
    "other port": {LISTENS: "but something on "},
    "daemon": {LISTENS: "which left "},
    "ping 404": CHUNKS
    | {
        PING: "404",
        IN_A_CROWD: "404",
        f"{PING} while a request's body is still on its way": "404",
        BATCH: "no 200",
    },
    "500": {"POST /invocations answers the payload with 200 within 60 s": "500", BATCH: "500"},
    "HTML": CHUNKS
    | {
        "an empty body gets a 4xx": "500",
        "random bytes get a 4xx": "500",
        "a refusal is neither HTML nor a traceback": "HTML for an empty body; HTML for random bytes",
    },
    "dies": CHUNKS
    | {
        "an empty body gets a 4xx": "no answer",
        "random bytes get a 4xx": "no answer",
        "the payload gets 200 after all that": "no answer",
        "serve runs until it is told to stop": "exit code 1",
    },
    "unsteady": CHUNKS
    | {
        "the same payload gets the same answer, one after the other and eight at once": "10 answers to ten requests"
    },
    "second port": CHUNKS | {"serve listens on no other TCP port": ""},
    "half parameters": CHUNKS
    | {"GET /execution-parameters, where there is one, is JSON with the three names": "MaxPayloadInMB"},
    "ignores SIGTERM": CHUNKS
    | {"all of serve's processes are gone within 30 s of SIGTERM": ") still running"},
    "leaves a child": CHUNKS
    | {"all of serve's processes are gone within 30 s of SIGTERM": ") still running"},
    "exits 7": CHUNKS | {"serve ends with exit code 0 after SIGTERM": "exit code 7"},
    "needs no model": CHUNKS
    | {
        "without a model serve ends with an exit code that is not 0, or /ping does not answer 200": "200 on /ping"
    },
}


@pytest.mark.parametrize(
    ("fault", "broken"), SERVING_FAULTS.items(), ids=[fault or "none" for fault in SERVING_FAULTS]
)
def test_a_server_that_breaks_a_promise(files, tmp_path, pids, monkeypatch, fault, broken):
    monkeypatch.setattr(serving, "STOP", 2)
    patience = {"patience": 1} if fault in ("ping 404", "other port") else {}
    findings = contract.check(
        serve=tiny("serve", fault), model=tmp_path / "model", payload=files["payload"], **NUMBERS | patience
    )
    hold(findings, broken)
    assert not any(map(runs, pids()))


def hold(findings, broken: dict) -> None:
    """These and no others are broken, and each says what was found and how to mend it."""
    assert names(findings, False) == set(broken)
    for each in findings:
        if each.ok is False:
            assert broken[each.name] in each.found
            assert re.fullmatch(r"broken +(must|should) +\S.*  expected .+, found .+: .+", str(each))


def test_a_server_that_cannot_be_told_a_port(files, tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("TINY_PORT", str(port))
    words = {"serve": tiny("serve", "own port"), "model": tmp_path / "model", "payload": files["payload"]}
    findings = contract.check(**words, **NUMBERS | {"patience": 1})
    assert f"something on {port}, which --port would say" in findings[0].found
    assert names(contract.check(**words, **NUMBERS, port=port), False) == set(CHUNKS)
    with Program(shlex.split(tiny("serve")), tmp_path, port) as program:
        wait_until(lambda: port in program.ports())
        with pytest.raises(contract.ContractError, match=f"port {port} is taken"):
            contract.check(**words, **NUMBERS, port=port)


def test_a_model_that_is_written_to(files, tmp_path):
    findings = contract.check(
        serve=tiny("serve", "writes into model"),
        model=tmp_path / "model",
        payload=files["payload"],
        **NUMBERS,
    )
    if os.getuid() == 0:  # nobody else can
        assert "serve leaves model/ as it was" in names(findings, False)
    else:
        assert LISTENS in names(findings, False)


# -- the command


def command(*words, **options) -> subprocess.Popen:
    words = [sys.executable, "-m", "workshop.contract", *map(str, words)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )


@pytest.mark.parametrize(("fault", "code"), [("exits 3", 1), ("says nothing", 0)])
def test_only_a_broken_must_is_a_failure(files, fault, code):
    process = command("--train", tiny("train", fault), "--training", f"training={files['training']}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "1 broken" in output


def test_a_folder_of_container_is_checked_with_what_it_says_and_what_is_told(tmp_path):
    """Its labs.json names the data and hyperparameters; a broken training is one line, and what hangs on it another."""
    words = [
        "make",
        "--old-file=.venv/ready",
        "check-container",
        "ALGORITHM=random_forest_regressor",
        "HYPERPARAMETERS=trees=3 max_depth=2",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    used = dict(re.split("  +", line, maxsplit=1) for line in done.stdout.partition("\n\n")[0].splitlines())
    assert shlex.split(used["serve"]) == [str(ROOT / "container/run"), "random_forest_regressor", "serve"]
    assert used["training"] == f"training={ROOT / 'data/diabetes.csv'}"
    assert used["hyperparameters"] == "trees=3 max_depth=2" and used["content type"] == "text/csv"
    assert used["payload"] == str(ROOT / "container/random_forest_regressor/payload.csv")
    broken, left_out = done.stdout.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    assert broken.startswith("broken") and "'trees'" in broken
    assert re.match(r"left out +36 promises  “train ends with exit code 0 .*” is broken$", left_out)


def test_data_that_a_folder_says_how_to_make_are_made_first(monkeypatch, tmp_path):
    """Of several channels; and what cannot be made is said."""
    said = {"training": {"a": "build/x", "b": "data/iris.csv"}, "made_by": "-c 'print(1)'"}
    monkeypatch.setattr(__main__, "said", lambda folder, what: said.get(what, {}))
    monkeypatch.setattr(__main__, "sample", lambda folder: (said["training"], None, None))
    given = argparse.Namespace(
        algorithm="knn", train="", serve="", training=[], hyperparameters={}, content_type="", payload=""
    )
    __main__.fill_in(given)
    assert given.training == [f"a={ROOT / 'build/x'}", f"b={ROOT / 'data/iris.csv'}"]
    said["made_by"], given.training = "-c 'raise SystemExit(\"no room\")'", []
    with pytest.raises(contract.ContractError, match=r"cannot be made, by python .*no room"):
        __main__.fill_in(given)


WRONG = {
    "nothing": ([], "what shall be checked"),
    "no data": (["--train", "true"], "train needs something to learn from"),
    "no model": (["--serve", "true"], "serve needs a model"),
    "no payload": (["--serve", "true", "--model", "."], "name the payload"),
    "no such program": (["--train", "'no such'", "--training", "."], "there is no program 'no such'"),
    "no such file": (["--train", "true", "--training", "nowhere"], "training training: there is no nowhere"),
    "https": (["--url", "https://x", "--payload", ".", "--content-type", "x"], "expected http://HOST:PORT"),
    "no server": (
        ["--url", "http://127.0.0.1:1", "--payload", __file__, "--content-type", "x"],
        "start the container first",
    ),
    "no such folder": (
        ["--algorithm", "nope"],
        "there is no container/nope with a training.py; there are: dec",
    ),
    "hyperparameter": (["--train", "true", "--hyperparameter", "x"], "expected NAME=VALUE"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_checked_is_said(words, said):
    process = command(*words)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in output


def test_a_file_that_the_kernel_cannot_run_is_said(files, tmp_path):
    program = tmp_path / "train"
    program.write_text("print('no line that begins with #!')\n")
    program.chmod(0o755)
    process = command("--train", shlex.quote(str(program)), "--training", files["training"])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"{program} cannot be started" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_check_leaves_nothing_behind(files, pids, tmp_path, number):
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    process = command("--train", tiny("train", "hangs"), "--training", files["training"], env=environment)
    wait_until(lambda: len(pids()) == 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert not any(map(runs, pids()))
    assert not list(folder.iterdir())


def test_a_server_that_runs_already_is_asked(files, tmp_path):
    with Program(shlex.split(tiny("serve")), tmp_path, port := free_port()) as program:
        wait_until(lambda: port in program.ports())
        url = f"http://127.0.0.1:{port}"
        findings = contract.check(url=url, payload=files["payload"], **NUMBERS)
        assert program.wait(0) is None
    assert names(findings, False) == {"a chunked body gets 200"}
    assert {"serve listens on no other TCP port", BATCH} <= names(findings, None)
    assert LISTENS not in names(findings, None)


def test_the_container_of_an_image_is_removed_by_its_id(tmp_path, monkeypatch):
    """An engine's containers are no children of the command that started them."""
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path / "calls"))}\n[ "$1" = run ] || exit 0\n'
        'while [ "$1" != --cidfile ]; do shift; done\necho abc > "$2"\ntrap "" TERM\nsleep 600\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(docker))
    base = tmp_path / "ml"
    base.mkdir()
    with Program([str(ROOT / "tests/docker/in_image"), "an-image", "serve"], base) as program:
        wait_until(lambda: list(tmp_path.glob("ml.*.cid")))
    assert program.wait(0) is not None
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "rm --force abc"
