"""SPT's unstructured half alone (He et al., ICCV 2023, arXiv 2303.08566): the most sensitive entries train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.methods.spt.budget import Structure
from peftbench.methods.spt.method import SPT


@dataclass(frozen=True)
class SPTSparse(SPT):
    """The most sensitive entries of all weights train, and vectors that have many of them, whole."""

    kind: ClassVar[Structure] = "none"
