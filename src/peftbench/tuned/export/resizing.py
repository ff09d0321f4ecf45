"""Resizing as a part of a graph: what PIL does, as two matrix products whose weights come of the image's size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from peftbench.common.errors import Refusal
from peftbench.data.images import Transform

MOST_LEVELS = 16
"""How far a resized pixel of a photo may be from PIL's, of 255.

Each pass rounds, so that a value halfway between two levels may become either. Pillow 13 and later filter the columns
of an image first whose height shrinks by more than twice what its width does, and what a pass cuts off at sharp edges
differs.
"""
MEAN_LEVELS = 0.25
"""How far all of them may be on average."""


class Resize(nn.Module):
    """Images of one size, uint8 (B, h, w, 3), to what `transform` makes of each: float32 (B, 3, H, W), 0 to 255.

    PIL filters rows, rounds, and filters columns. Here each is a product with the filter's values, which the graph
    computes of h and w; their arguments are fractions of whole numbers, so that large images lose no digits.

    Raises:
        Refusal: a filter that is not told in a graph, or another shape than a square that is cut or padded to.
    """

    colour: Tensor

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        size = transform.size
        self.target = (size, size) if isinstance(size, int) else tuple(size)
        self.how, self.filter = transform.resize, transform.interpolation
        if self.filter not in _CURVES:
            raise Refusal(
                f"inside=all: data.interpolation={self.filter} is not told in a graph, which {', '.join(_CURVES)} are; "
                f"inside=normalise leaves resizing to the caller."
            )
        if self.how != "squash" and self.target[0] != self.target[1]:
            raise Refusal(
                f"inside=all: data.resize={self.how} to {self.target[0]} x {self.target[1]} pixels is not told in a "
                f"graph, which a square is; inside=normalise leaves resizing to the caller."
            )
        self.register_buffer("colour", torch.tensor(transform.colour, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """The pixels as whole numbers."""
        sides = [torch.full((), images.shape[axis], dtype=torch.int64) for axis in (1, 2)]
        rows, columns = (
            self._weights(torch.arange(images.shape[1 + axis]), sides[axis], sides[1 - axis], self.target[axis])
            for axis in (0, 1)
        )
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        pixels = _rounded(torch.matmul(rows[0], _rounded(torch.matmul(pixels, columns[0].transpose(0, 1)))))
        if self.how != "pad":
            return pixels
        return torch.where(rows[1][:, None] & columns[1][None, :], pixels, self.colour)

    def _weights(self, places: Tensor, side: Tensor, other: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """(what each pixel of a line gives to each of the result (target, side), which of these the image fills).

        Args:
            places: 0 to side - 1.
            side: how long the line is.
            other: the image's other side.
            target: how long the result is.
        """
        wanted = torch.arange(target)
        part, length = side, torch.full((), target, dtype=torch.int64)  # what is taken of the line, and becomes of it
        if self.how == "crop":
            part = torch.minimum(side, other)
        if self.how == "pad":  # as `ImageOps.pad` rounds: to even
            fitting = torch.round(side.to(torch.float64) / other.to(torch.float64) * target).to(torch.int64)
            length = torch.where(side < other, fitting, length)
            wanted = wanted - torch.round((target - length).to(torch.float32) * 0.5).to(torch.int64)
        middle = (2 * wanted[:, None] + 1) * part + (side - part) * length  # times 2 * length, as all distances
        distance = (2 * places[None, :] + 1) * length - middle
        offset = distance.to(torch.float32) / (2 * torch.maximum(part, length)).to(torch.float32)
        weights = _CURVES[self.filter](offset.abs())
        weights = weights / weights.sum(1, keepdim=True)
        filled = (wanted >= 0) & (wanted < length)
        if self.how == "pad":
            weights = torch.where(filled[:, None], weights, torch.zeros(()))
        return weights, filled


def _rounded(values: Tensor) -> Tensor:
    """As an image of 8 bits has them."""
    return torch.floor(values + 0.5).clamp(0, 255)


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros(())))


def _lanczos(x: Tensor) -> Tensor:
    """sinc(x) sinc(x / 3)."""
    angle = (x * torch.pi).clamp(min=1e-6)
    inside = torch.sin(angle) / angle * (torch.sin(angle / 3) / (angle / 3))
    return torch.where(x < 3, inside, torch.zeros(()))


_CURVES: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}
