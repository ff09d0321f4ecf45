"""SPT-Adapter (He et al., ICCV 2023, arXiv 2303.08566): adapters and single entries, where a task needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.methods.spt.budget import Structure
from peftbench.methods.spt.method import StructuredSPT


@dataclass(frozen=True)
class SPTAdapter(StructuredSPT):
    """Matrices with many sensitive entries get an adapter behind them, others just these entries."""

    kind: ClassVar[Structure] = "adapter"
