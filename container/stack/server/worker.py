"""gunicorn's worker behind nginx: as its own sync worker, one request at a time, with less said between the two.

The sync worker closes each connection after one reply, and waits until nginx has closed it too. This one keeps the
connection while nobody else waits for a worker, and sends a reply in one piece. It never keeps more than one: a
request on a second one would wait for this worker while another worker has nothing to do.
"""

import io
import os
import select
import socket
import time
from typing import NamedTuple

from gunicorn import http
from gunicorn.http.errors import NoMoreData
from gunicorn.http.wsgi import WSGIErrorsWrapper
from gunicorn.util import close_graceful
from gunicorn.workers.sync import SyncWorker

# Seconds after somebody had to wait in which no connection is kept: what is closed while nginx sends on it must be
# sent again, so that must stay rare.
CROWDED = 1


class Worker(SyncWorker):
    def run(self):
        (self.listener,) = self.sockets
        self.listener.setblocking(False)
        self.waiting = select.poll()  # who waits for a worker
        self.waiting.register(self.listener, select.POLLIN)
        self.errors = WSGIErrorsWrapper(self.cfg)
        self.crowded_until = 0.0
        events = select.poll()
        for source in self.wait_fds:
            events.register(source, select.POLLIN)
        kept = None
        while self.alive and self.is_parent_alive():
            ready = {fd for fd, _ in events.poll((self.timeout or 0.5) * 1000)}
            self.notify()  # a request's time begins now
            if self.PIPE[0] in ready:  # a signal
                os.read(self.PIPE[0], 1)
            if kept and kept.socket.fileno() in ready:
                events.unregister(kept.socket)
            elif self.listener.fileno() in ready:
                try:
                    client, _ = self.listener.accept()
                except (BlockingIOError, ConnectionAbortedError):  # another worker was quicker
                    continue
                if kept:
                    events.unregister(kept.socket)
                    kept.socket.close()
                    self.crowded_until = time.monotonic() + CROWDED
                client.setblocking(True)
                kept = Connection(client, http.get_parser(self.cfg, client, None))
            else:
                continue
            if self.answer(kept):
                events.register(kept.socket, select.POLLIN)
            else:
                kept = None

    def answer(self, connection) -> bool:
        """One request of a connection; whether the connection is kept. It is closed otherwise."""
        request = None
        try:
            request = next(connection.parser)
            if self.reply(request, connection.socket):
                return True
        except (NoMoreData, StopIteration, ConnectionError):
            pass  # nginx has closed it, or is no longer there
        except Exception as error:
            self.handle_error(request, connection.socket, None, error)
        close_graceful(connection.socket)
        return False

    def reply(self, request, client: socket.socket) -> bool:
        """Has the application answer, and sends that; whether nginx may send another request."""
        self.nr += 1
        head = []

        def start_response(status, headers, exc_info=None):
            head[:] = [f"HTTP/1.1 {status}\r\n", *(f"{name}: {value}\r\n" for name, value in headers)]

        environ = self.environ(request)
        environ["wsgi.input"] = io.BytesIO(read_body(request, client, int(environ.get("CONTENT_LENGTH", 0))))
        chunks = self.wsgi(environ, start_response)
        body = b"".join(chunks)
        if hasattr(chunks, "close"):
            chunks.close()
        now = time.monotonic()
        if self.waiting.poll(0):
            self.crowded_until = now + CROWDED
        keep = self.alive and now > self.crowded_until and not request.should_close()
        head.append("Connection: keep-alive\r\n\r\n" if keep else "Connection: close\r\n\r\n")
        client.sendall("".join(head).encode("latin-1") + body)
        if not keep:
            client.close()
        return keep

    def environ(self, request) -> dict:
        """What PEP 3333 asks for, of what nginx sends."""
        environ = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input_terminated": True,
            "wsgi.errors": self.errors,
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        for name, value in request.headers:
            key = name.replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        return environ


def read_body(request, client: socket.socket, length: int) -> bytes:
    """The whole body, which nginx has whole. gunicorn's own reader takes it in pieces of 8 KB, by several copies."""
    body = request.unreader.take_buffered()
    while len(body) < length:
        more = client.recv(length - len(body), socket.MSG_WAITALL)
        if not more:
            raise ConnectionError("nginx has gone")
        body += more
    request.body = io.BytesIO()  # nothing is left of it for the parser to skip
    return body


class Connection(NamedTuple):
    """An accepted connection, and gunicorn's parser of what comes in on it."""

    socket: socket.socket
    parser: http.RequestParser
