"""The worked case of SPT's specification."""

import torch
from torch import nn

from peftbench.methods.spt import allocate

X, T = torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, -2]])


def linear():
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    return model


def half_square(model, batch):
    return 0.5 * (model(batch[0]) - batch[1]).square().sum()


def once(scores, k, **more):
    """The allocation of exactly K entries."""
    return allocate(scores, more.pop("budget", k), step=k, steps=1, **more)
