"""The scripts: what they print and refuse without an engine, and what they do with one."""

import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from docker_tools import BOTH, NAME, ROOT, until

CONTAINER = ROOT / "container"
TRAIN, SERVE, PREDICT, DEBUG = (
    f"local_test/{name}.sh" for name in ("train_local", "serve_local", "predict", "debug_local")
)
SCRIPTS = ["build_local.sh", "build_and_push.sh", TRAIN, SERVE, PREDICT, DEBUG]
NONE = {"DOCKER": "no-such-docker", "DOCKER_HOST": ""}


def sh(script, *words, env=None, cwd=None, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(script if isinstance(script, Path) else CONTAINER / script), *words],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        **options,
    )


# -- without an engine


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script):
    done = sh(script, "--help", env=NONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: container/{script}")


REFUSED = {
    "build_local.sh": [
        ([], "NAME is missing"),
        (["a", "b"], "'b'"),
        (["a", "--colour"], "--colour"),
        (["a", "--tag"], "--tag needs a value"),
        (["Trees"], "'Trees' is not a name"),
        (["trees:v1"], "tags go to --tag"),
        (["a", "--tag", "v 1"], "--tag 'v 1'"),
        (["a", "--target", "predict"], "both, train, serve"),
        (["a", "--algorithm", "forests"], "container/forests"),
        (["a", "--ca", "/no/such/file"], "/no/such/file"),
        (["a", "--pip-conf", "/no/such/file"], "/no/such/file"),
        (["a", "--wheels", "/no/such/folder"], "/no/such/folder"),
        (["a"], "'no-such-docker' is not installed"),
    ],
    "build_and_push.sh": [([], "NAME is missing"), (["a", "--target", "predict"], "both, train, serve")],
    TRAIN: [
        ([], "IMAGE is missing"),
        (["a", "/no/such/folder"], "input/config"),
        (["a"], "is not installed"),
    ],
    SERVE: [(["a", "--port", "x"], "--port needs a number"), (["a", "b", "c"], "one word too many")],
    DEBUG: [(["--verbose"], "unknown option --verbose")],
    PREDICT: [
        ([], "PAYLOAD is missing"),
        (["/no/such/file"], "cannot read the file '/no/such/file'"),
        (["a", "b", "c"], "one word too many: c"),
        (["a", "--port", "x"], "--port needs a number"),
        (["a", "--colour"], "unknown option --colour"),
    ],
}


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [(script, words, message) for script, cases in REFUSED.items() for words, message in cases],
)
def test_what_cannot_be_done_is_refused_by_name(script, words, message):
    done = sh(script, *words, env=NONE)
    assert done.returncode == 1
    assert message in done.stderr


def test_dry_run_prints_the_commands_and_runs_none():
    done = sh(
        "build_and_push.sh",
        "sagemaker-x",
        "--tag",
        "v1",
        "--dry-run",
        env={**NONE, "AWS_REGION": "eu-west-1"},
    )
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in words if line[0] == "no-such-docker"] == ["build", "tag", "push"]
    assert "--platform linux/amd64" in done.stdout
    assert [line[6] for line in words if line[0] == "aws"] == [
        "create-repository",
        "put-lifecycle-policy",
        "get-login-password",
    ]
    assert "--region eu-west-1" in done.stdout
    assert "scanOnPush=true" in done.stdout


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_PROFILE": "there"}, "ap-south-1"),
        ({}, "us-west-2"),
    ],
)
def test_the_region(tmp_path, variables, region):
    config = tmp_path / "config"
    config.write_text("[profile there]\nregion = ap-south-1\n")
    kept = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [CONTAINER / "build_and_push.sh", "sagemaker-x", "--dry-run"],
        env=kept | NONE | {"AWS_CONFIG_FILE": str(config)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"--region {region} " in done.stdout, done.stderr


@pytest.mark.parametrize(("options", "given"), [("--secret --provenance", True), ("--secret", False)])
def test_provenance_is_turned_off_where_the_builder_knows_it(tmp_path, options, given):
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{options}'\n")
    docker.chmod(0o755)
    done = sh("build_local.sh", "x", "--dry-run", env={"DOCKER": str(docker)})
    assert ("--provenance=false" in done.stdout) == given


def test_secrets_are_files_and_never_arguments(tmp_path):
    for name in ("pip.conf", "ca.pem"):
        (tmp_path / name).write_text("secret")
    files = [str(tmp_path / "pip.conf"), str(tmp_path / "ca.pem")]
    done = sh("build_local.sh", "x", "--dry-run", "--pip-conf", files[0], "--ca", files[1], env=NONE)
    assert f"--secret id=pip_conf\\,src={files[0]}" in done.stdout
    assert f"--secret id=ca_bundle\\,src={files[1]}" in done.stdout
    arguments = [word for word in done.stdout.split() if word.startswith(("ALGORITHM", "BASE"))]
    assert arguments == ["ALGORITHM=decision_trees"]


def test_wheels_go_into_a_build_whose_lock_files_name_them(tmp_path):
    for name in ("torch-2.13.0+cpu-cp311-cp311-linux_x86_64", "torch-2.12.0-cp311-cp311-linux_x86_64"):
        (tmp_path / f"{name}.whl").touch()
    (tmp_path / "ml_dtypes-0.6.0-cp311-cp311-linux_x86_64.whl").touch()  # ml-dtypes, in a lock file

    def planned(*words, **variables):
        done = sh("build_local.sh", "x", *words, "--dry-run", env=NONE | {"PIP_FIND_LINKS": ""} | variables)
        assert done.returncode == 0 and not done.stderr, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 2 or "WHEELS" not in done.stdout
        assert "WHEELS=x-wheels:latest" in lines[-1] or len(lines) == 1
        return [word.partition("-")[::2] for word in lines[0].split() if word.endswith(".whl")]

    unet = ["--algorithm", "unet"]
    there = [
        ("ml_dtypes", "0.6.0-cp311-cp311-linux_x86_64.whl"),
        ("torch", "2.13.0+cpu-cp311-cp311-linux_x86_64.whl"),
    ]
    assert planned(*unet, "--wheels", str(tmp_path)) == there
    assert planned(*unet, "--target", "train", PIP_FIND_LINKS=str(tmp_path)) == there
    assert planned(*unet, "--target", "serve", "--wheels", str(tmp_path)) == []
    assert planned(PIP_FIND_LINKS=str(tmp_path)) == there[:1]
    assert planned(*unet, PIP_FIND_LINKS="https://example.com/wheels") == []


def test_the_training_file_is_kept_once():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in listed.splitlines() if name.endswith("iris.csv")] == ["data/iris.csv"]


# -- with an engine


@pytest.fixture
def clone(tmp_path) -> Path:
    """container/ and data/ under a path with blanks."""
    root = tmp_path / "a clone with blanks"
    for folder in ("container", "data"):
        shutil.copytree(
            ROOT / folder, root / folder, ignore=shutil.ignore_patterns("model", "output", "data")
        )
    shutil.copytree(ROOT / "data", root / "data", dirs_exist_ok=True)
    return root


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_train_serve_predict_twice_from_another_folder(engine, clone, tmp_path):
    local_test = clone / "container/local_test"
    for _ in range(2):
        done = sh(local_test / "train_local.sh", BOTH, cwd="/")
        assert done.returncode == 0, done.stderr
        assert "training_accuracy=0.98" in done.stdout
    assert (local_test / "test_dir/model/model.onnx").exists()

    for _ in range(2):
        port = free_port()
        with open(tmp_path / "serve.log", "wb") as log:
            command = [local_test / "serve_local.sh", BOTH, "--port", port]
            server = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, start_new_session=True)
        try:
            predict = [
                local_test / "predict.sh",
                str(clone / "container/decision_trees/payload.csv"),
                "--port",
                port,
            ]
            until(lambda command=predict: sh(*command, cwd="/").returncode == 0, 40, "an answer")
            done = sh(*predict, cwd="/")
            assert done.stdout.split() == ["setosa"] * 4 + ["versicolor"] * 3 + ["virginica"] * 3
            payload = tmp_path / "rows.json"
            payload.write_text('{"instances": [[5.1, 3.5, 1.4, 0.2]]}')
            typed = sh(local_test / "predict.sh", str(payload), "application/json", "--port", port)
            assert json.loads(typed.stdout) == {"predictions": [{"predicted_label": "setosa"}]}
            payload.write_text("5.1,x\n")
            refused = sh(local_test / "predict.sh", str(payload), "--port", port)
            assert refused.returncode == 1
            assert "row 1, column 2" in refused.stdout
            assert "status 400" in refused.stderr
            taken = sh(local_test / "serve_local.sh", BOTH, "--port", port)
            assert taken.returncode == 1
            assert f"port {port} is taken" in taken.stderr
            assert re.search(r"docker stop [0-9a-f]{12}\b", taken.stderr), "it names the container"
        finally:
            os.killpg(server.pid, signal.SIGINT)  # Ctrl-C
            code = server.wait(40)
        print((tmp_path / "serve.log").read_text())
        assert code == 0
    assert not engine("ps", "--quiet", "--filter", f"ancestor={BOTH}", "--filter", f"publish={port}").stdout


def test_a_failure_is_shown_and_its_exit_code_kept(engine, clone):
    test_dir = clone / "container/local_test/test_dir"
    (test_dir / "input/data/training").mkdir(parents=True)
    (test_dir / "input/data/training/bad.csv").write_text("a,1\nb,x\n")
    done = sh(clone / "container" / TRAIN, BOTH)
    assert done.returncode == 1
    assert "bad.csv: row 2, column 2" in (test_dir / "output/failure").read_text()


def test_ctrl_c_stops_a_training(engine, clone, tmp_path):
    test_dir = clone / "container/local_test/test_dir"
    (test_dir / "input/data").mkdir()
    config = {"training": {"TrainingInputMode": "Pipe"}}
    (test_dir / "input/config/inputdataconfig.json").write_text(json.dumps(config))
    os.mkfifo(test_dir / "input/data/training_0")  # nobody ever writes: train waits
    with open(tmp_path / "train.log", "wb") as log:
        command = [clone / "container" / TRAIN, BOTH]
        training = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    until(lambda: (test_dir / "model/.partial").exists(), 30, "the beginning")
    os.killpg(training.pid, signal.SIGINT)
    assert training.wait(30) != 0
    assert "SIGINT" in (tmp_path / "train.log").read_text()
    assert not list((test_dir / "model").iterdir())


def test_debug_is_a_shell_with_everything_mounted(engine, clone):
    predictor = clone / "container/decision_trees/predictor.py"
    predictor.write_text(predictor.read_text().replace('"""', '"""Edited. ', 1))
    script = "train && ls /opt/ml/model && head -1 /src/decision_trees/predictor.py\n"
    script += "/src/run decision_trees train | grep training_rows; exit\n"
    done = sh(clone / "container" / DEBUG, BOTH, "--port", free_port(), input=script)
    assert done.returncode == 0, done.stderr
    for said in ("training_accuracy=", "model.onnx", "Edited.", "training_rows=150"):
        assert said in done.stdout


@pytest.mark.parametrize("script", [TRAIN, SERVE, DEBUG])
def test_a_missing_image_is_named_with_the_command_that_builds_it(engine, script):
    done = sh(script, "sagemaker-nobody-built:v7")
    assert done.returncode == 1
    assert "container/build_local.sh sagemaker-nobody-built" in done.stderr


def test_serving_without_a_model_says_to_train_first(engine, clone):
    done = sh(clone / "container" / SERVE, BOTH)
    assert done.returncode == 1
    assert "train_local.sh" in done.stderr


def test_an_engine_that_does_not_answer_is_said(engine, tmp_path):
    done = sh(TRAIN, BOTH, env={"DOCKER_HOST": f"unix://{tmp_path}/none"})
    assert done.returncode == 1
    assert "no Docker engine answers" in done.stderr


@pytest.mark.root("can become another user")
def test_no_root_owned_files_are_left_for_a_user(engine, clone):
    """As an ordinary user who may use docker."""
    nobody = pwd.getpwnam("nobody")
    for path in [clone, *clone.rglob("*")]:
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    for parent in clone.parents:
        if parent.stat().st_uid == 0 and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    address = engine("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()
    group = os.stat(address.removeprefix("unix://")).st_gid
    done = sh(
        clone / "container" / TRAIN,
        BOTH,
        env={"HOME": str(clone)},
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[group],
    )
    assert done.returncode == 0, done.stderr
    assert (clone / "container/local_test/test_dir/model/model.onnx").exists()
    owners = {path: path.stat().st_uid for path in clone.rglob("*")}
    assert set(owners.values()) == {nobody.pw_uid}, [path for path, uid in owners.items() if uid == 0]


@pytest.mark.timeout(600)
def test_build_and_push_to_localaws(engine, localaws, clone):
    name = f"{NAME}-pushed"
    try:
        for turn in range(2):  # the second time the repository and the layers are there
            done = sh(
                clone / "container/build_and_push.sh",
                name,
                "--target",
                "serve",
                "--tag",
                "v1",
                env=localaws.env,
            )
            assert done.returncode == 0, done.stderr
            assert ("repository/" in done.stdout) == (turn == 0)
        digest, uri = [line.split()[1] for line in done.stdout.splitlines()[-2:]]
        ecr = localaws.client("ecr")
        repository = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
        assert uri == f"{repository['repositoryUri']}:v1"
        assert repository["imageScanningConfiguration"]["scanOnPush"] is True
        policy = json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])
        assert policy["rules"][0]["selection"]["countNumber"] == 10
        [image] = ecr.describe_images(repositoryName=name)["imageDetails"]
        assert (image["imageDigest"], image["imageTags"]) == (digest, ["v1"])
        assert f"digest: {digest}" in done.stdout  # what docker itself says it pushed
    finally:
        engine("rmi", "--force", f"{name}:v1", check=False)
