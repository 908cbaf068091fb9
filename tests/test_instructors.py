"""labs/INSTRUCTORS.md against the rest: minutes, money, links, names."""

import re

import pytest

from workshop import PRICES, ROOT

GUIDE = ROOT / "labs" / "INSTRUCTORS.md"
TEXT = GUIDE.read_text()
MINUTES = dict(
    re.findall(r"^\| \[(\d\d) · .*? \| (\d+) \| [^|]+ \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
)


@pytest.mark.parametrize(("column", "whole"), [(1, 60), (2, 120), (3, 240)])
def test_an_agenda_adds_up(column, whole):
    table = TEXT.split("## Agendas")[1].split("\n\n")[1]
    cells = [
        re.sub(r"\[(\d\d)\]\([^)]+\)", r"\1", row).strip("|").split("|")[column]
        for row in table.splitlines()[2:]
    ]
    labs = re.findall(r"\b(\d\d) (\d+)\b", " ".join(cells))
    assert len(labs) >= 7 and labs[0][0] == "00" and labs[-1][0] == "99"
    for lab, minutes in labs:
        assert MINUTES[lab] == minutes, f"lab {lab}: README says {MINUTES[lab]} minutes"
    pauses = [int(number) for number in re.findall(r"(\d+)(?: after|, while)", " ".join(cells))]
    spare = int(cells[-1])
    assert sum(int(minutes) for _, minutes in labs) + sum(pauses) + spare == whole


def test_the_money_is_what_the_prices_make_it():
    hours, machine = 8, PRICES["ml.m5.large"]
    assert f"{hours} hours, ${hours * machine:.2f} |" in TEXT and f"${30 * hours * machine:.0f} |" in TEXT
    assert f"${24 * machine:.2f} a day, thirty learners with one each ${30 * 24 * machine:.0f}" in TEXT
    costs = TEXT.split("## What it costs")[1].split("\n## ")[0]
    thirty = [float(part) for part in re.findall(r"\| (?:under )?\$([\d.]+) \|$", costs, re.MULTILINE)]
    assert len(thirty) == 4 and f"**about ${sum(thirty):.0f}** |" in costs


def test_links_and_commands_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        assert (GUIDE.parent / link).exists(), f"INSTRUCTORS.md links to {link}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", TEXT)) - {"roles", "the"} <= targets
    parameters = (ROOT / "utils/cloudformation/class.yaml").read_text()
    for name in re.findall(
        r"\b([A-Z][A-Za-z]+)=", TEXT.split("aws cloudformation deploy")[1].split("```")[0]
    ):
        assert f"\n  {name}:" in parameters, f"class.yaml has no parameter {name}"
