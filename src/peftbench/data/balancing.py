"""Classes of unequal size: an order that shows each as often, weights by size, and a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from peftbench.config import Config, task_schema

UNEQUAL = 10
"""So many times the smallest class the largest may be before a note says so."""


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Indices (N,) of an epoch of as many images as there are, in which each class that occurs has an equal share.

    A class's images come in random order, and each again only once all of them have come. The rest of N over the number
    of classes goes to as many classes, drawn anew.

    Args:
        labels: int64 (N,).
    """
    counts = labels.unique(return_counts=True)[1]
    shares = torch.full_like(counts, len(labels) // len(counts))
    shares[torch.randperm(len(counts), generator=generator)[: len(labels) % len(counts)]] += 1
    chosen = []
    for members, share in zip(labels.argsort(stable=True).split(counts.tolist()), shares.tolist(), strict=True):
        rounds = [torch.randperm(len(members), generator=generator) for _ in range(-(-share // len(members)))]
        chosen.append(members[torch.cat(rounds)[:share]] if rounds else members[:0])
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]


def balanced_weights(labels: np.ndarray, classes: int) -> Tensor:
    """float32 (classes,): N / (C · images of the class), where N images are of C classes; 0 of one without images.

    Their mean over the images is 1.
    """
    counts = torch.from_numpy(np.bincount(labels, minlength=classes)).double()
    weights = len(labels) / (counts.count_nonzero() * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0).float()


def note_imbalance(config: Config, classes: Sequence[str], labels: np.ndarray) -> str:
    """What the user should know of classes of very unequal size, where nothing of the config acts against that."""
    schema = task_schema(vars(config.task))
    if "sampler" not in schema.takes or config.data.sampler != "shuffle":
        return ""
    defaults = {f.name: f.default for f in fields(config.task)}
    if any(getattr(config.task, key) != defaults[key] for key in schema.counters):
        return ""
    counts = np.bincount(labels, minlength=len(classes))
    present = np.flatnonzero(counts)
    small, large = present[counts[present].argmin()], int(counts.argmax())
    if counts[large] < UNEQUAL * counts[small]:
        return ""
    keys = ["data.sampler=balanced", *(f"task.{key}={value}" for key, value in schema.counters.items())]
    return (
        f"class {classes[large]} has {counts[large]:,} training images and {classes[small]} {counts[small]:,}; what is "
        f"rare may be missed, against which there are {', '.join(keys)}"
    )
