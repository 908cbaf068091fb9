"""Checkpoints of a training job: a folder and a place in S3, kept the same while the job runs."""

import sys
import threading
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from localaws.sagemaker import storage

SYNC_SECONDS = 1


class Checkpoints:
    """Fetches what is at `uri` into `folder`, then copies each file that changes there back to S3.

    Like AWS it only ever copies: what is deleted in the folder stays in S3. Raises DataError if nothing can be read.
    """

    def __init__(self, s3, uri: str, folder: Path):
        self._s3, self._uri, self._folder = s3, uri.rstrip("/") + "/", folder
        storage.download(s3, storage.list_objects(s3, "S3Prefix", self._uri), folder)
        self._known = {path: self._state(path) for path, _ in storage.files_below(folder)}
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
        for path, name in list(storage.files_below(self._folder)):
            try:
                state = self._state(path)
                if self._known.get(path) != state:
                    bucket, key = storage.parse_uri(self._uri + name)
                    self._s3.upload_file(str(path), bucket, key)
                    self._known[path] = state
            except FileNotFoundError:
                continue  # a temporary file of the program: gone between the look and the copy
            except (ClientError, BotoCoreError) as error:
                # The next round tries again; the job need not end for it, but the log must tell.
                print(f"localaws: checkpoint {path.name} to {self._uri}: {error}", file=sys.stderr)

    @staticmethod
    def _state(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_mtime_ns, status.st_size
