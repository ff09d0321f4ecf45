"""Boundary IoU: how well the pixels near the edges of each class agree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.data.masks import IGNORED


def near_boundary(mask: Tensor, ratio: float) -> Tensor:
    """bool (H, W): the pixels within d of a pixel of another class, or of the image's edge.

    d is `ratio` of the diagonal, rounded, at least 1 pixel, in a square of side 2d + 1.

    Source: Cheng et al., 2021, arXiv 2103.16562; as their code, which erodes each class d times by 3 x 3 inside a frame
    of zeros: for all classes at once, the pixels that lie in the eroded mask of no class.

    Args:
        mask: uint8 (H, W).
        ratio: of the diagonal.
    """
    height, width = mask.shape
    reach = max(round(ratio * (height**2 + width**2) ** 0.5), 1)
    classes = mask.float()[None]
    others = _largest(classes, reach) != classes
    others |= -_largest(-classes, reach) != classes
    near = others[0]
    near[:reach], near[-reach:], near[:, :reach], near[:, -reach:] = True, True, True, True
    return near


def boundary_counts(predicted: Tensor, truth: Tensor, classes: int, ratio: float) -> Tensor:
    """int64 (3, classes): pixels near a boundary that are right, that are of each true class, and of each predicted.

    Ignored pixels are ignored in the prediction, too: so both have the same boundary to them (our reading), and none of
    them counts.

    Args:
        predicted: uint8 (H, W), each below `classes`.
        truth: uint8 (H, W), classes and `IGNORED`.
        classes: how many there are.
        ratio: as in `near_boundary`.
    """
    said = torch.where(truth == IGNORED, truth, predicted)
    of_truth, of_said = near_boundary(truth, ratio), near_boundary(said, ratio)
    chosen = ((of_truth & of_said & (said == truth), truth), (of_truth, truth), (of_said, said))
    # What is far from a boundary is counted as ignored: leaving it out first takes longer.
    near = [torch.where(where, mask, IGNORED).int().view(-1) for where, mask in chosen]
    return torch.stack([torch.bincount(pixels, minlength=IGNORED + 1)[:classes] for pixels in near])


def _largest(values: Tensor, reach: int) -> Tensor:
    """The largest of a square around each place of (1, H, W), down and then across."""
    down = F.max_pool2d(values, (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(down, (1, 2 * reach + 1), 1, (0, reach))
