"""LoSA (Mercea et al., CVPR 2024, arXiv 2402.02887): a side path of low-rank mixers refines the last tap with all taps.

Low-rank Side Adaptation: Mercea, Gritsenko, Schmid, Arnab, "Time-, Memory- and Parameter-Efficient Visual Adaptation".
(Not the Long-Short-range Adapter, nor the sparse language-model method of the same name.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, Tap, layouts
from peftbench.backbones.facts import Facts, grid_of
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive
from peftbench.methods.base import Method, Plan, Side, freeze
from peftbench.methods.shared import side_recursion
from peftbench.methods.shared.mixing import Mixer, Norms, refine
from peftbench.methods.shared.tracing import is_traced


@dataclass(frozen=True)
class LoSA(Method):
    """The backbone is frozen; y_0 = b_L, y_i = y_{i-1} + g_i(b_i + y_{i-1}), and y_L goes to the head.

    b_i are the taps, before the final norm. g mixes along channels, then along tokens, each through a bottleneck of
    rank r with GELU: g(x) = C(N(x)) + T(N(x + C(N(x)))).

    Our reading: all that is not in the paper's text. That is this form of g without a skip of its own, no bias, the
    norm N, that up-projections start at zero, so that the first logits are the linear probe's, and
    how taps that differ in resolution or width meet.

    Options: `norm` none, ln (affine) or ln_noaffine; `bias` of the projections; `mixers` in the order of their
    work (`space` is `token` without class tokens, for clips together with `time`, which mixes the `frames`);
    `tap_every` k uses every k-th tap counted from the last, `tap_last` m only the last m; `start` is y_0; `pooling`
    replaces how a plain ViT pools: `avg` averages the patch tokens and leaves class tokens out of the side path.

    Where taps differ in resolution (CNNs, hybrids, hierarchical ViTs), which the paper does not treat, every stage's
    tap is averaged onto the last stage's grid. Where they differ in width, b_i and y_{i-1} meet in the channel
    mixer's bottleneck: C = GELU(N(b_i) A_i + N(y_{i-1}) W) U, with A_i of C_i x r parameters; the token mixer then
    mixes y_{i-1} + C. A mixer along an axis shorter than `rank` has that axis's rank: over n tokens min(rank, n).

    Source: Mercea et al., CVPR 2024, arXiv 2402.02887.
    Equation: y_0 = b_L; y_i = y_{i-1} + g_i(b_i + y_{i-1}); g(x) = C(N(x)) + T(N(x + C(N(x)))), with C, T each
        x ↦ V gelu(U x) of rank r, over channels and over tokens.
    Place: a side path over all taps, behind the last block.
    Cost: taps are computed once and kept; only the side net runs backward. It stays beside the backbone at prediction
        (about r · L of its width).
    Avoid when: input sizes vary (token mixers are built for one), or low-level features have to change inside the
        backbone.
    """

    side: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = True

    rank: Positive = 8
    norm: Literal["none", "ln", "ln_noaffine"] = "none"
    bias: bool = False
    mixers: tuple[Literal["channel", "token", "space", "time"], ...] = ("channel", "token")
    tap_every: Positive = 1
    tap_last: Positive | None = None
    start: Literal["last", "first", "zero"] = "last"
    pooling: Literal["model", "token", "avg"] = "model"
    init: Literal["kaiming", "trunc_normal"] = "kaiming"
    frames: int | None = None  # of the data set, which says what is wrong with it

    @property
    def identity_start(self) -> bool:  # type: ignore[override]
        return self.start == "last"

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        for key in ("rank", "tap_every", "tap_last", "frames"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"method.{key}={value}: expected at least 1.")
        count = len(facts.taps)
        for key in ("tap_every", "tap_last"):
            if (value := getattr(self, key)) is not None and value > count:
                raise UserError(f"method.{key}={value}: {facts.name} has {count} taps; expected at most that.")
        if not self.mixers or len(set(self.mixers)) < len(self.mixers) or {"token", "space"} <= set(self.mixers):
            raise UserError(
                f"method.mixers={list(self.mixers)}: expected each at most once, and one of token and space, "
                f"such as [channel,token]."
            )
        if "time" in self.mixers and self.frames is None:
            raise UserError(
                "method.mixers: time mixes the frames of a clip; give data=video_folder, or method.frames=<count>."
            )
        if self.pooling != "model" and not backbone.repools:
            raise Refusal(
                f"method.pooling={self.pooling}: {facts.name} has its own pooling; give method.pooling=model."
            )
        if self.leaves_prefix_out and facts.prefix and not self.pools_patches(backbone):
            instead = "method.pooling=avg" if backbone.repools else "method.mixers=[channel,token]"
            raise Refusal(
                f"method.mixers={list(self.mixers)}: {facts.name} pools its class token, which they leave out; "
                f"give {instead}."
            )
        taps = self.taps(backbone)
        last = taps[-1]
        for tap in taps:
            if 0 in tap.shape:
                raise Refusal(
                    f"method=losa: tap {tap.module} of {facts.name} is empty at {facts.input_size} pixels "
                    f"({' x '.join(map(str, tap.shape))}); give larger images with data.size."
                )
        early = [tap for tap in taps if _is_early(tap, facts)]
        if early:
            with_token = len(facts.taps) - 1 - facts.taps.index(early[-1])
            chosen = "null" if self.tap_last is None else self.tap_last
            raise UserError(
                f"method.tap_last={chosen}: {early[-1].module} of {facts.name} and what lies before it have no class "
                f"token yet, and the last tap has; give method.tap_last={with_token}."
            )
        if not _plain(taps) and (odd := next((t for t in taps if not _has_grid(t, facts)), None)):
            raise Refusal(
                f"method=losa: taps of {facts.name} differ in resolution, and {odd.module} gives "
                f"{' x '.join(map(str, odd.shape))}, which is no map and no grid of tokens; method=linear works."
            )
        if self.start == "first" and taps[0].channels != last.channels:
            raise Refusal(f"method.start=first: the taps of {facts.name} differ in width; give method.start=last.")
        if "channel" not in self.mixers and any(t.channels != last.channels for t in taps):
            raise Refusal(
                f"method.mixers={list(self.mixers)}: the taps of {facts.name} differ in width and meet in the channel "
                f"mixer; give method.mixers=[channel,token]."
            )
        if self.rank > last.channels:
            raise UserError(
                f"method.rank={self.rank}: the taps of {facts.name} are {last.channels} wide; expected at most that."
            )

    def adapt(self, backbone: Backbone, plan: Plan) -> SideMixers:
        freeze(backbone)
        if self.pooling != "model":
            backbone.repool(self.pooling)
        return SideMixers(self, backbone)

    def chosen(self, backbone: Backbone) -> tuple[int, ...]:
        """The taps in use, in order of depth; the last is always among them."""
        count = len(backbone.facts.taps)
        first = max(0, count - self.tap_last) if self.tap_last else 0
        offset = (count - 1 - first) % self.tap_every  # they are counted from the last
        return tuple(range(first + offset, count, self.tap_every))

    def taps(self, backbone: Backbone) -> list[Tap]:
        return [backbone.facts.taps[i] for i in self.chosen(backbone)]

    @property
    def leaves_prefix_out(self) -> bool:
        return self.pooling == "avg" or bool({"space", "time"} & set(self.mixers))

    def pools_patches(self, backbone: Backbone) -> bool:
        return self.pooling == "avg" or (self.pooling == "model" and backbone.pools_patches)


class SideMixers(Side):
    """The side net of LoSA. Its output has the shape and layout of the last tap."""

    halves = True

    def __init__(self, spec: LoSA, backbone: Backbone) -> None:
        super().__init__()
        self.wanted = spec.chosen(backbone)
        taps = spec.taps(backbone)
        last, facts = taps[-1], backbone.facts
        self.built, self.layouts = taps, [t.layout for t in taps]
        self.shape = last.shape
        self.advice = f"give images of {facts.input_size} pixels, or build the model for another data.size"
        self.start = spec.start
        self.frames = spec.frames if "time" in spec.mixers else None
        plain = _plain(taps)
        # class tokens have no place on a grid
        self.left_out = facts.prefix if last.layout == "NLC" and (spec.leaves_prefix_out or not plain) else 0
        self.prefixes = [facts.prefix if t.layout == "NLC" and not plain else 0 for t in taps]
        self.grid = None if plain else last.grid
        self.condensed = "" if self.grid is None else f"tokens of the last stage's grid {self.grid}"
        size = {
            "channel": last.channels,
            "token": _tokens(last, self.left_out),
            "space": _tokens(last, self.left_out),
            "time": spec.frames or 0,
        }
        depth = len(taps)
        self.mixers = nn.ModuleDict(
            {m: Mixer(depth, size[m], min(spec.rank, size[m]), spec.bias, spec.init) for m in spec.mixers}
        )
        self.low_rank = spec.norm == "none" and not spec.bias and "time" not in spec.mixers
        self.class_token = backbone.pools_class_token
        self.norms = Norms(spec.norm, depth, len(spec.mixers), last.channels)
        self.lifts = nn.ParameterDict()
        for i, tap in enumerate(taps):
            if tap.channels != last.channels:
                self.lifts[str(i)] = nn.Parameter(torch.empty(spec.rank, tap.channels))
                nn.init.kaiming_uniform_(self.lifts[str(i)], a=5**0.5)

    def condense(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Raw taps; where their resolutions differ, tokens (B, n, C_i) on the last one's grid.

        Raises:
            UserError: taps of another input size than the mixers were built for; nothing is interpolated.
        """
        if taps[-1].shape[1:] != self.shape:
            theirs, ours = (" x ".join(map(str, s)) for s in (taps[-1].shape[1:], self.shape))
            raise UserError(
                f"method=losa: the last tap of these images is {theirs}, the mixers are for {ours}; {self.advice}."
            )
        if self.grid is None:
            return list(taps)
        return [_onto(t, built, p, self.grid) for t, built, p in zip(taps, self.built, self.prefixes, strict=True)]

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return self.forward_several([self], taps)[0]

    @classmethod
    def forward_several(cls, nets: Sequence[Side], taps: Sequence[Tensor]) -> list[list[Tensor]]:
        every = [n for n in nets if isinstance(n, SideMixers)]
        first = every[0]
        alike = all(
            (n.wanted, n.start, [*n.mixers], n.low_rank) == (first.wanted, first.start, [*first.mixers], True)
            for n in every
        )
        with torch.autocast(taps[-1].device.type, enabled=False):  # the taps may be halves, sums over them are not
            # The other form has its steps depend on the batch, and gives taps no gradient.
            if not alike or is_traced() or any(t.requires_grad for t in taps):
                return [[n._raw(n._plain(taps), taps[-1])] for n in every]
            ys = first._low_rank(every, taps)
            return [[n._raw(y, taps[-1])] for n, y in zip(every, ys, strict=True)]

    def _tokens(self, taps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """b_i (B, n, C_i) and y_0 (B, n, d)."""
        tokens = list(taps) if self.grid is not None else [t[:, self.left_out :] for t in taps]
        return tokens, {"last": tokens[-1], "first": tokens[0], "zero": torch.zeros_like(tokens[-1])}[self.start]

    def _plain(self, taps: Sequence[Tensor]) -> Tensor:
        tokens, start = self._tokens([t.to(self.dtype) for t in taps])
        return refine(tokens, start, self.mixers, self.norms, self.lifts, self.frames)

    def _low_rank(self, nets: Sequence[SideMixers], taps: Sequence[Tensor]) -> Tensor:
        tokens, start = self._tokens(taps)
        names = ["token" if m == "space" else m for m in self.mixers]
        stacks = {a: _stacked([n.mixers[m] for n in nets]) for a, m in zip(names, self.mixers, strict=True)}  # type: ignore[misc]
        down, up = ({a: pair[i] for a, pair in stacks.items()} for i in (0, 1))
        rank = down["channel"].shape[2] if self.lifts else 0
        lifts = {
            int(i): torch.stack([F.pad(n.lifts[i], (0, 0, 0, rank - len(n.lifts[i]))) for n in nets])
            for i in self.lifts
        }
        return side_recursion.refine(tokens, start, names, down, up, lifts, self.class_token and not self.every)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _raw(self, y: Tensor, last: Tensor) -> Tensor:
        """Tokens in the last tap's own layout; the tokens left out are the backbone's."""
        if self.layouts[-1] == "NLC":
            return torch.cat([last[:, : self.left_out].to(y.dtype), y], 1) if self.left_out and self.grid is None else y
        if self.layouts[-1] == "NCHW":
            y = y.transpose(1, 2)
        return y.reshape(-1, *self.shape)


def _stacked(mixers: Sequence[Mixer]) -> tuple[Tensor, Tensor]:
    """`down` and `up` of several mixers as (K, L, r, size) and (K, L, size, r), r the largest of their ranks.

    Zeros fill the smaller ones: GELU(0) = 0, so they add nothing and get no gradient.
    """
    rank = max(m.down.shape[1] for m in mixers)
    down = [F.pad(m.down, (0, 0, 0, rank - m.down.shape[1])) for m in mixers]
    return torch.stack(down), torch.stack([F.pad(m.up, (0, rank - m.up.shape[2])) for m in mixers])


def _tokens(tap: Tap, prefix: int) -> int:
    if tap.layout == "NLC":
        return tap.shape[0] - prefix
    return math.prod(tap.shape[1:] if tap.layout == "NCHW" else tap.shape[:2])


def _plain(taps: Sequence[Tap]) -> bool:
    """Whether all are tokens of one number and width, which meet without a grid."""
    return all(t.layout == "NLC" and t.shape == taps[-1].shape for t in taps)


def _is_early(tap: Tap, facts: Facts) -> bool:
    """Whether it lacks the class and register tokens that the last tap has: in ConViT they come in later."""
    shape = tap.shape[0] + facts.prefix, *tap.shape[1:]
    return facts.prefix > 0 and tap.layout == facts.taps[-1].layout == "NLC" and shape == facts.taps[-1].shape


def _has_grid(tap: Tap, facts: Facts) -> bool:
    try:
        grid_of(torch.empty(1, *tap.shape, device="meta"), tap, facts.prefix if tap.layout == "NLC" else 0)
    except (ValueError, IndexError):
        return False
    return tap.layout != "NC"


def _onto(tap: Tensor, built: Tap, prefix: int, grid: layouts.Grid) -> Tensor:
    """A raw tap as tokens (B, h w, C), averaged onto a grid of h x w."""
    if built.layout == "NLC":
        tap = tap[:, prefix:].unflatten(1, grid_of(tap, built, prefix))
    if built.layout != "NCHW":
        tap = tap.permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(tap, grid).flatten(2).transpose(1, 2).contiguous()
