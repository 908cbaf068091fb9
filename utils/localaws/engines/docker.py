"""The `docker` engine: an image pulled by digest from localaws' registry, run in containers, as SageMaker runs it.

Each container has a `docker run` of its own that stays attached, so a container is to everybody else what a program of
the `process` engine is: a recorded process that prints lines, takes SIGTERM and ends with an exit code. Containers and
networks carry the label `localaws.home`: what a killed server left behind is found by it and removed at the next start.

An image that `python -m localaws build` made has no operating system in it: such an image runs as a process here, too.
A container reaches other containers and the internet, but not localaws itself, which listens on 127.0.0.1 alone.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from localaws.images.registry import repository
from localaws.state import locate, processes
from localaws.state.processes import write_json

from .network import INTERFACE
from .process import Container, ProcessEngine, Spec, StartError, Unpacked, built_here

LABEL = "localaws.home"
JOINED_NOTICE = (
    "[localaws] engine: docker. The job's hosts are containers on a network of the job's own, by which they reach each "
    "other by name{}."
)
PORT = 8080  # SageMaker's, inside a container
ENGINES = ("docker", "process")
PATIENCE = 30  # seconds for what the engine answers at once; a pull may take minutes
PULL_SECONDS = 1800
FAMILY_MEMORY = {"c": 2, "m": 4, "t": 4, "r": 8}  # GiB a virtual CPU, by an instance type's first letter
SIZES = {"medium": 2, "large": 2, "xlarge": 4}  # virtual CPUs; 4xlarge has four times those of xlarge


def choose(home: Path, endpoint_url: str) -> ProcessEngine:
    """The engine that LOCALAWS_ENGINE names; where it names none, docker if an engine answers, else process.

    Raises ValueError for another word, and RuntimeError when docker is asked for and does not answer.
    """
    wanted = os.environ.get("LOCALAWS_ENGINE") or None
    if wanted not in (None, *ENGINES):
        raise ValueError(f"LOCALAWS_ENGINE={wanted} is none of {', '.join(ENGINES)}: mend it, or unset it")
    # What a program may use to call AWS: this server, with its owner's keys. Programs of several hosts speak plain HTTP
    # with each other, which goes by no proxy.
    environment = {
        name: value
        for name, value in locate.environment(endpoint_url).items()
        if name.lower() != "http_proxy"
    }
    if wanted == "process":
        return ProcessEngine(home, environment)
    problem = _problem()
    if problem is None:
        return DockerEngine(home, environment, endpoint_url)
    if wanted == "docker":
        raise RuntimeError(f"LOCALAWS_ENGINE=docker, but no Docker engine answers: {problem}")
    return ProcessEngine(home, environment)


def _problem() -> str | None:
    """Why there is no engine, or None when one answers."""
    if shutil.which("docker") is None:
        return "the docker command is not installed"
    asked = _docker("version", "--format", "{{.Server.Os}}", check=False, timeout=5)
    if asked.returncode:
        return asked.stderr.strip().rpartition("\n")[2]
    return None if asked.stdout.strip() == "linux" else f"it runs {asked.stdout.strip()} containers"


def _docker(*arguments: str, check: bool = True, timeout: float = PATIENCE, **options):
    """Run a docker command. Raises StartError in the engine's own words, unless `check` is off."""
    command = ["docker", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **options
        )
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, 1, "", f"it did not answer within {timeout:g} s")
    if check and done.returncode:
        raise StartError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done


def remove_orphans(home: Path) -> None:
    """Remove the containers and networks that a server of this folder left behind."""
    mine = f"label={LABEL}={home}"
    for listing, removal in (
        (["ps", "--all"], ["rm", "--force", "--volumes"]),
        (["network", "ls"], ["network", "rm"]),
    ):
        if found := _docker(*listing, "--quiet", "--filter", mine, check=False).stdout.split():
            removed = _docker(*removal, *found, check=False)
            if removed.returncode:
                print(f"localaws: left behind by an earlier server: {removed.stderr}", file=sys.stderr)


class DockerContainer(Container):
    """A container and the `docker run` that is attached to it. `out_of_memory`: the kernel killed it, or a part of it.

    `published`: its port is one of this machine; else it is spoken to at its own address.
    """

    kill_seconds = 4 * PATIENCE  # after it has ended come three commands of the engine's

    def __init__(
        self, process, home, on_line, on_exit, name: str, published: bool, cleanup: Callable[[], None]
    ):
        self.name, self.out_of_memory, self._published, self._cleanup = name, False, published, cleanup
        super().__init__(process, home, on_line, on_exit)

    def address(self, port: int) -> tuple[str, int]:
        """Host and port at which its server answers; waits until the container has an address."""
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        deadline = time.monotonic() + PATIENCE  # it never has one where the engine could not connect it
        while self.running and not self._published and time.monotonic() < deadline:
            if found := _docker("inspect", "--format", address, self.name, check=False).stdout.strip():
                return found, PORT
            self.wait(0.05)
        return super().address(port)

    def terminate(self) -> None:
        """SIGTERM to the container's first process."""
        if self.running and _docker("kill", "--signal=TERM", self.name, check=False).returncode:
            super().terminate()  # it is not there yet: `docker run` passes the signal on, or does not start it

    def _kill(self):
        if _docker("kill", self.name, check=False).returncode:
            self._process.kill()  # it is not there yet, or its engine does not answer

    def _clean(self):
        state = _docker("inspect", "--format", "{{.State.OOMKilled}}", self.name, check=False)
        self.out_of_memory = state.stdout.strip() == "true"
        self._cleanup()


class DockerEngine(ProcessEngine):
    """Runs images with an operating system in containers, and the others as processes."""

    name = "docker"

    def __init__(self, home: Path, environment: dict[str, str], endpoint_url: str):
        super().__init__(home, environment)
        (home / "docker").mkdir(exist_ok=True)
        self._host = urlsplit(endpoint_url).netloc
        about = _docker("info", "--format", "{{.OperatingSystem}} {{.SecurityOptions}}", check=False).stdout
        # Docker Desktop's containers are in a machine of their own, a rootless engine's on a network of its own.
        self._direct = sys.platform == "linux" and "Docker Desktop" not in about and "rootless" not in about
        # Elsewhere the engine itself makes files in a mounted folder those of the person who runs it.
        self._give_back = self._direct and os.getuid() != 0
        remove_orphans(home)

    def isolates(self, registry, image: str) -> bool:
        """Any; of one made for processes `start` says that it does not."""
        return True

    def _fetch(self, registry, image: str, digest: str, config: dict) -> Unpacked | str:
        """Pull an image by digest, unless it is made to be unpacked."""
        if built_here(config):
            return super()._fetch(registry, image, digest, config)
        # Not the host of `image`: an endpoint may have been made when localaws listened on another port.
        reference = f"{self._host}/{repository(image)}@{digest}"
        if _docker("image", "inspect", reference, check=False).returncode:
            _docker("pull", "--quiet", reference, timeout=PULL_SECONDS, env=self._login(registry))
        return reference

    def _login(self, registry) -> dict[str, str]:
        """An environment in which docker is logged in at our registry, the learner's own configuration untouched."""
        password, _ = registry.password()
        folder = self._home / "docker"
        login = {"auths": {self._host: {"auth": b64encode(f"AWS:{password}".encode()).decode()}}}
        write_json(folder / "config.json", login)
        # The engine that the learner's context names must still be found.
        engine = _docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}", check=False)
        host = {"DOCKER_HOST": engine.stdout.strip()} if engine.stdout.strip() else {}
        return os.environ | host | {"DOCKER_CONFIG": str(folder)}

    def start(self, spec: Spec, on_line: Callable[[str], None], on_exit: Callable | None = None) -> Container:
        """Start a container, or a process where the image is made for one. Raises StartError."""
        if isinstance(spec.image, Unpacked):
            return super().start(spec, on_line, on_exit)
        if self.closed:
            raise StartError("localaws is being stopped")
        name = f"localaws-{uuid.uuid4().hex[:16]}"
        # An image's own user is none of this machine's.
        for path in (spec.base_dir, *spec.base_dir.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
        host = _host(spec.base_dir)
        command = ["docker", "run", "--name", name, "--label", f"{LABEL}={self._home}", "--label"]
        command += [f"localaws.what={spec.what}", "--log-driver=none"]
        command += _serverless(spec.serverless_mb) if spec.serverless_mb else _limits(spec.instance_type)
        region = {"AWS_REGION": locate.REGION, "AWS_DEFAULT_REGION": locate.REGION}
        environment = region | spec.environment
        serves = spec.command == "serve"
        if serves:
            port = environment.pop("SAGEMAKER_BIND_TO_PORT", "")
            command += [_mount(spec.base_dir / "model", "/opt/ml/model") + ",readonly"]
            if not spec.isolated:
                command += [f"--publish=127.0.0.1:{port}:{PORT}"]
            elif not self._direct:
                raise StartError(
                    "EnableNetworkIsolation of a model needs an engine whose containers this machine can reach without "
                    "a published port: Docker Engine on Linux, not Docker Desktop and not rootless"
                )
        else:
            command += [_mount(spec.base_dir, "/opt/ml")]
            command += [f"--hostname={host}"] if host else []
        if spec.network:
            on_line(JOINED_NOTICE.format(", and nobody else" if spec.isolated else ""))
        own = _Network(self._home, isolated=True) if serves and spec.isolated else None
        if network := own or spec.network:
            command += [f"--network={network.name}"]
            command += [f"--network-alias={host}"] if host else []
            # Nobody answers there. Docker's own name server would ask the world, even for a network without a way out.
            command += ["--dns=0.0.0.0"] if spec.isolated else []
        elif spec.isolated:
            command += ["--network=none"]
        for variable, value in environment.items():
            command += ["--env", f"{variable}={value}"]
        # Nothing of an image's own ENTRYPOINT and CMD is known here: docker puts them in where the job names none.
        line = spec.line({})
        if spec.entrypoint:
            command += [f"--entrypoint={line.pop(0)}"]

        def cleanup():
            if self._give_back and not serves:
                owner = f"{os.getuid()}:{os.getgid()}"
                helper = [
                    "run",
                    "--rm",
                    "--network=none",
                    "--entrypoint=chown",
                    _mount(spec.base_dir, "/opt/ml"),
                ]
                _docker(*helper, spec.image, "-R", owner, "/opt/ml", check=False)
            _docker("rm", "--force", "--volumes", name, check=False)
            if own:
                own.close()

        process = subprocess.Popen(
            [*command, spec.image, *line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        processes.record(self._home, process.pid, spec.what)
        ended, published = functools.partial(self._ended, on_exit=on_exit), not (serves and spec.isolated)
        return self._keep(DockerContainer(process, self._home, on_line, ended, name, published, cleanup))

    def new_network(self, spec: Spec, hosts: list[str]):
        """A network of the engine's, or what processes have."""
        if isinstance(spec.image, Unpacked):
            return super().new_network(spec, hosts)
        return _Network(self._home, spec.isolated)


class _Network:
    """A network of a job's hosts, or of an isolated server; with no way out of it where it is isolated."""

    def __init__(self, home: Path, isolated: bool):
        self.name = f"localaws-{uuid.uuid4().hex[:16]}"
        internal = ["--internal"] if isolated else []
        _docker("network", "create", *internal, "--label", f"{LABEL}={home}", self.name)

    def close(self) -> None:
        """Remove it; no container may be left in it."""
        _docker("network", "rm", self.name, check=False)


def _mount(source: Path, target: str) -> str:
    return f"--mount=type=bind,source={source},target={target}"


def _host(base_dir: Path) -> str:
    """The name of a job's host, "" for a server; corrects the interface's name, which differs by engine."""
    # A training job's, or a processing job's.
    for file in (
        base_dir / "input" / "config" / "resourceconfig.json",
        base_dir / "config" / "resourceconfig.json",
    ):
        with suppress(FileNotFoundError):
            config = json.loads(file.read_text())
            if "network_interface_name" in config:
                write_json(file, config | {"network_interface_name": INTERFACE})
            return config["current_host"]
    return ""


def _serverless(megabytes: int) -> list[str]:
    """The memory of a serverless endpoint, and its file system, of which only /tmp can be written."""
    return [f"--memory={megabytes}m", f"--memory-swap={megabytes}m", "--read-only", "--tmpfs=/tmp"]


def _limits(instance_type: str) -> list[str]:
    """The CPUs and memory of an instance type such as ml.m5.xlarge, or what this machine has if that is less."""
    match = re.fullmatch(r"ml\.([a-z])[^.]*\.(\d*)(medium|large|xlarge)", instance_type)
    if not match:
        return []
    family, times, size = match.groups()
    cpus = SIZES[size] * int(times or 1)
    memory = 4 if size == "medium" else cpus * FAMILY_MEMORY.get(family, 4)  # GiB
    memory = min(memory << 30, psutil.virtual_memory().total)
    return [
        f"--cpus={min(cpus, psutil.cpu_count() or 1)}",
        f"--memory={memory}",
        f"--memory-swap={memory}",  # no swap beyond it
    ]
