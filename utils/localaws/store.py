"""What localaws knows, on disk: one JSON file per resource, so that a restart finds what was there.

A record is a dict with the names of AWS's Describe answers, times as epoch seconds (what the wire carries), plus keys
of our own, which `validation.prune` keeps inside. Names are unique without regard to case, as on AWS.
"""

import copy
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .processes import write_json


class Store:
    """Records by kind and name: in memory for readers, on disk before a writer returns.

    A file is written beside its place and renamed, so that a kill at any moment leaves the old record or the new one.
    It is not synced: a power cut may lose the last second, a killed process does not.
    """

    def __init__(self, home: Path):
        self._home = home
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        self._version = 0
        self._written: dict[Path, int] = {}
        self._records: dict[str, dict[str, dict]] = {}
        for path in sorted(home.glob("*/*.json")):
            self._records.setdefault(path.parent.name, {})[path.stem] = json.loads(path.read_text("utf-8"))

    def insert(self, kind: str, name: str, record: dict) -> bool:
        """Add a record; False if the name is taken."""
        with self._lock:
            records = self._records.setdefault(kind, {})
            if name.lower() in records:
                return False
            records[name.lower()] = copy.deepcopy(record)
            write = self._prepare(kind, name)
        write()
        return True

    def get(self, kind: str, name: str) -> dict | None:
        """A copy of the record, or None."""
        with self._lock:
            return copy.deepcopy(self._records.get(kind, {}).get(name.lower()))

    def list(self, kind: str) -> list[dict]:
        """Copies of all records of a kind."""
        with self._lock:
            return copy.deepcopy([*self._records.get(kind, {}).values()])

    def update(
        self, kind: str, name: str, change: Callable[[dict], None] | None = None, **fields
    ) -> dict | None:
        """Set `fields`, then let `change` edit the record in place; answers a copy, or None if it is gone.

        `change` runs under the store's lock: it must not block, and may raise to leave the record as it was.
        """
        with self._lock:
            record = copy.deepcopy(self._records.get(kind, {}).get(name.lower()))
            if record is None:
                return None
            record |= fields
            record["LastModifiedTime"] = time.time()
            if change:
                change(record)
            self._records[kind][name.lower()] = record
            write = self._prepare(kind, name)
            answer = copy.deepcopy(record)
        write()
        return answer

    def delete(self, kind: str, name: str) -> bool:
        """Remove the record; False if there was none."""
        with self._lock:
            if self._records.get(kind, {}).pop(name.lower(), None) is None:
                return False
            write = self._prepare(kind, name)
        write()
        return True

    def _prepare(self, kind: str, name: str) -> Callable[[], None]:
        """Fix under the lock what is to be on disk; the returned function writes it, unless a later one has."""
        self._version += 1
        version, path = self._version, self._home / kind / f"{name.lower()}.json"
        # The records in memory are replaced, never edited, so this one may be written outside the lock.
        record = self._records[kind].get(name.lower())

        def write():
            with self._disk:
                if self._written.get(path, 0) > version:
                    return
                self._written[path] = version
                if record is None:
                    path.unlink(missing_ok=True)
                else:
                    write_json(path, record)

        return write
