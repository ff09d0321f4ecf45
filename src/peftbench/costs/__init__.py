"""Meters: what a run cost. They measure and decide nothing."""

from peftbench.costs.clock import StepClock
from peftbench.costs.compute import flops, latency, measured
from peftbench.costs.energy import EnergyMeter, added_energy, shared_energy
from peftbench.costs.memory import PeakMemory, SavedBytes
from peftbench.costs.parameters import parameters
from peftbench.costs.waiting import wait_for

__all__ = [
    "EnergyMeter",
    "PeakMemory",
    "SavedBytes",
    "StepClock",
    "added_energy",
    "flops",
    "latency",
    "measured",
    "parameters",
    "shared_energy",
    "wait_for",
]
