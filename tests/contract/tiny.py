"""A small container that keeps the contract, but for what it is told to break: `python tiny.py train|serve [FAULT]`."""

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERB, FAULT = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
BASE, PORT = Path(os.environ["SAGEMAKER_BASE_DIR"]), int(os.environ["SAGEMAKER_BIND_TO_PORT"])


def leave_a_child() -> None:
    """A process that cuts itself loose, and ignores what it is told."""
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", ignore], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    with open(os.environ["TINY_PIDS"], "a") as pids:
        pids.write(f"{child.pid}\n{os.getpid()}\n")


def train() -> int:
    channel = BASE / "input/data/training"
    files = sorted(channel.iterdir()) if channel.exists() else []
    if FAULT == "ignores SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(2)  # the work that is not stopped
    if FAULT == "hangs":
        leave_a_child()
        time.sleep(600)
    if not files:
        if FAULT != "says nothing":
            cause = (
                'Traceback (most recent call last):\n  File "x.py", line 1'
                if FAULT == "traceback"
                else "no data"
            )
            (BASE / "output/failure").write_text("x" * 2000 if FAULT == "long" else cause)
        return 0 if FAULT == "always 0" else 1
    if FAULT == "writes into input":
        (channel / "index").write_text("x")
    if FAULT == "writes elsewhere":
        (BASE / "cache").write_text("x")
    if FAULT == "leaves a child":
        leave_a_child()
    if FAULT != "no model":
        (BASE / "model/model").write_bytes(b"".join(file.read_bytes() for file in files))
    return 3 if FAULT == "exits 3" else 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/execution-parameters" and FAULT == "half parameters":
            self.reply(200, b'{"MaxPayloadInMB": 6}')
        elif self.path == "/ping":
            self.reply(404 if FAULT == "ping 404" else 200)
        else:
            self.reply(404, b"{}")

    def do_POST(self):
        if "Content-Length" not in self.headers:
            return self.reply(411, b'{"error": "no Content-Length"}')
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Type"] != "application/x-numbers":
            return self.reply(415, b'{"error": "send application/x-numbers"}')
        try:
            answer = sum(float(word) for word in body.decode().split() or [""])
        except ValueError as error:
            if FAULT == "HTML":
                return self.reply(500, b"<html><h1>Internal Server Error</h1></html>", "text/html")
            if FAULT == "dies":
                os._exit(1)
            return self.reply(400, f'{{"error": "{type(error).__name__}"}}'.encode())
        self.reply(
            500 if FAULT == "500" else 200, str(answer + (FAULT == "unsteady") * time.monotonic()).encode()
        )

    def reply(self, status, body=b"", kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 64


def serve() -> int:
    if FAULT != "needs no model":
        (BASE / "model/model").read_bytes()
    if FAULT == "writes into model":
        (BASE / "model/cache").write_text("x")
    parent = os.getpid()
    if FAULT == "daemon" and os.fork():
        return 0
    while FAULT == "daemon" and os.getppid() == parent:
        time.sleep(0.01)
    port = {"other port": 0, "own port": int(os.environ.get("TINY_PORT", 0))}.get(FAULT, PORT)
    server = Server(("127.0.0.1", port), Handler)
    other = Server(("127.0.0.1", 0), Handler) if FAULT == "second port" else None
    if FAULT == "leaves a child":
        leave_a_child()
    code = 7 if FAULT == "exits 7" else 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN if FAULT == "ignores SIGTERM" else lambda *_: os._exit(code))
    server.serve_forever()
    return bool(other)


sys.exit(train() if VERB == "train" else serve())
