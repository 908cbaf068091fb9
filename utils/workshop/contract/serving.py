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

from ..language import _
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
        return _("{status} after {seconds:.2f} s", status=self.status, seconds=self.seconds)

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
            raise LeftOut(_("200: it took that, and whether it may is for you to say"))
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
            raise LeftOut(_("the payload gets no 200"))
        return self.first

    @functools.cached_property
    def crowd(self) -> tuple[list[Reply], Reply | OSError]:
        """What eight get who ask at once, and what /ping says in the midst of it."""
        self.answer  # noqa: B018  (no crowd where one alone gets no answer)
        pool = ThreadPoolExecutor(9)
        try:
            asked = [pool.submit(self.ask) for _number in range(8)]
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


@must(
    STARTING,
    lambda: (
        _("serve listens on its port"),
        _("a listening port"),
        _("listen on SAGEMAKER_BIND_TO_PORT, and without it on 8080, on every address"),
    ),
    vital=True,
)
def it_listens(server):
    program = server.program
    while time.monotonic() < server.started + server.patience and not server.has_ended():
        with contextlib.suppress(OSError), socket.create_connection(server.address, timeout=PING):
            if not server.has_ended():
                return True, _("after {seconds:.1f} s", seconds=time.monotonic() - server.started)
        time.sleep(0.05)
    if server.has_ended():
        left = names(program.processes())
        end = how(program.wait(0))
        found = (
            _("the end of serve ({end}, which left {left})", end=end, left=left)
            if left
            else _("the end of serve ({end})", end=end)
        )
    else:
        elsewhere = _(" or ").join(str(port) for port in sorted(program.ports()))
        found = _(
            "nothing on port {port} after {seconds:.0f} s",
            port=server.address[1],
            seconds=server.patience,
        )
        if elsewhere:
            found = _(
                "{found} but something on {ports}, which --port would say", found=found, ports=elsewhere
            )
    return False, _("{end}; its log ends: {log}", end=found, log=program.log_end)


@must(
    ASKED,
    lambda: (
        _("GET /ping answers 200 within 2 s"),
        _("200 within 2 s"),
        _("serve GET /ping by an empty 200 once the model can answer"),
    ),
)
def it_pings(server):
    if up := server.await_ping(server.patience):
        server.ready = time.monotonic() - server.started
    reply = server.ping()
    found = str(reply)
    if up and server.program:
        found = _("{reply}, {seconds:.1f} s after its start", reply=reply, seconds=server.ready)
    return up and reply.status == 200, found


@must(
    ASKED,
    lambda: (
        _("POST /invocations answers the payload with 200 within 60 s"),
        _("200 within 60 s"),
        _("serve POST /invocations; is the payload what it takes, and of that content type?"),
    ),
)
def it_answers(server):
    if isinstance(server.first, Exception):
        raise server.first
    return server.first.status == 200, server.first.said


@should(
    ASKED,
    lambda: (
        _("the answer names its content type"),
        _("a Content-Type header"),
        _("set the answer's Content-Type: InvokeEndpoint hands it on"),
    ),
)
def it_names_its_type(server):
    return bool(server.answer.content_type), server.answer.content_type or _("none")


@should(
    ASKED,
    lambda: (
        _("the answer is of the type that Accept asks for"),
        _("what Accept says"),
        _("read the header Accept, and answer 406 to what cannot be made"),
    ),
)
def it_makes_what_is_accepted(server):
    if not (accept := server.question.headers.get("Accept")):
        raise LeftOut(_("no accept was given"))
    return media_type(server.answer.content_type) == media_type(accept), server.answer.content_type or _(
        "none"
    )


def media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


@must(
    ASKED,
    lambda: (
        _("headers that SageMaker adds are ignored"),
        "200",
        _("ignore headers that you do not know"),
    ),
)
def it_ignores_headers(server):
    server.answer  # noqa: B018
    reply = server.ask(**{"X-Amzn-SageMaker-Custom-Attributes": "a=b", "X-Amzn-SageMaker-Inference-Id": "1"})
    return reply.status == 200, reply.said


@must(
    ASKED,
    lambda: (
        _("eight requests at once get 200 each"),
        _("200 to each"),
        _("let several workers or threads answer, or let requests wait in line"),
    ),
)
def it_answers_a_crowd(server):
    statuses = [reply.status for reply in server.crowd[0]]
    return set(statuses) == {200}, ", ".join(map(str, statuses))


@must(
    ASKED,
    lambda: (
        _("eight connections at once are accepted within 250 ms each"),
        "250 ms",
        _("let more connections wait in line, by the backlog of listen(), or put nginx in front"),
    ),
)
def it_accepts(server):
    slowest = max(reply.connecting for reply in server.crowd[0])
    return slowest < CONNECT, _("{milliseconds:.1f} ms for the slowest", milliseconds=slowest * 1000)


@must(
    ASKED,
    lambda: (
        _("GET /ping answers 200 within 2 s while eight requests run"),
        _("200 within 2 s"),
        _("answer /ping by a thread or worker that no prediction can hold up"),
    ),
)
def it_pings_in_a_crowd(server):
    _answered, pinged = server.crowd
    return isinstance(pinged, Reply) and pinged.status == 200, str(pinged)


@should(
    ASKED,
    lambda: (
        _("GET /ping answers 200 within 2 s while a request's body is still on its way"),
        _("200 within 2 s"),
        _("read bodies in several threads, or by nginx in front"),
    ),
)
def it_pings_while_it_reads(server):
    head = "".join(f"{name}: {value}\r\n" for name, value in server.question.headers.items())
    head = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(server.question.body)}\r\n\r\n"
    with socket.create_connection(server.address, timeout=PING) as slow:
        slow.sendall(head.encode() + server.question.body[: len(server.question.body) // 2])
        reply = server.ping()
    return reply.status == 200, str(reply)


@should(
    ASKED,
    lambda: (
        _("the same payload gets the same answer, one after the other and eight at once"),
        _("one answer"),
        _("seed what is random, and let requests share nothing that they change"),
    ),
)
def it_is_steady(server):
    answers = {server.answer.body, server.ask().body, *(reply.body for reply in server.crowd[0])}
    if len(answers) == 1:
        return True, _("1 answer to ten requests")
    return False, _("{count} answers to ten requests", count=len(answers))


@should(
    ASKED,
    lambda: (
        _("a path that means nothing gets 404"),
        "404",
        _("answer 404 to every path that you do not serve"),
    ),
)
def it_knows_its_paths(server):
    reply = server.request("GET", "/no/such/path")
    server.refusals[_("another path")] = reply
    return reply.status == 404, reply.said


@should(
    ASKED,
    lambda: (
        _("an unknown content type gets a 4xx"),
        _("4xx, best 415"),
        _("answer 415, and name the content types that you take"),
    ),
)
def it_knows_its_types(server):
    return server.refuse(
        _("an unknown content type"), server.ask(**{"Content-Type": "application/x-no-such-type"})
    )


@should(
    ASKED,
    lambda: (
        _("an empty body gets a 4xx"),
        "4xx",
        _("answer 400 and say what is missing: a 5xx is counted as your fault, and is tried again"),
    ),
)
def it_refuses_nothing(server):
    return server.refuse(_("an empty body"), server.ask(b""))


@should(
    ASKED,
    lambda: (
        _("random bytes get a 4xx"),
        "4xx",
        _("answer 400 and say what was expected: a 5xx is counted as your fault, and is tried again"),
    ),
)
def it_refuses_garbage(server):
    return server.refuse(_("random bytes"), server.ask(random.Random(0).randbytes(1000)))


@should(
    ASKED,
    lambda: (
        _("a refusal is neither HTML nor a traceback"),
        _("a short text or JSON"),
        _("answer a sentence; keep the traceback for the log, and HTML for browsers"),
    ),
)
def it_refuses_in_words(server):
    if not server.refusals:
        raise LeftOut(_("it refused nothing"))
    bad = []
    for what, reply in server.refusals.items():
        text = reply.body.decode(errors="replace")
        if reply.status >= 400:
            bad += [_("a traceback for {what}", what=what)] * bool(TRACEBACK.search(text))
            bad += [_("HTML for {what}", what=what)] * bool(
                HTML.search(text) or media_type(reply.content_type) == "text/html"
            )
    return not bad, "; ".join(bad) or _("neither")


@must(
    ASKED,
    lambda: (
        _("the payload gets 200 after all that"),
        "200",
        _("catch what a bad request raises, so that it ends nothing but itself"),
    ),
)
def it_survives(server):
    server.answer  # noqa: B018
    reply = server.ask()
    return reply.status == 200, reply.said


def filling(size: int) -> bytes:
    """A chunk of a PNG that changes nothing: by its first small letter, who does not know it passes over it."""
    name, data = b"fiLl", bytes(max(size, 0))
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@should(
    ASKED,
    lambda: (
        _("a payload of 6 MB gets 200 within 60 s"),
        _("200 within 60 s"),
        _("let 6 MB in: nginx's client_max_body_size, or your framework's own limit"),
    ),
)
def it_takes_much(server):
    kind, body = media_type(server.question.headers["Content-Type"]), server.question.body
    if LINES.fullmatch(kind):
        body += b"\n" * (not body.endswith(b"\n"))
        body *= max(LARGE // len(body), 1)
    elif kind == "image/png" and body.endswith(PNG_END):
        body = body[: -len(PNG_END)] + filling(LARGE - len(body)) + PNG_END
    else:
        raise LeftOut(_("a payload of {kind} cannot be made a large one", kind=kind))
    server.answer  # noqa: B018
    reply = server.ask(body)
    return reply.status == 200, reply.said


@should(
    ASKED,
    lambda: (
        _("serve listens on no other TCP port"),
        _("none"),
        _("bind nginx, managers and debuggers to unix sockets"),
    ),
)
def it_listens_nowhere_else(server):
    if not server.program:
        raise LeftOut(_("the server was not started here"))
    ports = server.program.ports()
    if server.address[1] not in ports:
        raise LeftOut(_("its processes cannot be looked into, or are another machine's, as in a container"))
    others = sorted(ports - {server.address[1]})
    return not others, ", ".join(map(str, others)) or _("none")


@must(
    BATCH,
    lambda: (
        _("a server that was started for a batch transform answers the payload with 200"),
        "200",
        _("take a batch transform's variables (SAGEMAKER_BATCH=true …) for what they are, or ignore them"),
    ),
)
def it_serves_batches(server):
    if not server.program:
        raise LeftOut(_("the server was not started here"))
    if not server.await_ping(server.patience):
        return False, _("{end}; its log ends: {log}", end=_("no 200 on /ping"), log=server.program.log_end)
    reply = server.ask()
    return reply.status == 200, reply.said


@must(
    BATCH,
    lambda: (
        _("GET /execution-parameters, where there is one, is JSON with the three names"),
        _("MaxConcurrentTransforms, BatchStrategy and MaxPayloadInMB"),
        _("name all three in a JSON object, or answer 404"),
    ),
)
def it_says_how_it_likes_batches(server):
    reply = server.request("GET", "/execution-parameters")
    if reply.status != 200:
        raise LeftOut(
            _(
                "{status}: there is none, and a batch transform takes SageMaker's defaults",
                status=reply.status,
            )
        )
    try:
        document = json.loads(reply.body)
    except ValueError:
        return False, reply.said
    names = {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    return isinstance(document, dict) and names <= document.keys(), reply.said


@should(
    BATCH,
    lambda: (
        _("a chunked body gets 200"),
        "200",
        _("read bodies without a Content-Length: MaxPayloadInMB=0 sends such"),
    ),
)
def it_takes_chunks(server):
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


@must(
    STOPPING,
    lambda: (
        _("serve runs until it is told to stop"),
        _("no end"),
        _("start the server in the foreground, for the container ends with serve; its log says why it ended"),
    ),
    vital=True,
)
def it_goes_on(stop):
    return not stop.by_itself, how(stop.code) if stop.by_itself else _("no end")


@must(
    STOPPING,
    lambda: (
        _("all of serve's processes are gone within 30 s of SIGTERM"),
        _("all processes gone within 30 s"),
        _("exec the server, forward SIGTERM to every process, and wait for them"),
    ),
)
def it_ends(stop):
    if stop.left:
        return False, _("{left} still running after {seconds:.1f} s", left=stop.left, seconds=stop.seconds)
    return True, _("all gone after {seconds:.1f} s", seconds=stop.seconds)


@should(
    STOPPING,
    lambda: (
        _("serve ends with exit code 0 after SIGTERM"),
        _("exit code 0"),
        _("end by exit code 0 when you are told to; another one says that something broke"),
    ),
)
def it_ends_well(stop):
    if stop.code is None:
        raise LeftOut(_("it had to be killed"))
    return stop.code == 0, how(stop.code)


@should(
    STOPPING,
    lambda: (
        _("serve leaves model/ as it was"),
        _("no change"),
        _("write to /tmp: /opt/ml/model may be read-only"),
    ),
)
def it_leaves_the_model(stop):
    return not stop.changed, some(stop.changed) or _("no change")


@should(
    WITHOUT_MODEL,
    lambda: (
        _("without a model serve ends with an exit code that is not 0, or /ping does not answer 200"),
        _("an exit code that is not 0, or no 200 on /ping"),
        _("load the model before /ping says 200"),
    ),
)
def it_needs_its_model(server):
    if server.await_ping(server.patience):
        return False, _("200 on /ping")
    code = server.program.wait(0)
    return code != 0, _("no 200 on /ping") if code is None else how(code)
