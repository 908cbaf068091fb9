"""What name spaces need of Linux and Python 3.11 has no function for."""

import ctypes
import os
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments, step: str = "") -> None:
    """Call a function of the C library. Raises OSError, whose `filename` is the step."""
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step or name)


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    """Raises OSError, whose `filename` is the step."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags))
    call("mount", *arguments, options.encode() or None, step=f"mount {kind} {target}")


def map_user(user: int, group: int, user_outside: int, group_outside: int) -> None:
    """Map the one user and the one group that a new user name space has. Raises OSError."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user_outside} 1"),
        ("gid_map", f"{group} {group_outside} 1"),
    ):
        Path("/proc/self", name).write_text(text)
