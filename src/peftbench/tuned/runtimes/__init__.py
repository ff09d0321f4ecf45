"""An exported file opened for running, whatever its format."""

from peftbench.tuned.runtimes.base import Runtime
from peftbench.tuned.runtimes.opening import RUNTIMES, format_of, open_exported

__all__ = ["RUNTIMES", "Runtime", "format_of", "open_exported"]
