"""Trainable parameters, the method's and the head's apart."""

from __future__ import annotations

from typing import Any

from peftbench.models.model import Model


def parameters(model: Model) -> dict[str, Any]:
    """`method` (trainable, without the head), `head`, `backbone` (all of it), and both as shares of the backbone.

    `in_backbone` are those of the method's that change what the backbone computes: all or, of a side method, none.
    `parts` are those of a head that has several, as detectors and decoders have.
    """
    head = sum(p.numel() for p in model.task.parameters() if p.requires_grad)
    method = sum(p.numel() for _, p in model.trainable()) - head
    backbone = model.backbone.facts.parameters
    return {
        "method": method,
        "in_backbone": 0 if model.side is not None else method,
        "head": head,
        "backbone": backbone,
        "method_share": method / backbone,
        "head_share": head / backbone,
        **({"parts": parts} if (parts := dict(model.task.parts())) else {}),
    }
