"""Images built without Docker: the same files give the same image, and what was pushed is what is there."""

import json
import stat
import subprocess
import sys

import pytest

from localaws import images
from localaws.images.registry import Registry
from localaws.state import locate


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A container/ of the test's own, and a home."""
    for path, text in {
        "stack/train": "#!/bin/sh\n",
        "stack/serve": "#!/bin/sh\n",
        "stack/app.py": "app\n",
        "stack/sub/data.txt": "data\n",
        "stack/__pycache__/app.pyc": "no",
        "stack/.hidden": "no",
        "trees/training.py": "training\n",
        "trees/requirements.txt": "numpy\n",
    }.items():
        file = tmp_path / "container" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(locate, "ROOT", tmp_path)
    monkeypatch.setenv("LOCALAWS_HOME", str(tmp_path / "home"))
    return tmp_path / "container"


def test_the_image_is_a_well_formed_oci_image_of_one_layer(sources, tmp_path):
    image = images.build("trees", "sagemaker-trees:v1")
    assert image.name == "sagemaker-trees:v1"
    assert image.files == (
        "requirements.txt",
        "stack/app.py",
        "stack/serve",
        "stack/sub/data.txt",
        "stack/train",
        "training.py",
    )
    layout = tmp_path / "home/images"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}

    def blob(digest):
        return json.loads((layout / "blobs/sha256" / digest[7:]).read_text())

    manifest = blob(image.digest)
    assert manifest["mediaType"] == images.MANIFEST
    assert len(manifest["layers"]) == 1
    config = blob(manifest["config"]["digest"])
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["config"]["WorkingDir"] == "/opt/program"
    assert config["config"]["Env"][0].startswith("PATH=/opt/program:")
    assert "Cmd" not in config["config"]
    assert "Entrypoint" not in config["config"], "SageMaker's `train` is the command"


def test_builds_of_the_same_files_at_once(sources, tmp_path):
    """As learners who share a localaws do: the blobs have the same names."""
    program = (
        "import pathlib, sys, localaws; from localaws import images; localaws.state.locate.ROOT = pathlib.Path(sys.argv[1])\n"
        "for number in range(40): images.build('trees', f'trees-{sys.argv[2]}:v{number}')"
    )
    builders = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(number)], stderr=subprocess.PIPE)
        for number in range(3)
    ]
    for builder in builders:
        assert builder.wait(60) == 0, builder.stderr.read().decode()
        builder.stderr.close()
    assert len({image.digest for image in images.listed()}) == 1
    assert len(images.listed()) == 120


def test_the_same_files_give_the_same_digest(sources):
    first = images.build("trees", "one")
    for file in sources.rglob("*"):
        file.touch()
    (sources / "stack/train").chmod(0o755)
    assert images.build("trees", "two").digest == first.digest
    (sources / "trees/training.py").write_text("other\n")
    assert images.build("trees", "two").digest != first.digest
    assert [image.name for image in images.listed()] == ["one:latest", "two:latest"]
    assert images.inspect("one").digest == first.digest


def test_the_size_has_the_packages_in_it_that_docker_would_have_put_into_the_image(
    sources, tmp_path, monkeypatch
):
    assert images.build("trees", "trees").size == images.size("trees")
    packages, elsewhere = tmp_path / "environment/lib/packages", tmp_path / "elsewhere"
    for file in (packages / "own.py", packages / "__pycache__/own.pyc", elsewhere / "linked.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1000 bytes".ljust(1000))
    (packages / "linked").symlink_to(elsewhere)
    (packages / "gone").symlink_to(tmp_path / "nowhere")
    asked = []

    def python(locks, progress):
        asked.append({file.name: file.read_text() for file in locks[0].parent.glob("*.lock")})
        return tmp_path / "environment/bin/python3"

    monkeypatch.setattr(images.environments, "python", python)
    monkeypatch.setattr(images.environments, "check_imports", lambda *_: None)
    written = {"requirements-train.lock": "a==1\n", "requirements-train.cuda.lock": "b==1\n"}
    for name, text in written.items():
        (sources / "trees" / name).write_text(text)
    images.build("trees", "trees")
    (sources / "trees/requirements-train.lock").write_text("of a later build")
    assert images.size("trees") == images.inspect("trees").size + 2000
    assert asked[-1] == written


def test_what_cannot_be_built_is_refused_by_name(sources):
    (sources / "stack/train").write_bytes(b"#!/bin/sh\r\necho\r\n")
    with pytest.raises(ValueError, match=r"stack/train has CRLF"):
        images.build("trees", "x")
    (sources / "stack/train").unlink()
    with pytest.raises(ValueError, match=r"stack/train is missing"):
        images.build("trees", "x")
    (sources / "trees/stack.py").write_text("again")
    with pytest.raises(ValueError, match=r"container/trees/stack.py has the name of what every image has"):
        images.build("trees", "x")
    for name in ("nothing", "stack"):
        with pytest.raises(ValueError, match=r"there are: trees"):
            images.build(name, "x")
    for name in ("UPPER", "a:b:c", "", "a b", ":tag"):
        with pytest.raises(ValueError, match=r"is not NAME\[:TAG\]"):
            images.build("trees", name)
    with pytest.raises(ValueError, match=r"no local image x:latest"):
        images.inspect("x")


def test_push_arrives_whole_and_is_what_the_engine_gets(localaws, monkeypatch, sources):
    monkeypatch.setenv("LOCALAWS_HOME", str(localaws.home))
    image = images.build("trees", "pushed")
    ecr = localaws.client("ecr")
    uri = ecr.create_repository(repositoryName="sagemaker-pushed")["repository"]["repositoryUri"]
    lines = []
    assert images.push("pushed", uri, lines.append) == image.digest
    assert [line.split()[-1] for line in lines[:2]] == ["pushed", "pushed"]
    assert images.push("pushed", f"{uri}:v2", lines.append) == image.digest
    assert [line.split("bytes ")[1] for line in lines[3:5]] == ["already there", "already there"]
    [detail] = ecr.describe_images(repositoryName="sagemaker-pushed")["imageDetails"]
    assert (detail["imageTags"], detail["imageSizeInBytes"]) == (["latest", "v2"], image.size)
    registry = Registry(localaws.home)
    program = registry.unpack(registry.resolve(f"{uri}:v2")) / "opt/program"
    assert (program / "training.py").read_text() == "training\n"
    assert stat.S_IMODE((program / "stack/train").stat().st_mode) == 0o755
    assert stat.S_IMODE((program / "stack/app.py").stat().st_mode) == 0o644


def test_push_says_what_is_wrong_and_how_to_mend_it(localaws, monkeypatch, sources):
    monkeypatch.setenv("LOCALAWS_HOME", str(localaws.home))
    images.build("trees", "unpushed")
    host = localaws.endpoint_url.removeprefix("http://")
    with pytest.raises(
        RuntimeError, match=r"NAME_UNKNOWN.*aws ecr create-repository --repository-name sagemaker-none"
    ):
        images.push("unpushed", f"{host}/sagemaker-none")
    with pytest.raises(RuntimeError, match=r"does not answer.*localaws up"):
        images.push("unpushed", "127.0.0.1:1/sagemaker-none")
    for uri in ("111111111111.dkr.ecr.us-west-2.amazonaws.com/x", f"{host}/x@sha256:{'0' * 64}", "x"):
        with pytest.raises(ValueError, match=r"not in localaws' registry"):
            images.push("unpushed", uri)


def test_a_folder_of_ones_own_is_the_program_itself(sources, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    (mine / "inner").mkdir(parents=True)
    (mine / "train").write_text("#!/bin/sh\necho trained\n")
    (mine / "inner" / "words.txt").write_text("here\n")
    (mine / ".hidden").write_text("not here\n")
    built = images.build(str(mine), "mine")
    assert built.files == ("inner/words.txt", "train")
    monkeypatch.chdir(tmp_path)
    assert images.build("./mine", "again").digest == built.digest, "wherever it lies"
    assert images.changed("mine") == []
    (mine / "train").write_text("#!/bin/sh\necho trained again\n")
    assert images.changed("mine") == ["mine/train"]


def test_a_folder_without_a_program_is_refused(sources, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder: name one"):
        images.build("./nowhere", "x")
    (tmp_path / "serve").write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match=r"has no train: SageMaker starts"):
        images.build(str(tmp_path), "x", target="train")
