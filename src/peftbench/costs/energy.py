"""Joules of stretches of a run, by the energy counter that its device has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from peftbench.costs.apple import AppleCounter
from peftbench.costs.counters import EnergyCounter, NoCounter
from peftbench.costs.nvml import NvmlCounter
from peftbench.costs.rapl import RaplCounter
from peftbench.results.money import ESTIMATE

_OTHER_SESSION = "an earlier session of this run measured its energy in another way, or not at all"


def counter_of(device: torch.device) -> EnergyCounter:
    """The counter of what this device takes. Raises NoCounter with the reason where there is none."""
    if device.type == "cuda":
        return NvmlCounter(device)
    if device.type == "mps" or (device.type == "cpu" and sys.platform == "darwin"):
        return AppleCounter()
    if device.type == "cpu":
        return RaplCounter()
    raise NoCounter(f"no energy counter of a device of the kind {device.type} is known")


class EnergyMeter:
    """Joules of a run's training and of its test, over all of its sessions.

    Attributes:
        spent: joules so far by name, `train` and `test`.
        why_not: why there is no figure; empty where there is one.
    """

    def __init__(self) -> None:
        self.spent = {"train": 0.0, "test": 0.0}
        self.why_not = "nothing was measured"
        self._counter: EnergyCounter | None = None
        self._begun: float | None = None
        self._before: Mapping[str, Any] | None = None  # what the session before left; empty where it measured nothing

    def open(self, device: torch.device, local: int = 0) -> None:
        """Chooses the counter; `local` is the number of this process on its machine.

        A counter of the whole machine is read by its first process alone.
        """
        try:
            counter = counter_of(device)
        except NoCounter as reason:
            self.why_not = str(reason)
            return
        other = self._before is not None and self._before.get("measure") != counter.measure
        self.why_not = _OTHER_SESSION if other else ""
        if not other:
            self._counter = counter
        self._reads = counter.of_one_device or local == 0

    def begin(self) -> None:
        """A stretch begins now."""
        self._begun = self._read()

    def end(self) -> float:
        """The joules of the stretch that ends now; 0 where nothing measures them."""
        begun, self._begun = self._begun, None
        now = self._read()
        return 0.0 if begun is None or now is None else now - begun

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: nothing where nothing was measured."""
        return {"measure": self._counter.measure, "train": self.spent["train"]} if self._counter else {}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from what an earlier session kept; called before `open`."""
        self._before = state
        self.spent["train"] = state.get("train", 0.0)

    def costs(
        self,
        seconds: Mapping[str, float | None],
        watts: float | None,
        over: Callable[[torch.Tensor], torch.Tensor] | None = None,
        processes: int = 1,
    ) -> dict[str, Any]:
        """The record's `energy`.

        Args:
            seconds: of training and of the test; None of what was not carried out.
            watts: for an estimate where nothing was measured.
            over: adds up a tensor over the processes of the run, each of which then calls this.
            processes: how many they are.
        """
        joules = dict(self.spent)
        if over is not None:  # all processes, those without a counter too
            total = over(torch.tensor([joules["train"], joules["test"], float(bool(self.why_not))])).tolist()
            joules = dict(zip(("train", "test"), total, strict=False))
            if total[-1] and not self.why_not:
                self.why_not = "another process of the run measured nothing"
        if self.why_not:
            absent = {"why_not": self.why_not}
            return absent if watts is None else {**_estimated(seconds, watts), **absent}
        assert self._counter is not None
        of = self._counter.of + (f"; summed over {processes} processes" if processes > 1 else "")
        figures = {name: None if seconds.get(name) is None else value for name, value in joules.items()}
        return {**figures, "measure": self._counter.measure, "of": of}

    def _read(self) -> float | None:
        if self._counter is None:
            return None
        if not self._reads:
            return 0.0
        try:
            return self._counter.joules()
        except NoCounter as reason:
            self._counter, self.why_not = None, str(reason)
            return None


def _estimated(seconds: Mapping[str, float | None], watts: float) -> dict[str, Any]:
    figures = {name: None if (took := seconds.get(name)) is None else watts * took for name in ("train", "test")}
    return {**figures, "measure": ESTIMATE, "of": f"costs.watts={watts:g} times seconds"}


def shared_energy(energy: Mapping[str, Any], runs: int) -> dict[str, Any]:
    """The equal share of one of several runs that trained together, as the record has it."""
    if energy.get("train") is None:
        return dict(energy)
    shares = {name: None if energy[name] is None else energy[name] / runs for name in ("train", "test")}
    return {**energy, **shares, "share_of": runs}


def added_energy(first: Mapping[str, Any] | None, then: Mapping[str, Any]) -> dict[str, Any]:
    """The energy of a run of two phases, of that of each; none where they were not measured alike."""
    if then.get("train") is None:
        return dict(then)
    if first is None or first.get("measure") != then["measure"]:
        return {"why_not": "the first phase of this run was measured in another way, or not at all"}
    return {**then, "train": first["train"] + then["train"]}
