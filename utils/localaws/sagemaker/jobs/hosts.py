"""What training and processing jobs share: a program of an image on one or more hosts, their data, and how it ended."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from localaws.engines.logs import LogStream
from localaws.engines.process import Container, ExecError, Spec, StartError, Unpacked
from localaws.sagemaker import storage
from localaws.sagemaker.context import Context

from .jobs import FAILURE_CHARACTERS, Job, JobError, recorded

STOP_SECONDS = 120  # between SIGTERM and SIGKILL
DEFAULT_RUNTIME = 86_400
OUT_OF_MEMORY = "ClientError: Please use an instance type with more memory, or reduce the size of {} data processed on an instance."


def own_line(specification: dict) -> dict[str, tuple[str, ...]]:
    """ContainerEntrypoint and ContainerArguments of a request, as Spec takes them."""
    return {
        "entrypoint": tuple(specification.get("ContainerEntrypoint", ())),
        "arguments": tuple(specification.get("ContainerArguments", ())),
    }


class HostsJob(Job):
    """A job whose program runs on hosts `algo-1`, `algo-2` and so on, with a log stream each in `log_group`."""

    log_group: str
    stop_seconds = STOP_SECONDS

    def __init__(self, context: Context, kind: str, record: dict, count: int):
        super().__init__(context, kind, record)
        self.kind = kind
        self._containers: list[Container] = []
        self._hosts = sorted(f"algo-{number}" for number in range(1, count + 1))
        self._streams: dict[str, str] = {}  # host -> its log stream

    def _image(self) -> Unpacked | str:
        try:
            return self.context.engine.fetch(self.context.registry, self.record["ResolvedImage"])
        except StartError as error:
            raise JobError(f"ClientError: {error}") from error

    def _objects(self, source: dict, index: int) -> list[tuple[str, str, str]]:
        """What an S3 source has for one of the hosts: bucket, key and name of each object. Raises DataError."""
        objects = storage.list_objects(self.context.s3, source["S3DataType"], source["S3Uri"])
        sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
        return objects[index :: len(self._hosts)] if sharded else objects

    def _download(self, objects: list[tuple[str, str, str]], folder: Path) -> None:
        try:
            for bucket, key, _ in objects[:1]:
                self.context.require_access(self.record["RoleArn"], "s3:GetObject", f"s3://{bucket}/{key}")
            storage.download(self.context.s3, objects, folder)
        except storage.DataError as error:
            raise JobError(f"ClientError: Data download failed:{error}") from error

    def _run(
        self,
        spec: Callable[[str], Spec],
        seconds: float,
        told: bool = True,
        beside: Callable[[dict[str, LogStream]], list] = lambda streams: [],
        lost: Callable[[float, list], bool] = lambda elapsed, parts: False,
    ) -> tuple[dict[str, int], str]:
        """Run the program on every host, at most `seconds`; the exit codes, and how it ended: Completed, Stopped,
        MaxRuntimeExceeded or Interrupted.

        `told`: its log is to say what is recorded alone. `beside` gives what works beside the hosts and is closed after
        them, `lost` says, of the seconds and of that, when the instances are taken away.
        """
        epoch, streams, parts, network = int(time.time() * 1000), {}, [], None
        self._containers.clear()
        try:
            for host in self._hosts:
                self._streams[host] = f"{self.name}/{host}-{epoch}"
                streams[host] = LogStream(self.context.logs, self.log_group, self._streams[host])
            for line in recorded(self.record) if told else ():
                streams[self._hosts[0]].write(line)
            parts += beside(streams)
            if len(self._hosts) > 1:
                network = self.context.engine.new_network(spec(self._hosts[0]), self._hosts)
            for host, stream in streams.items():
                one = replace(spec(host), network=network)
                self._containers.append(self.context.engine.start(one, partial(self._line, stream)))
            outcome = self._await(seconds, lambda elapsed: lost(elapsed, parts))
            for container in self._containers:
                container.kill()
            codes = (container.exit_code for container in self._containers)
            return dict(zip(self._hosts, codes, strict=True)), outcome
        except ExecError as error:
            for line in (error.line, f"[localaws] {error.mend}"):
                streams[host].write(line)
            raise JobError(f"AlgorithmError: {error.cause}, exit code: {error.exit_code}") from error
        except StartError as error:
            word = self.kind.removesuffix("Job").lower()
            raise JobError(f"ClientError: Unable to start the {word} container: {error}") from error
        finally:
            for container in self._containers:
                container.kill()
            for part in filter(None, [*parts, network, *streams.values()]):
                part.close()

    def _line(self, stream: LogStream, line: str) -> None:
        stream.write(line)

    def _await(self, seconds: float, lost: Callable[[float], bool]) -> str:
        """Wait for all hosts, at most `seconds`; `lost` says after how many the instances are taken away."""
        start = time.monotonic()
        while any(container.running for container in self._containers):
            outcome, elapsed = None, time.monotonic() - start
            if self.stop_requested.is_set():
                outcome = "Stopped"
            elif elapsed > seconds:
                outcome = "MaxRuntimeExceeded"
            elif lost(elapsed):
                outcome = "Interrupted"
            if outcome:
                for container in self._containers:
                    container.terminate()
                end = time.monotonic() + self.stop_seconds
                for container in self._containers:
                    container.wait(max(0, end - time.monotonic()))
                return outcome
            if any(container.exit_code for container in self._containers):
                break  # one host has failed: the job has, and the others would wait for it for ever
            running = [container for container in self._containers if container.running]
            (running or self._containers)[0].wait(0.05)
        return "Completed"

    def _left(self, bases: dict[str, Path], place: str, keys: bool = False) -> Iterator[tuple[str, BinaryIO]]:
        """What the hosts have left in a folder; of files with one name the first host's. The log names what is left out."""
        names = set()
        for host, base in bases.items():
            left_out = []
            for name, file in storage.left(base, place, left_out.append, keys):
                if name not in names:
                    names.add(name)
                    yield name, file
            if left_out:
                stream = LogStream(self.context.logs, self.log_group, self._streams[host])
                for what in left_out:
                    stream.write(f"[localaws] /opt/ml/{place}: {what}")
                stream.close()

    def _failure(self, exit_codes: dict[str, int], bases: dict[str, Path], place: str) -> JobError:
        """Why a program has failed, in AWS's form, `AlgorithmError: CAUSE, exit code: N`: the start of the file `place`
        is the cause, or, where there is none, what the image lacks if the program has said so. Of several hosts it is
        that of the first that failed, after its name: the others were killed then, or failed for want of it. A program
        that names a host of the job itself knows better which one is to blame."""
        if any(container.out_of_memory for container in self._containers):
            return JobError(OUT_OF_MEMORY.format(self.kind.removesuffix("Job").lower()))
        host, container = min(
            (
                (host, one)
                for host, one in zip(self._hosts, self._containers, strict=True)
                if exit_codes[host]
            ),
            key=lambda failed: failed[1].ended_at,
        )
        cause = beginning(bases[host], place).decode("utf-8", "replace").strip() or container.lacks
        if len(self._hosts) > 1 and cause.partition(" ")[0].rstrip(":") not in self._hosts:
            cause = ": ".join(filter(None, (host, cause)))
        ending = f", exit code: {exit_codes[host]}"
        return JobError(
            "AlgorithmError: " + cause[: FAILURE_CHARACTERS - len("AlgorithmError: ") - len(ending)] + ending
        )


def beginning(base: Path, place: str) -> bytes:
    """The start of a file that a program may have left at `place` below `base`; nothing where there is none."""
    # It wrote none, or left something else there.
    with suppress(OSError), storage.opened(base, place) as descriptor:
        return os.read(descriptor, 4 * FAILURE_CHARACTERS)
    return b""
