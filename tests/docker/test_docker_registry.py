"""localaws' registry with the clients that people use, docker and skopeo, and pushes that go wrong."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from docker_tools import docker, until


@pytest.fixture
def image(engine):
    """image(bytes): a small image of random bytes, in this engine alone; removed after the test."""
    names = []

    def make(size: int = 1000) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo("content")
            member.size = size
            tar.addfile(member, io.BytesIO(os.urandom(size)))
        names.append(f"byoa-test-{uuid.uuid4().hex[:12]}")
        command = [os.environ.get("DOCKER", "docker"), "import", "-", names[-1]]
        subprocess.run(command, input=archive.getvalue(), capture_output=True, check=True, timeout=60)
        return names[-1]

    yield make
    for name in names:
        engine("rmi", "--force", name, check=False)


class Repository:
    """A repository of its own in localaws' ECR, and docker logged in to it."""

    def __init__(self, aws, folder: Path):
        self.ecr, self.name = aws.client("ecr"), f"sagemaker-{uuid.uuid4().hex[:8]}"
        self.uri = self.ecr.create_repository(repositoryName=self.name)["repository"]["repositoryUri"]
        self.config, self.tagged = str(folder), set()
        password = subprocess.run(
            ["aws", "ecr", "get-login-password"], env=aws.env, capture_output=True, text=True, check=True
        ).stdout
        self.credentials = f"AWS:{password.strip()}"
        host = self.uri.split("/")[0]
        command = ["--config", self.config, "login", "--username=AWS", "--password-stdin", host]
        assert "Login Succeeded" in docker(*command, input=password).stdout

    def push(self, image: str, tag: str = "latest", check: bool = True):
        docker("tag", image, f"{self.uri}:{tag}")
        self.tagged.add(f"{self.uri}:{tag}")
        return docker("--config", self.config, "push", f"{self.uri}:{tag}", check=check)

    def images(self) -> dict[str, list[str]]:
        """Tags by digest, as ECR lists them."""
        details = self.ecr.describe_images(repositoryName=self.name)["imageDetails"]
        return {detail["imageDigest"]: detail.get("imageTags", []) for detail in details}


@pytest.fixture
def repository(localaws, tmp_path, engine):
    made = Repository(localaws, tmp_path / "config")
    yield made
    for name in made.tagged:
        engine("rmi", "--force", name, check=False)


def test_push_and_pull_by_tag_and_by_digest(repository, image, engine):
    name = image()
    identity = engine("inspect", "--format", "{{.Id}}", name).stdout
    repository.push(name, "v1")
    [(digest, tags)] = repository.images().items()
    assert tags == ["v1"]
    for reference in (f"{repository.uri}:v1", f"{repository.uri}@{digest}"):
        engine("rmi", "--force", name, f"{repository.uri}:v1", check=False)
        engine("--config", repository.config, "pull", reference)
        assert engine("inspect", "--format", "{{.Id}}", reference).stdout == identity
        engine("rmi", "--force", reference)


def test_a_repeated_push_sends_nothing_again(repository, image):
    name = image()
    first, second = repository.push(name), repository.push(name)
    assert "Pushed" in first.stdout
    assert "Layer already exists" in second.stdout
    assert "Pushed" not in second.stdout
    assert len(repository.images()) == 1


def test_pushes_at_once(repository, image):
    names = {f"v{number}": image(500_000) for number in range(4)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pair: repository.push(pair[1], pair[0]), names.items()))
    assert sorted(tag for tags in repository.images().values() for tag in tags) == sorted(names)


def test_an_interrupted_push_lists_nothing_and_goes_on_later(repository, image, localaws):
    name = image(200_000_000)
    docker("tag", name, f"{repository.uri}:big")
    repository.tagged.add(f"{repository.uri}:big")
    uploads = localaws.home / "registry/repositories" / repository.name / "_uploads"
    command = [
        os.environ.get("DOCKER", "docker"),
        "--config",
        repository.config,
        "push",
        f"{repository.uri}:big",
    ]
    push = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(
            lambda: uploads.is_dir() and any(file.stat().st_size > 1_000_000 for file in uploads.iterdir()),
            30,
            "the middle of a push",
        )
    finally:
        push.kill()
        push.wait()
    assert repository.images() == {}
    repository.push(name, "big")
    assert list(repository.images().values()) == [["big"]]


def test_what_is_not_there_is_said(repository, image, engine):
    unknown = engine("--config", repository.config, "pull", f"{repository.uri}:nothing", check=False)
    assert unknown.returncode != 0
    assert "not found" in unknown.stderr
    wrong = f"{repository.uri}@sha256:{'0' * 64}"
    unknown = engine("--config", repository.config, "pull", wrong, check=False)
    assert unknown.returncode != 0
    assert "not found" in unknown.stderr
    missing = f"{repository.uri.split('/')[0]}/sagemaker-nobody-made-this"
    engine("tag", image(), missing)
    refused = engine("--config", repository.config, "push", missing, check=False)
    engine("rmi", missing)
    assert refused.returncode != 0
    assert "does not exist" in refused.stderr + refused.stdout


def test_nobody_who_is_not_logged_in_may_push(repository, image, engine, tmp_path):
    engine("tag", image(), f"{repository.uri}:x")
    repository.tagged.add(f"{repository.uri}:x")
    done = engine("--config", str(tmp_path / "nobody"), "push", f"{repository.uri}:x", check=False)
    assert done.returncode != 0
    assert "no basic auth credentials" in done.stderr + done.stdout
    assert repository.images() == {}


def test_a_deleted_image_cannot_be_pulled(repository, image, engine):
    repository.push(image(), "v1")
    repository.ecr.batch_delete_image(repositoryName=repository.name, imageIds=[{"imageTag": "v1"}])
    assert repository.images() == {}
    engine("rmi", f"{repository.uri}:v1")
    assert engine("--config", repository.config, "pull", f"{repository.uri}:v1", check=False).returncode != 0


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_copies_what_docker_pushed(repository, image, engine, tmp_path):
    repository.push(image(), "v1")
    [digest] = repository.images()

    def skopeo(*words):
        return subprocess.run(
            ["skopeo", *words], capture_output=True, text=True, check=True, timeout=60
        ).stdout

    source = [f"--src-creds={repository.credentials}", "--src-tls-verify=false"]
    target = [f"--dest-creds={repository.credentials}", "--dest-tls-verify=false"]
    skopeo("copy", *source, f"docker://{repository.uri}@{digest}", f"dir:{tmp_path}/copy")
    skopeo("copy", *target, f"dir:{tmp_path}/copy", f"docker://{repository.uri}:v2")
    assert {digest: sorted(tags) for digest, tags in repository.images().items()} == {digest: ["v1", "v2"]}
    login = [f"--creds={repository.credentials}", "--tls-verify=false"]
    told = json.loads(skopeo("inspect", *login, f"docker://{repository.uri}:v2"))
    assert (told["Digest"], sorted(told["RepoTags"])) == (digest, ["v1", "v2"])
    # To OCI's own format and back: another manifest for the same layers.
    skopeo(
        "copy",
        "--format=oci",
        *source,
        *target,
        f"docker://{repository.uri}:v1",
        f"docker://{repository.uri}:oci",
    )
    assert engine("--config", repository.config, "pull", f"{repository.uri}:oci")
    repository.tagged.add(f"{repository.uri}:oci")
    skopeo("delete", *login, f"docker://{repository.uri}:v2")
    # skopeo deletes by digest, so both tags of it go, as the protocol has it.
    assert [tags for tags in repository.images().values()] == [["oci"]]
