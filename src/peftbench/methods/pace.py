"""PACE (Ni et al., NeurIPS 2024, arXiv 2409.17137): LoRA whose predictions stay alike under noise on its updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.methods.lora import LoRA


@dataclass(frozen=True)
class PACE(LoRA):
    """LoRA, and a penalty on how far apart predictions are under two draws of noise on its updates.

    Source: arXiv 2409.17137. Our reading: where layers are counted otherwise than by the blocks of a ViT, the noise
    falls with the layers below the head; masks of dropout are shared by both draws, and not divided by their mean.

    Equation: a layer gives W x + z · s B A x in training, z ~ N(1, σ_l²), one for each image and channel, σ_l falling
    linearly with depth. The loss is that of the first draw + λ · mean over images of |f1 - f2|², with f1 and f2 the
    head's outputs (classes,) under two draws; λ is `trainer.consistency`.

    Place: the updates inside each linear layer that `layers` names, as LoRA's; the noise lies on them and on the head.

    Cost: a step computes its batch twice, in time and in memory; with `trainer.consistency_every=N` each N-th step
    takes half of it twice, and costs what LoRA's does. The update merges, and prediction is without noise.

    Avoid when: time or memory is short and `trainer.consistency_every` is 1; the task is one without an output for each
    image that can be compared, as detection.
    """

    needs_consistency: ClassVar[bool] = True
