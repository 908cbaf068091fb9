"""What serve promises: when it starts, to whoever asks, when it is stopped, in a batch transform, without a model."""

import contextlib
import functools
import http.client
import json
import random
import re
import socket
import struct
import textwrap
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .program import how, names
from .promises import TRACEBACK, LeftOut, Promise, must, should, some

PING, CONNECT, ANSWER, STOP = 2, 0.25, 60, 30  # seconds, of the AWS developer guide
ENDING = 5  # seconds for a server that has gone off the air to be seen to end
LARGE = 6 << 20  # bytes of a real-time request
# One record a line: such a payload may be repeated to make a large one.
LINES = re.compile(
    r"text/(csv|plain|tab-separated-values|(x-)?libsvm)|application/(x-)?(jsonl|jsonlines|ndjson)"
)
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # its last chunk
HTML = re.compile(r"<!doctype|<html|<title|<h1", re.IGNORECASE)

BATCH_VARIABLES = {
    "SAGEMAKER_BATCH": "true",
    "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD",
    "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
}

STARTING: list[Promise] = []
ASKED: list[Promise] = []
STOPPING: list[Promise] = []
BATCH: list[Promise] = []
WITHOUT_MODEL: list[Promise] = []


class Question(NamedTuple):
    """The payload, and the headers that go with it."""

    body: bytes
    headers: dict[str, str]


class Reply(NamedTuple):
    status: int
    content_type: str
    body: bytes
    connecting: float  # seconds, of which `seconds` is more
    seconds: float

    def __str__(self):
        return f"{self.status} after {self.seconds:.2f} s"

    @property
    def said(self) -> str:
        """The status, and the beginning of the body where that is text."""
        said = textwrap.shorten(self.body[:2000].decode(errors="replace"), 80, placeholder=" …")
        return f"{self}: {said}" if said and said.isprintable() else str(self)

    @property
    def refused(self) -> bool:
        return 400 <= self.status < 500


class Server:
    """A running container at an address; `program` is None where somebody else has started it."""

    def __init__(self, address: tuple[str, int], question: "Question", program=None, patience: float = 60):
        self.address, self.question, self.program, self.patience = address, question, program, patience
        self.started, self.ready = time.monotonic(), patience
        self.refusals: dict[str, Reply] = {}

    def request(self, method: str, path: str, body=None, headers=None, timeout: float = ANSWER) -> Reply:
        started = time.monotonic()
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=timeout)) as connection:
            connection.connect()
            connected = time.monotonic()
            chunked = isinstance(body, Iterator)
            # It may refuse before it has all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            content, kind = answer.read(), answer.headers.get("Content-Type", "")
            return Reply(answer.status, kind, content, connected - started, time.monotonic() - started)

    def ping(self) -> Reply:
        return self.request("GET", "/ping", timeout=PING)

    def ask(self, body=None, **headers) -> Reply:
        """The answer to the payload, or to another body."""
        body = self.question.body if body is None else body
        return self.request("POST", "/invocations", body, self.question.headers | headers)

    def refuse(self, what: str, reply: Reply) -> tuple[bool, str]:
        """Notes what a refusal looks like, and whether it is one."""
        self.refusals[what] = reply
        if reply.status == 200:
            raise LeftOut("200: it took that, and whether it may is for you to say")
        return reply.refused, reply.said

    @functools.cached_property
    def first(self) -> Reply | Exception:
        """What became of the payload when it was sent for the first time."""
        try:
            return self.ask()
        except (OSError, http.client.HTTPException) as error:
            return error

    @property
    def answer(self) -> Reply:
        """What the payload gets; the promises that are about it are left out where that is not 200."""
        if isinstance(self.first, Exception) or self.first.status != 200:
            raise LeftOut("the payload gets no 200")
        return self.first

    @functools.cached_property
    def crowd(self) -> tuple[list[Reply], Reply | OSError]:
        """What eight get who ask at once, and what /ping says in the midst of it."""
        self.answer  # noqa: B018  (no crowd where one alone gets no answer)
        pool = ThreadPoolExecutor(9)
        try:
            asked = [pool.submit(self.ask) for _ in range(8)]
            pinged = pool.submit(self.ping)
            return [future.result() for future in asked], pinged.exception() or pinged.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # when interrupted, who hangs ends with the server

    def is_up(self) -> bool:
        try:
            return self.ping().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def await_ping(self, seconds: float) -> bool:
        """Polls until /ping says 200; not when the program has ended or the time is over."""
        deadline = time.monotonic() + seconds
        while not (up := self.is_up()) and time.monotonic() < deadline and not self.has_ended():
            time.sleep(0.05)
        return up

    def has_ended(self) -> bool:
        return bool(self.program) and self.program.wait(0) is not None


@must(STARTING, vital=True)
def it_listens(server):
    """serve listens on its port

    a listening port: listen on SAGEMAKER_BIND_TO_PORT, and without it on 8080, on every address
    """
    program = server.program
    while time.monotonic() < server.started + server.patience and not server.has_ended():
        with contextlib.suppress(OSError), socket.create_connection(server.address, timeout=PING):
            if not server.has_ended():
                return True, f"after {time.monotonic() - server.started:.1f} s"
        time.sleep(0.05)
    if server.has_ended():
        left = names(program.processes())
        found = f"the end of serve ({how(program.wait(0))}{f', which left {left}' if left else ''})"
    else:
        elsewhere = " or ".join(str(port) for port in sorted(program.ports()))
        found = f"nothing on port {server.address[1]} after {server.patience:.0f} s"
        found += f" but something on {elsewhere}, which --port would say" if elsewhere else ""
    return False, f"{found}; its log ends: {program.log_end}"


@must(ASKED)
def it_pings(server):
    """GET /ping answers 200 within 2 s

    200 within 2 s: serve GET /ping by an empty 200 once the model can answer
    """
    if up := server.await_ping(server.patience):
        server.ready = time.monotonic() - server.started
    reply = server.ping()
    since = f", {server.ready:.1f} s after its start" if up and server.program else ""
    return up and reply.status == 200, f"{reply}{since}"


@must(ASKED)
def it_answers(server):
    """POST /invocations answers the payload with 200 within 60 s

    200 within 60 s: serve POST /invocations; is the payload what it takes, and of that content type?
    """
    if isinstance(server.first, Exception):
        raise server.first
    return server.first.status == 200, server.first.said


@should(ASKED)
def it_names_its_type(server):
    """the answer names its content type

    a Content-Type header: set the answer's Content-Type: InvokeEndpoint hands it on
    """
    return bool(server.answer.content_type), server.answer.content_type or "none"


@should(ASKED)
def it_makes_what_is_accepted(server):
    """the answer is of the type that Accept asks for

    what Accept says: read the header Accept, and answer 406 to what cannot be made
    """
    if not (accept := server.question.headers.get("Accept")):
        raise LeftOut("no accept was given")
    return media_type(server.answer.content_type) == media_type(accept), server.answer.content_type or "none"


def media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


@must(ASKED)
def it_ignores_headers(server):
    """headers that SageMaker adds are ignored

    200: ignore headers that you do not know
    """
    server.answer  # noqa: B018
    reply = server.ask(**{"X-Amzn-SageMaker-Custom-Attributes": "a=b", "X-Amzn-SageMaker-Inference-Id": "1"})
    return reply.status == 200, reply.said


@must(ASKED)
def it_answers_a_crowd(server):
    """eight requests at once get 200 each

    200 to each: let several workers or threads answer, or let requests wait in line
    """
    statuses = [reply.status for reply in server.crowd[0]]
    return set(statuses) == {200}, ", ".join(map(str, statuses))


@must(ASKED)
def it_accepts(server):
    """eight connections at once are accepted within 250 ms each

    250 ms: let more connections wait in line, by the backlog of listen(), or put nginx in front
    """
    slowest = max(reply.connecting for reply in server.crowd[0])
    return slowest < CONNECT, f"{slowest * 1000:.1f} ms for the slowest"


@must(ASKED)
def it_pings_in_a_crowd(server):
    """GET /ping answers 200 within 2 s while eight requests run

    200 within 2 s: answer /ping by a thread or worker that no prediction can hold up
    """
    _, pinged = server.crowd
    return isinstance(pinged, Reply) and pinged.status == 200, str(pinged)


@should(ASKED)
def it_pings_while_it_reads(server):
    """GET /ping answers 200 within 2 s while a request's body is still on its way

    200 within 2 s: read bodies in several threads, or by nginx in front
    """
    head = "".join(f"{name}: {value}\r\n" for name, value in server.question.headers.items())
    head = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(server.question.body)}\r\n\r\n"
    with socket.create_connection(server.address, timeout=PING) as slow:
        slow.sendall(head.encode() + server.question.body[: len(server.question.body) // 2])
        reply = server.ping()
    return reply.status == 200, str(reply)


@should(ASKED)
def it_is_steady(server):
    """the same payload gets the same answer, one after the other and eight at once

    one answer: seed what is random, and let requests share nothing that they change
    """
    answers = {server.answer.body, server.ask().body, *(reply.body for reply in server.crowd[0])}
    return len(answers) == 1, f"{len(answers)} answer{'s' * (len(answers) != 1)} to ten requests"


@should(ASKED)
def it_knows_its_paths(server):
    """a path that means nothing gets 404

    404: answer 404 to every path that you do not serve
    """
    reply = server.request("GET", "/no/such/path")
    server.refusals["another path"] = reply
    return reply.status == 404, reply.said


@should(ASKED)
def it_knows_its_types(server):
    """an unknown content type gets a 4xx

    4xx, best 415: answer 415, and name the content types that you take
    """
    return server.refuse(
        "an unknown content type", server.ask(**{"Content-Type": "application/x-no-such-type"})
    )


@should(ASKED)
def it_refuses_nothing(server):
    """an empty body gets a 4xx

    4xx: answer 400 and say what is missing: a 5xx is counted as your fault, and is tried again
    """
    return server.refuse("an empty body", server.ask(b""))


@should(ASKED)
def it_refuses_garbage(server):
    """random bytes get a 4xx

    4xx: answer 400 and say what was expected: a 5xx is counted as your fault, and is tried again
    """
    return server.refuse("random bytes", server.ask(random.Random(0).randbytes(1000)))


@should(ASKED)
def it_refuses_in_words(server):
    """a refusal is neither HTML nor a traceback

    a short text or JSON: answer a sentence; keep the traceback for the log, and HTML for browsers
    """
    if not server.refusals:
        raise LeftOut("it refused nothing")
    bad = []
    for what, reply in server.refusals.items():
        text = reply.body.decode(errors="replace")
        if reply.status >= 400:
            bad += [f"a traceback for {what}"] * bool(TRACEBACK.search(text))
            bad += [f"HTML for {what}"] * bool(
                HTML.search(text) or media_type(reply.content_type) == "text/html"
            )
    return not bad, "; ".join(bad) or "neither"


@must(ASKED)
def it_survives(server):
    """the payload gets 200 after all that

    200: catch what a bad request raises, so that it ends nothing but itself
    """
    server.answer  # noqa: B018
    reply = server.ask()
    return reply.status == 200, reply.said


def filling(size: int) -> bytes:
    """A chunk of a PNG that changes nothing: by its first small letter, who does not know it passes over it."""
    name, data = b"fiLl", bytes(max(size, 0))
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@should(ASKED)
def it_takes_much(server):
    """a payload of 6 MB gets 200 within 60 s

    200 within 60 s: let 6 MB in: nginx's client_max_body_size, or your framework's own limit
    """
    kind, body = media_type(server.question.headers["Content-Type"]), server.question.body
    if LINES.fullmatch(kind):
        body += b"\n" * (not body.endswith(b"\n"))
        body *= max(LARGE // len(body), 1)
    elif kind == "image/png" and body.endswith(PNG_END):
        body = body[: -len(PNG_END)] + filling(LARGE - len(body)) + PNG_END
    else:
        raise LeftOut(f"a payload of {kind} cannot be made a large one")
    server.answer  # noqa: B018
    reply = server.ask(body)
    return reply.status == 200, reply.said


@should(ASKED)
def it_listens_nowhere_else(server):
    """serve listens on no other TCP port

    none: bind nginx, managers and debuggers to unix sockets
    """
    if not server.program:
        raise LeftOut("the server was not started here")
    ports = server.program.ports()
    if server.address[1] not in ports:
        raise LeftOut("its processes cannot be looked into, or are another machine's, as in a container")
    others = sorted(ports - {server.address[1]})
    return not others, ", ".join(map(str, others)) or "none"


@must(BATCH)
def it_serves_batches(server):
    """a server that was started for a batch transform answers the payload with 200

    200: take a batch transform's variables (SAGEMAKER_BATCH=true …) for what they are, or ignore them
    """
    if not server.program:
        raise LeftOut("the server was not started here")
    if not server.await_ping(server.patience):
        return False, f"no 200 on /ping; its log ends: {server.program.log_end}"
    reply = server.ask()
    return reply.status == 200, reply.said


@must(BATCH)
def it_says_how_it_likes_batches(server):
    """GET /execution-parameters, where there is one, is JSON with the three names

    MaxConcurrentTransforms, BatchStrategy and MaxPayloadInMB: name all three in a JSON object, or answer 404
    """
    reply = server.request("GET", "/execution-parameters")
    if reply.status != 200:
        raise LeftOut(f"{reply.status}: there is none, and a batch transform takes SageMaker's defaults")
    try:
        document = json.loads(reply.body)
    except ValueError:
        return False, reply.said
    names = {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    return isinstance(document, dict) and names <= document.keys(), reply.said


@should(BATCH)
def it_takes_chunks(server):
    """a chunked body gets 200

    200: read bodies without a Content-Length: MaxPayloadInMB=0 sends such
    """
    server.answer  # noqa: B018
    reply = server.ask(iter([server.question.body]), **{"Transfer-Encoding": "chunked"})
    return reply.status == 200, reply.said


class Stop(NamedTuple):
    """How serve ended, and which files of the model were changed by then."""

    by_itself: bool
    code: int | None
    seconds: float
    left: str
    changed: list[str]


@must(STOPPING, vital=True)
def it_goes_on(stop):
    """serve runs until it is told to stop

    no end: start the server in the foreground, for the container ends with serve; its log says why it ended
    """
    return not stop.by_itself, how(stop.code) if stop.by_itself else "no end"


@must(STOPPING)
def it_ends(stop):
    """all of serve's processes are gone within 30 s of SIGTERM

    all processes gone within 30 s: exec the server, forward SIGTERM to every process, and wait for them
    """
    how_it_went = f"{stop.left} still running" if stop.left else "all gone"
    return not stop.left, f"{how_it_went} after {stop.seconds:.1f} s"


@should(STOPPING)
def it_ends_well(stop):
    """serve ends with exit code 0 after SIGTERM

    exit code 0: end by exit code 0 when you are told to; another one says that something broke
    """
    if stop.code is None:
        raise LeftOut("it had to be killed")
    return stop.code == 0, how(stop.code)


@should(STOPPING)
def it_leaves_the_model(stop):
    """serve leaves model/ as it was

    no change: write to /tmp: /opt/ml/model may be read-only
    """
    return not stop.changed, some(stop.changed) or "no change"


@should(WITHOUT_MODEL)
def it_needs_its_model(server):
    """without a model serve ends with an exit code that is not 0, or /ping does not answer 200

    an exit code that is not 0, or no 200 on /ping: load the model before /ping says 200
    """
    if server.await_ping(server.patience):
        return False, "200 on /ping"
    code = server.program.wait(0)
    return code != 0, "no 200 on /ping" if code is None else how(code)
