"""What the GPUs of this machine can do, and for which the installed torch was built."""

from __future__ import annotations

import re

import torch

_NUMBERED = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def gpu_name(index: int) -> str:
    """The name of a GPU with its compute capability: `Tesla T4 (compute capability 7.5)`."""
    name = torch.cuda.get_device_name(index)
    if torch.version.hip:
        return name
    major, minor = torch.cuda.get_device_capability(index)
    return f"{name} (compute capability {major}.{minor})"


def gpu_has_bf16(index: int) -> bool:
    """Whether a GPU multiplies in bf16; NVIDIA's before Ampere emulate it, slower than fp32."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability(index) >= (8, 0)


def architectures() -> tuple[str, ...]:
    """The kinds of GPU that the installed torch was built for, such as sm_90; also where there is no GPU."""
    if not hasattr(torch._C, "_cuda_getArchFlags"):
        return ()
    return tuple((torch._C._cuda_getArchFlags() or "").split())


def torch_build() -> str:
    """The installed torch, and which GPUs it was built for, in words."""
    kinds = architectures()
    platform = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    built = f"built for {', '.join(kinds)} ({platform})" if kinds else "built for no CUDA or ROCm GPU"
    return f"torch {torch.__version__}, {built}"


def runs_on(index: int) -> bool:
    """Whether the installed torch has code for a GPU, or code that the driver makes such of."""
    kinds = architectures()
    if torch.version.hip:
        return not kinds or getattr(torch.cuda.get_device_properties(index), "gcnArchName", "").split(":")[0] in kinds
    matches = [match.groups() for kind in kinds if (match := _NUMBERED.fullmatch(kind))]
    capability = torch.cuda.get_device_capability(index)
    return not matches or any(_fits(capability, *parts) for parts in matches)


def _fits(capability: tuple[int, int], kind: str, major: str, minor: str, only: str) -> bool:
    """Machine code runs on GPUs of its own generation, from its number on; `compute` is translated for any later one.

    With an `a` it is for this number alone.
    """
    built = (int(major), int(minor))
    if only == "a":
        return capability == built
    same = capability[0] == built[0]
    return capability >= built and (same or (kind == "compute" and not only))
