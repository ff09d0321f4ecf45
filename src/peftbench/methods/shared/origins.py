"""Factors A0 and B0 that an update may begin as, taken from the weight itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from peftbench.methods.shared.weight_path import Origin

Way = Literal["pissa", "olora"]


def origin_of(matrix: Tensor, rank: int, scale: float, way: Way) -> Origin:
    """(A0, B0) for the matrix (O, I): A0 (rank, I), B0 (O, rank).

    `pissa` (arXiv 2404.02948): with W = U S Vᵀ, A0 = (S_r / s)^½ V_rᵀ and B0 = U_r (S_r / s)^½, so that s·B0 A0 is W's
    part of its largest `rank` singular values. `olora` (arXiv 2406.01775): with W = Q R, the first columns of Q and the
    first rows of R; s is left out of them, as in HF PEFT. Signs, and what belongs to equal singular values, differ
    from one machine to another. On the meta device there are shapes alone.
    """
    if matrix.is_meta:
        return matrix.new_empty(rank, matrix.shape[1]), matrix.new_empty(matrix.shape[0], rank)
    matrix = matrix.detach().float()
    if way == "olora":
        q, r = torch.linalg.qr(matrix)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root
