"""The heads of the recipes in configs/experiment say how many runs they come to."""

from __future__ import annotations

import re
from math import prod

import pytest
import yaml

from support.places import ROOT

SAID = {
    file.stem: int(said[1])
    for file in sorted((ROOT / "configs" / "experiment").glob("*.yaml"))
    if (said := re.search(r"^# expected: (\d+) runs", file.read_text(encoding="utf-8"), re.MULTILINE))
}


def test_some_recipe_says_it():
    assert {"baselines_digits", "vtab1k"} <= set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_a_recipe_comes_to_as_many_runs_as_it_says(name):
    content = yaml.safe_load((ROOT / "configs" / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    jobs = prod(len(values.split(",")) for values in content["hydra"]["sweeper"]["params"].values())
    chosen = {key: value for entry in content["defaults"] for key, value in entry.items()}
    protocol = yaml.safe_load(
        (ROOT / "configs" / "protocol" / f"{chosen.get('override /protocol', 'none')}.yaml").read_text(encoding="utf-8")
    )
    assert jobs * (protocol.get("trials", 0) + protocol.get("seeds", 1)) == SAID[name]
