"""Runs one program of an image as Docker would, by Linux name spaces alone: `python -I -m localaws.engines.namespaces`.

What it is to run comes as a line of JSON through the keeper's link, the fields of `Plan`. The program is process 1 of
process, mount, IPC and host name spaces of its own, in a user name space that maps one user of the image to who runs
localaws: no right is needed, and none is won. Where `port` is given it has a network of its own as well, with nothing
but loopback: 127.0.0.1:`port` of this machine is relayed to port 8080 there, and there 127.0.0.1:`door` to localaws here.

An image with an operating system is its own root, under an overlay whose upper layer is memory. For an image without one
this machine's folders are there, read-only, with the image's laid over them and folders of its own where programs write.

man 7 user_namespaces, pid_namespaces, capabilities; man 2 pivot_root, mount_setattr, seccomp.
"""

import ctypes
import errno
import json
import os
import platform
import shutil
import signal
import socket
import struct
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import keeper, network
from .kernel import (
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PR_SET_PDEATHSIG,
    call,
    libc,
    map_user,
    mount,
)

PORT = 8080  # SageMaker's
MNT_DETACH = 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = (
    442,
    -100,
    0x8000,
    1,
)  # the same on all processors
PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 23, 24, 38
# Docker's: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot,
# mknod, audit_write, setfcap.
CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
# The numbers of chown, fchown, lchown, fchownat, setuid, setgid, setreuid, setregid, setgroups, setresuid, setresgid, and
# the processor's own (linux/audit.h). There is one user, so these do nothing and say that they did: nginx, which becomes
# www-data for its workers, goes on.
OWNERSHIP = {
    "x86_64": (0xC000003E, (92, 93, 94, 260, 105, 106, 113, 114, 116, 117, 119)),
    "aarch64": (0xC00000B7, (55, 54, 146, 144, 145, 143, 159, 147, 149)),
}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# Where programs write on a machine whose folders are otherwise read-only; with the folders in them, empty.
WRITABLE = ("/var/log", "/var/lib/nginx", "/var/tmp", "/var/cache/nginx")
OLD = ".localaws-machine"


@dataclass(frozen=True)
class Plan:
    """What to run, and as what.

    `image`: the unpacked image; `whole`: it has an operating system. `place`: an empty folder. `ml`: what of this
    machine is bound where, `read_only` which of them. `here`: folders of this machine that must be there. `port`: 0 for
    this machine's network, -1 for none but loopback. `door`: localaws' own, 0 for none.
    `seat`: of a job's host among others, the fields of network.Seat.
    """

    image: str
    whole: bool
    place: str
    ml: dict[str, str]
    read_only: list[str]
    here: list[str]
    command: list[str]
    environment: dict[str, str]
    folder: str
    user: int
    group: int
    hosts: list[str]
    port: int
    door: int
    seat: dict | None


def main() -> None:
    """Run what the line on standard input says, and end with it."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1 << 16) or sys.exit(1)
    plan = Plan(**json.loads(line))
    keeper.keep(lambda: start(plan))


def start(plan: Plan) -> int:
    """Start the program; its pid. Raises OSError, whose `filename` is the step that the kernel refused, if it is one."""
    listener = None
    if plan.port > 0:
        try:
            listener = socket.create_server(("127.0.0.1", plan.port), backlog=512)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"port {plan.port}") from error
    if plan.seat:
        network.join(network.Seat(**plan.seat))
    own = NEWNET if plan.port and not plan.seat else 0
    user, group = os.getuid(), os.getgid()
    with network.door(plan.door if listener else 0):
        call("unshare", NEWUSER | NEWIPC | NEWUTS | own)
        map_user(plan.user, plan.group, user, group)
        if own:
            network.bring_up("lo")
    if listener:
        network.apart(lambda: network.relay(listener, PORT))
        listener.close()
    call("unshare", NEWPID)  # which is for children alone
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _become(plan)
        except OSError as error:
            os.write(sink, f"{error.errno or errno.EIO} {error.filename or ''}".encode())
        except Exception:
            traceback.print_exc()  # to the program's log: nobody is above
        finally:
            os._exit(127)
    os.close(sink)
    with os.fdopen(source) as told:
        if problem := told.read():
            os.waitpid(pid, 0)
            number, _, step = problem.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), step or None)
    return pid


def _become(plan: Plan) -> None:
    """Turn this process, the first of its name space, into the program."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setpgid(0, 0)
    call("unshare", NEWNS)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", plan.place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    os.chdir(plan.place)
    os.mkdir("root")
    if plan.whole:
        _overlay([plan.image], "root", plan.place)
    else:
        mount("root", "root", flags=MS_BIND)
    nameservers = ""
    with suppress(OSError):
        nameservers = Path("/etc/resolv.conf").read_text()
    os.mkdir(f"root/{OLD}")
    os.chdir("root")
    call("pivot_root", b".", OLD.encode())
    # From here on a link of the image's leads to a place of the image's.
    os.chdir("/")
    if not plan.whole:
        _machine(plan)
    _system(plan, nameservers)
    for target, origin in plan.ml.items():
        _bind(f"/{OLD}{origin}", target, target in plan.read_only)
    call("umount2", f"/{OLD}".encode(), MNT_DETACH)
    os.rmdir(f"/{OLD}")
    os.makedirs(plan.folder, exist_ok=True)
    os.chdir(plan.folder)
    for capability in range(64):
        if capability not in CAPABILITIES and libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    _own_everything()
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    path = plan.environment["PATH"]
    # One that is not executable is for the kernel to refuse.
    program = shutil.which(plan.command[0], path=path) or shutil.which(plan.command[0], os.F_OK, path)
    if not program:
        raise OSError(errno.ENOENT, "", f"exec {plan.command[0]}")
    try:
        os.execve(program, plan.command, plan.environment)
    except OSError as error:
        raise OSError(error.errno, "", f"exec {program}") from error


def _machine(plan: Plan) -> None:
    """This machine's folders, read-only, and the image's over them."""
    with os.scandir(f"/{OLD}") as entries:
        for entry in entries:
            if entry.is_symlink():
                os.symlink(os.readlink(entry), f"/{entry.name}")
            elif entry.is_dir() and entry.name not in ("proc", "dev", "sys", "tmp", "opt", "run"):
                _bind(entry.path, f"/{entry.name}", read_only=True)
    own = [
        f"/{OLD}/opt/{name}" for name in ("ml", "program")
    ]  # in case that this machine is a container of the kind
    for folder in ("/opt", "/run"):  # with places for more in them
        os.makedirs(folder, exist_ok=True)
        with suppress(OSError), os.scandir(f"/{OLD}{folder}") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.path not in own:
                    _bind(entry.path, f"{folder}/{entry.name}", read_only=True)
    for folder in WRITABLE:
        if os.path.isdir(folder):
            inside = [path for path, _, _ in os.walk(folder)]
            mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
            for path in inside:
                os.makedirs(path, exist_ok=True)
    for path in plan.here:
        if not os.path.exists(path):
            _bind(f"/{OLD}{path}", path, read_only=True)
    image = f"/{OLD}{plan.image}"
    for top in set(os.listdir(image)) - {"proc", "dev", "sys", "tmp"}:
        for name in [f"opt/{name}" for name in os.listdir(f"{image}/opt")] if top == "opt" else [top]:
            lower = [f"{image}/{name}"]
            if os.path.isdir(lower[0]):
                lower += [f"/{name}"] if os.path.isdir(f"/{name}") else []
                os.makedirs(f"/{name}", exist_ok=True)
                _overlay(lower, f"/{name}", f"/{OLD}{plan.place}")
            else:
                _bind(lower[0], f"/{name}", read_only=True)


def _system(plan: Plan, nameservers: str) -> None:
    """What is in a container beside the image: /proc, /sys, /dev, /tmp, the host's name and the names of others."""
    os.makedirs("/proc", exist_ok=True)
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    except OSError:  # a container's own is partly hidden: that one may be bound, but no new one made
        _bind(f"/{OLD}/proc", "/proc")
    _bind(f"/{OLD}/sys", "/sys", read_only=True)
    os.makedirs("/dev", exist_ok=True)
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=0755")
    for name in DEVICES:
        _bind(f"/{OLD}/dev/{name}", f"/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")
    for folder in ("/dev/shm", "/tmp"):
        os.makedirs(folder, exist_ok=True)
        with suppress(OSError):
            os.chmod(folder, 0o1777)
    name = plan.hosts[0] if plan.hosts else "localhost"
    socket.sethostname(name)
    if plan.whole:
        names = f"127.0.0.1 {' '.join(['localhost', *plan.hosts])}\n"
        if plan.seat:
            names = Path(f"/{OLD}{plan.seat['names']}").read_text()
        os.makedirs("/etc", exist_ok=True)
        for file, text in (
            ("hosts", names),
            ("hostname", f"{name}\n"),
            ("resolv.conf", nameservers),
        ):
            with suppress(FileNotFoundError):
                os.unlink(f"/etc/{file}")
            Path("/etc", file).write_text(text)


def _own_everything() -> None:
    """Have the kernel take changes of owner, user and group for done: here is one user (seccomp, a classic BPF filter)."""
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if platform.machine() not in OWNERSHIP:
        return
    processor, calls = OWNERSHIP[platform.machine()]
    load, equal, answer, allow, done = 0x20, 0x15, 0x06, 0x7FFF0000, 0x50000
    steps = [(load, 0, 0, 4), (equal, 0, len(calls) + 1, processor), (load, 0, 0, 0)]
    steps += [(equal, len(calls) - at, 0, call) for at, call in enumerate(calls)]
    steps += [(answer, 0, 0, allow), (answer, 0, 0, done)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    libc.prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(filter_, len(filter_)), 0, 0)


def _overlay(lower: list[str], target: str, memory: str) -> None:
    """Lay folders, the first on top, over each other at `target`; what is written there stays in memory."""
    parts = [tempfile.mkdtemp(dir=memory) for _ in ("upper", "work")]
    os.chmod(parts[0], 0o755)
    # By descriptor: in an option a path with a colon or a comma would be several.
    opened = [os.open(path, os.O_PATH) for path in (*lower, *parts)]
    *lowers, upper, work = (f"/proc/self/fd/{descriptor}" for descriptor in opened)
    # /proc of the machine is there under another name once the root is changed.
    before = "" if os.path.isdir("/proc/self") else f"/{OLD}"
    places = ":".join(before + place for place in lowers)
    options = f"lowerdir={places},upperdir={before}{upper},workdir={before}{work},userxattr"
    mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options)
    for descriptor in opened:
        os.close(descriptor)


def _bind(source: str, target: str, read_only: bool = False) -> None:
    """Have a file or folder of this machine, with what is mounted in it, at `target` too."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        attributes = struct.pack("4Q", MOUNT_ATTR_RDONLY, 0, 0, 0)
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        arguments = (AT_FDCWD, os.fsencode(target), AT_RECURSIVE, buffer, ctypes.c_size_t(len(attributes)))
        call("syscall", SYS_MOUNT_SETATTR, *arguments, step=f"mount_setattr {target}")


if __name__ == "__main__":
    main()
