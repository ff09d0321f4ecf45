"""Attentive probes: learned queries pool the frozen tokens of the last tap.

The efficient form is Efficient Probing (Psomas et al., ICLR 2026, arXiv 2506.10178). The ordinary ones are the probes
of AIM (El-Nouby et al., 2024, arXiv 2401.08541) and of V-JEPA (Bardes et al., 2024, arXiv 2404.08471).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive
from peftbench.methods.base import Method, Plan, Side, freeze
from peftbench.methods.shared.feature_norm import FeatureNorm

EPS = 1e-6
"""Of the norms without affine, as in Efficient Probing."""


@dataclass(frozen=True)
class Attentive(Method):
    """Learned queries attend to the tokens x_i (d,) of the frozen last tap, and what they gather goes to the head.

    Source:
        Efficient Probing (arXiv 2506.10178) for `form=efficient`; AIM (arXiv 2401.08541) and V-JEPA (arXiv 2404.08471)
        for the ordinary forms. Our reading: how the value maps start (torch's default; in `vjepa` truncated normal of
        0.02, biases zero), the mean over queries where an ordinary form has several, and that we train with AdamW. The
        papers' keys are computed per token; we multiply them into the queries, which gives the same numbers and never
        writes a key or a value of a token.

    Equation:
        efficient, with M queries q_m (d,) and W_v (d/D, d), no key map and no biases:

            a_m = softmax_i(q_m · x_i / √d)        o_m = Σ_i a_mi (W_v x_i)[rows of chunk m of M]
            features = BN(concat_m o_m)            (d/D,), BN without affine

        aim, with `heads` heads h: x̂ = BN(x) over all tokens, without affine,

            features = concat_h Σ_i softmax_i(q_h · (W_k x̂_i)_h / √(d/heads)) (W_v x̂_i)_h

        vjepa: q ← q + proj(attention(W_q q, W_kv LN(x)));  features = q + mlp(LN(q)), with biases, the hidden layer of
        the mlp 4 d wide, proj and its last layer divided by √2 at the start.

    Place:
        Behind the last tap, before the backbone's final norm, in the place of its pooling. Tokens are the patches, or
        all (`tokens=all`: class and register tokens too, for backbones that were trained on the class token); the
        positions of the last map of a CNN or of Swin.

    Cost:
        Nothing runs backward in the backbone, and taps are kept: a step is one read of the last tap. Beside the weights
        at prediction, about as much as one linear layer over the pooled features. Parameters: M d + d²/D; aim
        2 d² + M d; vjepa 12 d² + 13 d + M d.

    Avoid when:
        There are few images and the pooled features are good: it has hundreds of thousands of parameters where the
        linear probe has none. Dense tasks, which read maps, cannot have it. It does not start as the linear probe.

    Options:
        queries: M; null is 32 in the efficient form (or the most below that which divides d/D), 1 in the others.
        reduction: D, of the efficient form.
        heads: of the ordinary forms; null is 12, or the most below that which divides d.
    """

    side: ClassVar[bool] = True
    pools: ClassVar[bool] = True

    form: Literal["efficient", "aim", "vjepa"] = "efficient"
    queries: Positive | None = None
    reduction: Positive = 1
    heads: Positive | None = None
    tokens: Literal["patches", "all"] = "patches"

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        last = facts.taps[-1]
        shape = " x ".join(map(str, last.shape))
        if last.layout == "NC" or 0 in last.shape or (last.layout == "NLC" and last.shape[0] <= facts.prefix):
            raise Refusal(
                f"method=attentive: the last tap of {facts.name} is {shape} at {facts.input_size} pixels, which has no "
                f"positions to attend to; method=mlp and method=linear read the pooled features."
            )
        for key in ("queries", "reduction", "heads"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"method.{key}={value}: expected at least 1.")
        width = last.channels
        if self.form == "efficient":
            if self.heads is not None:
                raise UserError(
                    f"method.heads={self.heads}: method.form=efficient has no heads, each query reads a chunk of its "
                    f"own; leave it out, or give method.form=aim."
                )
            if width % self.reduction:
                raise UserError(
                    f"method.reduction={self.reduction}: the last tap of {facts.name} is {width} wide; expected a "
                    f"divisor of that, such as {_divisor(width, self.reduction)}."
                )
            _refuse_indivisible("queries", self.queries, width // self.reduction, f"features of {facts.name}")
            return
        if self.reduction != 1:
            raise UserError(
                f"method.reduction={self.reduction}: is of method.form=efficient alone; leave it out of {self.form}."
            )
        _refuse_indivisible("heads", self.heads, width, f"channels of {facts.name}")

    def adapt(self, backbone: Backbone, plan: Plan) -> Side:
        freeze(backbone)
        nets: dict[str, Any] = {"efficient": Efficient, "aim": CrossAttention, "vjepa": CrossAttentionBlock}
        net: Side = nets[self.form](backbone, self)
        return net


def _divisor(width: int, most: int) -> int:
    """The largest divisor of `width` that is at most `most`."""
    return next(n for n in range(min(most, width), 0, -1) if width % n == 0)


def _refuse_indivisible(key: str, value: int | None, width: int, of: str) -> None:
    if value is not None and width % value:
        raise UserError(
            f"method.{key}={value}: shares out {width} {of}; expected a divisor of that, such as "
            f"{_divisor(width, value)}."
        )


class TokenPool(Side):
    """A side net that pools the tokens of the last tap, which a cache holds whole, as it does for the linear probe.

    Attributes:
        first: the first token that is read; those before it are class and register tokens.
    """

    def __init__(self, backbone: Backbone, options: Attentive, count: int) -> None:
        super().__init__()
        last = backbone.facts.taps[-1]
        self.layout, self.channels = last.layout, last.channels
        self.first = backbone.facts.prefix if last.layout == "NLC" and options.tokens == "patches" else 0
        self.queries = nn.Parameter(torch.empty(count, self.channels))

    def read(self, taps: Sequence[Tensor]) -> Tensor:
        """Tokens (B, N, d)."""
        return taps[-1].flatten(2).mT if self.layout == "NCHW" else taps[-1].flatten(1, -2)[:, self.first :]


def gather(tokens: Tensor, queries: Tensor) -> Tensor:
    """For each of `queries` (Q, d), the mean of `tokens` (B, N, d) by softmax(tokens · query): (B, Q, d)."""
    return F.linear(tokens, queries).mT.softmax(-1) @ tokens


def fold(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Scaled queries (Q, d) of several heads with the key map (d, d) multiplied in: (Q * heads, d), head by head.

    (W_k x)_h · q_h = x · (W_k,hᵀ q_h); a bias of the keys adds the same to all tokens, which a softmax takes out again.
    """
    parted = queries.unflatten(1, (heads, -1))
    folded = torch.einsum("qhk,hkd->qhd", parted, keys.unflatten(0, (heads, -1)))
    return folded.flatten(0, 1) / math.sqrt(parted.shape[2])


class Efficient(TokenPool):
    """Efficient Probing: each query gathers tokens, and a chunk of the value map reads what it gathered."""

    def __init__(self, backbone: Backbone, options: Attentive) -> None:
        width = backbone.facts.taps[-1].channels // options.reduction
        super().__init__(backbone, options, options.queries or _divisor(width, 32))
        self.width = width
        self.value = nn.Linear(self.channels, width, bias=False)
        self.norm = FeatureNorm(width, eps=EPS, affine=False)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return self.forward_several([self], taps)[0]

    @classmethod
    def forward_several(cls, nets: Sequence[Side], taps: Sequence[Tensor]) -> list[list[Tensor]]:
        every = [n for n in nets if isinstance(n, Efficient)]
        if len({n.first for n in every}) > 1:
            return [net(taps) for net in every]
        queries = torch.cat([n.queries for n in every]) / math.sqrt(every[0].channels)  # the tokens are read once
        gathered = gather(every[0].read(taps), queries).split([len(n.queries) for n in every], 1)
        return [[n._features(part)] for n, part in zip(every, gathered, strict=True)]

    def _features(self, gathered: Tensor) -> Tensor:
        """From what each query gathered (B, M, d): (B, d/D)."""
        chunks = self.value.weight.unflatten(0, (len(self.queries), -1))
        return self.norm(torch.einsum("bqd,qkd->bqk", gathered, chunks).flatten(1))


class CrossAttention(TokenPool):
    """The probe of AIM: one layer of cross-attention over normalised tokens, without biases and without a last map."""

    def __init__(self, backbone: Backbone, options: Attentive) -> None:
        super().__init__(backbone, options, options.queries or 1)
        self.width = self.channels
        self.heads = options.heads or _divisor(self.channels, 12)
        self.norm = FeatureNorm(self.channels, eps=EPS, affine=False)
        self.key = nn.Linear(self.channels, self.channels, bias=False)
        self.value = nn.Linear(self.channels, self.channels, bias=False)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        tokens = self.read(taps)
        tokens = self.norm(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        gathered = gather(tokens, fold(self.queries, self.key.weight, self.heads))
        mean = gathered.unflatten(1, (-1, self.heads)).mean(1)
        return [torch.einsum("bhd,hkd->bhk", mean, self.value.weight.unflatten(0, (self.heads, -1))).flatten(1)]


class CrossAttentionBlock(TokenPool):
    """The probe of V-JEPA: a transformer block whose queries are learned and whose keys and values are the tokens."""

    def __init__(self, backbone: Backbone, options: Attentive) -> None:
        super().__init__(backbone, options, options.queries or 1)
        self.width = width = self.channels
        self.heads = options.heads or _divisor(width, 12)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        last = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last)
        nn.init.trunc_normal_(self.queries, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for weight in (self.proj.weight, last.weight):
                weight /= math.sqrt(2)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        keys, values = self.kv.weight.chunk(2)
        gathered = gather(self.norm1(self.read(taps)), fold(self.query(self.queries), keys, self.heads))
        parted = gathered.unflatten(1, (-1, self.heads))
        attended = torch.einsum("bqhd,hkd->bqhk", parted, values.unflatten(0, (self.heads, -1))).flatten(2)
        queries = self.queries + self.proj(attended + self.kv.bias[self.channels :])
        return [(queries + self.mlp(self.norm2(queries))).mean(1)]
