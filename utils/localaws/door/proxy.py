"""The proxy of HTTPS and HTTP, on localaws' own port, for what names AWS's hosts whatever the environment says.

SDKs put together `sts.REGION.amazonaws.com`, programs `BUCKET.s3.REGION.amazonaws.com`. Their environment has HTTPS_PROXY,
so they ask here for a connection (CONNECT). One to a host of AWS's ends here: it speaks TLS with a certificate of the
home's own, and what comes out of it is answered as any request is (server.py). Nothing goes on to AWS: a host that
nobody here answers for is refused by its name. One to any other host is passed through unread, the way that it would have
gone without us, so that a shell with this environment still installs packages and fetches data.

What is sent by plain HTTP (HTTP_PROXY) comes as a request for the whole address. It goes the same two ways, each request
on a connection of its own, since the next one may be for another host.

Who asks shows the token in the proxy's URL, which only its owner's environment has: nobody else of this machine goes out
by their leave, or by their company's proxy.
"""

import functools
import hmac
import http.client
import logging
import os
import re
import selectors
import socket
import ssl
import tempfile
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localaws.images.registry import placed
from localaws.state import locate, processes

log = logging.getLogger("localaws")

REGISTRY = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com")
S3 = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-](?P<region>[a-z]{2}-[a-z-]+-\d))?\.amazonaws\.com")
SUFFIXES = ("amazonaws.com", "amazonaws.com.cn", "api.aws")  # of AWS's hosts
DAYS, LEFT = (
    3650,
    365,
)  # how long the authority is good, and a host's certificate, for which a server is not restarted
PORTS = {"https": 443, "http": 80}  # where AWS's hosts are answered for
ASKED = re.compile(
    r"(?:CONNECT |(?P<verb>[A-Z]+) http://)(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
    r"(?P<path>[/?]\S*)? HTTP/1\.[01]\r\n"
)
SECONDS = 30  # for a handshake, and for a connection to elsewhere
PIECE = 1 << 16
PEM = serialization.Encoding.PEM
_OF_AUTHORITY = (
    (x509.BasicConstraints(ca=True, path_length=0), True),
    (
        x509.KeyUsage(
            *(False,) * 5, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False
        ),
        True,
    ),
    (x509.NameConstraints([x509.DNSName(name) for name in SUFFIXES], None), True),
)
#: In a request's environ: the host that it was sent to, and its path as it was signed.
HOST, PATH = "localaws.host", "localaws.path"


class Refused(Exception):
    """A connection that is not given: HTTP's status, and why."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Proxy:
    """Takes over connections on which it is asked for another host."""

    def __init__(self, home: Path):
        self._authority = _Authority(home / "aws")
        self._token = locate.token(home, "proxy")

    def take(self, client: socket.socket, head: bytes, enter: Callable[[str], socket.socket]) -> None:
        """Serve a connection that began with `head`; `enter` gives a way in, for what was sent to a host of AWS's."""
        try:
            host, port, rest, request = self._asked(head.decode("latin-1"))
            if is_aws(host):
                work = (self._answer, host, enter(host), request)
            else:
                work = (_pass_on, host, port, rest, request)
        except Refused as refusal:
            work = (_refuse, refusal)
        threading.Thread(target=_run, args=(client, *work), daemon=True).start()

    def _asked(self, head: str) -> tuple[str, int, str, str]:
        """Host, port, the proxy beyond us, or "", and the request to send there, "" for CONNECT, that a head asks for.

        Raises Refused.
        """
        asked = ASKED.match(head)
        if not asked or not (asked["verb"] or asked["port"]):
            raise Refused(400, "CONNECT needs HOST:PORT, and other requests http://HOST")
        said = re.search(r"\r\nproxy-authorization: *basic +([A-Za-z0-9+/=]+) *\r\n", head, re.IGNORECASE)
        user, _, rest = b64decode(said[1] + "==").decode("latin-1").partition(":") if said else ("", "", "")
        if not hmac.compare_digest(user.encode(), self._token.encode()):
            raise Refused(407, "localaws' proxy is its owner's: python -m localaws env")
        host, usual = asked["host"].lower(), PORTS["http" if asked["verb"] else "https"]
        port = int(asked["port"] or usual)
        if is_aws(host):
            registry = REGISTRY.fullmatch(host)
            if registry and registry["account"] != locate.ACCOUNT:
                reason = f"NotServedByLocalaws: {host} is a registry of another account than {locate.ACCOUNT}"
                raise Refused(502, reason)
            if port != usual:
                words = f"NotServedByLocalaws: localaws answers for {host} on port {usual}, not {port}"
                raise Refused(502, words)
        beyond = locate.beyond(rest)
        return host, port, beyond, _request(asked, head, by_proxy=bool(beyond) and not is_aws(host))

    def _answer(self, client: socket.socket, host: str, inside: socket.socket, request: str) -> None:
        with inside:
            if request:
                return _send_on(client, inside, request)
            _grant(client)
            with self._authority.context(host).wrap_socket(client, server_side=True) as secure:
                secure.settimeout(None)
                _pump(secure, inside)


def _run(client: socket.socket, work: Callable, *arguments) -> None:
    with client:
        try:
            client.settimeout(SECONDS)
            work(client, *arguments)
        except OSError as error:  # also TLS's: a client that does not trust us hangs up
            log.info("proxy: %s: %s", arguments[0], error)


def _refuse(client: socket.socket, refusal: Refused) -> None:
    # Clients show the reason, and few of them a body.
    lines = [f"HTTP/1.1 {refusal.status} {refusal}", "Content-Length: 0", "Connection: close"]
    if refusal.status == 407:
        lines.append('Proxy-Authenticate: Basic realm="localaws"')
    client.sendall("\r\n".join([*lines, "", ""]).encode())


def _grant(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")


def _request(asked: re.Match, head: str, by_proxy: bool) -> str:
    """What goes on of a request: to its host without what it tells a proxy, and as the only one of its connection."""
    if not asked["verb"]:
        return ""
    fields, _, body = head[asked.end() :].partition("\r\n\r\n")
    kept = [
        line
        for line in fields.split("\r\n")
        if not re.match(r"(proxy-[a-z-]*|connection|keep-alive):", line.lower())
    ]
    path = asked["path"] or "/"
    target = asked[0].split(" ")[1] if by_proxy else path if path.startswith("/") else f"/{path}"
    return "\r\n".join([f"{asked['verb']} {target} HTTP/1.1", *kept, "Connection: close", "", body])


def _send_on(client: socket.socket, there: socket.socket, request: str) -> None:
    there.sendall(request.encode("latin-1"))
    client.settimeout(None)
    there.settimeout(None)
    _pump(client, there)


def _pass_on(client: socket.socket, host: str, port: int, rest: str, request: str) -> None:
    """Connect a client with a host that is none of AWS's, by the proxy that its user has set, if any."""
    beyond = urlsplit(rest if "//" in rest else f"//{rest}", "http")
    if rest and beyond.scheme != "http":
        words = f"localaws passes on to proxies by http://, and yours for {host} is {beyond.scheme}://"
        return _refuse(client, Refused(502, words))
    if rest:
        way = http.client.HTTPConnection(beyond.hostname, beyond.port or 80, timeout=SECONDS)
        login = f"{unquote(beyond.username or '')}:{unquote(beyond.password or '')}"
        basic = f"Basic {b64encode(login.encode()).decode()}"
        headers = {"Proxy-Authorization": basic} if beyond.username else {}
        if not request:
            way.set_tunnel(host.strip("[]"), port, headers)
        elif headers:
            request = request.replace("\r\n", f"\r\nProxy-Authorization: {basic}\r\n", 1)
    else:
        way = http.client.HTTPConnection(host.strip("[]"), port, timeout=SECONDS)
    try:
        way.connect()
    except OSError as error:
        words = f"localaws cannot pass {host} on{' by your proxy' * bool(rest)}: {error}".replace("\n", " ")
        return _refuse(client, Refused(502, words))
    with way.sock as there:
        if not request:
            _grant(client)
        _send_on(client, there, request)


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Copy what either side sends to the other until one of them ends."""
    with selectors.DefaultSelector() as ready:
        ready.register(one, selectors.EVENT_READ, other)
        ready.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in ready.select():
                here, there = key.fileobj, key.data
                while True:
                    if not (piece := here.recv(PIECE)):
                        return
                    there.sendall(piece)
                    # What TLS has decrypted already wakes no select.
                    if not (isinstance(here, ssl.SSLSocket) and here.pending()):
                        break


def is_aws(host: str) -> bool:
    """Whether a host, in lower case, is one of AWS's."""
    return host in SUFFIXES or host.endswith(tuple(f".{name}" for name in SUFFIXES))


def as_own(environ: dict, host: str, own: str) -> dict:
    """A request that was sent to a host of AWS's, as one to our own address: what its host tells goes to the path, a
    bucket, and the region of a registry (unless it comes from a Location of ours, which has it)."""
    path, begin, more = environ["REQUEST_URI"], "", ""
    if (of_s3 := S3.fullmatch(host)) and of_s3["bucket"]:
        more = f"/{of_s3['bucket']}"
    elif registry := REGISTRY.fullmatch(host):
        prefix = placed("", registry["region"]).rstrip("/")
        if prefix and path.startswith("/v2/") and len(path) > 4 and not path.startswith(f"/v2/{prefix}/"):
            begin, more = "/v2", f"/{prefix}"
    names = {name: begin + more + environ[name].removeprefix(begin) for name in ("REQUEST_URI", "PATH_INFO")}
    return environ | names | {HOST: environ.get("HTTP_HOST", ""), PATH: path, "HTTP_HOST": own}


class _Authority:
    """Who says, to those who trust the home, that we are a host of AWS's: a key that can name no other hosts.

    Certificates are made for each host as it is asked for: their `*` would stand for one label alone.
    """

    def __init__(self, folder: Path):
        certificate, key = folder / locate.CERTIFICATE, folder / "proxy.key"
        try:
            self._key = serialization.load_pem_private_key(key.read_bytes(), None)
            self._own = x509.load_pem_x509_certificate(certificate.read_bytes())
            good = self._own.not_valid_after_utc > datetime.now(UTC) + timedelta(days=LEFT)
        except (OSError, ValueError):  # there is none yet, or it is damaged
            good = False
        if not good:
            self._key = ec.generate_private_key(ec.SECP256R1())
            # 64 bytes are what a name may have.
            name = os.fsencode(f"localaws, {folder.parent}")[:64].decode(errors="ignore")
            self._own = self._signed(name, DAYS, self._key.public_key(), _OF_AUTHORITY)
            processes.write_whole(key, _text(self._key))
            processes.write_whole(certificate, self._own.public_bytes(PEM))
        self._folder = folder
        self._host_key = ec.generate_private_key(ec.SECP256R1())

    @functools.lru_cache(1000)  # noqa: B019  there is one for a process
    def context(self, host: str) -> ssl.SSLContext:
        """What TLS is spoken by in the name of a host."""
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        extensions = [(names, True), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]
        made = self._signed("localaws", LEFT, self._host_key.public_key(), extensions)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # OpenSSL takes it from a file alone.
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            file.write(made.public_bytes(PEM) + _text(self._host_key))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def _signed(self, name: str, days: int, public, extensions) -> x509.Certificate:
        issuer, now = self._key.public_key(), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = self._own.subject if hasattr(self, "_own") else subject
        builder = x509.CertificateBuilder(by, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
            now + timedelta(days=days)
        )
        for extension, critical in (
            *extensions,
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def _text(key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
