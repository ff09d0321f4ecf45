"""Structured pruning to a share of the latency: how many channels and heads each layer keeps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.backbones.channels import Channels, shrink_parts
from peftbench.common.errors import Refusal
from peftbench.pruning.layer_times import Part, layer_times, parts_of
from peftbench.pruning.runtimes import Call, call_of, refuse_missing_runtime, share_of_time

_ROUNDS, _TRIES = 15, 6
_LOOKED_AT = 32  # images
_BINS = 2000  # of the time that can be saved
Counts = dict[str, int]
"""Name of a part -> how many channels or heads it keeps."""


@dataclass(frozen=True)
class Chosen:
    """What each part keeps, and the share of the whole backbone's latency that was measured so."""

    counts: Counts
    seconds: float
    whole: float
    share: float


class Features(nn.Module):
    """An image, normalised, to its pooled features: what a backbone computes for a linear head."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_head(self.net.forward_features(x), pre_logits=True)
        return features


def choose_counts(
    backbone: Backbone,
    worth: Mapping[str, Tensor],
    weights: Mapping[str, float],
    target: float,
    round_to: int,
    runtime: str,
) -> Chosen:
    """How many channels and heads each part keeps, so that the whole backbone takes `target` of its time.

    Of all choices that save enough by the table of layer times, it is the one that loses least worth. The backbone as
    it would be is then measured, and where that takes longer than the table has it, more goes.

    Args:
        backbone: it stays as it is.
        worth: part -> what each of its channels or heads is worth, (count,).
        weights: part -> how much the features suffer for a share of its worth, as `sensitivity` gives it.
        target: the share of the latency that is to be left.
        round_to: channels are kept in multiples of it.
        runtime: where the latency is measured.

    Raises:
        UserError: the runtime is not installed, or the cache folder cannot be written.
        Refusal: it cannot be traced, or not even the least of everything is quick enough.
    """
    refuse_missing_runtime(runtime)
    parts = parts_of(backbone, round_to)
    table = layer_times(backbone, parts, runtime)
    image = torch.randn(1, 3, *backbone.facts.canvas, generator=torch.Generator().manual_seed(0))
    whole = call_of(Features(backbone.net), image, runtime)

    def measured(counts: Counts) -> Chosen:
        small: Call = call_of(Features(shrunk(backbone.net, parts, counts)), image, runtime)
        return Chosen(counts, *share_of_time(small, whole, _ROUNDS))

    losses = {p.name: [weights[p.name] * x for x in losses_of(worth[p.name], p.counts)] for p in parts}
    least = measured({p.name: p.counts[-1] for p in parts})
    if least.share > target:
        raise Refusal(
            f"pruning.target=latency:{target:g}: the least that {backbone.facts.name} can keep of its channels and "
            f"heads takes {least.share:.2f} of the whole one's latency ({1e3 * least.seconds:.2g} "
            f"of {1e3 * least.whole:.2g} ms in {runtime}); give {np.ceil(100 * least.share) / 100:.2f} or more."
        )
    saved = {p.name: [table[p.name][p.counts[0]] - table[p.name][n] for n in p.counts] for p in parts}
    wanted, best = (1 - target) * least.whole, least
    for _ in range(_TRIES):
        found = measured(_least_lost(parts, losses, saved, wanted))
        if found.share <= target and best.share <= found.share:
            best = found
        if target - 0.02 <= found.share <= target:
            break
        # As much more, or less, as the table was wrong; a little beyond, so that the next try is on this side of it.
        wanted *= (1 - target + 0.005) / max(1 - found.share, 0.02)
    return best


@torch.no_grad()
def sensitivity(
    backbone: Backbone, parts: Sequence[Part], worth: Mapping[str, Tensor], images: Tensor
) -> dict[str, float]:
    """Part -> how far the pooled features move for a share of its worth, when its lesser half alone is taken out.

    Args:
        backbone: it stays as it is.
        parts, worth: see `choose_counts`.
        images: normalised, (N, 3, H, W); a few of them are looked at.
    """
    some = images[:: max(1, len(images) // _LOOKED_AT)][:_LOOKED_AT]
    features, net = Features(backbone.net), backbone.net
    before = features(some)
    weights = {}
    for part in parts:
        half = part.what.count // 2
        silent = worth[part.name].sort(stable=True).indices[:half]
        if isinstance(part.what, Channels):
            last = net.get_submodule(part.what.last)
        else:
            last, silent = net.get_submodule(f"{part.name}.proj"), part.what.columns[silent].flatten()
        held = last.weight[:, silent].clone()
        last.weight[:, silent] = 0  # what takes nothing of a channel is as good as without it
        moved = (features(some) - before).square().mean() / before.var().clamp_min(1e-12)
        last.weight[:, silent] = held
        lost = losses_of(worth[part.name], [part.what.count - half])[0]
        weights[part.name] = float(moved) / max(lost, 1e-6)
    least = max(max(weights.values(), default=0.0) * 1e-4, 1e-12)  # a part that seems of no use at all may be of some
    return {name: max(weight, least) for name, weight in weights.items()}


def losses_of(worth: Tensor, counts: Sequence[int]) -> list[float]:
    """The share of a part's worth that goes with its least channels or heads, for each count that it may keep."""
    ranked = worth.double().sort(descending=True).values
    kept = ranked.cumsum(0) / ranked.sum().clamp_min(1e-30)
    return [1 - float(kept[n - 1]) for n in counts]


def _least_lost(
    parts: Sequence[Part], losses: Mapping[str, list[float]], saved: Mapping[str, list[float]], wanted: float
) -> Counts:
    """The counts that lose least of those that save `wanted` seconds; the least of all where none saves so much.

    A knapsack, filled by dynamic programming over bins of saved time.
    """
    most = sum(max(times) for times in saved.values())
    bin_ = max(wanted, 1e-9) / _BINS
    if wanted >= most:
        return {p.name: p.counts[-1] for p in parts}
    lost = np.full(_BINS + 1, np.inf)
    lost[0] = 0.0
    taken: list[np.ndarray] = []
    for part in parts:
        best, choice = np.full(_BINS + 1, np.inf), np.zeros(_BINS + 1, dtype=int)
        for at, (loss, time) in enumerate(zip(losses[part.name], saved[part.name], strict=True)):
            step = min(int(time / bin_), _BINS)
            source = np.arange(_BINS + 1) - step  # place -> the place before this part
            found = np.full(_BINS + 1, np.inf)
            found[step:] = lost[: _BINS + 1 - step]
            source[-1] = (
                _BINS - step + int(lost[_BINS - step :].argmin())
            )  # what saves more than enough counts as enough
            found[-1] = lost[source[-1]]
            better = found + loss < best
            best[better], choice[better] = found[better] + loss, at * (_BINS + 1) + source[better]
        lost = best
        taken.append(choice)
    place = _BINS if np.isfinite(lost[_BINS]) else int(np.flatnonzero(np.isfinite(lost))[-1])
    counts: Counts = {}
    for part, choice in zip(reversed(parts), reversed(taken), strict=True):
        at, place = divmod(int(choice[place]), _BINS + 1)
        counts[part.name] = part.counts[at]
    return counts


def shrunk(net: nn.Module, parts: Sequence[Part], counts: Counts) -> nn.Module:
    """A copy of the net with the first channels and heads of each part: of its shape, and of no use else."""
    small = copy.deepcopy(net)
    shrink_parts(small, [(p.what, torch.arange(counts[p.name])) for p in parts if counts[p.name] < p.what.count])
    return small


def split(parts: Sequence[Part], counts: Counts) -> tuple[Counts, Counts]:
    """(the counts of channels, the counts of heads), of the parts that lose some."""
    lose = {p.name: p for p in parts if counts[p.name] < p.what.count}
    channels = {n: counts[n] for n, p in lose.items() if isinstance(p.what, Channels)}
    return channels, {n: counts[n] for n in lose if n not in channels}
