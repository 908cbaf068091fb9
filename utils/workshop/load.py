"""Clients that ask an endpoint again and again, while its instances come and go: for 13_outgrow_one_machine."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

from .errors import WorkshopError
from .language import _

#: Seconds: on AWS an alarm takes minutes to go off, and an instance some more to come.
DEADLINE = 45 * 60


class NeverScaled(WorkshopError):
    """The instances did not become as many as was waited for."""


class Load:
    """Asks an endpoint from `clients` threads for as long as a `with` lasts, each `pause` seconds after its last answer.

    `answered` counts answers, `lost` has the words of each request that got none: nothing is tried twice. `pause` may be
    set on the way. `seen` has (seconds since the beginning, instances) of each change that `until` has seen.
    """

    def __init__(self, endpoint: str, body: str, clients: int = 8, pause: float = 0.05):
        self.endpoint, self.body, self.clients, self.pause = endpoint, body.encode(), clients, pause
        self.answered, self.lost, self.seen = 0, [], []
        self.sagemaker = boto3.client("sagemaker")
        config = Config(retries={"total_max_attempts": 1}, max_pool_connections=clients)
        self._runtime = boto3.client("sagemaker-runtime", config=config)
        self._counting, self._end = threading.Lock(), threading.Event()

    def __enter__(self) -> "Load":
        self._began = time.monotonic()
        self._pool = ThreadPoolExecutor(self.clients)
        for _client in range(self.clients):
            self._pool.submit(self._ask)
        return self

    def __exit__(self, *_error) -> None:
        self._end.set()
        self._pool.shutdown()

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                answer = self._runtime.invoke_endpoint(
                    EndpointName=self.endpoint, ContentType="text/csv", Body=self.body
                )
                answer["Body"].read()
                with self._counting:
                    self.answered += 1
            except Exception as error:  # whatever it is, it is an answer that nobody got
                self.lost.append(str(error))
            self._end.wait(self.pause)

    def until(self, instances: int) -> None:
        """Wait until so many instances serve, and print each change on the way. Raises NeverScaled."""
        local = "127.0.0.1" in self.sagemaker.meta.endpoint_url
        while True:
            found = self.sagemaker.describe_endpoint(EndpointName=self.endpoint)
            there = sum(one["CurrentInstanceCount"] for one in found["ProductionVariants"])
            seconds = time.monotonic() - self._began
            if not self.seen or self.seen[-1][1] != there:
                self.seen.append((seconds, there))
                print(
                    _(
                        "{seconds:4.0f} s: {instances} instances, {answered:,} answers, {lost} requests lost",
                        seconds=seconds,
                        instances=there,
                        answered=self.answered,
                        lost=len(self.lost),
                    )
                )
            if there == instances and found["EndpointStatus"] == "InService":
                return
            if seconds > DEADLINE:
                raise NeverScaled(
                    _(
                        "Endpoint {name} has {there} instances after {minutes:.0f} minutes, and not {instances}. What was "
                        "tried, and why it failed: describe_scaling_activities; is a policy there, and its alarms?",
                        name=self.endpoint,
                        there=there,
                        minutes=seconds / 60,
                        instances=instances,
                    )
                )
            time.sleep(0.2 if local else 10)
