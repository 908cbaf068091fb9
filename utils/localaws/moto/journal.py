"""The journal of the requests that changed moto's state: one JSON line each, large bodies beside it.

    HOME/moto/journal.jsonl    {"at", "seed", "region", "service", "environ", "body" (base64) or "file", "upload"}
    HOME/moto/bodies/SHA256    a request's body, stored once however often it was sent

A line is written before its request is answered, so a killed process loses nothing it acknowledged: the kernel has it.
There is no fsync, here and for the records of jobs: a power cut may take the last seconds of what can be made again,
and a sync would cost each request milliseconds. (The registry syncs: pushes are few, and pulls verify.) At start the
journal is compacted: what was overwritten or deleted later is neither replayed nor kept.
"""

import base64
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

from localaws.state.processes import write_whole

log = logging.getLogger("localaws")

INLINE = 8 * 1024
# What CloudWatch Logs takes in one request, and what it counts for an event besides its text.
MAX_EVENTS, MAX_BYTES, EVENT_BYTES = 10_000, 1_048_576, 26


class Journal:
    """The journal in a folder. Appending is for one thread at a time."""

    def __init__(self, folder: Path):
        self.bodies = folder / "bodies"
        self.bodies.mkdir(parents=True, exist_ok=True)
        self.path = folder / "journal.jsonl"
        self._file = None

    def keep(self, body: bytes) -> dict:
        """Store a body and return the fields of an entry that refer to it."""
        if len(body) <= INLINE:
            return {"body": base64.b64encode(body).decode()}
        name = hashlib.sha256(body).hexdigest()
        file = self.bodies / name
        if not file.exists():
            write_whole(file, body)
        return {"file": name}

    def append(self, entry: dict) -> None:
        """Write one entry; when this returns it survives the end of the process."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
        except OSError:
            written = 0
        if written != len(line):
            os.ftruncate(self._file.fileno(), end)
            raise OSError(f"{self.path} cannot be written: is the disk full?")

    def compacted(self) -> Iterator[tuple[dict, bytes]]:
        """Drop what later entries undid, and give the rest with their bodies, oldest first."""
        entries = _merge_logs(_drop_undone(self._read(), self.body), self)
        temporary = self.path.with_suffix(".new")
        with temporary.open("wb") as out:
            for entry in entries:
                out.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        temporary.replace(self.path)
        named = {entry.get("file") for entry in entries}
        for file in self.bodies.iterdir():
            if file.name not in named:
                file.unlink()
        for entry in entries:
            yield entry, self.body(entry)

    def _read(self) -> list[dict]:
        if not self.path.exists():
            return []
        # A line without its end is a request that was never answered.
        entries = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                log.error("Not brought back: line %d of %s is damaged: %s", number, self.path, error)
        return entries

    def body(self, entry: dict) -> bytes:
        """Return the body of an entry's request."""
        return (
            base64.b64decode(entry["body"]) if "body" in entry else (self.bodies / entry["file"]).read_bytes()
        )


def _drop_undone(entries: list[dict], body: Callable[[dict], bytes]) -> list[dict]:
    """Leave out S3 requests whose effect a later one undid, and the logs of groups and streams that were deleted.

    Read from the end: what is dead there never needs to live. A bucket with versions, or from which something was
    copied, keeps all its requests.
    """
    pinned = set().union(*map(_pins, entries))
    dead: set[tuple] = set()
    kept = []
    for entry in reversed(entries):
        keep = True
        if entry["service"] == "s3" and _split(entry)[0] not in pinned:
            keep = _keep_s3(entry, dead, body)
        elif entry["service"] == "logs":
            keep = _keep_logs(entry, dead, body)
        if keep:
            kept.append(entry)
    return kept[::-1]


def _pins(entry: dict) -> set[str]:
    """Return the buckets in which every request counts because of this one."""
    if entry["service"] != "s3":
        return set()
    source = unquote(entry["environ"].get("HTTP_X_AMZ_COPY_SOURCE", "")).lstrip("/")
    versioned = [_split(entry)[0]] if "versioning" in _query(entry) else []
    return {source.partition("/")[0], *versioned} - {""}


def _keep_s3(entry: dict, dead: set[tuple], body: Callable[[dict], bytes]) -> bool:
    """Decide on one request, given what later requests undo; note what this one undoes."""
    method, query, (bucket, key) = entry["environ"]["REQUEST_METHOD"], _query(entry), _split(entry)
    target, upload = ("object", bucket, key), query.get("uploadId") or entry.get("upload")
    if ("bucket", bucket) in dead:
        return False
    if not key and method == "DELETE" and not query:
        dead.add(("bucket", bucket))
        return False
    if not key and method == "POST" and "delete" in query:
        names = [
            node.text or ""
            for node in ElementTree.fromstring(body(entry)).iter()
            if node.tag.endswith("}Key")
        ]
        # As WSGI spells a path.
        dead.update(("object", bucket, name.encode().decode("latin-1")) for name in names)
        return False
    if upload:
        completes = method == "POST" and "uploadId" in query
        if method == "DELETE" or (completes and target in dead):
            dead.add(("upload", upload))
        elif completes:
            dead.add(target)
        return ("upload", upload) not in dead
    if key and target in dead:
        return False
    conditional = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & entry["environ"].keys()
    if key and method in ("PUT", "DELETE") and not query and not conditional:
        dead.add(target)
        return method == "PUT"
    return True


def _keep_logs(entry: dict, dead: set[tuple], body: Callable[[dict], bytes]) -> bool:
    parameters = json.loads(body(entry) or b"{}")
    group = (entry["region"], parameters.get("logGroupName"))
    stream = (*group, parameters.get("logStreamName"))
    if group in dead or stream in dead:
        return False
    match _operation(entry):
        case "DeleteLogGroup":
            dead.add(group)
        case "DeleteLogStream":
            dead.add(stream)
        case _:
            return True
    return False


def _merge_logs(entries: list[dict], journal: Journal) -> list[dict]:
    """Put the lines of a stream into few requests: a job writes hundreds of small ones."""
    merged: list[dict] = []
    batches: dict[
        int, dict
    ] = {}  # place in `merged` -> that request's parameters, with the events of all it stands for
    latest: dict[tuple, tuple[int, int]] = {}  # stream -> place of its last batch, bytes in it
    for entry in entries:
        if entry["service"] != "logs" or _operation(entry) != "PutLogEvents":
            merged.append(entry)
            continue
        parameters = json.loads(journal.body(entry))
        events = parameters["logEvents"]
        size = sum(len(event["message"].encode()) + EVENT_BYTES for event in events)
        stream = (entry["region"], parameters["logGroupName"], parameters["logStreamName"])
        place, held = latest.get(stream, (None, 0))
        if (
            place is None
            or held + size > MAX_BYTES
            or len(batches[place]["logEvents"]) + len(events) > MAX_EVENTS
        ):
            place, held = len(merged), 0
            batches[place] = {**parameters, "logEvents": []}
            merged.append(entry)
        batches[place]["logEvents"] += events
        latest[stream] = (place, held + size)
    for place, parameters in batches.items():
        rest = {name: value for name, value in merged[place].items() if name not in ("body", "file")}
        merged[place] = {**rest, **journal.keep(json.dumps(parameters).encode())}
    return merged


def _operation(entry: dict) -> str:
    return entry["environ"].get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]


def _query(entry: dict) -> dict[str, str]:
    """Return the query without what only signs or names the request."""
    pairs = parse_qsl(entry["environ"].get("QUERY_STRING", ""), keep_blank_values=True)
    return {name: value for name, value in pairs if name != "x-id" and not name.lower().startswith("x-amz-")}


def _split(entry: dict) -> tuple[str, str]:
    """Return the bucket and the key that a request's path names."""
    bucket, _, key = entry["environ"]["PATH_INFO"].removeprefix("/").partition("/")
    return bucket, key
