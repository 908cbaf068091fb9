"""What localaws knows, on disk: one JSON file per resource, so that a restart finds what was there.

A record is a dict with the names of AWS's Describe answers, times as epoch seconds (what the wire carries), plus keys
of our own, which `validation.prune` keeps inside. Names are unique without regard to case, as on AWS.
"""

import copy
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .processes import write_json

log = logging.getLogger("localaws")


class Store:
    """Records by kind and name: on disk before anybody sees them, then in memory for readers.

    A file is written beside its place and renamed, so that a kill at any moment leaves the old record or the new one.
    It is not synced: a power cut may lose the last second, a killed process does not.
    """

    def __init__(self, home: Path):
        self._home = home
        self._lock = threading.Lock()  # held while a file is written: a tenth of a millisecond
        self._records: dict[str, dict[str, dict]] = {}
        for path in sorted(home.glob("*/*.json")):
            try:
                record = json.loads(path.read_text("utf-8"))
            except ValueError as error:  # after a power cut: the rest must come back all the same
                log.error("Not brought back: %s is damaged: %s", path, error)
                continue
            self._records.setdefault(path.parent.name, {})[path.stem] = record

    def insert(self, kind: str, name: str, record: dict) -> bool:
        """Add a record; False if the name is taken."""
        with self._lock:
            if name.lower() in self._records.get(kind, {}):
                return False
            self._keep(kind, name, copy.deepcopy(record))
        return True

    def get(self, kind: str, name: str) -> dict | None:
        """A copy of the record, or None."""
        with self._lock:
            return copy.deepcopy(self._records.get(kind, {}).get(name.lower()))

    def list(self, kind: str, where: Callable[[dict], bool] = lambda record: True) -> list[dict]:
        """Copies of the records of a kind for which `where`, which runs under the store's lock, is true."""
        with self._lock:
            return copy.deepcopy([*filter(where, self._records.get(kind, {}).values())])

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
            self._keep(kind, name, record)
            return copy.deepcopy(record)

    def delete(self, kind: str, name: str) -> bool:
        """Remove the record; False if there was none."""
        with self._lock:
            if name.lower() not in self._records.get(kind, {}):
                return False
            self._path(kind, name).unlink(missing_ok=True)
            del self._records[kind][name.lower()]
        return True

    def _keep(self, kind: str, name: str, record: dict) -> None:
        write_json(self._path(kind, name), record)
        self._records.setdefault(kind, {})[name.lower()] = record

    def _path(self, kind: str, name: str) -> Path:
        return self._home / kind / f"{name.lower()}.json"
