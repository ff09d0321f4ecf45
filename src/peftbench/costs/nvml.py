"""The energy counter of an NVIDIA GPU, through NVML."""

from __future__ import annotations

import torch

from peftbench.costs.counters import NoCounter


class NvmlCounter:
    """The energy of a whole GPU, in NVML's millijoules; with it that of all else which ran there.

    NVML numbers GPUs otherwise than CUDA does, so that the GPU is found by its UUID.
    """

    measure = "nvml"
    of_one_device = True

    def __init__(self, device: torch.device) -> None:
        if torch.version.hip:
            raise NoCounter("NVML tells the energy of NVIDIA's GPUs alone, and this is one of AMD's")
        try:
            import pynvml
        except ImportError:
            raise NoCounter("the library nvidia-ml-py is not there; pip install 'peftbench[energy]'") from None
        self._nvml = pynvml
        about = torch.cuda.get_device_properties(device)
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{about.uuid}")
        except pynvml.NVMLError as problem:
            raise NoCounter(f"NVML does not find the GPU {about.name} ({problem})") from None
        self.of = f"the whole GPU ({about.name}), with all else that ran on it; not the processor"
        self._first = self._millijoules()

    def joules(self) -> float:
        """Since it was made. Raises NoCounter where NVML does not tell."""
        return (self._millijoules() - self._first) / 1000

    def _millijoules(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as problem:
            raise NoCounter(f"NVML tells no energy of this GPU ({problem})") from None
