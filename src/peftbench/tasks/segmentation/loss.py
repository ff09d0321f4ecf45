"""The training losses of segmentation. Both leave ignored pixels out, and are 0 where no other is there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.data.masks import IGNORED


def cross_entropy(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum over the pixels that count, divided by all pixels; a scalar.

    Ignored pixels are in the divisor, as in mmsegmentation by default: so the loss of a batch is the mean of those of
    its images, however they are shared out to parts or processes, and one with few known pixels counts less.

    Args:
        logits: (B, classes, H, W).
        masks: (B, H, W), classes and `IGNORED`.
        weights: (classes,), a factor for each.
    """
    each = F.cross_entropy(logits, masks.long(), weights, ignore_index=IGNORED, reduction="none")
    return each.mean()


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 minus the soft Dice coefficient, of each image the mean over the classes in its mask; a scalar.

    Source: Milletari et al., 2016, arXiv 1606.04797, with plain sums for squared ones (our reading), for each class of
    an image: 2 sum(p t) / sum(p + t).
    """
    known = masks != IGNORED
    classes = logits.shape[1]
    truth = F.one_hot(torch.where(known, masks, 0).long(), classes).permute(0, 3, 1, 2) * known[:, None]
    shares = logits.float().softmax(1) * known[:, None]
    both, either = (shares * truth).sum((2, 3)), (shares + truth).sum((2, 3))
    there = truth.sum((2, 3)) > 0
    losses = torch.where(there, 1 - 2 * both / either.clamp(min=1e-6), 0.0)
    return (losses.sum(1) / there.sum(1).clamp(min=1)).mean()


def balanced_pixel_weights(counts: Tensor) -> Tensor:
    """float32 (classes,): N / (C · pixels of the class), where N pixels are of C classes; 0 of one without pixels.

    Args:
        counts: (classes,), pixels of each.
    """
    pixels = counts.double()
    weights = pixels.sum() / (pixels.count_nonzero().clamp(min=1) * pixels.clamp(min=1))
    return torch.where(pixels > 0, weights, 0.0).float()
