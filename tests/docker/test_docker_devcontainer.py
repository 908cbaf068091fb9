"""The dev container, built and started by its own CLI on the engine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker_tools import ROOT

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import devcontainer_cli


@pytest.mark.timeout(900)
def test_it_starts_and_has_what_the_labs_use(engine, tmp_path):
    """With an engine of its own where a container may be privileged; elsewhere all but that."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    shutil.copytree(ROOT / ".devcontainer", clone / ".devcontainer", dirs_exist_ok=True)
    for path in [tmp_path, *tmp_path.parents]:
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o711)
    if os.geteuid() == 0:  # the container's user, to whom the CLI gives the id of everybody but root
        subprocess.run(["chown", "-R", "1000:1000", str(clone)], check=True)
    settings = json.loads((clone / ".devcontainer/devcontainer.json").read_text())
    privileged = engine("run", "--rm", "--privileged", *_image(), "true", check=False).returncode == 0
    settings["privileged"] = privileged
    settings["build"] |= {"dockerfile": str(clone / ".devcontainer/Dockerfile")}
    changed = tmp_path / "devcontainer.json"
    changed.write_text(json.dumps(settings))

    docker = shutil.which(os.environ.get("DOCKER", "docker"))
    where = ["--workspace-folder", str(clone), "--docker-path", docker, "--override-config", str(changed)]

    def cli(verb: str, *more: str) -> str:
        command = [*devcontainer_cli.command(), verb, *where, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    try:
        # `make setup` asks a package index; test_setup.py has that.
        up = json.loads(cli("up", "--skip-post-create").splitlines()[-1])
        assert (up["outcome"], up["remoteUser"]) == ("success", "learner")
        said = cli(
            "exec",
            "sh",
            "-euc",
            "id -un; python3 --version; make help; touch here; nginx -v 2>&1; cc --version",
        )
        assert said.startswith("learner\nPython 3.11.") and "make labs" in said
        assert (clone / "here").exists()
        if privileged:
            asked = (
                "for i in $(seq 300); do docker info >/dev/null 2>&1 && exit; sleep 0.1; done; docker info"
            )
            cli("exec", "sh", "-c", asked)
    finally:
        label = f"label=devcontainer.local_folder={clone}"
        for container in engine("ps", "--all", "--quiet", "--filter", label).stdout.split():
            image = engine("inspect", "--format", "{{.Image}}", container).stdout.strip()
            engine("rm", "--force", "--volumes", container)
            engine("rmi", "--force", image, check=False)
        for volume in engine(
            "volume", "ls", "--quiet", "--filter", "name=sagemaker-byoa-docker-"
        ).stdout.split():
            engine("volume", "rm", "--force", volume, check=False)


def _image() -> list[str]:
    line = next(
        line
        for line in (ROOT / ".devcontainer/Dockerfile").read_text().splitlines()
        if line.startswith("ARG BASE_IMAGE=")
    )
    return [line.removeprefix("ARG BASE_IMAGE=")]
