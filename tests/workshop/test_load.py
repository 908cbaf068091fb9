"""Clients that ask an endpoint while its instances come and go: workshop.load."""

import pytest

from workshop import load
from workshop.load import Load, NeverScaled


class Endpoint:
    """A SageMaker that says of an endpoint one description after the other, and lets every second request down."""

    class meta:
        endpoint_url = "http://127.0.0.1:1"

    def __init__(self, described):
        self.described, self.asked = list(described), 0

    def describe_endpoint(self, EndpointName):
        status, count = self.described[0]
        del self.described[: len(self.described) > 1]
        return {"EndpointStatus": status, "ProductionVariants": [{"CurrentInstanceCount": count}]}

    def invoke_endpoint(self, **_request):
        self.asked += 1
        if self.asked % 2 == 0:
            raise RuntimeError("no answer")
        return {"Body": self}

    def read(self):
        return b"buys\n"


@pytest.fixture
def under_load(monkeypatch):
    def make(*described):
        endpoint = Endpoint(described)
        monkeypatch.setattr(load.boto3, "client", lambda *_, **__: endpoint)
        return endpoint, Load("mine", "1,2\n", clients=1, pause=0.001)

    return make


def test_changes_are_told_and_requests_without_an_answer_counted(under_load, capsys):
    ways = [("InService", 1), ("Updating", 1), ("Updating", 3), ("InService", 3)]
    endpoint, asking = under_load(*ways)
    with asking:
        asking.until(instances=3)
    assert [instances for _seconds, instances in asking.seen] == [1, 3]
    assert asking.answered + len(asking.lost) == endpoint.asked > 0
    assert abs(asking.answered - len(asking.lost)) <= 1
    assert set(asking.lost) <= {"no answer"}
    told = capsys.readouterr().out.splitlines()
    assert ["1 instances" in told[0], "3 instances" in told[1], len(told)] == [True, True, 2]


def test_an_endpoint_that_never_scales_is_named(under_load, monkeypatch):
    monkeypatch.setattr(load, "DEADLINE", 0)
    _endpoint, asking = under_load(("InService", 1))
    with asking, pytest.raises(NeverScaled, match=r"mine has 1 instances.*describe_scaling_activities"):
        asking.until(instances=3)
