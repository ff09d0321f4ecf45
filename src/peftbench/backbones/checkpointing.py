"""Gradient checkpointing by timm's own switch: of each block its input is kept for backward, the rest computed again.

Three things in it would change what a run computes, and are seen to here:

- Some families hand the blocks of all stages to it in one row, so that the stages, which are tapped, are never called.
  A tap is then the output of the stage's last block, which is the same tensor.
- Batch norms in train mode would move their statistics a second time when a block is computed again.
- timm can be told to use torch's older, re-entrant form, in which what a hook sees has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import timm.layers
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from peftbench.common.errors import Refusal

if TYPE_CHECKING:
    from peftbench.backbones.backbone import Backbone

KEY = "trainer.grad_checkpointing=true"


def checkpoint_blocks(backbone: Backbone) -> None:
    """Has the backbone keep only the inputs of its blocks for backward; values and gradients stay the same bits.

    Raises:
        Refusal: timm's model has no such switch, or its taps are not to be had with it.
    """
    name = backbone.facts.name
    if not _switched_on(backbone.net):
        raise Refusal(f"{KEY}: timm's {name} has no gradient checkpointing; leave it out.")
    backbone.recomputes = True
    if not _has_its_taps(backbone):
        raise Refusal(f"{KEY}: {name} then runs past the blocks that are tapped; leave it out.")
    for module in backbone.net.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            module.register_forward_pre_hook(_statistics_that_move_once(backbone, module.momentum))


def last_called(module: nn.Module) -> nn.Module:
    """The innermost module whose output is that of `module`: of a plain sequence its last one."""
    while type(module).forward is nn.Sequential.forward and len(module):  # type: ignore[arg-type]
        module = module[-1]  # type: ignore[index]
    return module


def _switched_on(net: Any) -> bool:
    timm.layers.set_reentrant_ckpt(False)
    try:
        net.set_grad_checkpointing(True)
    except (AssertionError, AttributeError, NotImplementedError):  # timm's ways to say that there is none
        return False
    return True


@torch.no_grad()
def _has_its_taps(backbone: Backbone) -> bool:
    """Whether every tap is there, in the shape that it has without."""
    parameter = next(backbone.net.parameters())
    image = torch.zeros(1, 3, *backbone.facts.canvas, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        taps = backbone.taps(image)
    except LookupError:
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [tuple(tap.shape[1:]) for tap in taps] == [tap.shape for tap in backbone.facts.taps]


def _statistics_that_move_once(backbone: Backbone, momentum: float | None) -> Callable[[Any, Any], None]:
    """A hook of a norm: in a pass of the model its statistics move, in what backward computes again they stay."""

    def hook(norm: Any, _: Any) -> None:
        norm.momentum = momentum if backbone.computing else 0.0
        if norm.training and not backbone.computing and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.sub_(1)  # the norm adds it again

    return hook
