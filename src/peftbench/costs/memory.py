"""Memory: the peak of a phase, and the exact bytes that one step keeps for backward."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """The peak between `start()` and `read()`: in total, and above what was taken at `start()`.

    What is counted is on CUDA what tensors have (`allocated`), with what the allocator holds for them besides, and on
    any other device the resident set of the process (`resident`).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held: dict[str, int] = {}

    def start(self) -> None:
        """Counting begins now."""
        _give_back()
        self._held = {}
        self._resettable = self._reset()
        if self.device.type == "cuda":
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _resident() if self._resettable else _peak()

    def read(self) -> dict[str, Any]:
        """What was measured.

        `total`: bytes at the peak. `above`: of these, those above what was taken at `start()`. `measure`: what is
        counted, `allocated` or `resident`. `exact`: false where the system cannot reset its own peak, so that one
        before `start()` hides a lower one. `reserved`, on CUDA: bytes that the allocator held at its peak.
        """
        peak = self._largest()
        above = max(peak["total"] - self._before, 0)
        measure = "allocated" if self.device.type == "cuda" else "resident"
        return {"measure": measure, "above": above, "exact": self._resettable, **peak}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside (writing a checkpoint) does not count."""
        self._held = self._largest()
        yield
        self._reset()

    def _largest(self) -> dict[str, int]:
        """Of now, and of before what did not count."""
        return {k: max(v, self._held.get(k, 0)) for k, v in self._now().items()}

    def _now(self) -> dict[str, int]:
        if self.device.type == "cuda":
            return {
                "total": torch.cuda.max_memory_allocated(self.device),
                "reserved": torch.cuda.max_memory_reserved(self.device),
            }
        return {"total": _peak()}

    def _reset(self) -> bool:
        if self.device.type != "cuda":
            return _reset_peak()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return True


def _give_back() -> None:
    """Returns freed memory to the system: what an earlier job of a sweep left would hide this one's."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text("5", encoding="utf-8")  # proc(5): 5 resets the peak resident set of this process
    except OSError:
        return False
    return True


def _kilobytes(key: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(key)]
    return int(values[0]) * 1024 if values else None


def _resident() -> int:
    return _kilobytes("VmRSS:") or _peak()


def _peak() -> int:
    kernel = _kilobytes("VmHWM:")
    if kernel is not None:
        return kernel
    if sys.platform == "win32":
        return _windows_counters().PeakWorkingSetSize
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _WindowsCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API (psapi.h); sizes in bytes."""

    _fields_ = [
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    ]


def _windows_counters() -> _WindowsCounters:
    counters = _WindowsCounters()
    counters.cb = ctypes.sizeof(counters)
    kernel: Any = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return counters


class SavedBytes:
    """Counts the bytes that autograd keeps for backward: whole storages, each once.

    Parameters and buffers of the model are not counted, as they are there anyway; everything else is, the input too.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._model_storages: set[int] = set()
        self._saved: dict[int, int] = {}  # storage -> bytes

    @property
    def total(self) -> int:
        """The bytes that were counted last."""
        return sum(self._saved.values())

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what is saved inside, from zero; values and gradients are not changed by it."""
        self._saved.clear()
        # They are listed now, not when the meter is made: moving a model to a device gives its tensors other storages.
        self._model_storages = {_place(t) for t in (*self._model.parameters(), *self._model.buffers())}
        alive: list[Tensor] = []  # no storage is freed while counting, so no address is used twice

        def keep(tensor: Tensor) -> Tensor:
            if (place := _place(tensor)) not in self._model_storages:
                self._saved[place] = tensor.untyped_storage().nbytes()
                alive.append(tensor.detach())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
        alive.clear()


def _place(tensor: Tensor) -> int:
    """Which storage a tensor lies in. It works for tensors without data too, when a step is simulated."""
    return tensor.untyped_storage()._cdata
