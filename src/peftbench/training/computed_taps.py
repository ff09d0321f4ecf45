"""The taps of images, chunk by chunk, as a pipeline: decoding, copying and the frozen forward pass overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from peftbench.common.precisions import HALF
from peftbench.config import Config
from peftbench.data.images import Images
from peftbench.models.joint import JointModel
from peftbench.models.kept_taps import shapes_of_kept_taps, stored_of
from peftbench.models.model import Model
from peftbench.taps.store import size_of_taps
from peftbench.training.side_stream import SideStream

CHUNK = 2**30
"""Bytes of taps that are in memory at once while they are computed."""


@dataclass
class Pace:
    """How fast taps are computed, after the first chunk, which warms up.

    Attributes:
        rows: whose taps were computed.
        seconds: in which; without waiting for what a step would not wait for, writing, and decoding where images are
            decoded once and then stay in memory.
    """

    rows: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Rows a second; None where there was one chunk only."""
        return self.rows / self.seconds if self.rows and self.seconds else None


def computed_taps(
    config: Config, model: Model | JointModel, images: Images, device: torch.device, pace: Pace
) -> Iterator[list[Tensor]]:
    """What is stored of all rows, on the CPU, in chunks of data.eval_batch_size, or smaller ones where these would take
    too much. `pace` notes how fast it goes.

    The host decodes the next images and hands on the last taps while the device computes; of a GPU, images and taps are
    copied on a side stream, and it has its next images before the last taps have arrived.

    Raises:
        UserError: an image cannot be read.
    """
    model.eval()
    frames, half = images.split.frames, HALF[config.trainer.precision]
    most = CHUNK // size_of_taps(shapes_of_kept_taps(config, model)) // (frames or 1)
    size = max(min(config.data.eval_batch_size, most) // model.multiple, 1) * model.multiple
    chunks = torch.arange(images.rows).split(size)
    side = SideStream(device)
    pictures = images.pictures_in_turn(chunks)
    behind: Callable[[], list[Tensor]] | None = None
    for i, rows in enumerate(chunks):
        begun = time.perf_counter()
        here = next(pictures)
        if images.fits:
            begun = time.perf_counter()
        with torch.autocast(device.type, half, enabled=half is not None):
            stored = stored_of(config, model, model.frozen(side.to_device(here)))
        if frames is not None:  # a row a clip
            stored = [tensor.unflatten(0, (len(rows), -1)) for tensor in stored]
        coming = side.to_host(stored)
        ready = None if behind is None else behind()
        if device.type != "cuda":  # it has computed this chunk already
            ready = coming()
        if i:
            pace.rows, pace.seconds = pace.rows + len(rows), pace.seconds + time.perf_counter() - begun
        if ready is not None:
            yield ready
        behind = coming if device.type == "cuda" else None
    next(pictures, None)  # has it keep the images, now that all are decoded
    if behind is not None:
        yield behind()
