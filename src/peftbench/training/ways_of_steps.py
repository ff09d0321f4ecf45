"""What makes steps faster and leaves what they compute as it is: frozen weights cast once, convolutions tried out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from peftbench.config import Config
from peftbench.data.loading import Loaders, images_of
from peftbench.models.half_weights import half_weights


@contextlib.contextmanager
def faster_steps(model: nn.Module, config: Config, loaders: Loaders) -> Iterator[None]:
    """Within it a model trains and is tested with frozen weights cast once, and cuDNN's fastest convolutions.

    Blocks that are compiled cast as they compute, and a shard of a weight is not cast alone. cuDNN tries its ways of
    convolving for each shape that comes: that pays where images are of one size and there are convolutions beside the
    one that cuts an image into patches. Which way is fastest may differ from session to session, and the last bits
    with it.
    """
    trainer = config.trainer
    plain = trainer.precision == "32" or trainer.compile or trainer.strategy == "fsdp"
    images, before = images_of(loaders.train), torch.backends.cudnn.benchmark
    one_size = images is not None and images.transform.size is not None
    torch.backends.cudnn.benchmark = before or (one_size and _convolves(model))
    try:
        with contextlib.nullcontext() if plain else half_weights(model):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _convolves(model: nn.Module) -> bool:
    """Whether there is more than one convolution over places."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return len(convolutions) > 1
