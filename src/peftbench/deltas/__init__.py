"""Deltas: all that a run learned, as files and inside models; Hugging Face PEFT's adapters."""

from peftbench.deltas.attach import Attached, attach, drop_cached_values
from peftbench.deltas.delta_file import (
    FILE,
    FORMAT,
    changed_tensors,
    load_delta,
    save_delta,
)
from peftbench.deltas.metadata import size_of, size_text

__all__ = [
    "FILE",
    "FORMAT",
    "Attached",
    "attach",
    "changed_tensors",
    "drop_cached_values",
    "load_delta",
    "save_delta",
    "size_of",
    "size_text",
]
