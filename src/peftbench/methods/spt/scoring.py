"""How much each weight matters to a task, before anything is trained (stage 1 of SPT, and of GPS)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peftbench.common.errors import UserError, nearest

LEFT_OUT = ("head", "cls_token", "patch_embed", "pos_embed")
"""Tensors whose name contains one of these are no candidates, as in the official code."""


def sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    candidates: Collection[str] | None = None,
    *,
    mode: Literal["eval", "train"] = "eval",
    unreached: Literal["refuse", "skip"] = "refuse",
    reduce: Literal["squares", "sum"] = "squares",
) -> dict[str, Tensor]:
    """Scores every entry of the candidates: the sum over batches of (d loss / d w)², of each batch's mean loss.

    With `reduce` "sum" it is the sum of the gradients themselves, signed, which cancel where batches disagree. The
    squares estimate how much the loss would fall if that entry alone were tuned. Weights, buffers, modes,
    `requires_grad` and `.grad` are left as they were.

    Args:
        model: what `loss_fn` differentiates.
        batches: one pass is made over them.
        loss_fn: (model, batch) -> the batch's mean loss, a scalar.
        candidates: names of parameters; None takes all but those that LEFT_OUT names.
        mode: "eval" scores the loss that is deterministic, dropout and drop-path off; "train" is the official reading.
        unreached: what to do about a candidate that the loss does not depend on.
        reduce: what is summed over batches: "squares" of gradients, or gradients.

    Returns:
        name -> scores, of the parameter's shape.

    Raises:
        UserError: no batches, an unknown candidate, one that gets no gradient, a loss or a score that is no number.
    """
    parameters = dict(model.named_parameters())
    if candidates is None:
        candidates = [n for n in parameters if not any(word in n for word in LEFT_OUT)]
    for name in candidates:
        if name not in parameters:
            raise UserError(f"sensitivity: the model has no parameter '{name}'{nearest(name, parameters)}.")
    scores: dict[str, Tensor] = {}
    with _as_it_was(model), torch.enable_grad():
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in candidates)
        chosen = {n: parameters[n] for n in candidates}
        for batch in batches:
            # Some modules keep what they computed in eval mode, with its graph, until they are set to train again.
            model.train()
            model.train(mode == "train")
            loss = loss_fn(model, batch)
            if not torch.isfinite(loss):
                raise UserError(f"sensitivity: the loss of a batch is {loss.item()}; scores need finite losses.")
            gradients = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
            for (name, parameter), gradient in zip(list(chosen.items()), gradients, strict=True):
                if gradient is not None:
                    score = scores.setdefault(name, torch.zeros_like(parameter, requires_grad=False))
                    score.addcmul_(gradient, gradient) if reduce == "squares" else score.add_(gradient)
                elif unreached == "refuse":
                    raise UserError(
                        f"sensitivity: '{name}' gets no gradient, as the loss does not depend on it; leave it out of "
                        f"the candidates."
                    )
                elif name not in scores:
                    del chosen[name]
    if not scores:
        raise UserError("sensitivity: there are no batches, or no candidate that the loss depends on.")
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise UserError(f"sensitivity: the scores of '{name}' are not all finite numbers; look at its gradients.")
    return {n: scores[n] for n in candidates if n in scores}


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Puts back modes, buffers, `requires_grad` and `.grad`, whatever happens inside."""
    modes = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        for parameter, _, _ in wanted:
            parameter.grad = None
        yield
    finally:
        model.train()  # drops what modules kept in eval mode
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad, gradient in wanted:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
