"""Lines of running programs to CloudWatch Logs, as they come; of a flood as much as memory has room for."""

import collections
import sys
import threading
import time
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError

FLUSH_SECONDS = 0.2
BATCH = 1000  # events a call: the service takes 10,000 and 1 MiB
BATCH_BYTES = 900_000
EVENT_BYTES = 512  # what an event costs in memory besides its text, until it is on disk
# Of a stream: what is taken at once, 30,000 short lines, more than anybody reads, and 20 instances of it fit into memory.
STREAM_BYTES = 16 << 20
# And what is taken for ever, a second: 200 short lines, many times a training's progress; a day of it is 11 GB at most.
STREAM_RATE = 128 << 10
# Of what does not fit, the newest, kept to the end because a traceback comes last.
LAST_LINES, LAST_BYTES = 200, 512 << 10
CLOSE_SECONDS = 60  # to put what is left, at most STREAM_BYTES: it takes moto one or two


class LogStream:
    """One stream of a log group. `write` never blocks; `close` returns when all that is kept has arrived.

    Where lines come faster than they can be kept, some are left out, and a line says how many; the newest never are.
    """

    def __init__(self, logs, group: str, name: str):
        self._logs = logs
        self._where = {"logGroupName": group, "logStreamName": name}
        self._lock = threading.Lock()
        self._lines: list[dict] = []
        self._newest: collections.deque[dict] = collections.deque()  # while there is no room
        self._newest_bytes = self._left_lines = self._left_bytes = 0
        self._room, self._counted, self._unsent = STREAM_BYTES, time.monotonic(), 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take a line."""
        event = {"timestamp": int(time.time() * 1000), "message": line or " "}  # the service refuses ""
        with self._lock:
            if not self._newest and self._take(_cost(event)):
                self._lines.append(event)
                return
            self._newest.append(event)
            self._newest_bytes += _cost(event)
            while len(self._newest) > LAST_LINES or self._newest_bytes > LAST_BYTES:
                oldest = self._newest.popleft()
                self._newest_bytes -= _cost(oldest)
                self._left_lines += 1
                self._left_bytes += len(oldest["message"])

    def close(self) -> None:
        """Wait until what is kept has arrived."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            print(f"localaws: {self._where}: its last lines are lost", file=sys.stderr)

    def _take(self, cost: int) -> bool:
        """Whether there is room for so many bytes, which are then taken."""
        now = time.monotonic()
        self._room = min(STREAM_BYTES - self._unsent, self._room + STREAM_RATE * (now - self._counted))
        self._counted = now
        if fits := self._room >= cost:
            self._room -= cost
            self._unsent += cost
        return fits

    def _run(self):
        self._call("create_log_group", logGroupName=self._where["logGroupName"])
        self._call("create_log_stream", **self._where)
        closing = False
        while not closing:
            closing = self._closing.wait(FLUSH_SECONDS)
            for batch in _batches(self._collect(closing)):
                self._call("put_log_events", logEvents=batch, **self._where)

    def _collect(self, closing: bool) -> list[dict]:
        with self._lock:
            self._unsent = 0
            if self._newest and (self._take(self._newest_bytes) or closing):
                if self._left_lines:
                    told = (
                        f"[localaws] {self._left_lines:,} lines ({self._left_bytes:,} characters) are left out here: they "
                        f"came faster than localaws keeps them, {STREAM_BYTES >> 20} MB at once and {STREAM_RATE >> 10} KB "
                        "a second (a line counts half a KB more than its text). Metrics are read from them all the same."
                    )
                    self._lines.append({"timestamp": self._newest[0]["timestamp"], "message": told})
                self._lines += self._newest
                self._newest.clear()
                self._newest_bytes = self._left_lines = self._left_bytes = 0
            lines, self._lines = self._lines, []
            return lines

    def _call(self, operation: str, **arguments):
        try:
            getattr(self._logs, operation)(**arguments)
        except self._logs.exceptions.ResourceAlreadyExistsException:
            return  # a group belongs to all jobs; a stream is there already when an instance starts again
        except (ClientError, BotoCoreError) as error:
            # A job must not fail because its log cannot be kept, but nobody may miss that it is incomplete.
            print(f"localaws: {self._where}: {operation} failed: {error}", file=sys.stderr)


def _cost(event: dict) -> int:
    return EVENT_BYTES + len(event["message"])


def _batches(events: list[dict]) -> Iterator[list[dict]]:
    """The events in calls that the service takes."""
    batch, size = [], 0
    for event in events:
        if batch and (len(batch) == BATCH or size >= BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event["message"].encode()) + 26
    if batch:
        yield batch
