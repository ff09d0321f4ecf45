"""What `auto` may try, as `first_choices.yaml` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.common.regular_files import text_in
from peftbench.common.yaml_text import yaml_of


@dataclass(frozen=True)
class WeightMethod:
    """A method that changes the backbone, the rates that it is tried with, and further overrides."""

    method: str
    rates: tuple[float, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choices:
    """The lists of `first_choices.yaml`."""

    backbones: tuple[str, ...]
    unasked: tuple[str, ...]
    timed_by: str
    probes: tuple[str, ...]
    sides: tuple[tuple[str, ...], ...]
    most_epochs: int
    heads: tuple[str, ...]
    weights: tuple[WeightMethod, ...]
    least_epochs: int
    enough_epochs: int
    rungs: tuple[int, ...]

    @property
    def methods(self) -> set[str]:
        """Every method that may be tried."""
        return {*self.probes, *(side[0] for side in self.sides), *(entry.method for entry in self.weights)}


@cache
def choices() -> Choices:
    """What the file says."""
    content: dict[str, Any] = yaml_of(text_in(Path(__file__).with_name("first_choices.yaml")))
    return Choices(
        backbones=tuple(content["backbones"]),
        unasked=tuple(content["unasked"]),
        timed_by=content["timed_by"],
        probes=tuple(content["probes"]),
        sides=tuple(tuple(side) for side in content["sides"]),
        most_epochs=content["most_epochs"],
        heads=tuple(content["heads"]),
        weights=tuple(map(_weight_method, content["weights"])),
        least_epochs=content["least_epochs"],
        enough_epochs=content["enough_epochs"],
        rungs=tuple(content["rungs"]),
    )


def _weight_method(entry: dict[str, Any]) -> WeightMethod:
    return WeightMethod(entry["method"], tuple(map(float, entry["rates"])), tuple(entry.get("words", ())))


def wanted(names: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Those of the names that the user permits: all where he names none."""
    return [name for name in names if not methods or name in methods]
