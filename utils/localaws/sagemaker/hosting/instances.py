"""One instance that serves a model: `serve` of the image with the model's files, kept alive, spoken to over HTTP."""

import collections
import io
import shutil
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import urllib3

from localaws.engines.logs import LogStream
from localaws.engines.process import Container, ExecError, Spec, StartError, Unpacked
from localaws.sagemaker import storage
from localaws.sagemaker.context import Context, internal_error

PING_SECONDS = 2  # how long a container may take to answer /ping
PING_INTERVAL = 5
PING_FAILURES = 6  # in a row, then the container is replaced
START_ATTEMPTS = 3
STOP_SECONDS = 30  # between SIGTERM and SIGKILL
LAST_LINES = 10
GIVE_UP_SECONDS = 300  # longer than a container takes to end; what is fetched at that time may take longer
READ_BYTES = 1 << 18
POOL = 512  # connections kept open to a container: more than the front has threads


class ServeError(Exception):
    """A model that does not come to serve; the message says why and what its container said last."""


def container_definition(model: dict) -> dict:
    """The one container of a model's record, and whether it has no network."""
    container = model.get("PrimaryContainer") or model["Containers"][0]
    return container | {"EnableNetworkIsolation": model.get("EnableNetworkIsolation", False)}


class Instance:
    """A `serve` that is started again whenever it ends, until `stop`. The model is fetched once.

    `definition` is a model's container: image (by digest), model data, environment, instance type. `log` is (group,
    stream); `{id}` in the stream's name is the instance's id.
    """

    def __init__(
        self,
        context: Context,
        what: str,
        definition: dict,
        folder: Path,
        log: tuple[str, str],
    ):
        self.id = f"i-{uuid.uuid4().hex[:17]}"
        self.in_flight = 0
        self._context, self._what, self._definition = context, what, definition
        self._folder = folder / self.id
        self._log = LogStream(context.logs, log[0], log[1].format(id=self.id))
        self._last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._draining = self._stopping = False
        self._failure: str | None = None
        self._ill = "the container has not started"
        self._container: Container | None = None
        self._pool: urllib3.HTTPConnectionPool | None = None  # there is one while the container is healthy
        self._thread = threading.Thread(target=self._supervise, name=what, daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._pool is not None

    def wait_healthy(self, seconds: float, cancelled: threading.Event | None = None) -> None:
        """Wait for the first 200 of /ping. Raises ServeError after `seconds`, or at once when there is no hope."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (self.healthy or self._failure or self._stopping or (cancelled and cancelled.is_set())):
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._changed.wait(min(left, 0.2))
        if not self.healthy:
            reason = self._failure or f"/ping was not answered with 200 within {seconds:.0f} s: {self._ill}"
            raise ServeError(f"{reason}. Its last lines: {' | '.join(self._last)}" if self._last else reason)

    def enter(self, limit: float) -> bool:
        """Claim the instance for one of `limit` requests at once; False if it has no room. Pair with `leave`."""
        with self._changed:
            if not self.healthy or self._draining or self.in_flight >= limit:
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        with self._changed:
            self.in_flight -= 1
            self._changed.notify_all()

    def request(self, method: str, path: str, body=None, headers=None, timeout: float = 60):
        """One HTTP exchange with the container, on a kept-alive connection. Raises urllib3's errors."""
        if (pool := self._pool) is None:
            raise urllib3.exceptions.HTTPError("the container is not in service")
        return _exchange(pool, method, path, body, headers, timeout)

    def stop(self, drain: float = 0) -> None:
        """Take no more requests, wait up to `drain` s for those that run, end the container, clear its folder."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not self.in_flight, drain)
            self._stopping = True
            self._changed.notify_all()
        self._wake.set()
        self._thread.join(GIVE_UP_SECONDS)
        if self._thread.is_alive():
            self._say("The image is still being fetched: localaws does not wait for that any longer.")
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """End the container at once; `stop` then has nothing to wait for."""
        self._stopping = self._draining = True
        if container := self._container:
            container.kill()
        self._wake.set()

    def _supervise(self):
        try:
            image = self._fetch()
            failures, was_healthy = 0, False
            while not self._stopping:
                if self._serve_once(image):
                    failures, was_healthy = 0, True
                else:
                    failures += 1
                if failures >= START_ATTEMPTS and not was_healthy:
                    raise StartError(f"it ended {failures} times without answering /ping, {self._ending()}")
                if not self._stopping or self._container.out_of_memory:
                    self._say(f"the container ended, {self._ending()}")
                if not self._stopping:
                    self._wake.wait(min(0.1 * 2**failures, 10))
        except ExecError as error:
            self._line(error.line)
            self._say(error.mend)
            self._fail(f"it ended without answering /ping, exit code {error.exit_code}")
        except (storage.DataError, StartError) as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(internal_error(error))

    def _ending(self) -> str:
        ending = f"exit code {self._container.exit_code}"
        memory = ", killed for memory: use an instance type with more"
        return ending + memory if self._container.out_of_memory else ending

    def _fail(self, reason: str):
        with self._changed:
            self._failure = reason
            self._changed.notify_all()

    def _fetch(self) -> Unpacked | str:
        """The image, with the model's files in place beside it."""
        model = self._folder / "ml" / "model"
        model.mkdir(parents=True)
        source = self._definition.get("ModelDataSource", {}).get("S3DataSource", {})
        archive = source.get("S3Uri") if source.get("CompressionType") == "Gzip" else None
        if uri := self._definition.get("ModelDataUrl") or archive:
            storage.extract_model(self._context.s3, uri, model)
        elif source:
            objects = storage.list_objects(self._context.s3, "S3Prefix", source["S3Uri"])
            storage.download(self._context.s3, objects, model)
        return self._context.engine.fetch(self._context.registry, self._definition["Image"])

    def _serve_once(self, image: Unpacked | str) -> bool:
        """One life of the container; whether it ever answered /ping."""
        port = _free_port()
        environment = self._context.variables | self._definition.get("Environment", {})
        environment |= {"SAGEMAKER_BIND_TO_PORT": str(port)}
        instance_type, isolated = self._definition["InstanceType"], self._definition["EnableNetworkIsolation"]
        memory = (self._definition.get("Serverless") or {}).get("MemorySizeInMB", 0)
        base = self._folder / "ml"
        spec = Spec(self._what, image, "serve", base, environment, instance_type, isolated, memory)
        self._wake.clear()
        if self._stopping:
            return False
        container = self._container = self._context.engine.start(spec, self._line, lambda _: self._wake.set())
        with closing(urllib3.HTTPConnectionPool(*container.address(port), maxsize=POOL)) as pool:
            while (ill := _ill(pool)) and container.running and not self._stopping:
                self._ill = ill
                container.wait(0.05)
            answered = not ill
            if answered:
                self._set_pool(pool)
            misses = 0
            while answered and container.running and not self._stopping and misses < PING_FAILURES:
                if not self._wake.wait(PING_INTERVAL):
                    misses = misses + 1 if _ill(pool) else 0
            self._set_pool(None)
            if misses >= PING_FAILURES:
                self._say(f"/ping failed {misses} times in a row: the container is replaced")
            container.stop(STOP_SECONDS if self._stopping else 0)
        return answered

    def _set_pool(self, pool):
        with self._changed:
            self._pool = pool
            self._changed.notify_all()

    def _line(self, line):
        self._last.append(line)
        self._log.write(line)

    def _say(self, text):
        self._log.write(f"[localaws] {text}")


def stop_all(instances: list[Instance], drain: float = 0) -> None:
    """Stop instances at once, each as its `stop` does."""
    if instances:
        with ThreadPoolExecutor(len(instances)) as pool:
            list(pool.map(lambda instance: instance.stop(drain), instances))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _exchange(pool, method, path, body, headers, timeout):
    deadline = time.monotonic() + timeout
    limits = urllib3.Timeout(connect=PING_SECONDS, read=timeout)
    options = {"retries": False, "redirect": False, "timeout": limits, "preload_content": False}
    response = pool.urlopen(method, path, body, headers or {}, **options)
    answer = bytearray()
    while part := response.read1(READ_BYTES):
        answer += part
        if time.monotonic() > deadline:  # `limits` are for each part: it may come a byte at a time
            response.close()
            raise urllib3.exceptions.ReadTimeoutError(pool, path, "Read timed out.")
    response.release_conn()
    # As a file: of an empty text it would make no data at all.
    return urllib3.HTTPResponse(io.BytesIO(answer), response.headers, response.status, decode_content=False)


def _ill(pool) -> str:
    """Why a container does not pass the health check; "" if it does."""
    try:
        status = _exchange(pool, "GET", "/ping", None, None, PING_SECONDS).status
    except urllib3.exceptions.ReadTimeoutError:
        return f"no answer came within {PING_SECONDS} s"
    except urllib3.exceptions.HTTPError:
        return "no program answers on port 8080 (in the process engine: on SAGEMAKER_BIND_TO_PORT)"
    return "" if status == 200 else f"the answer was {status}"
