"""gunicorn's settings; serve adds the addresses, the number of workers and the timeout on the command line."""

import json
import os
import sys
from pathlib import Path

from gunicorn import util

# Where `stack` is, and last of all the algorithm's folder, which gunicorn would put first (algorithm.py says why not).
sys.path.append(str(Path(__file__).parents[2]))
from stack.algorithm import FOLDER

sys.path.append(str(FOLDER))

preload_app = True
control_socket_disable = True
# 0: no limit of gunicorn's; nginx has one.
limit_request_line = 0
loglevel = "warning"
access_log_format = (
    'time=%(t)s status=%(s)s method=%(m)s path="%(U)s" rows=%({x-rows}o)s request_bytes=%({content-length}i)s '
    'response_bytes=%(B)s seconds=%(L)s inference_id="%({x-amzn-sagemaker-inference-id}i)s"'
)


def when_ready(server):
    """Starts all workers at once: gunicorn itself would sleep a little after each."""
    for _ in range(server.num_workers):
        server.spawn_worker()


def post_worker_init(worker):
    """serve waits for one byte from each worker."""
    os.write(int(os.environ["SERVE_READY_FD"]), b"1")


def pre_fork(server, worker):
    """Behind nginx one worker has the ping socket and the others the other one.

    A worker takes one request at a time and may take a minute for it; /ping must be answered all the same.
    """
    if len(server.LISTENERS) == 2:
        worker.pings = not any(other.pings for other in server.WORKERS.values())
        worker.sockets = [server.LISTENERS[worker.pings]]


def write_error(sock, status, reason, message):
    """gunicorn's own answer to what is not HTTP, as JSON instead of HTML."""
    code = reason.lower().replace(" ", "_")
    body = json.dumps({"error": {"code": code, "message": "the request is not valid HTTP"}})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


util.write_error = write_error
