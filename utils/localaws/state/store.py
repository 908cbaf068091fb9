"""The resources of SageMaker in a region: on disk before anybody sees them, so that a restart finds what was there.

A record is a dict with the names of AWS's Describe answers, times as epoch seconds (what the wire carries), plus keys
of our own, which `validation.prune` keeps inside. Names are unique without regard to case, as on AWS.
"""

import copy
import json
import threading
import time
from collections.abc import Callable

from . import locate
from .database import Database

KIND = "sagemaker "  # what the kinds of its entries begin with; those of other regions than ours go on with the region's name


class Store:
    """Records by kind and name: in the database first, then in memory for readers."""

    def __init__(self, database: Database, region: str = locate.REGION):
        self._database = database
        self._prefix = KIND + (f"{region} " if region != locate.REGION else "")
        self._lock = threading.Lock()  # held while the database writes: a tenth of a millisecond
        self._records: dict[str, dict[str, dict]] = {}
        #: Called after each change of a record with its kind, what it was ({} for a new one) and what it is.
        self.told: Callable[[str, dict, dict], None] = lambda kind, before, record: None
        self.load()

    def load(self) -> None:
        """Read what the database has."""
        for kind in self._database.counts():
            prefix, _, own = kind.rpartition(" ")
            if f"{prefix} " == self._prefix:
                self._records[own] = {name: json.loads(value) for name, value in self._database.entries(kind)}

    def insert(self, kind: str, name: str, record: dict) -> bool:
        """Add a record; False if the name is taken."""
        with self._lock:
            if name.lower() in self._records.get(kind, {}):
                return False
            self._keep(kind, name, copy.deepcopy(record))
        self.told(kind, {}, record)
        return True

    def get(self, kind: str, name: str) -> dict | None:
        """A copy of the record, or None."""
        with self._lock:
            return copy.deepcopy(self._records.get(kind, {}).get(name.lower()))

    def list(self, kind: str, where: Callable[[dict], bool] = lambda record: True) -> list[dict]:
        """Copies of the records of a kind for which `where`, which runs under the store's lock, is true."""
        with self._lock:
            return copy.deepcopy([*filter(where, self._records.get(kind, {}).values())])

    def view(self, kind: str) -> dict[str, dict]:
        """The records of a kind by their names in lower case, not copies: to be read, never changed.

        A record that changes is replaced by another, so one that is the same object as before says the same.
        """
        with self._lock:
            return dict(self._records.get(kind, {}))

    def update(
        self, kind: str, name: str, change: Callable[[dict], None] | None = None, **fields
    ) -> dict | None:
        """Set `fields`, then let `change` edit the record in place; answers a copy, or None if it is gone.

        `change` runs under the store's lock: it must not block, and may raise to leave the record as it was.
        """
        with self._lock:
            before = self._records.get(kind, {}).get(name.lower())
            if before is None:
                return None
            record = copy.deepcopy(before) | fields
            record["LastModifiedTime"] = time.time()
            if change:
                change(record)
            self._keep(kind, name, record)
            record = copy.deepcopy(record)
        self.told(kind, before, record)
        return record

    def delete(self, kind: str, name: str) -> bool:
        """Remove the record; False if there was none."""
        with self._lock:
            if name.lower() not in self._records.get(kind, {}):
                return False
            self._database.delete(self._prefix + kind, name.lower())
            del self._records[kind][name.lower()]
        return True

    @staticmethod
    def regions(database: Database) -> set[str]:
        """The other regions than ours of which the database has records."""
        kinds = (kind.removeprefix(KIND) for kind in database.counts() if kind.startswith(KIND))
        return {region for region, _, _ in (kind.rpartition(" ") for kind in kinds) if region}

    def _keep(self, kind: str, name: str, record: dict) -> None:
        self._database.put(self._prefix + kind, name.lower(), json.dumps(record).encode())
        self._records.setdefault(kind, {})[name.lower()] = record
