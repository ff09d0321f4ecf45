"""`trainer.graphs`: steps from kept taps, whose many small kernels a GPU starts as one CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.common import terminal
from peftbench.common.foreign_text import first_sentence
from peftbench.common.out_of_memory import is_out_of_memory
from peftbench.models.model import Model
from peftbench.training.compiling import undone


class LossGraphs:
    """The loss of a batch of kept taps and its gradients, captured once for each shape and replayed after that.

    A batch without taps, one that is not on a CUDA device, and one whose targets are no tensor compute as they do
    without. Where capturing fails training goes on without, and says so once.

    Attributes:
        captured: how many shapes were.
        why_not: why none is captured any more, where that failed.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.captured, self.why_not = 0, ""
        self._graphs: dict[tuple[Any, ...], Any] = {}

    def loss(self, batch: Any) -> Tensor:
        """As `model.loss(batch)`; its gradients stand in the graph's own memory until the next step."""
        taps = getattr(batch, "taps", None)
        if not self.why_not and not self.captured:
            if taps is None:
                self._go_without("the run reads no kept taps")
            elif not taps[0].is_cuda:
                self._go_without("its device is no CUDA GPU")
        if self.why_not or taps is None or not taps[0].is_cuda or not isinstance(batch.targets, Tensor):
            return self.model.loss(batch)
        given = (batch.images, batch.targets, *taps)
        shapes = tuple((t.shape, t.dtype) for t in given)
        if shapes not in self._graphs:
            self._capture(shapes, given)
        if self.why_not:
            return self.model.loss(batch)
        # A copy, since what a graph gives is overwritten by the next step, and the loss is looked at later.
        return self._graphs[shapes](*given).clone()

    def stamp(self) -> dict[str, Any]:
        """What the record says."""
        return {"shapes": self.captured, "without": self.why_not} if self.why_not else {"shapes": self.captured}

    def _capture(self, shapes: tuple[Any, ...], given: tuple[Tensor, ...]) -> None:
        device = given[-1].device.type
        half, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        try:
            # Weights that autocast casts must be cast within the graph: a copy that it kept would be of another step.
            with (
                undone(self.model, given[-1].device),
                torch.autocast(device, half, enabled=enabled, cache_enabled=False),
            ):
                loss = _LossOfTaps(self.model).train()
                self._graphs[shapes] = torch.cuda.make_graphed_callables(
                    loss, tuple(t.clone() for t in given), allow_unused_input=True
                )
            self.captured += 1
        except Exception as problem:  # capturing refuses in many ways what a model may do
            if is_out_of_memory(problem):
                raise
            self._go_without(first_sentence(str(problem), 160))

    def _go_without(self, why: str) -> None:
        """Tells so once; the record has it too."""
        self.why_not = why
        text = f"trainer.graphs=true: steps are not captured in CUDA graphs: {why}"
        terminal.console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


class _LossOfTaps(nn.Module):
    """The loss as a function of tensors alone; what trains are this module's parameters."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.trained = nn.ParameterList([p for _, p in model.trainable()])
        self._model = (model,)  # no submodule: its frozen weights are nothing to differentiate

    def forward(self, images: Tensor, targets: Tensor, *taps: Tensor) -> Tensor:
        return self._model[0].loss((images, targets), list(taps))
