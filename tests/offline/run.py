"""`python run.py COMMAND …` runs a command in a network name space of its own that has only loopback.

What it tries to send elsewhere finds no route there, which the kernel counts: a line in OFFLINE_LOG tells of it. Where
the kernel gives no name space (macOS, some containers), it says so and runs the command as it is: sitecustomize.py
beside this file still watches every Python process.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def leave_the_network() -> bool:
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        # Who is not root has the right to it in a name space of users, in which everybody is who they were.
        user, group = os.getuid(), os.getgid()
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path("/proc/self", name).write_text(text)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
    return True


def without_route() -> int:
    """How often something in this name space wanted to send what has no way out."""
    names, counts = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    sixth = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(counts[names.index("OutNoRoutes")]) + int(sixth["Ip6OutNoRoutes"])


if __name__ == "__main__":
    if not leave_the_network():
        print(
            "offline: no network name space to be had here; only Python's own connections are watched",
            flush=True,
        )
        os.execvp(sys.argv[1], sys.argv[1:])
    before = without_route()
    ended = subprocess.run(sys.argv[1:]).returncode
    if (tried := without_route() - before) and "OFFLINE_LOG" in os.environ:
        with open(os.environ["OFFLINE_LOG"], "a") as log:
            log.write(f"{tried} times something was to be sent elsewhere\n")
    sys.exit(ended if ended >= 0 else 128 - ended)
