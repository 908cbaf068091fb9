"""Networks of programs in name spaces: with loopback alone, or joined to those of a job's other hosts.

A job's hosts are joined as containers are: a bridge in a network name space of the job's, and for each host a pair of
virtual Ethernet interfaces, one end at the bridge, the other, eth0, in the host's own name space. An ordinary user makes
them within a user name space of the job's, in which users have the numbers that they have outside. Nothing leads out of
it but sockets of localaws' own, `door`. Name spaces are gone with the last process and descriptor that has them.

`python -I -m localaws.engines.network` makes a job's network, for `Network`; with a `Seat`, as JSON, and a program it runs
that program as an ordinary process of this machine on one of the hosts, and ends with it (keeper.py).

man 7 network_namespaces, veth, rtnetlink, netdevice; linux/if_link.h.
"""

import asyncio
import errno
import fcntl
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from . import keeper
from .kernel import (
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    NEWNET,
    NEWNS,
    NEWUSER,
    NEWUTS,
    PR_SET_PDEATHSIG,
    call,
    libc,
    map_user,
    mount,
)

INTERFACE = "eth0"
ADDRESSES = ipaddress.ip_network("10.0.0.0/16")
START_SECONDS = 30  # for what takes a hundredth of it
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, IFF_UP = 0x8914, 0x8916, 0x891C, 1
RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 16, 0x1, 0x4, 0x200, 0x400
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD = 3, 10, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1


@dataclass(frozen=True)
class Seat:
    """A host's place in its job's network.

    `descriptors` are of the job's name spaces, in the order in which they are entered; `names` is the file that is to be
    /etc/hosts; `door` the port of localaws' own, 0 for none.
    """

    host: str
    address: str
    descriptors: list[int]
    names: str
    door: int


class Network:
    """The network of a job's hosts; `close` it after them."""

    def __init__(self, hosts: list[str], names: Path):
        """Make it, and the file `names`. Raises OSError, whose `filename` is the step that the kernel refused."""
        self._addresses = dict(zip(hosts, map(str, ADDRESSES.hosts()), strict=False))
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in self._addresses.items())]
        names.write_text("\n".join(lines) + "\n")
        self._names = names
        link, theirs = socket.socketpair()
        with link, theirs:
            link.settimeout(START_SECONDS)
            maker = subprocess.Popen([sys.executable, "-I", "-m", __name__], stdin=theirs)
            theirs.close()
            try:
                answer, self._descriptors, _, _ = socket.recv_fds(link, 4096, 2)
            finally:
                maker.kill()
                maker.wait()
        if not self._descriptors:
            number, _, step = answer.decode().partition(" ")
            raise OSError(int(number or errno.ECHILD), "", step)

    def seat(self, host: str, door: int) -> Seat:
        """Where one of the hosts is in it; its program's keeper must be given the descriptors."""
        return Seat(host, self._addresses[host], self._descriptors, str(self._names), door)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


def main() -> None:
    """Make a network, or run a program on a host of one."""
    if len(sys.argv) == 1:
        return _make(socket.socket(fileno=0))
    seat = Seat(**json.loads(sys.argv.pop(1)))

    def start() -> int:
        join(seat)
        return keeper.spawn()

    return keeper.keep(start)


def _make(link: socket.socket) -> None:
    """Make a job's name spaces and the bridge in them; pass their descriptors on, or why there are none."""
    kinds = ["net"]
    try:
        try:
            call("unshare", NEWNET)
        except PermissionError:
            kinds = ["user", "net"]
            user, group = os.getuid(), os.getgid()
            call("unshare", NEWUSER | NEWNET)
            map_user(user, group, user, group)
        with _routing() as kernel:
            _add(kernel, "bridge", "bridge")
        socket.send_fds(link, [b"0"], [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in kinds])
    except OSError as error:
        link.send(f"{error.errno} {error.filename or ''}".encode())


def join(seat: Seat) -> None:
    """Turn this process into one of the host's: with its network, its name, and the names of all. Raises OSError."""
    with door(seat.door):
        for descriptor in seat.descriptors:
            call("setns", descriptor, 0)
            os.close(descriptor)
        with _routing() as kernel:  # of the bridge's, which it stays in
            bridge = socket.if_nametoindex("bridge")
            call("unshare", NEWNET | NEWNS | NEWUTS)
            here = os.open("/proc/self/ns/net", os.O_RDONLY)
            peer = _message(INTERFACE, _attribute(IFLA_NET_NS_FD, struct.pack("i", here)))
            master = _attribute(IFLA_MASTER, struct.pack("i", bridge))
            _add(kernel, seat.host, "veth", master, _attribute(VETH_INFO_PEER, peer))
            os.close(here)
        bring_up("lo")
        bring_up(INTERFACE, seat.address)
    with suppress(OSError):  # as Docker has it: every user may listen on any port
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    socket.sethostname(seat.host)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount(seat.names, "/etc/hosts", flags=MS_BIND)


def _routing() -> socket.socket:
    """What speaks with the kernel about the interfaces of the network that this process is in now."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def _add(kernel: socket.socket, name: str, kind: str, attributes: bytes = b"", data: bytes = b"") -> None:
    """Add an interface of a kind, up; `data` is the kind's own. Raises OSError."""
    about = _attribute(IFLA_INFO_KIND, kind.encode()) + _attribute(IFLA_INFO_DATA, data)
    body = _message(name, attributes + _attribute(IFLA_LINKINFO, about), IFF_UP)
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    kernel.send(struct.pack("IHHII", 16 + len(body), RTM_NEWLINK, flags, 1, 0) + body)
    # The answer's header is of 16 bytes, too; then comes 0, or an errno, negative.
    if problem := -struct.unpack_from("i", kernel.recv(1 << 16), 16)[0]:
        raise OSError(problem, os.strerror(problem), f"add {kind}")


def _message(name: str, attributes: bytes, flags: int = 0) -> bytes:
    """What RTM_NEWLINK says of one interface: struct ifinfomsg, attributes. Half a pair cannot be up yet."""
    return (
        struct.pack("BxHiII", 0, 0, 0, flags, flags)
        + _attribute(IFLA_IFNAME, name.encode() + b"\0")
        + attributes
    )


def _attribute(kind: int, value: bytes) -> bytes:
    """struct rtattr: length, kind and value, filled up to a multiple of 4."""
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def bring_up(interface: str, address: str = "") -> None:
    """Have an interface of this network up, with an address of ADDRESSES if one is given. Raises OSError."""
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if address:
            for setting, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, str(ADDRESSES.netmask))):
                request = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(value))
                fcntl.ioctl(control, setting, request)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name, IFF_UP))


@contextmanager
def door(port: int) -> Iterator[None]:
    """Enter another network within: from then on 127.0.0.1:`port` there leads to `port` of the network of before."""
    if not port:
        yield
        return
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            apart(lambda: relay(socket.socket(fileno=socket.recv_fds(theirs, 1, 1)[1][0]), port))
        yield
        # A socket stays in the network that it was made in, whoever serves it.
        with socket.create_server(("127.0.0.1", port), backlog=512) as listener:
            socket.send_fds(ours, [b"1"], [listener.fileno()])


def apart(work: Callable[[], None]) -> None:
    """Have a process of its own do something, until the keeper ends."""
    if pid := os.fork():
        keeper.helpers.append(pid)
        return
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        work()
    finally:
        os._exit(1)


def relay(listener: socket.socket, port: int) -> None:
    """Connect whoever comes to `listener`, which is of another network, to a port of this process's network."""

    async def pump(reader, writer):
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def connect(reader, writer):
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # it does not listen yet
            writer.transport.abort()
            return
        await asyncio.gather(pump(reader, outer), pump(inner, writer))
        outer.close()
        writer.close()

    async def serve():
        async with await asyncio.start_server(connect, sock=listener) as server:
            await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
