"""Asynchronous inference: requests that wait on disk, their input from S3, their answers to S3."""

import sys
import threading
import time
import uuid
from collections.abc import Callable
from queue import SimpleQueue

from botocore.exceptions import BotoCoreError, ClientError

from localaws.engines.logs import LogStream
from localaws.errors import AwsError
from localaws.sagemaker import storage
from localaws.sagemaker.context import Context

KIND = "AsyncRequest"  # in the store: a request is on disk before it is acknowledged
CONCURRENT = 4  # requests to an instance at once, unless MaxConcurrentInvocationsPerInstance says else
TTL_SECONDS = 21_600
TIMEOUT_SECONDS, LONGEST_SECONDS = 900, 3600  # of a request: where it does not say, and at most
POLL_SECONDS = 0.05


class Queue:
    """The requests to one endpoint, taken up in the order in which they came.

    claim:    (endpoint) -> an instance with room for one more request, as it is passed on to `exchange`, or None
    exchange: (endpoint, claimed, headers, body, timeout) -> (status, headers, body) of one request. Raises AwsError
    """

    def __init__(self, context: Context, endpoint: str, group: str, claim: Callable, exchange: Callable):
        self._context, self._endpoint, self._group = context, endpoint, group
        self._claim, self._exchange = claim, exchange
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._closed = False
        threading.Thread(target=self._run, name=f"queue-{endpoint}", daemon=True).start()

    def add(self, config: dict, request: dict, headers: dict) -> dict:
        """Keep a request; what InvokeEndpointAsync answers. `headers` are for the container."""
        identity, output = str(uuid.uuid4()), config["OutputConfig"]
        record = {
            "Id": identity,
            "Endpoint": self._endpoint,
            "InputLocation": request["InputLocation"],
            "InferenceId": request.get("InferenceId") or identity,
            "OutputLocation": f"{output['S3OutputPath'].rstrip('/')}/{identity}.out",
            "Headers": headers,
            "Timeout": request.get("InvocationTimeoutSeconds", TIMEOUT_SECONDS),
            "Expires": time.time() + request.get("RequestTTLSeconds", TTL_SECONDS),
            "CreationTime": time.time(),
        }
        if failures := output.get("S3FailurePath"):
            record["FailureLocation"] = f"{failures.rstrip('/')}/{identity}-error.out"
        self._context.store.insert(KIND, identity, record)
        self._waiting.put(identity)
        return record

    def take_up(self, identity: str) -> None:
        """Queue a request that an earlier server has kept."""
        self._waiting.put(identity)

    def close(self) -> None:
        """Take up nothing more: the endpoint is deleted, and what waits has failed."""
        self._closed = True
        self._waiting.put(None)

    def _run(self):
        # For as long as there is an endpoint: see `close`.
        while (identity := self._waiting.get()) is not None:
            claimed = None
            while not self._closed and not (claimed := self._claim(self._endpoint)):
                time.sleep(POLL_SECONDS)  # until an instance has room, which it may come to in many ways
            record = self._context.store.get(KIND, identity)
            if claimed:
                threading.Thread(target=self._answer, args=(record, claimed), daemon=True).start()
            else:
                abandon(self._context, record)

    def _answer(self, record: dict, claimed: tuple):
        context, (_, variant, instance) = self._context, claimed
        try:
            if time.time() > record["Expires"]:
                raise storage.DataError("The request expired: it waited for longer than RequestTTLSeconds.")
            body = storage.read(context.s3, record["InputLocation"])
        except storage.DataError as error:
            instance.leave()
            failure = str(error)
        else:
            try:
                _, headers, answer = self._exchange(
                    self._endpoint, claimed, record["Headers"], body, record["Timeout"]
                )
                _settle(context, record, "OutputLocation", answer, headers["Content-Type"])
                return
            except AwsError as error:
                if context.engine.closed:
                    return  # localaws is being stopped: the request waits for the next start
                failure = error.message
        log = LogStream(context.logs, self._group, f"{variant.name}/{instance.id}/data-log")
        log.write(f"[sagemaker logs] [{record['InferenceId']}] {failure}")
        log.close()
        _settle(context, record, "FailureLocation", failure)


def abandon(context: Context, record: dict) -> None:
    """Fail a request whose endpoint is gone."""
    failure = f"Endpoint {record['Endpoint']} was deleted before it took up the request."
    _settle(context, record, "FailureLocation", failure)


def _settle(context: Context, record: dict, place: str, content: bytes | str, kind: str = "text/plain"):
    """Put what came of a request at its `place`, where it has one, and forget the request."""
    try:
        if uri := record.get(place):
            bucket, key = storage.parse_uri(uri)
            context.s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=kind)
    except (ClientError, BotoCoreError) as error:
        print(f"localaws: {record['Endpoint']}: an answer cannot be stored: {error}", file=sys.stderr)
    context.store.delete(KIND, record["Id"])
