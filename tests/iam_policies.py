"""What IAM decides of calls that localaws recorded, by an evaluator that is not ours: iam-simulate, in build/iam.

It knows AWS's Service Authorization Reference: a resource that an action cannot have is an error.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from workshop import ROOT

HERE = Path(__file__).parent / "iam"
INSTALLED = ROOT / "build" / "iam"


@dataclass
class Verdict:
    """What a policy does not allow, resource of the account -> actions, and what of it allowed nothing, statement ->
    actions and resources."""

    refused: dict[str, set[str]]
    unused: dict[str, set[str]]


def install() -> None:
    """Install the evaluator, once. Where npm, or what it asks for, is not to be had the test is left out."""
    wanted = (HERE / "package-lock.json").read_text()
    ready = INSTALLED / "ready"
    if ready.exists() and ready.read_text() == wanted:
        return
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no npm here: apt-get install npm, or brew install node")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, INSTALLED)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(INSTALLED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.skip(f"npm cannot install the evaluator of policies: {done.stderr[-300:]}")
    ready.write_text(wanted)


def judge(policy: dict, calls: list[dict], principal: str, **context: str) -> Verdict:
    """Hold recorded calls of a principal (an ARN) against a policy; `context` are condition keys of the principal's."""
    install()
    told = [call | {"context": call["context"] | context} for call in calls]
    done = subprocess.run(
        ["node", str(HERE / "evaluate.mjs"), str(INSTALLED)],
        input=json.dumps({"policy": policy, "principal": principal, "calls": told}),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    refused: dict[str, set[str]] = {}
    unused = {one["Sid"]: {*_listed(one["Action"]), *_listed(one["Resource"])} for one in policy["Statement"]}
    for call, answer in zip(calls, json.loads(done.stdout), strict=True):
        assert "error" not in answer, (call, answer)
        if answer["decision"] != "Allowed":
            refused.setdefault(call["resource"].rpartition(":")[2], set()).add(call["action"])
        for by in answer["by"]:
            unused[by["statement"]] -= {*by["actions"], *by["resources"]}
    return Verdict(refused, {sid: left for sid, left in unused.items() if left})


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
