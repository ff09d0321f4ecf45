"""Parameters and gradients for tests of optimizers."""

import io

import torch
from torch import nn

INNER = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
}
SHAPES = {"matrix": (5, 7), "conv": (4, 3, 3, 3), "vector": (6,), "token": (1, 1, 8), "scalar": ()}


def parameters(seed=0, shapes=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    shapes = shapes or SHAPES
    return {n: nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)) for n, s in shapes.items()}


def gradients(params, step, seed=1, scale=1.0):
    g = torch.Generator().manual_seed(1000 * seed + step)
    for p in params.values():
        p.grad = scale * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)


def gammas(ftp):
    """The radius of each tensor that FTP holds near its anchor."""
    return [kept["gamma"].item() for kept in ftp.own_state()]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
