"""Checkpoints of a training job, and outputs of a processing job that are uploaded while it runs: a folder and a place in
S3, kept the same."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from localaws.sagemaker import storage

SYNC_SECONDS = 1


class Checkpoints:
    """Fetches what is at `uri` into the folder `place` below `base` (if `fetch`), then copies each file that changes there to S3.

    Like AWS it only ever copies: what is deleted in the folder stays in S3. `say` is told, once, of what cannot be
    copied. Raises DataError if nothing can be read.
    """

    def __init__(self, s3, uri: str, base: Path, place: str, say: Callable[[str], None], fetch: bool = True):
        self._s3, self._uri, self._where, self._say = s3, uri.rstrip("/") + "/", (base, place), say
        self._said: set[str] = set()
        self.copied = 0  # files that have come to S3, a changed one each time
        if fetch:
            storage.download(s3, storage.list_objects(s3, "S3Prefix", self._uri), base / place)
        self._known = {name: self._state(file) for name, file in self._left()}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copy what has changed since, and stop."""
        self._closing.set()
        self._thread.join()  # without a bound: it only copies what is there
        self._sync()

    def _run(self):
        while not self._closing.wait(SYNC_SECONDS):
            self._sync()

    def _sync(self):
        for name, file in self._left():
            try:
                state = self._state(file)
                if self._known.get(name) != state:
                    storage.upload(self._s3, [(name, file)], self._uri)
                    self._known[name] = state
                    self.copied += 1
            except (ClientError, BotoCoreError) as error:
                # The next round tries again; the job need not end for it, but the log must tell.
                print(f"localaws: checkpoint {name!r} to {self._uri}: {error}", file=sys.stderr)

    def _left(self) -> Iterator[tuple[str, BinaryIO]]:
        return storage.left(*self._where, self._leave_out, keys=True)

    def _leave_out(self, what: str) -> None:
        if what not in self._said and "No such file" not in what:  # a temporary file of the program's
            self._said.add(what)
            self._say(what)

    @staticmethod
    def _state(file: BinaryIO) -> tuple[int, int]:
        status = os.fstat(file.fileno())
        return status.st_mtime_ns, status.st_size
