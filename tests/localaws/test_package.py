"""localaws' own pyproject.toml, beside the workshop's, which brings the same package."""

import tomllib

from packaging.requirements import Requirement

from workshop import ROOT

WORKSHOP, OWN = (
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    for folder in ("", "utils/localaws")
)


def asked(project: dict) -> dict[str, tuple]:
    """What a project depends on: name -> extras and versions."""
    found = map(Requirement, project["dependencies"])
    return {one.name: (sorted(one.extras), str(one.specifier)) for one in found}


def test_the_workshop_asks_for_all_that_localaws_needs():
    assert asked(OWN).items() <= asked(WORKSHOP).items()


def test_and_for_the_same_pythons_and_command():
    for what in ("version", "license", "requires-python"):
        assert OWN[what] == WORKSHOP[what]
    assert OWN["scripts"].items() <= WORKSHOP["scripts"].items()
