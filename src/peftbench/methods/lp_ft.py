"""LP-FT (Kumar et al., ICLR 2022, arXiv 2202.10054): the linear probe first, then full fine-tuning from its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.config.bounds import AboveZero, Positive
from peftbench.methods.base import Phase
from peftbench.methods.full import Full
from peftbench.methods.linear import Linear


@dataclass(frozen=True)
class LPFT(Full):
    """Every weight trains, from the head that `probe_epochs` of a linear probe at `probe_lr` found.

    A fresh head sends gradients of no meaning into the backbone, which distort its features before the head has
    learned anything: so the paper explains why the order matters.

    Source: Kumar et al., ICLR 2022, arXiv 2202.10054. That AdamW trains the probe, in place of
        logistic regression, is our reading.
    Equation: first min over the head alone, then over head and backbone from there.
    Cost: a linear probe, from kept taps where there are any, and then full fine-tuning.
    Avoid when: the probe alone is good enough: it is cheaper. The paper's gain is on shifted test sets.
    """

    phased: ClassVar[bool] = True

    probe_epochs: Positive = 10
    probe_lr: AboveZero = 3e-3

    def first_phase(self) -> Phase:
        return Phase("probe", Linear(), self.probe_epochs, self.probe_lr)
