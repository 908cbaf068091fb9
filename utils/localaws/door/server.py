"""The front: one WSGI app on 127.0.0.1 that sends each request to who can answer it.

    /_localaws/health                   ready or not
    /_localaws/..., / in a browser      a page for people                               door/page.py
    /v2/...                             the image registry                              images/registry.py
    X-Amz-Target: SageMaker.OPERATION   our executing control plane                     sagemaker/control_plane.py
    /endpoints/NAME/invocations         the same
    AnyScaleFrontendService.OPERATION   the same, of endpoints: Application Auto Scaling
    CONNECT HOST:443, GET http://HOST/  what was sent to a host of AWS's comes back in  door/proxy.py
    the rest                            moto: S3, STS, IAM, ECR, CloudWatch, Logs       moto/backend.py

Readiness is told to everybody. The page wants the owner's browser, the registry its login, all else a signature
(signatures.py).

Started by `python -m localaws up` as `python -m localaws.door.server`.
"""

import dataclasses
import fcntl
import functools
import logging
import os
import re
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import botocore.session
import psutil
import waitress
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from werkzeug import Request, Response

from localaws import loopback, protocol, services
from localaws.engines import docker
from localaws.errors import AwsError, Invalid
from localaws.images.registry import Registry
from localaws.moto import caller, gaps, takeover
from localaws.moto.backend import PASSING, Backend
from localaws.sagemaker.context import Context
from localaws.sagemaker.control_plane import ControlPlane
from localaws.sagemaker.hosting import scaling
from localaws.state import locate
from localaws.state.database import Database
from localaws.state.store import KIND, Store

from . import calls, proxy
from .console import Console
from .details import Details
from .page import PATH, Page, is_wanted
from .proxy import Proxy
from .rights import Rights
from .signatures import Signatures

log = logging.getLogger("localaws")

# 200 clients at once, whose requests may wait for a container, and some for who looks on meanwhile. What localaws asks
# of itself needs none of them (loopback.py).
THREADS = 216
CONNECTIONS = 2000
BACKLOG = 1024
FILES = 8192
MB = 1024 * 1024
MAX_LAYER = 5 * 1024 * MB
MAX_OBJECT = 5 * 1024 * MB  # in one request, as on AWS; clients send larger objects in parts
MAX_FORM = 64 * MB  # of S3: moto holds the body of a POST, and of what is no object, in memory
MAX_INVOCATION = 100 * MB
MAX_CALL = 16 * MB
MAX_HEAD = 64 * 1024  # of a request for the proxy
ELSEWHERE = re.compile(rb"CONNECT |[A-Z]+ http://")
TOO_LARGE = (
    "Your proposed upload exceeds the maximum allowed size. "
    f"localaws takes {MAX_OBJECT:,} bytes in one request, {MAX_FORM:,} in a form: upload in parts"
)
SERVICES = {"s3", "sts", "iam", "ecr", "logs", "monitoring", "cloudformation", "sagemaker"} | PASSING
MOTO_OWN = ("/moto-api", "/latest/")  # moto's own controls, among them one that forgets everything
VERBS = {"invocations", "async-invocations"}  # of an endpoint, that we serve
INVOCATION = re.compile(r"/endpoints/([^/]+)/(.+)")


class Front:
    """The WSGI app. `port` is where it listens; nothing else may call itself so (see `_check_origin`)."""

    def __init__(self, home: Path, port: int):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ready = False
        self.database = Database(home)
        self.backend = Backend(home, self.database)
        self.registry = gaps.registry = Registry(home, gaps.describe_repository)
        gaps.address = self.url.removeprefix("http://")
        gaps.connect = functools.partial(self.connect, calls.MOTO)
        self.home = home
        self.engine = docker.choose(home, self.url)
        self._placing = threading.Lock()
        self._controls: dict[str, ControlPlane] = {}
        connect = functools.partial(self.connect, calls.PAGE, region=locate.REGION)
        own = self.control(locate.REGION)
        owner = gaps.Key(locate.secret(home))
        self.signatures = Signatures(lambda identity: owner if identity == locate.KEY else gaps.key(identity))
        self.calls = calls.Calls()
        record = os.environ.get("LOCALAWS_RECORD")
        self.rights = Rights(home / record) if record else None
        about = {
            "url": self.url,
            "region": locate.REGION,
            "account": locate.ACCOUNT,
            "engine": self.engine.name,
        }
        console = Console(own.store, self.registry, self.backend, connect, home, about, self.calls)
        details = Details(console, own, connect)
        self.page = Page(
            console, details, self.url, locate.token(home), functools.partial(locate.spend, home)
        )

    def connect(self, who: str, service: str, region: str):
        """Return boto3's client of a service, for what localaws asks of itself: JOBS or PAGE of calls.py."""
        return loopback.client(service, region, self.url, functools.partial(self._inside, who))

    def control(self, region: str) -> ControlPlane:
        """Return SageMaker in a region. Raises AwsError where AWS has no such region."""
        with self._placing:
            if region not in self._controls:
                if region not in _regions():
                    raise Invalid(f"{region} is no region of AWS's that has SageMaker.")
                connect = functools.partial(self.connect, calls.JOBS, region=region)
                context = Context(self.home, self.database, region, self.engine, connect, self.registry)
                self._controls[region] = ControlPlane(context)
            return self._controls[region]

    def recover(self) -> None:
        """Take up again what an earlier server left, in each region."""
        for region in (locate.REGION, *sorted(Store.regions(self.database))):
            self.control(region).recover()

    def close(self) -> None:
        """End all that runs."""
        controls = list(self._controls.values())
        for control in controls:
            control.close()
        self.engine.close()
        for control in controls:
            control.join()

    def _inside(self, who, environ, start_response):
        """For what localaws asks of itself, which is no client's call."""
        return self(environ | {calls.OWN: who}, start_response)

    def __call__(self, environ, start_response):
        if to_aws := not environ.get("REMOTE_PORT", "0").isdecimal():
            environ = proxy.as_own(environ, environ["REMOTE_PORT"], self.url.removeprefix("http://"))
        request, code = Request(environ), None
        try:
            self._check_origin(request)
            response = self._answer(request)
        except AwsError as error:
            response, code = protocol.failure(error, request), error.code
        except Exception:
            log.exception("%s %s", request.method, request.path)
            code = "InternalFailure"
            failed = AwsError(code, "localaws failed: `python -m localaws logs` says why", 500)
            response = protocol.failure(failed, request)
        if to_aws or (not request.path.startswith(PATH) and not is_wanted(request)):
            self.calls.note(request, response, code)
            if self.rights:
                self.rights.note(request, response)
        # An object of S3's that a browser opens is no page of localaws: its script, if it has one, is not run.
        response.headers.setdefault("Content-Security-Policy", "sandbox")
        return response(environ, start_response)

    def _check_origin(self, request: Request) -> None:
        """Refuse what a web page open in the learner's browser could send.

        A page's own requests carry its Origin, or come from a name that its owner pointed at 127.0.0.1.
        """
        names = {f"{host}:{self.port}" for host in locate.LOOPBACK}
        if self.port == 80:  # which clients leave out
            names.update(locate.LOOPBACK)
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if sent_to := request.environ.get(proxy.HOST):  # AWS's hosts have no page that may use us
            host, names = sent_to, {request.environ["REMOTE_PORT"], f"{request.environ['REMOTE_PORT']}:443"}
        if host not in names:
            reason = f"Host {host!r} is not localaws: use {self.url}"
        elif sent_to and origin is not None:
            reason = f"Origin {origin!r} may not use {sent_to}"
        elif origin is not None and origin.removeprefix("http://") not in names:
            reason = f"Origin {origin!r} may not use localaws"
        elif request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not (
            request.headers.get("Sec-Fetch-Mode") == "navigate" and is_wanted(request)  # a link to the page
        ):
            reason = "Another site's page may not use localaws"
        else:
            return
        raise AwsError("AccessDeniedException", reason, 403)

    def _answer(self, request: Request) -> Response:
        if request.path.startswith(MOTO_OWN):
            raise AwsError("UnknownOperationException", f"There is nothing at {request.path}", 404)
        if sent_to := request.environ.get(proxy.HOST):
            if request.path.startswith("/v2") and proxy.REGISTRY.match(sent_to):
                # Whom to log in to, it tells by this name.
                return self.registry(
                    Request(request.environ | {"HTTP_HOST": sent_to, "wsgi.url_scheme": "https"})
                )
            return self._answer_signed(request)
        if request.path == f"{PATH}health":
            return protocol.answer({"ready": self.ready}, 200 if self.ready else 503)
        if request.path.startswith(PATH) or is_wanted(request):
            return self.page(request)
        of_registry = request.path.startswith("/v2/") or request.path == "/v2"
        if of_registry and not services.signing_name(request):  # some of AWS's APIs have such paths, too
            return self.registry(request)
        return self._answer_signed(request)

    def _answer_signed(self, request: Request) -> Response:
        try:
            region, service = self.signatures.verify(request)
        except AwsError:
            if unsigned := services.unsigned(request):
                raise services.refused(*unsigned) from None
            raise
        request.environ[calls.SIGNED] = True
        target, _, operation = request.headers.get("X-Amz-Target", "").partition(".")
        if target == "SageMaker":
            protocol.bound(request, MAX_CALL)
            return protocol.answer(self.control(region).handle(operation, protocol.parse(request)))
        if service != "s3" and request.method == "POST" and (match := INVOCATION.fullmatch(request.path)):
            return self._invoke(request, region, match[1], match[2])
        if service == "sagemaker" or service not in SERVICES or services.is_s3_control(request):
            raise services.refused(*services.asked(request, service))
        if service == "s3":
            if (request.content_length or 0) > (MAX_OBJECT if request.method == "PUT" else MAX_FORM):
                raise AwsError("EntityTooLarge", TOO_LARGE)
            return self.backend(request, region, "s3")
        protocol.bound(request, MAX_CALL)
        if target:
            asked = protocol.parse(request)  # moto would stumble over a body that is no JSON
            if target == scaling.TARGET_PREFIX and asked.get("ServiceNamespace") == scaling.NAMESPACE:
                return protocol.answer(self.control(region).scale(operation, asked))
        return self.backend(request, region, service)

    def _invoke(self, request: Request, region: str, endpoint: str, verb: str) -> Response:
        if verb not in VERBS:
            raise services.refused(*services.asked(request, "sagemaker"))
        protocol.bound(request, MAX_INVOCATION)
        control, headers = self.control(region), dict(request.headers)
        status, headers, body = control.invoke(endpoint, headers, request.get_data(), verb)
        return Response(body, status, headers)


@functools.cache
def _regions() -> list[str]:
    return botocore.session.get_session().get_available_regions("sagemaker")


class _Request(HTTPRequestParser):
    """Answers an empty body at once: boto3 announces one with `Expect: 100-continue`, and waitress would wait for it."""

    def parse_header(self, header: bytes) -> None:
        super().parse_header(header)
        if not self.chunked and not self.content_length:
            self.expect_continue = False


class _PlainHttp(HTTPChannel):
    """Hangs up on TLS at once: docker and skopeo try it first, and would wait for an answer until they give up.

    A connection on which CONNECT, or an address with its host, is asked for goes to `proxy`. What comes back in has the host that was asked for in the
    place of a client's port, which no client can make it.
    """

    parser_class = _Request
    proxy: Proxy
    _head = b""

    def received(self, data: bytes) -> bool:
        if self.request is None and data.startswith(b"\x16\x03"):
            self.handle_close()
            return False
        if self.request is None and (self._head or ELSEWHERE.match(data)):
            self._head += data
            if b"\r\n\r\n" in self._head or len(self._head) > MAX_HEAD:
                client = self.socket.dup()
                self.handle_close()
                self.proxy.take(client, self._head, self._enter)
            return False
        return super().received(data)

    def _enter(self, host: str) -> socket.socket:
        mine, theirs = socket.socketpair()
        type(self)(self.server, theirs, ("127.0.0.1", host), self.adj, self._map)
        return mine


def _listen(home: Path) -> tuple[socket.socket, str]:
    """Bind LOCALAWS_PORT (4571), else the port used last time, else a free one; return the socket and a note."""
    wanted = locate.port()
    memory = home / "port"
    text = memory.read_text() if memory.exists() else ""
    last = [int(text)] if text.isdecimal() else []
    # The last one again where any will do: what clients were told before a crash then still holds.
    for port in [*([wanted] if wanted else []), *last, 0]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(BACKLOG)  # until it listens, another localaws may bind the same port
        except OSError:
            listener.close()
            continue
        got = listener.getsockname()[1]
        memory.write_text(str(got))
        if wanted in (0, got):
            return listener, ""
        who = "another localaws" if locate.answers(f"127.0.0.1:{wanted}", seconds=0.5) else "another program"
        return listener, f"port {wanted} is taken by {who}, so this one listens on {got}"
    raise RuntimeError("No free port on 127.0.0.1")


def _bring_back(front: Front, home: Path) -> None:
    """Put back what is on disk, and write down now and then how far it is: `localaws.start` waits as long as it goes on."""
    total, told = sum(front.database.counts().values()), 0.0

    def progress(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            (home / locate.PROGRESS).write_text(f"{done:,} of {total:,} entries brought back")

    front.backend.recover(progress)
    takeover.take_over(home, front.database, front.backend)
    caller.make_role(front.connect(calls.PAGE, "iam", locate.REGION))
    front.registry.check(front.database.tell)
    (home / locate.PROGRESS).unlink(missing_ok=True)


def main() -> None:
    """Serve until SIGTERM. One server for each folder: a second one ends with a message."""
    os.umask(0o077)  # what is written here is its owner's alone
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty, level in (("botocore", logging.WARNING), ("waitress.queue", logging.ERROR)):
        logging.getLogger(chatty).setLevel(level)
    home = locate.private_home()
    lock = (home / "server.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Another localaws serves {home}")
    shutil.rmtree(home / "unpacked", ignore_errors=True)  # a cache, bounded by what runs until the next start
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:  # 256 on macOS
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard) if hard > 0 else FILES, hard))

    listener, note = _listen(home)
    port = listener.getsockname()[1]
    _PlainHttp.proxy = Proxy(home)
    # What this process asks of AWS goes to itself, whatever the learner's own profile says.
    os.environ.update(locate.environment(f"http://127.0.0.1:{port}"))
    front = Front(home, port)
    server = waitress.create_server(
        front,
        sockets=[listener],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        backlog=BACKLOG,
        max_request_body_size=MAX_LAYER,
        asyncore_use_poll=True,
        ident=None,
        clear_untrusted_proxy_headers=True,
    )
    me = psutil.Process()
    server.channel_class = _PlainHttp
    running = locate.Status(front.url, me.pid, me.create_time(), str(home), front.engine.name, note=note)
    locate.announce(home, running)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    code = 1
    try:
        _bring_back(front, home)  # clients wait in the socket's queue
        threading.Thread(target=server.run, daemon=True).start()
        front.recover()
        there = [
            f"{n:,} {kind.removeprefix('s3 ').removeprefix(KIND)}{'s' * (n > 1)}"
            for kind, n in front.database.counts().items()
            if kind not in ("moto", "metrics")
        ]
        lost = tuple(front.database.lost)
        locate.announce(home, dataclasses.replace(running, there=", ".join(there), lost=lost))
        front.ready = True
        log.info("localaws listens on %s", front.url)
        threading.Event().wait()
    except SystemExit:
        code = 0
    except Exception:
        log.exception("localaws cannot start")
    finally:
        front.close()
        (home / "server.json").unlink(missing_ok=True)
        # Nothing is left to do, and to take down 200 threads costs Python a quarter of a second.
        os._exit(code)


if __name__ == "__main__":
    main()
