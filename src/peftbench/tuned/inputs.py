"""What a tuned model is called with: refused, or noted, where it is no batch that its transform makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.notes import note

TOO_BRIGHT = 10.0
"""Normalised pixels stay below it: ImageNet's white is 2.64, and mean and std of 0.5 give 1."""


class InputCheck:
    """Looks at what a model is called with.

    Floating images count as normalised, so that pixels from 0 to 1 or to 255 would give other predictions without a
    word. Images in uint8 are never looked at. Floating ones on the CPU are looked at in every call: one pass over the
    pixels, far below the time of the model. Elsewhere reading a number waits for the device, so that only the first
    batch is looked at that says something (a batch of one value, as a warm-up has it, does not). Nothing is looked at
    while a graph is traced, exported, compiled or captured.

    Args:
        transform: how messages call what makes the input, such as `tuned.transform`.
        call: how messages call a right use of it, with the image as `{}`.
        mean, std: the normalisation, in units of the range 0 to 1.
    """

    def __init__(self, transform: str, call: str, mean: Sequence[float], std: Sequence[float]) -> None:
        self.transform, self.call = transform, call
        self.white = max((1 - m) / s for m, s in zip(mean, std, strict=True))
        self.signed = any(m > 0 for m in mean)  # else black is 0, and pixels from 0 to 1 may well be normalised
        self.noted = False
        self.seen_elsewhere = False

    def check(self, images: Any, computes_in: torch.dtype = torch.float32) -> None:
        """Raises UserError where these are no images for the model; notes once what is likely to be none.

        `computes_in` is the type of the model's own tensors: floating images must be in it, except under autocast.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or isinstance(images, torch.fx.Proxy):
            return
        if not isinstance(images, Tensor):
            raise self._no_tensor(images)
        if images.dtype != torch.uint8 and not self._is_hidden(images):
            self._check_values(images)
        if (images.is_floating_point() or images.is_complex()) and not _fits(images, computes_in):
            raise UserError(
                f"images: are {_named(images.dtype)}, and the model computes in {_named(computes_in)}; give "
                f"images.to(torch.{_named(computes_in)}), or what {self.transform} makes, in uint8."
            )

    def _is_hidden(self, images: Tensor) -> bool:
        """Whether the values cannot be read, or reading them would cost more than it is worth."""
        if type(images) is not Tensor or images.is_meta or not images.numel():  # a fake one has no values
            return True
        if images.device.type == "cpu":
            return False
        return self.seen_elsewhere or (images.is_cuda and torch.cuda.is_current_stream_capturing())

    def _check_values(self, images: Tensor) -> None:
        try:
            low, high = (value.item() for value in images.detach().aminmax())
        except (RuntimeError, NotImplementedError, TypeError):  # under torch.func, or in a type that has no order
            return
        if not (math.isfinite(low) and math.isfinite(high)):
            what = "NaN" if math.isnan(low) else "infinite values"
            raise UserError(
                f"images: hold {what}, and predictions for them mean nothing; give finite {_named(images.dtype)}, or "
                f"what {self.transform} makes, in uint8."
            )
        self.seen_elsewhere = self.seen_elsewhere or (images.device.type != "cpu" and low != high)
        if images.dtype == torch.bool or not images.is_floating_point():
            if images.dtype == torch.bool or low < 0 or high > 255:
                raise UserError(
                    f"images: are {_named(images.dtype)} from {low:g} to {high:g}, and the model takes pixels from 0 "
                    f"to 255 in uint8, as {self.transform} makes them."
                )
        elif low >= 0 and high > max(TOO_BRIGHT, self.white):
            raise UserError(
                f"images: are {_named(images.dtype)} from {low:g} to {high:g}, and floating images count as "
                f"normalised; give pixels from 0 to 255 in uint8, as {self.transform} makes them."
            )
        elif self.signed and not self.noted and low >= 0 and high <= 1 and low != high:
            self.noted = True
            note(
                f"images: are {_named(images.dtype)} from {low:g} to {high:g}, and floating images count as "
                f"normalised; if these are pixels from 0 to 1, give what {self.transform} makes, in uint8."
            )

    def _no_tensor(self, images: Any) -> UserError:
        what, example = _described(images)
        call = self.call.format(example)
        return UserError(f"images: {what}; the model takes a tensor, as {self.transform} makes it: write {call}.")


def _fits(images: Tensor, computes_in: torch.dtype) -> bool:
    """Whether a model takes floating images of their type; autocast converts all but double ones."""
    if images.dtype == computes_in:
        return True
    converts = images.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return converts and torch.is_autocast_enabled(images.device.type)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(images: Any) -> tuple[str, str]:
    """What was given, and how an example calls it."""
    one = images
    several = isinstance(images, list | tuple)
    if several and images:
        one = images[0]
    if isinstance(one, str | Path):
        kind, example = f"the path {shortened(str(one), 80)}", "path"
    elif isinstance(one, Image.Image):
        kind, example = "a PIL image", "image"
    elif isinstance(one, np.ndarray):
        kind, example = f"a numpy array of shape {tuple(one.shape)} in {one.dtype}", "pixels"
    elif isinstance(one, Tensor):
        kind, example = f"a tensor of shape {tuple(one.shape)}", "image"
    else:
        kind, example = "nothing" if one is None else f"a {type(one).__name__}", "image"
    if several and images:
        return f"are a {type(images).__name__} of {len(images)}, the first {kind}", example
    return f"are {kind}", example
