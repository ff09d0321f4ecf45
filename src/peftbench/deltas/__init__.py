"""Deltas: all that a run learned, as files and inside models; Hugging Face PEFT's adapters."""

from peftbench.deltas.delta_file import (
    FILE,
    FORMAT,
    Attached,
    attach,
    changed,
    content,
    load,
    read,
    refresh,
    save,
    write,
)

__all__ = ["FILE", "FORMAT", "Attached", "attach", "changed", "content", "load", "read", "refresh", "save", "write"]
