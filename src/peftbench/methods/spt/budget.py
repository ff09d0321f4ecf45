"""Where a budget of trainable parameters goes, given sensitivities (SPT, section 3.2 and its official code)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from peftbench.common.errors import UserError

Structure = Literal["lora", "adapter", "none"]


@dataclass(frozen=True)
class Allocation:
    """What trains. A third of a fused qkv tensor is named `<tensor>[q]`, `[k]` or `[v]`.

    Attributes:
        sparse: name -> mask of the single entries that train, for each tensor that has some.
        structured: tensors that get a LoRA or an adapter.
        full: vectors that train whole.
        trainable: the count of all that, and of `fixed`.
        selected: K, the number of most sensitive entries that decided it.
        costs: name -> trainable parameters, for each tensor that has some.
    """

    sparse: dict[str, Tensor]
    structured: list[str]
    full: list[str]
    trainable: int
    selected: int
    costs: dict[str, int]


def allocate(
    scores: Mapping[str, Tensor],
    budget: int,
    *,
    structured: Structure = "lora",
    rank: int = 8,
    alpha: float = 10.0,
    beta: float | None = 5.0,
    fixed: int = 0,
    rule: Literal["nearest", "at_most"] = "nearest",
    step: int = 20_000,
    steps: int = 79,
    plain: Collection[str] = (),
) -> Allocation:
    """Spends about `budget` trainable parameters where the scores are highest.

    For a K, the K entries of highest score are taken, over all tensors together. A matrix or convolution with at least
    P / alpha of them gets a structured module of P parameters instead: LoRA r (O + I/g·k²), adapter 2 r O + r + O. A
    vector of length d with at least d / beta of them trains whole. Everything else trains just its entries. K is step,
    2 step, …, at most `steps` of them and never more than there are entries; that one is taken whose count is nearest
    to the budget (the larger K where two are), or the largest that is not above it ("at_most", which also looks below
    the first step). The official code is `nearest`; the paper's rule is alpha = 1 and beta = None.

    Args:
        scores: name -> non-negative scores. Two dimensions are a matrix, four a convolution, one a vector. A matrix
            called `…qkv.weight` of three times as many rows as columns counts as three, and so does its bias.
        budget: trainable parameters, `fixed` included.
        structured: the kind of module; "none" leaves every matrix to its entries.
        rank: of the modules.
        beta: None turns the rule for vectors off.
        fixed: parameters that train in any case (a class token).
        plain: names that never get a module.

    Raises:
        UserError: a budget below what trains anyway or above everything, a number outside its range, scores that are
            not finite or negative.
    """
    _refuse_bad_numbers(scores, budget, rank, alpha, beta, fixed, step, steps)
    pieces = thirds(scores)
    sizes = torch.tensor([s.numel() for s in pieces.values()])
    total = int(sizes.sum())
    if budget > total + fixed:
        raise UserError(f"budget={budget:,}: there are only {total + fixed:,} parameters; give less, or method=full.")
    module, whole = _prices(pieces, structured, rank, plain, beta is not None)
    limit_module, limit_whole = module / alpha, whole / (beta or 1.0)

    counts_of = _Counts(pieces, sizes)
    ks = sorted({min(step * i, total) for i in range(1, steps + 1)})
    if rule == "at_most" and ks[0] > 1:
        ks = sorted({*ks, *(max(1, ks[0] * i // steps) for i in range(1, steps))})
    counts = counts_of.at(ks)
    prices = torch.where(counts >= limit_whole, whole, counts.double())
    prices = torch.where(counts >= limit_module, module, prices)
    totals = [fixed + int(t) for t in prices.sum(1)]
    if rule == "nearest":
        best = min(range(len(ks)), key=lambda i: (abs(totals[i] - budget), -ks[i]))
    else:
        fitting = [i for i in range(len(ks)) if totals[i] <= budget]
        if not fitting:
            raise UserError(
                f"budget={budget:,}: the least that can be tuned is {min(totals):,} parameters ({fixed:,} of them "
                f"train in any case); give more, or rule=nearest."
            )
        best = max(fitting, key=lambda i: (totals[i], ks[i]))

    masks = counts_of.masks(ks[best])
    chosen = counts[best]
    is_module = chosen >= limit_module
    is_whole = (chosen >= limit_whole) & ~is_module
    names = list(pieces)
    entries = [i for i in range(len(names)) if chosen[i] and not is_module[i] and not is_whole[i]]
    return Allocation(
        sparse={names[i]: masks[i] for i in entries},
        structured=[n for n, yes in zip(names, is_module, strict=True) if yes],
        full=[n for n, yes in zip(names, is_whole, strict=True) if yes],
        trainable=totals[best],
        selected=ks[best],
        costs={n: int(c) for n, c in zip(names, prices[best], strict=True) if c},
    )


def thirds(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same scores, fused attention inputs cut into query, key and value.

    Fused is what is called `qkv` and has three times as many rows as columns (our reading: other shapes mix the three
    in an order of their own, and count as one matrix).
    """
    pieces: dict[str, Tensor] = {}
    for name, score in scores.items():
        stem, _, last = name.rpartition(".")
        weight = scores.get(f"{stem}.weight")
        fused = (
            stem.rpartition(".")[2] == "qkv"
            and last in ("weight", "bias")
            and weight is not None
            and weight.ndim == 2
            and weight.shape[0] == 3 * weight.shape[1]
            and score.shape[0] == weight.shape[0]
        )
        if fused:
            pieces |= {f"{name}[{part}]": third for part, third in zip("qkv", score.chunk(3), strict=True)}
        else:
            pieces[name] = score
    return pieces


def is_vector(shape: torch.Size) -> bool:
    """Whether at most one dimension is more than 1: a bias, a norm's weight, a layer scale."""
    return sum(n != 1 for n in shape) <= 1


class _Counts:
    """How many of the K highest scores each tensor holds, for many K at once."""

    def __init__(self, pieces: Mapping[str, Tensor], sizes: Tensor) -> None:
        self.pieces, self.sizes = pieces, sizes
        self.ends = sizes.cumsum(0)

    def at(self, ks: list[int]) -> Tensor:
        """(len(ks), tensors)."""
        flat = torch.cat([s.detach().flatten().cpu() for s in self.pieces.values()])
        # One order for every K, so that ties are broken alike: the first K of it.
        self.order = torch.topk(flat, ks[-1]).indices
        owners = torch.bucketize(self.order, self.ends, right=True)
        parts = torch.tensor_split(owners, torch.tensor(ks))[:-1]
        return torch.stack([torch.bincount(p, minlength=len(self.sizes)) for p in parts]).cumsum(0)

    def masks(self, k: int) -> list[Tensor]:
        """Of each tensor, in its shape."""
        mask = torch.zeros(int(self.ends[-1]), dtype=torch.bool)
        mask[self.order[:k]] = True
        shapes = [s.shape for s in self.pieces.values()]
        return [m.view(s).clone() for m, s in zip(mask.split(self.sizes.tolist()), shapes, strict=True)]


def _prices(
    pieces: Mapping[str, Tensor], structured: Structure, rank: int, plain: Collection[str], vectors: bool
) -> tuple[Tensor, Tensor]:
    """(parameters of a structured module, of the whole vector), each tensor's; infinite where it cannot be."""
    never = float("inf")
    module, whole = [], []
    for name, score in pieces.items():
        fits = score.ndim in (2, 4) and structured != "none" and name.partition("[")[0] not in plain
        module.append(price(score.shape, structured, rank) if fits else never)
        whole.append(score.numel() if vectors and score.ndim != 2 and is_vector(score.shape) and not fits else never)
    return torch.tensor(module, dtype=torch.float64), torch.tensor(whole, dtype=torch.float64)


def price(shape: torch.Size, structured: Structure, rank: int) -> int:
    """The parameters of a structured module for a weight of this shape (O, I) or (O, I/g, k, k)."""
    out = shape[0]
    return rank * (out + shape.numel() // out) if structured == "lora" else 2 * rank * out + rank + out


def _refuse_bad_numbers(
    scores: Mapping[str, Tensor],
    budget: int,
    rank: int,
    alpha: float,
    beta: float | None,
    fixed: int,
    step: int,
    steps: int,
) -> None:
    if not scores:
        raise UserError("allocate: there are no scores.")
    if budget < 0:
        raise UserError(f"budget={budget}: expected a number of parameters, above 0.")
    if budget <= fixed:
        raise UserError(f"budget={budget:,}: {fixed:,} parameters train in any case; give more.")
    for key, value in (("rank", rank), ("alpha", alpha), ("step", step), ("steps", steps)):
        if not value > 0:
            raise UserError(f"{key}={value}: expected a number above 0.")
    if beta is not None and not beta > 0:
        raise UserError(f"beta={beta}: expected a number above 0, or None.")
    for name, score in scores.items():
        if not torch.isfinite(score).all() or (score < 0).any():
            raise UserError(f"allocate: the scores of '{name}' are not all finite and 0 or more.")
