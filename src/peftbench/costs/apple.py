"""The energy counters of Apple's chips, through the library zeus-apple-silicon."""

from __future__ import annotations

from typing import Any

from peftbench.costs.counters import NoCounter

_PARTS = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj")


class AppleCounter:
    """The energy of processor, GPU, neural engine and memory, as far as the chip tells it, in millijoules."""

    measure = "apple"
    of = "the whole chip (processor, GPU, neural engine, memory), with all else that ran on it"
    of_one_device = False

    def __init__(self) -> None:
        try:
            import zeus_apple_silicon
        except ImportError:
            raise NoCounter("the library zeus-apple-silicon is not there; pip install 'peftbench[energy]'") from None
        try:
            self._monitor: Any = zeus_apple_silicon.AppleEnergyMonitor()
        except RuntimeError as problem:
            raise NoCounter(f"the chip tells no energy ({problem})") from None
        self._first = self._millijoules()

    def joules(self) -> float:
        """Since it was made. Raises NoCounter where the chip does not tell."""
        return (self._millijoules() - self._first) / 1000

    def _millijoules(self) -> float:
        try:
            metrics = self._monitor.get_cumulative_energy()
        except RuntimeError as problem:
            raise NoCounter(f"the chip tells no energy ({problem})") from None
        return sum(getattr(metrics, part, None) or 0 for part in _PARTS)
