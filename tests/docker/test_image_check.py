"""`python -m workshop.image_check`: ours passes, and each broken promise is named."""

import json
import os
import subprocess
import sys

import pytest
from docker_tools import BOTH, SERVE, TRAIN

from workshop import image_check


def check(image: str, *words: str, env=None) -> tuple[int, list[str]]:
    """Exit code, and the lines that say FAIL."""
    command = [sys.executable, "-m", "workshop.image_check", image, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, **(env or {})}
    )
    print(done.stdout, done.stderr)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("[FAIL]")]


def test_ours_keep_all_promises(engine):
    assert check(BOTH) == (0, [])
    assert check(TRAIN, "--only", "train") == (0, [])


def test_a_serving_image_is_checked_with_a_model_that_is_there(engine, model):
    assert check(SERVE, "--only", "serve", "--test-dir", str(model)) == (0, [])


BROKEN = {
    "CRLF": ("train", "#!/bin/sh\r\nexit 0\r\n", "LF line ends"),
    "exit 0 after a failure": ("train", "#!/bin/sh\ntouch /opt/ml/model/m\nexit 0\n", "broken data"),
    "no model": ("train", "#!/bin/sh\nexit 0\n", "leaves a model"),
    "no failure file": ("train", "#!/bin/sh\ntouch /opt/ml/model/m; exit 3\n", "/opt/ml/output/failure"),
    "serve ends at once": ("serve", "#!/bin/sh\nexit 3\n", "answers /ping"),
}


@pytest.mark.parametrize(("verb", "program", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_named(image_of, model, verb, program, words):
    code, failed = check(image_of(program, verb), "--only", verb, "--test-dir", str(model))
    assert code == 1
    assert any(words in line for line in failed)


def test_a_secret_in_the_history_and_a_bad_config_are_named(engine):
    container = engine("create", BOTH, "train").stdout.strip()
    image = "byoa-test-secret"
    changes = ["ENV PIP_INDEX_URL=https://me:hunter22@index.example.com/simple", 'ENTRYPOINT ["train"]']
    engine("commit", *[f"--change={change}" for change in changes], container, image)
    engine("rm", container)
    try:
        code, failed = check(image, "--only", "train")
    finally:
        engine("rmi", image)
    assert code == 1
    assert any("a password in an address" in line for line in failed)
    assert any("no ENTRYPOINT" in line for line in failed)


def test_secrets_in_a_layer_are_named_even_where_a_later_layer_removes_them(run, engine):
    key, secret = "AKIA" + "A1" * 8, "-----BEGIN PRIVATE KEY-----\n" + "c2VjcmV0" * 8 + "\n"
    write = f"""
import pathlib
for path, text in {{
    "/root/.aws/credentials": "aws_access_key_id = {key}",
    "/root/.netrc": "",  # empty: there is none in it
    "/etc/pip.conf": "[global]\\nindex-url = https://me:hunter22@index.example.com/simple",
    "/opt/notes.txt": "{key}",
    "/opt/key.pem": {secret!r},
    "/opt/library.py": "words = ('-----BEGIN PRIVATE KEY-----', 'AKIA', 'password = secret')",
}}.items():
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    pathlib.Path(path).write_text(text)
"""
    remove = "rm -r /root/.aws /root/.netrc /etc/pip.conf /opt/notes.txt /opt/key.pem /opt/library.py"
    images = ["byoa-test-layer:written", "byoa-test-layer:removed"]
    try:
        for image, name, command in zip(
            [BOTH, images[0]], images, [("python3", "-c", write), ("sh", "-c", remove)], strict=True
        ):
            container = run(image, *command, options=("--network=none",))
            assert engine("wait", container).stdout.strip() == "0"
            engine("commit", "--change=CMD train", container, name)
        for _, what, hint in image_check._secrets(image_check.Docker(images[1])):
            found = hint if "layers" in what else ""
    finally:
        engine("rmi", "--force", *images, check=False)
    assert found.partition(":")[0].split(", ") == [
        "/root/.aws/credentials",
        "a password in /etc/pip.conf",
        "a private key in /opt/key.pem",
        "an AWS access key in /opt/notes.txt",
        "an AWS access key in /root/.aws/credentials",
    ]


def test_a_missing_image_is_said(engine):
    assert check("sagemaker-nobody-built") == (2, [])


def test_no_engine_is_said(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER", "no-such-docker")
        with pytest.raises(image_check.ImageCheckError, match="not installed"):
            image_check.check_image("x")


def test_an_index_another_platform_and_a_giant_are_named(monkeypatch):
    """What this engine cannot make: only the words of `docker image inspect` matter here."""
    about = {
        "Os": "linux",
        "Architecture": "arm64",
        "Size": 11e9,
        "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json"},
        "Config": {"Env": [], "Entrypoint": None},
    }

    def run(self, *words, **options):
        out = {"version": b"28", "image": json.dumps([about]).encode(), "history": b"", "create": b"c"}
        return subprocess.CompletedProcess(words, 1 if words[0] == "cp" else 0, out.get(words[0], b""), b"")

    monkeypatch.setattr(image_check.Docker, "run", run)
    monkeypatch.setattr(image_check.Docker, "files", lambda *_: iter(()))
    docker = image_check.Docker("x")
    failed = [
        what
        for there, what, _ in image_check._findings(docker, image_check.TEST_DIR, ("train",))
        if not there
    ]
    assert failed == [
        "its platform is linux/arm64",
        "its manifest is one image, not an index",
        "its size is 11.00 GB",
        "train is on the PATH",
    ]
