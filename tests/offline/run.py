"""`python run.py COMMAND …` runs a command in a network name space of its own that has only loopback.

Where the kernel does not allow that (macOS, a container without the right), it says so and runs it as it is:
sitecustomize.py beside this file still watches every Python process.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


def leave_the_network() -> bool:
    if sys.platform != "linux" or ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
    return True


if __name__ == "__main__":
    if not leave_the_network():
        print(
            "offline: no network name space to be had here; only Python's own connections are watched",
            flush=True,
        )
    os.execvp(sys.argv[1], sys.argv[1:])
