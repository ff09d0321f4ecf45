"""Waiting until a device has done what it was given: without it a clock reads when work was handed over."""

from __future__ import annotations

import torch


def wait_for(device: torch.device) -> None:
    """Returns when this device has nothing left to do; at once on a CPU, where nothing is handed over."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type not in ("cpu", "meta"):
        torch.get_device_module(device.type).synchronize()
