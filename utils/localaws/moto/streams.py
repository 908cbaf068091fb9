"""CloudWatch Logs' lines, which lie in the database: moto would keep all of them in memory, and look at each for a page."""

import hashlib
import heapq
import json
from collections.abc import Iterator

import moto.logs.models
import moto.logs.responses
from moto.core.utils import unix_time_millis
from moto.logs.models import EventMessageFilter, InvalidParameterException, LogEvent
from moto.logs.responses import LogsResponse

from localaws.state.database import Database

PAGE = 10_000  # events, at most, of one answer

database: Database = None  # moto's state is one for a process, and so are these
written: set["Stream"] = set()  # into which the request that runs has written


class Lines:
    """The events of a stream between two times (ms since the epoch, both included), by time and then as they came."""

    def __init__(self, stream: "Stream", begin: int | None = None, end: int | None = None):
        self._name, self._range = stream.log_stream_name, (stream.number, begin or 0, end or 1 << 62)

    def select(self, what: str, rest: str = "", *values: int) -> list[tuple]:
        """Rows of its events, found by the index, which has stream, at and id."""
        query = f"SELECT {what} FROM event WHERE stream = ? AND at BETWEEN ? AND ? {rest}"
        return database.select(query, *self._range, *values)

    def __len__(self) -> int:
        return self.select("count(*)")[0][0]

    def __bool__(self) -> bool:
        return bool(self.select("1", "LIMIT 1"))

    def __iter__(self) -> Iterator[LogEvent]:
        return (event for *_, event in self.after(0, 0, PAGE))

    def after(self, at: int, number: int, size: int) -> Iterator[tuple[int, int, str, LogEvent]]:
        """Give (time, number, name of the stream, event) after an event, of which `size` are in memory at most."""
        while rows := self.select(
            "at, id, taken, message", "AND (at, id) > (?, ?) ORDER BY at, id LIMIT ?", at, number, size
        ):
            for at, number, taken, message in rows:
                event = LogEvent(taken, {"timestamp": at, "message": message})
                event.event_id = number
                yield at, number, self._name, event


class Stream(moto.logs.models.LogStream):
    """moto's stream without its events."""

    @property
    def number(self) -> int:
        """Its number in the database: 64 bits of a digest of its ARN."""
        return int.from_bytes(hashlib.sha256(self.arn.encode()).digest()[:8], "big", signed=True)

    @property
    def events(self) -> Lines:
        return Lines(self)

    @events.setter
    def events(self, _: list) -> None:
        """moto begins with an empty list."""

    def _update(self) -> None:
        self.first_event_timestamp, self.last_event_timestamp = self.events.select("min(at), max(at)")[0]

    def put_log_events(self, log_events: list[dict]) -> str:
        self.last_ingestion_time = moto.logs.models.utcnow()
        taken = int(unix_time_millis(self.last_ingestion_time))
        self.stored_bytes += sum(len(event["message"].encode()) for event in log_events)
        self.upload_sequence_token += 1
        number = self.number
        with database.transaction() as connection:
            connection.executemany(
                "INSERT INTO event (stream, at, taken, message) VALUES (?, ?, ?, ?)",
                [(number, event["timestamp"], taken, event["message"]) for event in log_events],
            )
        written.add(self)
        return f"{self.upload_sequence_token:056d}"

    def forget(self) -> None:
        """Delete its events: it is gone."""
        with database.transaction() as connection:
            connection.execute("DELETE FROM event WHERE stream = ?", (self.number,))

    def __reduce__(self):
        """In the pickle of its group: no more than its name, since a stream is an entry of its own (kept.py)."""
        return str, (self.log_stream_name,)

    def get_log_events(self, start_time, end_time, limit, next_token, start_from_head):
        """A page; its tokens name the places of its first and last event, as moto's own do."""
        lines, limit = Lines(self, start_time, end_time), limit or PAGE
        direction, _, place = (next_token or "").partition("/")
        if direction not in ("", "b", "f") or not (place or "0").isdecimal():
            raise InvalidParameterException("The specified nextToken is invalid.")
        last = len(lines) - 1
        first = {
            "": 0 if start_from_head else last + 1 - limit,
            "f": int(place or 0) + 1,
            "b": int(place or 0) - limit,
        }
        begin = max(first[direction], 0)
        size = min(limit, int(place) - begin) if direction == "b" else limit
        rows = lines.select("taken, message, at", "ORDER BY at, id LIMIT ? OFFSET ?", size, begin)
        end = begin + len(rows) - 1
        if not rows:
            begin = end = 0 if direction == "b" else max(last, 0)
        events = [dict(zip(("ingestionTime", "message", "timestamp"), row, strict=True)) for row in rows]
        return events, f"b/{begin:056d}", f"f/{end:056d}"


def _filter_log_events(group, _, names, start_time, end_time, limit, next_token, pattern, interleaved):
    """moto's, for a group; of all streams by time, as AWS has it."""
    chosen = {name: stream for name, stream in group.streams.items() if not names or name in names}
    wanted, found, more = EventMessageFilter(pattern), [], None
    at, _, number = (next_token or "0/0").partition("/")
    if not (at.isdecimal() and number.isdecimal()):
        raise InvalidParameterException("The specified nextToken is invalid.")
    size = max(1, PAGE // (len(chosen) or 1))
    every = (Lines(one, start_time, end_time).after(int(at), int(number), size) for one in chosen.values())
    for _, _, name, event in heapq.merge(*every):
        if wanted.matches(event.message):
            if len(found) == (limit or PAGE):
                more = f"{found[-1]['timestamp']}/{found[-1]['eventId']}"
                break
            found.append({**event.to_filter_dict(), "logStreamName": name})
    return found, more, [{"logStreamName": name, "searchedCompletely": True} for name in chosen]


class Reader(LogsResponse):
    """moto's reader of Logs' requests, which knows no prefix of streams' names and no group by its ARN."""

    def filter_log_events(self) -> str:
        name = self._get_param("logGroupName")
        if identifier := self._get_param("logGroupIdentifier"):
            name = identifier.partition(":log-group:")[2].removesuffix(":*") or identifier
        names, prefix = self._get_param("logStreamNames"), self._get_param("logStreamNamePrefix")
        if names and prefix:
            raise InvalidParameterException("logStreamNames and logStreamNamePrefix exclude each other.")
        group = self.logs_backend.groups.get(name)
        if prefix and group:
            names = [one for one in group.streams if one.startswith(prefix)]
            if not names:
                return json.dumps({"events": [], "searchedLogStreams": []})
        asked = ("startTime", "endTime", "limit", "nextToken", "filterPattern", "interleaved")
        found = self.logs_backend.filter_log_events(name, names or [], *map(self._get_param, asked))
        return json.dumps(dict(zip(("events", "nextToken", "searchedLogStreams"), found, strict=True)))


moto.logs.models.LogStream = Stream
moto.logs.responses.LogsResponse = Reader
moto.logs.models.LogGroup.filter_log_events = _filter_log_events
