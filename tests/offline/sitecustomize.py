"""On PYTHONPATH, this makes every Python process refuse, and write down, whatever would leave this machine."""

import ipaddress
import os
import socket
import sys

LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost"}


def _stays_here(host) -> bool:
    if host is None or isinstance(host, int):
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name.lower() in LOCAL_NAMES or name == socket.gethostname():
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guard(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a unix socket's address is a path
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _stays_here(host):
        with open(os.environ["OFFLINE_LOG"], "a") as log:
            log.write(f"{event} {host} by {' '.join(sys.orig_argv)[:300]}\n")
        raise ConnectionRefusedError(f"{host} is not this machine, and this run may not leave it")


if "OFFLINE_LOG" in os.environ:
    sys.addaudithook(_guard)
