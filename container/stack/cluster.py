"""Several hosts as one cluster of Dask's, for an algorithm whose train() takes a `client`; and the end of all when one dies.

    the first host      the scheduler, train() with its client, and a worker
    each other host     a worker; it waits for what the first host says, and ends as that does

Each host has a process that watches, `train`'s child, and as its child the worker: XGBoost ends a worker's process where
another one's is gone. The watchers keep a connection to the scheduler, by which all learn who died, and of which cause.

Dask's messages are pickles, neither signed nor encrypted: who reaches the ports can run code. So they are open on the
address of the job's own network alone (`network_interface_name`); on AWS EnableInterContainerTrafficEncryption encrypts
that network. TLS of Dask's own would need a key that all hosts have, and a job has no secret channel to share one.
"""

import asyncio
import contextlib
import ipaddress
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

import dask
import distributed
import psutil
from dask.utils import key_split
from distributed.comm import connect

from stack import processes
from stack.errors import InputError

# Ports; XGBoost's workers reach each other by more, which the kernel chooses.
SCHEDULER, WORKER, TRACKER = 8786, 8788, 9091
# Seconds. All of them together are less than the minute in which all hosts have ended after one has died.
JOIN = 45  # until all hosts are there: nobody hears of one that died before
BEAT = 5  # between two signs of life: a host whose network is cut closes no connection
SILENT = 30  # without one, after which it counts as dead
SETTLE = (
    3  # for the cause of what may be only a consequence: a worker's end by XGBoost, an exception in train()
)

dask.config.set(
    {
        "distributed.comm.timeouts.connect": JOIN,
        # What is sent and not acknowledged; the kernel looks (TCP_USER_TIMEOUT).
        "distributed.comm.timeouts.tcp": SILENT,
        "distributed.scheduler.worker-ttl": SILENT,
        # A share of the rows lies on one host. Who else had it to compute, would find other files or none.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.work-stealing": False,
        # A worker short of memory would pause, and all wait for ever. The kernel ends it, which is told.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        # Pages for people: nobody can open them in a job.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
)
# Of a host that dies or of the end, what it tells are tracebacks; the watchers say it in a sentence.
logging.getLogger("distributed").setLevel(logging.CRITICAL)


class Cluster:
    """This host's part of the cluster of a job.

    on_loss(cause) is called in another thread than train()'s where a host has died, and then the process ends.
    """

    def __init__(self, resources: dict, on_loss: Callable[[str], None]):
        self.hosts, self.host = sorted(resources["hosts"]), resources["current_host"]
        self.first = self.hosts[0]
        self.interface = resources.get("network_interface_name")
        self.address = address(self.host, self.interface)
        self.on_loss = on_loss
        self.parent = os.getpid()
        # Forked before there are threads; with all that is imported, which both share.
        self.worker = multiprocessing.get_context("fork").Process(target=self._work, daemon=True)
        self.worker.start()
        self.joined, self.ended = {}, False

    def lead(self) -> distributed.Client:
        """On the first host: the scheduler's client, once all hosts are there. Raises InputError that names who is not."""
        print(
            f"train: {self.host} runs Dask's scheduler, port {SCHEDULER}, for {len(self.hosts)} hosts: "
            f"{', '.join(self.hosts)}; workers port {WORKER}, XGBoost's tracker port {TRACKER}"
        )
        self.began = time.time()
        options = {"host": self.address, "port": SCHEDULER, "dashboard_address": "127.0.0.1:0"}
        options |= {"dashboard": False, "cluster": self}
        self.cluster = distributed.SpecCluster({}, {"cls": _Scheduler, "options": options})
        self.cluster.loop.add_callback(self._watch)
        self.client = distributed.Client(self.cluster)
        self.client.get_task_stream()  # from here on it is kept
        deadline = time.monotonic() + JOIN
        while set(self.hosts) - self.joined.keys() - {self.host} or len(self.workers()) < len(self.hosts):
            if time.monotonic() > deadline:
                missing = sorted(set(self.hosts) - self.workers().keys())
                raise InputError(f"{' and '.join(missing)} did not join {self.host} within {JOIN} s")
            time.sleep(0.05)
        return self.client

    def workers(self) -> dict[str, str]:
        """Dask's address of each host's worker."""
        return workers(self.client)

    def end(self, cause: str | None) -> None:
        """On the first host: have all others end, well or for this cause, which is this host's where it names none."""
        self.ended = True
        if cause and cause.partition(" ")[0].rstrip(":") not in self.hosts:
            cause = f"{self.host}: {cause}"
        if hasattr(self, "cluster"):
            self.cluster.sync(self._tell, {"end": cause})
        self.worker.kill()

    def settle(self) -> None:
        """Wait whether an exception was a dead host's doing: then the process ends here."""
        time.sleep(SETTLE + 1)

    def follow(self) -> str | None:
        """On another host than the first: wait until that says the end; the cause where it is a failure."""
        print(f"train: {self.host} runs a worker of Dask's, port {WORKER}; {self.first} trains")
        try:
            return asyncio.run(self._follow())
        finally:
            self.worker.kill()

    def figures(self) -> dict:
        """What train writes to output/data/dask.json: what each host has done until now, by name, and Dask's task stream.

        That has for each task its host, and when it was computed, or fetched what it needed: seconds since the beginning.
        """
        hosts, stream, places = self.client.run(_figures), self.client.get_task_stream(), self.workers()
        found = {host: hosts[worker] for host, worker in places.items() if worker in hosts}
        names = {worker: host for host, worker in places.items()}
        tasks = [
            {"host": names[task["worker"]], "task": key_split(task["key"]), "action": one["action"]}
            | {edge: round(one[edge] - self.began, 3) for edge in ("start", "stop")}
            for task in stream
            for one in task["startstops"]
        ]
        return {"seconds": round(time.time() - self.began, 3), "hosts": found, "stream": tasks}

    async def _follow(self) -> str | None:
        gone = f"{self.first} is gone: it ran Dask's scheduler, and closed its connection to {self.host}"
        try:
            comm = await connect(f"tcp://{self.first}:{SCHEDULER}", timeout=JOIN)
            await comm.write({"op": "join", "host": self.host, "reply": False})
        except OSError:
            return f"{self.first} did not start Dask's scheduler, port {SCHEDULER}, within {JOIN} s"
        beat = asyncio.create_task(_beat(comm))
        worker = asyncio.create_task(self._tell_worker_end(comm))
        try:
            while "end" not in (said := await asyncio.wait_for(comm.read(), SILENT)):
                pass
            return said["end"]
        except TimeoutError:
            return f"{self.first} is gone: it runs Dask's scheduler, and was silent for {SILENT} s"
        except OSError:
            # All are stopped, it may be, and this one a moment later.
            await asyncio.sleep(SETTLE)
            return gone
        finally:
            beat.cancel()
            worker.cancel()

    async def hear(self, comm, host: str) -> None:
        """On the first host: another one's connection, for as long as it lasts."""
        self.joined[host] = comm
        beat = asyncio.create_task(_beat(comm))
        try:
            while True:
                said = await asyncio.wait_for(comm.read(), SILENT)
                if "worker" in said:
                    await self._lose(host, said["worker"])
        except TimeoutError:
            await self._lose(host, f"is gone: it was silent for {SILENT} s")
        except OSError:
            await self._lose(host, "is gone: its connections are closed")
        finally:
            beat.cancel()

    async def _watch(self) -> None:
        await self._lose(self.host, await self._worker_end())

    async def _tell_worker_end(self, comm) -> None:
        await _write(comm, {"worker": await self._worker_end()})

    async def _worker_end(self) -> str:
        """How this host's worker has ended, once it has."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.worker.sentinel, ended.set)
        await ended.wait()
        loop.remove_reader(self.worker.sentinel)
        self.worker.join()
        if (code := self.worker.exitcode) is None:
            return (
                "has ended"  # this process as well: what Python does then has waited for the worker before us
            )
        if code >= 0:
            return f"has lost its worker, which ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = "; the machine may be out of memory" if name == "SIGKILL" else ""
        return f"has lost its worker, which was ended by {name}{hint}"

    async def _lose(self, host: str, what: str) -> None:
        """The end of the job because of a host. An exit code may be another's doing, whose end is then told soon."""
        if "exit code" in what:
            await asyncio.sleep(SETTLE)
        if self.ended:
            return
        self.ended = True
        self.worker.kill()
        cause = f"{host} {what}"
        self.on_loss(cause)
        await self._tell({"end": cause})
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    async def _tell(self, message: dict) -> None:
        """Say it to all; who does not listen is gone itself."""
        saying = [asyncio.create_task(_write(comm, message)) for comm in self.joined.values()]
        if saying:
            await asyncio.wait(saying, timeout=BEAT)

    def _work(self) -> None:
        """The worker's process."""
        processes.die_with(self.parent)
        options = {"host": self.address, "port": WORKER}
        options |= {
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "name": self.host,
            "memory_limit": 0,
        }

        async def work():
            async with distributed.Worker(
                f"tcp://{self.first}:{SCHEDULER}", death_timeout=JOIN, **options
            ) as worker:
                # For what runs in it: which of how many hosts it is on, and what figures() tells.
                worker.place = self.hosts.index(self.host), len(self.hosts)
                worker.interface, worker.read = self.interface, {}
                worker.moved = psutil.net_io_counters(pernic=True).get(self.interface)
                await worker.finished()

        try:
            asyncio.run(work())
        except OSError as error:  # a port that is taken, or nobody at the scheduler's
            print(f"train: Dask's worker on {self.host} cannot start: {error}", file=sys.stderr)
            sys.exit(1)


class _Scheduler(distributed.Scheduler):
    """Dask's, which the watchers of the other hosts join as well."""

    def __init__(self, *args, cluster: Cluster, **options):
        super().__init__(*args, **options)
        self.handlers["join"] = self.join
        self.heard = cluster

    async def join(self, comm, host: str):
        await self.heard.hear(comm, host)


def address(host: str, interface: str | None) -> str:
    """The IPv4 address of this host on the job's network interface. Raises InputError that lists what interfaces there are.

    The one by which the others know it, where the interface has several.
    """
    found = psutil.net_if_addrs()
    own = [each for each in found.get(interface, ()) if each.family == socket.AF_INET]
    if not own:
        raise InputError(
            f"resourceconfig.json: network_interface_name {interface!r} is no interface with an IPv4 address here; "
            f"there are {', '.join(sorted(found))}"
        )
    with contextlib.suppress(OSError):
        named = socket.gethostbyname(host)
        if any(_within(named, each.address, each.netmask) for each in own):
            return named
    return own[0].address


def _within(named: str, one: str, mask: str) -> bool:
    return ipaddress.ip_address(named) in ipaddress.ip_interface(f"{one}/{mask}").network


def workers(client: distributed.Client) -> dict[str, str]:
    """Dask's address of each host's worker, by the host's name, sorted."""
    found = client.scheduler_info(n_workers=-1)["workers"]
    return dict(sorted((worker["name"], place) for place, worker in found.items()))


async def _write(comm, message: dict) -> None:
    with contextlib.suppress(OSError):  # its end is noticed where it is read
        await comm.write(message)


async def _beat(comm) -> None:
    while True:
        await _write(comm, {})
        await asyncio.sleep(BEAT)


def _figures(dask_worker: distributed.Worker) -> dict:
    """What a worker has done; run in it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    now, before = psutil.net_io_counters(pernic=True)[dask_worker.interface], dask_worker.moved
    return {
        "tasks": dask_worker.state.executed_count,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_memory_bytes": used.ru_maxrss << 10,
        "dask_sent_bytes": dask_worker.transfer_outgoing_bytes_total,
        "interface_sent_bytes": now.bytes_sent - before.bytes_sent,
        "interface_received_bytes": now.bytes_recv - before.bytes_recv,
        "channels": dask_worker.read,
    }
