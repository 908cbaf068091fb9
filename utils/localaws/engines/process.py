"""Running an image's `train` and `serve`.

The `process` engine runs the images that are made for it (by `python -m localaws build`, or with lock files of this
project's form) from their unpacked layer, as ordinary processes of this machine, and every other one whole, in name
spaces of its own (namespaces.py). What that isolates it says in the first line of each log; what was pushed, by digest,
is what runs.
"""

import dataclasses
import errno
import functools
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from localaws.images import archive, environments
from localaws.state import processes

from . import keeper, namespaces, network

ISOLATION_NOTICE = (
    "[localaws] engine: process. The program runs as an ordinary process of this machine, with your rights: nothing is "
    "isolated."
)
IN_NAMESPACES = (
    "[localaws] engine: process. The program runs in Linux name spaces of its own, with your rights on what it sees: "
    "{root}. What it writes outside of /opt/ml is kept in memory until it ends; CPU and memory are not limited. {network}"
)
ITS_ROOT = "the image, its folders and this machine's kernel"
NO_ROOT = (
    "the image and, read-only, all folders of this machine, as the image brings no operating system; its Python is this "
    "machine's"
)
JOINED_NOTICE = (
    "[localaws] engine: process. The program runs as an ordinary process of this machine, with your rights, on a network "
    "of Linux name spaces: nothing else is isolated. {network}"
)
NETWORKS = {
    "host": "Its network is this machine's.",
    "served": "Its network is loopback alone: localaws reaches its port 8080, and it reaches localaws, and nobody else.",
    "none": "It has no network but loopback.",
    "joined": "Its network is the job's own, by which its hosts reach each other by name, and localaws, and nobody else.",
    "apart": "Its network is the job's own, by which its hosts reach each other by name, and nobody else.",
}
NEEDS_LINUX = (
    "This image was not made by `python -m localaws build`, or its job names a program of its own: the process engine runs "
    "that in Linux name spaces"
)
SEVERAL_HOSTS = "The hosts of a job with an InstanceCount of more than 1 have a network of their own, for which the process engine needs Linux name spaces"
ONE_HOST = "set InstanceCount to 1, or run an image that Docker has built: "
INSTALL_DOCKER = "install Docker and start localaws again"
# What makes the kernel refuse name spaces to a user (file below /proc/sys, its value then) and what mends it.
REFUSALS = {
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
    "user/max_mnt_namespaces": "0",
    "user/max_net_namespaces": "0",
}
CONTAINERS = ("/.dockerenv", "/run/.containerenv")  # Docker's and podman's mark
# What programs of any kind need of the server's own environment; nothing else of it reaches a container.
INHERITED = ("HOME", "LANG", "LC_ALL", "TZ", "USER")
# Docker's, for an image that sets none.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_LINE = 200_000  # bytes; a CloudWatch event holds 256 KiB
LAST_LINES_SECONDS = 5  # for what a program has printed last; nobody prints any more, so it is in the pipe
# By what the kernel says of a program.
MENDS = {
    errno.ENOENT: "Its first line must name an interpreter that is there, and end with LF, not CRLF.",
    errno.ENOEXEC: "It is neither a script whose first line names an interpreter nor a program for linux/amd64: "
    "build with --platform linux/amd64.",
    errno.EACCES: "It, or the interpreter that its first line names, is not executable: chmod +x, build, push.",
}
BUILDER = "localaws build"  # in the history of what images/builder.py builds
SYSTEM = ("bin", "usr", "lib", "lib64")  # an image with one of them has an operating system
LAST_LINES = 10
# Lines in which a program says what its image lacks.
LACKING = re.compile(
    r"ModuleNotFoundError: |ImportError: |error while loading shared libraries: |: not found$|: command not found$"
    r"|No such file or directory|Permission denied|[Ee]xec format error|cannot execute"
)
ENVIRONMENT_SECONDS = 1800  # to make an environment; an index that is slow may take minutes


class StartError(Exception):
    """The image's program cannot be started; the message says why."""


class ExecError(StartError):
    """The kernel does not execute the program that was found. To AWS that is a container that ran and ended.

    `line` is what the container's log has of it, `mend` what else there is to say, `cause` what a job's failure has of
    it: nothing, as on AWS, unless nobody looked at the image when it was built.
    """

    exit_code = 1

    def __init__(self, line: str, mend: str, cause: str = ""):
        super().__init__(f"{line}. {mend}")
        self.line, self.mend, self.cause = line, mend, cause


@dataclass(frozen=True)
class Unpacked:
    """An image on this machine: `root` holds its /opt/program, `config` is what it says of how it is run.

    `whole`: it was not made to be run from there, so `root` holds all of it, to be run in name spaces.
    """

    root: Path
    config: dict
    whole: bool = False

    @property
    def has_system(self) -> bool:
        """Whether there is an operating system in it, or what stands for one."""
        return any((self.root / name).is_dir() for name in SYSTEM)

    def user(self) -> tuple[int, int, str]:
        """Who runs its programs: user and group by number, home. Raises StartError for a name that /etc/passwd has not."""
        name, _, group = (self.config.get("User") or "0").partition(":")
        found = {}
        with suppress(OSError, archive.UnsafeArchive):
            text = archive.inside(self.root, PurePosixPath("etc/passwd")).read_text()
            found = {line.split(":")[0]: line.split(":") for line in text.splitlines() if line.count(":") > 5}
        if not name.isdigit() and name not in found:
            raise StartError(f"The image's USER is {name}, which its /etc/passwd does not name")
        own = next((entry for key, entry in found.items() if name in (key, entry[2])), None)
        number = int(name) if name.isdigit() else int(own[2])
        home = own[5] if own else "/root" if number == 0 else "/"
        return number, int(group) if group.isdigit() else int(own[3]) if own else 0, home

    def here(self, value: str) -> str:
        """A variable's value for a process of this machine: of paths, those that the image has, as they are here."""
        paths = value.split(":")
        if not all(path.startswith("/") for path in paths):
            return value
        places = (self.root / os.path.normpath(path).lstrip("/") for path in paths)
        return ":".join(str(place) for place in places if place.exists())

    def environment(self) -> dict[str, str]:
        """The image's own variables, without paths that are not there."""
        here = {name: self.here(value) for name, value in self.variables.items()}
        return {name: value for name, value in here.items() if value or not self.variables[name]}

    @property
    def variables(self) -> dict[str, str]:
        return dict(variable.partition("=")[::2] for variable in self.config.get("Env") or ())

    def find(self, command: str) -> tuple[Path, str]:
        """A program, found along the image's PATH as Docker finds it, and that path here. Raises StartError."""
        path = self.variables.get("PATH", DEFAULT_PATH)
        here = self.here(path)
        if program := shutil.which(command, path=here):
            return Path(program), here
        missing = f'exec: "{command}": executable file not found in $PATH'  # Docker's words, whichever it is
        if found := shutil.which(command, os.F_OK, here):
            place = Path(found).parent.relative_to(self.root)
            raise StartError(
                f"{missing}. There is one in /{place} of the image, which is not executable: chmod +x, build, push"
            )
        raise StartError(f"{missing}. None is in /opt/program of the image, whose PATH is {path}")


def built_here(config: dict) -> bool:
    """Whether `python -m localaws build` made the image with this configuration, for processes."""
    return (config.get("history") or [{}])[0].get("created_by", "").startswith(BUILDER)


@dataclass(frozen=True)
class Spec:
    """What to run: `command` (train, serve or process) of the image that `fetch` gave, with `base_dir` as its /opt/ml.

    `entrypoint` and `arguments` are a job's ContainerEntrypoint and ContainerArguments, as `line` reads them.
    `instance_type`, `isolated` (no network) and `serverless_mb` (memory of a serverless endpoint, which may write to /tmp
    alone) are kept by the engines that can. `network` is what the engine has made for a job's hosts, if there are several.
    """

    what: str
    image: Unpacked | str
    command: str
    base_dir: Path
    environment: dict[str, str]
    instance_type: str = ""
    isolated: bool = False
    serverless_mb: int = 0
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    network: object = None

    @property
    def is_own(self) -> bool:
        """Whether the job, or the image's ENTRYPOINT, names the program, and not the contract of training and serving."""
        return bool(self.entrypoint or self.arguments or self.command == "process")

    def line(self, image: dict) -> list[str]:
        """The program and its arguments, for an image with this configuration, as `docker run` puts them together:
        ENTRYPOINT and `train`, `serve`, or, of a processing job, CMD; what the job names is in their place."""
        default = [] if self.entrypoint else image.get("Cmd") if self.command == "process" else [self.command]
        entrypoint = list(self.entrypoint) or image.get("Entrypoint") or []
        return entrypoint + (list(self.arguments) or default or [])


class Container:
    """A running program. `on_line` gets each line of its output, `on_exit` the container once all of it has ended.

    `link`: closed, it has the program's keeper end all that the program started. `temporary`: its temporary folder.
    `out_of_memory`: SIGKILL ended it, which localaws did not send, and since its start the kernel has killed a process of
    this machine for memory.
    """

    out_of_memory = False
    lacks = ""  # what its image lacks, where that is looked for
    # To end after SIGKILL, for which a process may need the disk or network that it waits for.
    kill_seconds = 10

    def __init__(
        self,
        process: subprocess.Popen,
        home: Path,
        on_line: Callable,
        on_exit: Callable,
        link=None,
        temporary: str = "",
    ):
        self.exit_code: int | None = None
        self.ended_at = math.inf  # seconds, by the monotonic clock
        self._process, self._home, self._link, self._temporary = process, home, link, temporary
        self._on_line, self._on_exit = on_line, on_exit
        self._finishing, self._ended = threading.Lock(), threading.Event()
        self._killed, self._before = False, _killed_for_memory()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._reap, daemon=True).start()

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait for the end, at most `timeout` seconds; whether it has ended."""
        return self._ended.wait(timeout)

    def address(self, port: int) -> tuple[str, int]:
        """Host and port at which a program answers that was told to listen on `port`."""
        return "127.0.0.1", port

    def terminate(self) -> None:
        """SIGTERM to the program alone, as `docker stop` does: it must pass it on itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the program and all that it started. Returns once they have ended, or are given up."""
        if not self.running:
            return
        self._killed = True
        self._kill()
        if not self.wait(self.kill_seconds):
            processes.kill(self._home, self._process.pid)  # what should have done it hangs itself
            if not self.wait(self.kill_seconds):
                self._on_line(
                    f"[localaws] Processes of this program are still there {2 * self.kill_seconds} s after SIGKILL: the "
                    "kernel waits for a disk or a network for them. localaws gives them up."
                )
                self._finish(-signal.SIGKILL)

    def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL `grace` seconds later; returns once it has ended, or is given up."""
        self.terminate()
        if not self.wait(grace):
            self.kill()

    def _kill(self):
        self._link.close()

    def _read(self):
        with self._process.stdout as stream:
            while (line := stream.readline(MAX_LINE)) and self.running:
                self._on_line(line.decode("utf-8", "replace").rstrip("\r\n"))

    def _reap(self):
        # Without a bound: a program runs as long as it may, and who wants its end calls `kill`, which has one.
        status = self._process.wait()
        self.ended_at = time.monotonic()
        if self._link:
            with suppress(OSError, ValueError):  # its keeper was killed, or told to end it
                self.ended_at = float(self._link.recv(64, socket.MSG_DONTWAIT))
        self._clean()
        self._finish(status)

    def _clean(self):
        """What an engine has to do itself once the process has ended."""

    def _finish(self, status: int):
        with self._finishing:
            if not self.running:
                return
            if status < 0 or sys.platform != "linux":  # the keeper was killed, or has adopted nobody
                processes.kill(self._home, self._process.pid)
            self._reader.join(LAST_LINES_SECONDS)
            if self._link:
                self._link.close()
            if self._temporary:
                shutil.rmtree(self._temporary, ignore_errors=True)
            processes.forget(self._home, self._process.pid)
            self.exit_code = status if status >= 0 else 128 - status
            if self._link and self.exit_code == 128 + signal.SIGKILL and not self._killed:
                self.out_of_memory = _killed_for_memory() > self._before
            self._ended.set()
        self._on_exit(self)


class WholeContainer(Container):
    """A program of an image that was made elsewhere."""

    def __init__(self, process, home, on_line: Callable, on_exit, link):
        self._said: deque[str] = deque(maxlen=LAST_LINES)

        def heard(line: str):
            self._said.append(line)
            on_line(line)

        super().__init__(process, home, heard, on_exit, link)

    @property
    def lacks(self) -> str:
        """The last of its last lines that names what the image lacks."""
        return next((line.strip() for line in reversed(self._said) if LACKING.search(line)), "")


class ProcessEngine:
    """Starts programs of unpacked images; remembers each in `home/processes` until it has ended."""

    name = "process"

    def __init__(self, home: Path, environment: dict[str, str]):
        self._home = home
        self._environment = environment
        self._running: set[Container] = set()
        self._making: set[int] = set()  # pids of what makes environments
        self.closed = False

    def fetch(self, registry, image: str) -> Unpacked | str:
        """What Spec.image is to be for an image. Raises StartError if it is not there or cannot be run."""
        try:
            digest = registry.resolve(image)
            return self._fetch(registry, image, digest, registry.config(digest))
        except (KeyError, ValueError) as error:
            raise StartError(error.args[0]) from error

    def isolates(self, registry, image: str) -> bool:
        """Whether an image that the registry has can be run without a network."""
        try:
            return not built_here(registry.config(registry.resolve(image)))
        except ValueError:
            return True  # it cannot be run at all, which a job that tries says

    def new_network(self, spec: Spec, hosts: list[str]):
        """A network of their own for the hosts of a job, of which `spec` is one; who asked closes it. Raises StartError."""
        if sys.platform != "linux":
            raise StartError(f"{SEVERAL_HOSTS}, and this is {platform.system()}: {ONE_HOST}{INSTALL_DOCKER}")
        try:
            return network.Network(hosts, spec.base_dir.parents[1] / "hosts")
        except OSError as error:
            problem, step = error.errno or errno.EIO, error.filename or "start"
            raise _refused(SEVERAL_HOSTS, problem, step, ONE_HOST) from error

    def _fetch(self, registry, image: str, digest: str, config: dict) -> Unpacked | str:
        how = config.get("config") or {}
        if built_here(config):
            return Unpacked(registry.unpack(digest), how)
        root = registry.unpack(digest, whole=True)
        if environments.locks(root / "opt/program"):  # Docker built it of this project's Dockerfile
            return Unpacked(registry.unpack(digest), how)
        return Unpacked(root, how, whole=True)

    def start(self, spec: Spec, on_line: Callable[[str], None], on_exit: Callable | None = None) -> Container:
        """Start a program. Raises StartError, naming the program and what is wrong with it."""
        # A program that a job names itself was not made for this engine, whatever its image was.
        if spec.image.whole or spec.is_own:
            return self._start_whole(spec, on_line, on_exit)
        program, folders = spec.image.find(spec.command)
        inherited = {
            name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("SSL_")
        }
        if spec.isolated:
            problem = "EnableNetworkIsolation needs an image with an operating system, built with Docker"
            raise StartError(problem)
        if self.closed:
            raise StartError("localaws is being stopped")
        seat = self._seat(spec)
        on_line(JOINED_NOTICE.format(network=NETWORKS["joined"]) if seat else ISOLATION_NOTICE)
        runner = ["-m", network.__name__, json.dumps(dataclasses.asdict(seat))] if seat else [keeper.__file__]
        path = [folders, str(self._python(spec, on_line).parent), os.environ.get("PATH", os.defpath)]
        # A container's /tmp goes with it. Here what a program leaves would lie among everybody's, host by host.
        temporary = tempfile.mkdtemp(prefix="localaws-")
        if os.geteuid() == 0:
            # As /tmp: root's programs may give up their rights, as nginx's workers do.
            os.chmod(temporary, 0o1777)
        link, theirs = socket.socketpair()
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, temporary, ignore_errors=True)
            undo.callback(link.close)  # which ends the keeper, if there is one
            try:
                with theirs:
                    process = subprocess.Popen(
                        [sys.executable, "-I", *runner, program],
                        cwd=spec.image.here(spec.image.config.get("WorkingDir") or "/") or spec.image.root,
                        env=inherited
                        | {"TMPDIR": temporary}
                        | spec.image.environment()
                        | self._environment
                        | spec.environment
                        | {"PATH": os.pathsep.join(path), "SAGEMAKER_BASE_DIR": str(spec.base_dir)}
                        # The stack's: in a container it listens everywhere.
                        | {"MODEL_SERVER_ADDRESS": "127.0.0.1"},
                        umask=0o022,  # as in a container; the home is closed to others
                        stdin=theirs,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        pass_fds=seat.descriptors if seat else (),
                    )
                link.settimeout(network.START_SECONDS)
                problem, step = _answer(link)
                if problem and seat and step != str(program):
                    raise _refused(SEVERAL_HOSTS, problem, step, ONE_HOST)
                if problem:
                    raise OSError(problem, os.strerror(problem))
            except OSError as error:
                cause = str(error.strerror or error).lower()
                raise ExecError(
                    f"exec /{program.relative_to(spec.image.root)}: {cause}",
                    MENDS.get(error.errno, MENDS[errno.ENOENT]),
                ) from error
            undo.pop_all()
        processes.record(self._home, process.pid, spec.what, spec.base_dir, temporary)
        ended = functools.partial(self._ended, on_exit=on_exit)
        return self._keep(Container(process, self._home, on_line, ended, link, temporary))

    def _start_whole(self, spec: Spec, on_line: Callable[[str], None], on_exit: Callable | None) -> Container:
        """Start a program of an image that was not made for this engine, in name spaces. Raises StartError."""
        if sys.platform != "linux":
            raise StartError(f"{NEEDS_LINUX}, and this is {platform.system()}: {INSTALL_DOCKER}")
        image, here = spec.image, []
        if image.has_system and platform.machine() != "x86_64":
            raise StartError(
                f"The image is for linux/amd64, this machine is {platform.machine()}: {INSTALL_DOCKER}"
            )
        if self.closed:
            raise StartError("localaws is being stopped")
        line = spec.line(image.config)
        if not line:
            raise StartError("The image has neither ENTRYPOINT nor CMD: give the job a ContainerEntrypoint")
        user, group, home = image.user()
        environment = image.variables | self._environment | spec.environment
        port, reach, hosts, seat = 0, "host", [], self._seat(spec)
        bound, read_only = {"/opt/ml": str(spec.base_dir)}, []
        if spec.command == "serve":
            port, reach = int(environment.pop("SAGEMAKER_BIND_TO_PORT")), "served"
            bound = {"/opt/ml/model": str(spec.base_dir / "model")}
            read_only = list(bound)
        else:
            hosts = _hosts(spec.base_dir)
            if seat:
                reach = "apart" if spec.isolated else "joined"
            elif spec.isolated:
                port, reach = -1, "none"
        # What the variables for AWS's clients name: profile, certificate. The proxy's key lies beside them.
        files = [file for file in set(self._environment.values()) if file[:1] == "/" and Path(file).is_file()]
        bound |= {file: file for file in files}
        read_only += files
        path = image.variables.get("PATH", DEFAULT_PATH)
        if image.has_system:
            environment = {"HOME": home} | environment | {"PATH": path}
        else:
            own = [part for part in path.split(":") if (image.root / part.lstrip("/")).is_dir()]
            python = self._python(spec, on_line)
            # Its own folder, that of the Python that it was made of, and that whose packages it links.
            here = [
                os.path.realpath(place)
                for place in (python.parents[1], python.resolve().parents[1], sys.prefix)
            ]
            path = [*own, str(Path(here[0], "bin")), DEFAULT_PATH]
            environment = {"HOME": "/tmp"} | environment | {"PATH": ":".join(path)}
        place = spec.base_dir.parent / "root"
        place.mkdir(exist_ok=True)
        plan = namespaces.Plan(
            image=str(image.root),
            whole=image.has_system,
            place=str(place),
            ml=bound,
            read_only=read_only,
            here=here,
            command=line,
            environment=environment,
            folder=image.config.get("WorkingDir") or "/",
            user=user,
            group=group,
            hosts=hosts,
            port=port,
            door=self._door,
            seat=seat and dataclasses.asdict(seat),
        )
        on_line(IN_NAMESPACES.format(root=ITS_ROOT if image.has_system else NO_ROOT, network=NETWORKS[reach]))
        link, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", namespaces.__name__],
                umask=0o022,
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"SAGEMAKER_BASE_DIR": str(spec.base_dir)},  # by which processes.py knows it
                start_new_session=True,
                pass_fds=seat.descriptors if seat else (),
            )
        try:
            link.settimeout(network.START_SECONDS)
            link.sendall(json.dumps(dataclasses.asdict(plan)).encode() + b"\n")
            problem, step = _answer(link)
        except OSError as error:
            problem, step = error.errno or errno.EIO, "start"
        if problem:
            link.close()
            with process.stdout:
                process.wait()
            raise _refusal(problem, step, spec.image)
        processes.record(self._home, process.pid, spec.what, spec.base_dir)
        ended = functools.partial(self._ended, on_exit=on_exit)
        return self._keep(WholeContainer(process, self._home, on_line, ended, link))

    @property
    def _door(self) -> int:
        """The port of localaws itself; 0 for an engine that stands alone."""
        return urlsplit(self._environment.get("AWS_ENDPOINT_URL", "")).port or 0

    def _seat(self, spec: Spec) -> network.Seat | None:
        """Where a job's host is in the network of all its hosts, if there are several."""
        door = 0 if spec.isolated else self._door
        return spec.network and spec.network.seat(_hosts(spec.base_dir)[0], door)

    def _python(self, spec: Spec, on_line: Callable[[str], None]) -> Path:
        """The Python of an image's programs: of its own environment, where it has lock files, else this machine's."""
        locks = environments.locks(spec.image.root / "opt/program")
        if not locks:
            return Path(sys.executable)
        timers = {}

        def started(pid: int):
            self._making.add(pid)
            processes.record(self._home, pid, f"what makes the environment of {spec.what}")
            seconds = 0 if self.closed else ENVIRONMENT_SECONDS
            timers[pid] = threading.Timer(seconds, processes.kill, (self._home, pid))
            timers[pid].start()

        try:
            return environments.python(locks, lambda line: on_line(f"[localaws] {line}"), started)
        except RuntimeError as error:
            raise StartError(str(error)) from error
        finally:
            for pid, timer in timers.items():
                timer.cancel()
                self._making.discard(pid)
                processes.forget(self._home, pid)

    def _keep(self, container: Container) -> Container:
        self._running.add(container)
        if not container.running:  # it was quicker than the line above
            self._running.discard(container)
        if self.closed:
            container.kill()
        return container

    def _ended(self, container, on_exit):
        self._running.discard(container)
        if on_exit:
            on_exit(container)

    def close(self, grace: float = 3) -> None:
        """Start nothing more and end all that runs: SIGTERM, `grace` seconds later SIGKILL."""
        self.closed = True
        for pid in list(self._making):
            processes.kill(self._home, pid)
        running = list(self._running)
        for container in running:
            container.terminate()
        deadline = time.monotonic() + grace
        for container in running:
            container.stop(max(0, deadline - time.monotonic()))


def _killed_for_memory() -> int:
    """How many processes of this machine the kernel has killed for memory since it began; 0 where it does not say."""
    with suppress(OSError):
        return int(re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.M)[1])
    return 0


def _answer(link: socket.socket) -> tuple[int, str]:
    """What a keeper says of the start: an errno, 0 if the program runs, and what that is about."""
    problem, _, about = link.recv(4096).decode().partition(" ")
    return int(problem or errno.ECHILD), about


def _refusal(problem: int, step: str, image: Unpacked) -> StartError:
    """Why a program does not run in name spaces, in words: the image's fault, or this machine's."""
    cause = os.strerror(problem).lower()
    if step.startswith("exec /"):
        line = f"{step}: {cause}"
        return ExecError(line, MENDS.get(problem, MENDS[errno.ENOENT]), cause=line)
    if step.startswith("exec "):
        path = image.variables.get("PATH", DEFAULT_PATH)
        return StartError(
            f'exec: "{step.removeprefix("exec ")}": executable file not found in $PATH. The image\'s PATH is {path}'
        )
    if step.startswith("/") and not step.startswith("/proc/self/"):
        return StartError(f"The image cannot be run: {step} in it: {cause}")
    return _refused(NEEDS_LINUX, problem, step)


def _refused(need: str, problem: int, step: str, or_else: str = "") -> StartError:
    """That the kernel does not do what is needed, and what would have it do that."""
    mends = []
    for name, refusing in REFUSALS.items():
        with suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == refusing:
                allowing = {"1": "0", "0": "1"}[refusing] if name.startswith("kernel") else "10000"
                mends.append(f"sudo sysctl -w {name.replace('/', '.')}={allowing}, or")
    if problem == errno.EPERM and not mends and any(map(os.path.exists, CONTAINERS)):
        mends.append("start the container that localaws runs in with --security-opt seccomp=unconfined, or")
    mend = " ".join([*mends, or_else + INSTALL_DOCKER])
    return StartError(
        f"{need}, and the kernel refuses them here ({step}: {os.strerror(problem).lower()}): {mend}"
    )


def _hosts(base_dir: Path) -> list[str]:
    """The hosts of a training or processing job, this one first."""
    for folder in ("input/config", "config"):
        with suppress(FileNotFoundError):
            config = json.loads((base_dir / folder / "resourceconfig.json").read_text())
            return sorted(config["hosts"], key=lambda host: host != config["current_host"])
    return []
