"""Which errors say that memory was not enough."""

from __future__ import annotations

_OF_A_PROCESSOR = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
"""What torch's allocator of the machine's memory says, on Linux and macOS and on Windows."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether a GPU (torch.OutOfMemoryError) or the machine had not as much memory as was asked for."""
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return (
        "OutOfMemoryError" in kinds
        or isinstance(problem, MemoryError)
        or any(words in str(problem) for words in _OF_A_PROCESSOR)
    )
