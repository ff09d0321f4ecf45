"""What a step would hold in memory and compute, by running it over tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode  # torch.export's own, and as public as it gets
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from peftbench.costs.fake_operators import run_operator
from peftbench.costs.memory import SavedBytes
from peftbench.models.half_weights import half_weights
from peftbench.models.model import Model


@dataclass(frozen=True)
class Step:
    """One training step, as simulated.

    Attributes:
        peak: bytes alive at once beyond the model's own tensors: activations, gradients, the optimizer's state.
        saved: bytes that autograd keeps for backward, as a run records them.
        flops: floating-point operations of forward and backward; a multiply-add counts as two.
    """

    peak: int
    saved: int
    flops: int


class _Flops(TorchDispatchMode):
    """Floating-point operations by torch's own formulas.

    `FlopCounterMode` counts the same by module too, which takes twice the time of the operations that it watches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = run_operator(func, args, kwargs)
        formula: Any = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


class _Alive(_Flops):
    """The bytes of storages that exist (`now`), and their peak; `_Flops` besides.

    While they work, oneDNN's convolutions, which torch takes on a processor, hold input and output a second time in a
    layout of their own.
    """

    _convolutions = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def leave_out(self, tensors: Any) -> None:
        """Storages of these tensors, which were there before, do not count."""
        for tensor in tensors:
            self._seen.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in (result,) if isinstance(result, Tensor) else torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        if func in self._convolutions and torch.backends.mkldnn.is_available():
            leaves = torch.utils._pytree.tree_leaves((args, result))
            maps = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > 2]
            self.peak = max(self.peak, self.now + sum(m.untyped_storage().nbytes() for m in maps))
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def simulate_step(
    model: Model,
    batch: Callable[[], tuple[Tensor, Any]],
    optimizer: Callable[[], torch.optim.Optimizer],
    half: torch.dtype | None,
    parts: int = 1,
) -> Step:
    """Simulates a step of training, the optimizer's state included.

    Args:
        model: a model on the meta device; it is used up.
        batch: makes images (B, 3, H, W) and targets.
        optimizer: makes the optimizer of the model's parameters.
        half: what autocast computes in, if anything.
        parts: of how many such batches the gradients are added up for one step of the optimizer.
    """
    saved, alive = SavedBytes(model), _Alive()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        stepper = optimizer()
        alive.leave_out([*model.parameters(), *model.buffers()])
        with alive, half_weights(model):
            for _, parameter in model.trainable():
                parameter.grad = torch.zeros_like(parameter)
            stepper.step()  # its state exists from now on
            stepper.zero_grad()
            images_and_targets = batch()
            alive.flops = 0
            for _ in range(min(parts, 2)):  # at the second, gradients are there from the beginning
                with saved.counting(), torch.autocast("cpu", half, enabled=half is not None):
                    loss = model.loss(images_and_targets)
                loss.backward()
                del loss
            flops = alive.flops // min(parts, 2) * parts
            stepper.step()
    return Step(alive.peak, saved.total, flops)


def simulate_flops(model: Model, batch: Callable[[], tuple[Tensor, Any]]) -> int:
    """The floating-point operations of forward and backward; a multiply-add counts as two.

    `model` is on the meta device and is used up; `batch` makes images (B, 3, H, W) and targets.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _Flops() as counted:
        model.to_empty(device="cpu").train().loss(batch()).backward()
    return counted.flops
