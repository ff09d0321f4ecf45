"""The energy counters of the processor's packages, as Linux shows those of Intel and AMD (RAPL)."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

from peftbench.costs.counters import NoCounter

ZONES = Path("/sys/class/powercap")
POLL = 30.0
"""Seconds between two looks. A counter begins anew at 65 kJ at the earliest, which 500 W take in two minutes."""


class RaplCounter:
    """The energy of all processor packages of the machine; with it that of all else which ran there.

    A counter begins anew at its largest value, so that a thread looks at it from time to time, for as long as this
    object is in use.
    """

    measure = "rapl"
    of_one_device = False

    def __init__(self) -> None:
        self._packages = [_Package(zone) for zone in sorted(ZONES.glob("intel-rapl:*")) if _is_package(zone)]
        if not self._packages:
            raise NoCounter(f"the system shows no energy counter of its processor ({ZONES})")
        number = len(self._packages)
        which = "the processor package" if number == 1 else f"all {number} processor packages"
        self.of = f"{which} of the machine, with all else that ran there; not the memory, nor disks"
        self._lock = threading.Lock()
        threading.Thread(target=_look, args=(weakref.ref(self),), daemon=True).start()

    def joules(self) -> float:
        """Since it was made. Raises NoCounter where a counter cannot be read any more."""
        with self._lock:
            return sum(package.joules() for package in self._packages)


class _Package:
    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = _number(zone / "max_energy_range_uj")
        self._last, self._counted = _number(self._file), 0

    def joules(self) -> float:
        now = _number(self._file)
        self._counted += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._counted / 1e6


def _is_package(zone: Path) -> bool:
    """Whether a zone is a whole package; cores and memory within one are zones of their own."""
    try:
        return (zone / "name").read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or "it holds no number"
        raise NoCounter(f"{file} cannot be read ({why})") from None


def _look(counter: weakref.ref[RaplCounter]) -> None:
    """Reads the counter every so often, until nobody has it any more or it cannot be read."""
    while True:
        time.sleep(POLL)
        alive = counter()
        if alive is None:
            return
        try:
            alive.joules()
        except NoCounter:
            return
        del alive
