"""Lines of running programs to CloudWatch Logs, as they come."""

import queue
import sys
import threading
import time

from botocore.exceptions import BotoCoreError, ClientError

FLUSH_SECONDS = 0.2
BATCH = 1000  # events a call: the service takes 10,000 and 1 MiB
BATCH_BYTES = 900_000


class LogStream:
    """One stream of a log group. `write` never blocks on the network; `close` returns when all has arrived."""

    def __init__(self, logs, group: str, name: str):
        self._logs = logs
        self._where = {"logGroupName": group, "logStreamName": name}
        self._lines: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        self._lines.put(
            {"timestamp": int(time.time() * 1000), "message": line or " "}
        )  # the service refuses ""

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join()

    def _run(self):
        self._call("create_log_group", logGroupName=self._where["logGroupName"])
        self._call("create_log_stream", **self._where)
        more = True
        while more:
            batch = [self._lines.get()]
            deadline = time.monotonic() + FLUSH_SECONDS
            size = 0
            while batch[-1] is not None and len(batch) < BATCH and size < BATCH_BYTES:
                size += len(batch[-1]["message"].encode()) + 26
                try:
                    batch.append(self._lines.get(timeout=max(0, deadline - time.monotonic())))
                except queue.Empty:
                    break
            if batch[-1] is None:
                batch.pop()
                more = False
            if batch:
                self._call("put_log_events", logEvents=batch, **self._where)

    def _call(self, operation: str, **arguments):
        try:
            getattr(self._logs, operation)(**arguments)
        except self._logs.exceptions.ResourceAlreadyExistsException:
            return  # a group belongs to all jobs; a stream is there already when an instance starts again
        except (ClientError, BotoCoreError) as error:
            # A job must not fail because its log cannot be kept, but nobody may miss that it is incomplete.
            print(f"localaws: {self._where}: {operation} failed: {error}", file=sys.stderr)
