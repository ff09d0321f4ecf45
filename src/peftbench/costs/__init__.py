"""Meters: what a run cost. They measure and decide nothing."""

from peftbench.costs.clock import StepClock
from peftbench.costs.compute import flops, latency, measured
from peftbench.costs.memory import PeakMemory, SavedBytes
from peftbench.costs.parameters import parameters
from peftbench.costs.waiting import wait_for

__all__ = ["PeakMemory", "SavedBytes", "StepClock", "flops", "latency", "measured", "parameters", "wait_for"]
