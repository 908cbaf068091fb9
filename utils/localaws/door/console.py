"""What the page shows at a glance, as data: times are seconds since the epoch, costs US dollars.

A poll must stay cheap with thousands of jobs: what is told of a record is made once, and again when the record changes.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from localaws.prices import PRICES, PRICES_AS_OF
from localaws.sagemaker.context import ENDED
from localaws.sagemaker.hosting.instances import container_definition

SHOWN = {"jobs": 50, "endpoints": 50, "models": 50, "images": 50, "buckets": 50, "calls": 10}
PROGRESS_BYTES = 1 << 16
# What took longer to find is told again for so many times as long before it is looked for anew.
SLOW_SECONDS, REST = 0.05, 20
JOBS = {
    "training": "TrainingJob",
    "tuning": "HyperParameterTuningJob",
    "transform": "TransformJob",
    "processing": "ProcessingJob",
}
WORDS = {kind: word for word, kind in JOBS.items()}


class Console:
    """What there is in a localaws that is `about` so. `connect` gives boto3's client of a service."""

    def __init__(self, store, registry, backend, connect: Callable, home: Path, about: dict, calls):
        self.store, self.registry, self.backend, self.ecr = store, registry, backend, connect("ecr")
        self.home, self.about, self.calls = home, about, calls
        self.made: dict[str, dict[str, tuple[dict, dict]]] = {}
        self._rested: dict[object, tuple[float, object]] = {}
        self._progress: dict[Path, tuple[tuple, dict | None]] = {}

    def state(self, shown: dict[str, int], also: tuple[str, str] | None = None) -> dict:
        """Return counts and sums of everything, and of each kind the newest, `shown` of them; `also` is the kind and the
        name of a thing that is told even if it is an older one: `target` then has its place, from the top."""
        now, arns = time.time(), {}
        jobs = {word: self.cards(kind, self.job_card) for word, kind in JOBS.items()}
        for card in jobs["tuning"]:
            arns[card["arn"]] = card
        trials, loose = defaultdict(list), []
        for card in jobs["training"]:
            (trials[card["parent"]] if card["parent"] in arns else loose).append(card)
        tops = sorted(
            [*loose, *jobs["tuning"], *jobs["transform"], *jobs["processing"]], key=newest, reverse=True
        )
        every = {
            "jobs": tops,
            "endpoints": sorted(self._endpoints(), key=newest, reverse=True),
            "models": sorted(self.cards("Model", self._model_card), key=newest, reverse=True),
            "images": sorted(self.rest("images", self._images), key=newest, reverse=True),
            "buckets": self.rest("buckets", self.backend.buckets),
        }
        paid = [*jobs["training"], *jobs["transform"], *jobs["processing"], *every["endpoints"]]
        busy = [card for cards in jobs.values() for card in cards if card["status"] not in ENDED]
        totals = {
            "jobs": sum(map(len, jobs.values())),
            "trials": sum(map(len, trials.values())),
            "running": len(busy),
            "in_service": sum(card["status"] == "InService" for card in every["endpoints"]),
            "cost": sum(_cost(card, now) or 0 for card in paid),
            "hourly": sum(card["hourly"] or 0 for card in paid if not card.get("ended")),
            "calls": self.calls.total,
        }
        totals |= {kind: len(cards) for kind, cards in every.items() if kind != "jobs"}
        target = self._place(also, arns) if also else None
        lists = {}
        for kind, cards in every.items():
            lists[kind] = cards[: shown.get(kind, SHOWN[kind])]
            if target:
                top = tuple(target[0])
                lists[kind] += [card for card in cards[len(lists[kind]) :] if _address(card) == top]
        lists["jobs"] = [
            self._with_trials(card, trials, now) if card["kind"] == "tuning" else as_told(card, now)
            for card in lists["jobs"]
        ]
        lists["endpoints"] = [as_told(card, now) for card in lists["endpoints"]]
        return {
            **self.about,
            "now": now,
            "prices": PRICES_AS_OF,
            "totals": totals,
            "top": {kind: len(cards) for kind, cards in every.items()} | {"calls": len(self.calls)},
            **lists,
            "calls": self.calls.latest(shown.get("calls", SHOWN["calls"])),
            "progress": self.progress(),
            "target": target,
        }

    def cards(self, kind: str, make: Callable[[str, dict], dict]) -> list[dict]:
        """What is told of each record of a kind, made anew where the record is another one."""
        before, made = self.made.get(kind, {}), {}
        for name, record in self.store.view(kind).items():
            known = before.get(name)
            made[name] = known if known and known[0] is record else (record, make(kind, record))
        self.made[kind] = made
        return [card for _, card in made.values()]

    def rest(self, what, find: Callable[[], object]):
        """What `find` gives; where that takes long, what it gave a while ago."""
        if (known := self._rested.get(what)) and time.monotonic() < known[0]:
            return known[1]
        began = time.monotonic()
        found, took = find(), time.monotonic() - began
        if len(self._rested) > 200:
            self._rested.clear()
        if took > SLOW_SECONDS:
            self._rested[what] = time.monotonic() + REST * took, found
        return found

    def job_card(self, kind: str, record: dict) -> dict:
        verb = kind.removesuffix("Job").removeprefix("HyperParameter")
        cluster = record.get("ProcessingResources", {}).get("ClusterConfig", {})
        fleet = record.get("ResourceConfig") or record.get("TransformResources") or cluster
        return {
            **_common(kind, WORDS[kind], record),
            "what": f"{verb} job",
            "secondary": record.get("SecondaryStatus"),
            "started": record.get(f"{verb}StartTime"),
            "ended": record.get(f"{verb}EndTime") or record.get("HyperParameterTuningEndTime"),
            "best": record.get("BestTrainingJob", {}).get("TrainingJobName"),
            "arn": record[f"{kind}Arn"],
            "parent": record.get("TuningJobArn"),
            **_price([fleet]),
        }

    def _with_trials(self, card: dict, trials: dict[str, list], now: float) -> dict:
        """A tuning job as it is told: what it costs is what its training jobs do."""
        own = trials.get(card["arn"], ())
        known = [cost for trial in own if (cost := _cost(trial, now)) is not None]
        return {
            **as_told(card, now),
            "what": f"{card['what']} · {len(own)} training jobs",
            "trials": len(own),
            "instances": own[0]["instances"] if own else "",
            "cost": sum(known) if known else None,
        }

    def _place(self, also: tuple[str, str], arns: dict[str, dict]) -> list | None:
        """Where a thing is: its kind and name, after those of the tuning job that it is a trial of."""
        word, name = also
        for kind in JOBS if word == "job" else (word,):
            if kind in JOBS:
                record = self.store.view(JOBS[kind]).get(name.lower())
                if record:
                    here = [kind, record[f"{JOBS[kind]}Name"]]
                    parent = arns.get(record.get("TuningJobArn"))
                    return [["tuning", parent["name"]], here] if parent else [here]
            elif kind in ("endpoint", "model"):
                if record := self.store.view(kind.title()).get(name.lower()):
                    return [[kind, record[f"{kind.title()}Name"]]]
            else:
                return [[kind, name]]
        return None

    def _endpoints(self) -> list[dict]:
        configs = self.store.view("EndpointConfig")
        return [self._endpoint_card(record, configs) for record in self.store.view("Endpoint").values()]

    def _endpoint_card(self, record: dict, configs: dict[str, dict]) -> dict:
        # It may be deleted before its endpoint.
        config = configs.get(record["EndpointConfigName"].lower(), {"ProductionVariants": ()})
        running = {item["VariantName"]: item for item in record.get("ProductionVariants", ())}
        fleet = [
            variant
            | {"InstanceCount": running.get(variant["VariantName"], {}).get("CurrentInstanceCount", 0)}
            for variant in config["ProductionVariants"]
        ]
        price = _price(fleet)
        if any("ServerlessConfig" in variant for variant in fleet):
            price["instances"] = "serverless"
        common = _common("Endpoint", "endpoint", record)
        seconds = record.get("InstanceSeconds", {}).items()
        return {
            **common,
            "what": record["EndpointConfigName"],
            "started": record.get("CountedAt", common["created"]),
            "spent": sum(PRICES.get(kind, 0) * count / 3600 for kind, count in seconds),
            **price,
        }

    def _model_card(self, _: str, record: dict) -> dict:
        return {**_common("Model", "model", record), "what": container_definition(record)["Image"]}

    def _images(self) -> list[dict]:
        pages = self.ecr.get_paginator("describe_repositories").paginate()
        return [
            {
                "kind": "image",
                "name": f"{repository['repositoryName']}:{', '.join(image['tags']) or '(no tag)'}",
                "repository": repository["repositoryName"],
                "what": image["digest"],
                "bytes": image["size"],
                "created": image["pushed"],
            }
            for page in pages
            for repository in page["repositories"]
            for image in self.registry.images(repository["repositoryName"])
        ]

    def progress(self) -> list[dict]:
        """Return how far a learner is: what `labs/progress/*.json` of the home say, as far as they can be read."""
        found, seen = [], {}
        for file in sorted((self.home / "labs" / "progress").glob("*.json"))[:10]:
            try:
                about = file.stat()
                stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
                known = self._progress.get(file)
                if known and known[0] == stamp:
                    seen[file] = known
                elif about.st_size <= PROGRESS_BYTES:
                    seen[file] = stamp, _progress(file.read_bytes())
            except OSError:
                continue
            if file in seen and seen[file][1]:
                found.append(seen[file][1])
        self._progress = seen
        return found


def newest(card: dict) -> tuple:
    return card["created"], card["name"]


def _address(card: dict) -> tuple[str, str]:
    if card.get("kind") == "image":
        return "image", card["repository"]
    return card.get("kind", "bucket"), card["name"]


def _common(kind: str, word: str, record: dict) -> dict:
    return {
        "kind": word,
        "name": record[f"{kind}Name"],
        "status": record.get(f"{kind}Status"),
        "created": record["CreationTime"],
        "reason": record.get("FailureReason"),
    }


def _price(fleet: list[dict]) -> dict:
    """The instances in words, and what an hour of them costs: None where none, or one without a price, is named."""
    fleet = [group for group in fleet if group.get("InstanceCount") and "InstanceType" in group]
    words = ", ".join(f"{group['InstanceCount']} {group['InstanceType']}" for group in fleet)
    if not fleet or any(group["InstanceType"] not in PRICES for group in fleet):
        return {"instances": words, "hourly": None}
    return {
        "instances": words,
        "hourly": sum(group["InstanceCount"] * PRICES[group["InstanceType"]] for group in fleet),
    }


def _cost(card: dict, now: float) -> float | None:
    """What all of the time costs: `spent` until it had the instances that it has now, and these since `started`."""
    if card["hourly"] is None:
        return None
    seconds = (card.get("ended") or now) - card["started"] if card["started"] else 0
    return card.get("spent", 0) + card["hourly"] * seconds / 3600


def as_told(card: dict, now: float) -> dict:
    """A job or an endpoint with what it costs now, without what is only ours."""
    told = {key: value for key, value in card.items() if key not in ("arn", "parent")}
    return told | {"cost": _cost(card, now), "hourly": None if card.get("ended") else card["hourly"]}


def _progress(data: bytes) -> dict | None:
    """A learner's progress as the page needs it, None where it is not in its form."""
    try:
        said = json.loads(data)
        labs = [
            {
                "lab": str(one["lab"])[:80],
                "title": str(one.get("title") or one["lab"])[:80],
                "checked": bool(one.get("checked")),
                "your_turn": bool(one.get("your_turn")),
                "predictions": int(one.get("predictions") or 0),
            }
            for one in said["labs"][:50]
        ]
        return {
            "name": str(said["name"])[:80],
            "labs": labs,
            "next": said.get("next") and str(said["next"])[:80],
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
