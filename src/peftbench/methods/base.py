"""The method contract: what a method adds, what trains, how it is optimised."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError


@dataclass(frozen=True)
class Plan:
    """What a method decided after a look at the data; with the config it rebuilds every shape."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One way to adapt a backbone. Its fields are its options: plain types, literal defaults.

    The calls come in this order: `check` on a backbone of the meta device, before weights or data are touched;
    `prepare` with the untouched model and training batches; `adapt`; `optimizer`; `finish`.
    """

    side: ClassVar[bool] = False
    """A side method reads taps and never sends a gradient into the backbone."""
    fixed_size: ClassVar[bool] = False
    """What it adds is built for one input size."""
    merges: ClassVar[tuple[str, ...]] = ("masked",)
    """What can become of a pruned backbone's zeros, the default first: `unmerged` leaves updates beside the weights,
    `masked` keeps every zero, `dense` merges over them. Weights that train themselves always keep their zeros."""

    def check(self, backbone: Backbone) -> None:
        """Raises Refusal, in one sentence that names what would work, where this backbone cannot be adapted so."""

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        """The layers that the options ask for and that are left alone, with the reason; on a backbone as built."""
        return {}

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> Plan:
        """Looks at the data before anything is changed. `model.loss(batch)` is the training loss."""
        return Plan()

    def adapt(self, backbone: Backbone, plan: Plan) -> Side | None:
        """Makes the backbone what this method trains.

        A weight method edits the backbone in place, leaves `requires_grad` true on what trains, and returns None.
        A side method freezes the backbone and returns a `Side`.
        """
        raise UserError(f"{type(self).__name__} defines no adapt().")

    def optimizer(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        anchors: Mapping[str, Tensor],
        inner: torch.optim.Optimizer,
    ) -> torch.optim.Optimizer:
        """The optimizer to train with: by default the configured one, unchanged."""
        return inner

    def merge(self, backbone: Backbone) -> None:
        """Folds into the weights what can be, so that it costs nothing to predict; the delta has been saved before."""

    def finish(self, model: nn.Module, anchors: Mapping[str, Tensor]) -> None:
        """Called once, after the last epoch and before the test. `anchors` are the values at the start, by name."""


class Side(nn.Module):
    """A net over frozen taps, which it never sends a gradient into.

    Attributes:
        wanted: the taps it reads, as indices into `facts.taps`.
        condensed: names what `condense` keeps of them; the empty string where that is everything.
        given: the taps it gives back where the task reads them all, as indices into `facts.taps`.
        halves: whether it reads taps of half precision as they are; else they may come widened to fp32.
        every: whether the task reads them all, or the last alone; `Model` sets it.
    """

    wanted: tuple[int, ...] = (-1,)
    condensed: str = ""
    given: tuple[int, ...] = (-1,)
    every: bool = False
    halves: bool = False

    def condense(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """What is kept of the wanted taps, without any parameter: a tap cache holds this, and `forward` takes it."""
        return list(taps)

    @abstractmethod
    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """From condensed taps to taps in the backbone's own layout, the last of which is pooled.

        They are `given`; where not `every` one is read, those before the last may be left out.
        """

    @classmethod
    def together(cls, nets: Sequence[Side], taps: Sequence[Tensor]) -> list[list[Tensor]]:
        """What each of several nets of this class gives for the same taps; a class that can share work overrides it."""
        return [net(taps) for net in nets]


def freeze(module: nn.Module) -> None:
    """No parameter of `module` trains."""
    for parameter in module.parameters():
        parameter.requires_grad = False
