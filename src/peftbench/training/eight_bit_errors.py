"""What keeping taps in 8 bits makes of them, and of a trained model's logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peftbench.common.precisions import HALF
from peftbench.config import Config
from peftbench.data.images import Images
from peftbench.models.joint import JointModel
from peftbench.models.model import Model

IMAGES = 16
"""So many training images are computed once more."""


@torch.no_grad()
def errors_of_kept_taps(
    model: Model | JointModel, images: Images, config: Config, device: torch.device
) -> list[dict[str, Any]]:
    """Of each run, from its first training images: `dtype`, `images`, and what differs from taps that are computed.

    `tap_error` is the root of the mean square of the taps' errors over that of the taps; `logit_error` the same of
    logits, against their spread around each image's mean, and `logit_error_most` the largest error of one; both only
    where a task predicts numbers, and not where the model is spread over devices.
    """
    assert images.stored is not None
    model.to(device).eval()
    half = HALF[config.trainer.precision]
    rows = torch.arange(min(images.rows, IMAGES))
    pictures = images.pictures(rows).to(device)
    kept = [tap.to(device) for tap in images.stored(rows)]
    if images.split.frames is not None:
        kept = [tap.flatten(0, 1) for tap in kept]
    with torch.autocast(device.type, half, enabled=half is not None):
        exact = model.frozen(pictures)
        about: dict[str, Any] = {"dtype": config.taps.dtype, "images": len(rows), "tap_error": _error(kept, exact)}
        if config.trainer.strategy == "fsdp":
            return [about]
        ours, theirs = model(pictures, kept), model(pictures, exact)
    every = list(zip(ours, theirs, strict=True)) if isinstance(model, JointModel) else [(ours, theirs)]
    return [about | _of_logits(one, other) for one, other in every]


def _of_logits(ours: Any, theirs: Any) -> dict[str, float]:
    if not isinstance(ours, Tensor) or not ours.is_floating_point():
        return {}
    ours, theirs = ours.double(), theirs.double()
    centred = theirs - theirs.mean(-1, keepdim=True)
    return {"logit_error": _error([ours - theirs + centred], [centred]), "logit_error_most": _most(ours - theirs)}


def _error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    pairs = [(a.double(), b.double()) for a, b in zip(ours, theirs, strict=True)]
    errors, whole = sum((a - b).square().sum() for a, b in pairs), sum(b.square().sum() for _, b in pairs)
    return float((errors / whole).sqrt()) if whole else 0.0


def _most(errors: Tensor) -> float:
    return float(errors.abs().max())
