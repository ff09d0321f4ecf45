"""CST, Calibration Side-Tuning (Chen, 2024, arXiv 2402.12736): a side net per stage calibrates the stages' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, Facts, Tap, layouts
from peftbench.backbones.facts import grid_of
from peftbench.common.errors import Refusal
from peftbench.config.bounds import Positive
from peftbench.methods.base import Method, Plan, Side, freeze

TEMPERATURE = 0.1
"""T of the gate's sigmoid, as in ladder side tuning."""


@dataclass(frozen=True)
class CST(Method):
    """Calibration side-tuning. With B_s the output of stage s, C_s its channels and c_s = C_s // reduction:

        R_s = ReLU(N(reduce B_s))                   reduce (c_s, C_s)
        D_s = ReLU(N(transition pool(S'_{s-1})))    transition (c_s, c_{s-1}); D_1 from the stem
        M_s = mu R_s + (1 - mu) D_s                 mu = sigmoid(a / 0.1), a (c_s,)
        S_s = M_s + PW(ReLU(N(DW3x3(M_s))))         PW starts at zero
        O_s = B_s + gamma (expand S_s)              expand (C_s, c_s), gamma (C_s,) starts at zero: O_s = B_s

    Our reading:

    - The paper names the parts (reduction, transition gate, side layers, expansion). Their forms are ours, since no
      code and no formula of them could be had. The gate, "maximal transition calibration", is therefore an option:
      `gate` as above, `max` (of R and D), `sum`, or `input_gate` (mu computed from the pooled R + D).
    - S'_s = S_s + reduce(O_s - B_s): what the next side stage sees of a stage is its calibrated output. At the start
      S'_s = S_s. So every parameter takes part where only O_4 is read, as in classification. All of it is linear, so
      it costs one small product of weights and no O_1 to O_3.
    - Stages are the last four taps. Where all taps have one shape (plain ViT) they are the ends of `stages` equal
      groups of blocks. The stem is the tap before the first stage's, max-pooled to its grid where it is a finer map
      (the backbone's own pooling in a ResNet); without such a tap M_1 = R_1.
    - Class and register tokens go through the same layers position by position. They are not on the grid, and take
      the mean over it of what the side block adds.

    With `feedback` the backbone goes on from O_s instead of B_s. Then gradients flow through its later stages, their
    activations are kept, and taps cannot be cached: an ablation that shows what the side path saves.

    Options:
        reduction: of the width, at each stage.
        gate_init: the gate starts at sigmoid(gate_init): 2 is mostly backbone, 0 is ladder side tuning's.
        norm: N, `group` (8 channels a group) or `batch`.
        stages: how many stages are calibrated, at most.

    Source: Chen, 2024, arXiv 2402.12736.
    Equation: O_s = B_s + γ · expand(S_s), S_s from this stage's output and the side net's of the stage before.
    Place: a narrow net beside the stages, whose outputs calibrate those of the stages; all of them go to a task that
        reads several.
    Cost: taps are computed once and kept; only the side net runs backward. It stays beside the backbone at prediction.
    Avoid when: a task reads the last stage alone and parameters are counted: LoSA is smaller there.
    """

    side: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    reduction: Positive = 8
    gate: Literal["gate", "max", "sum", "input_gate"] = "gate"
    gate_init: float = 2.0
    norm: Literal["group", "batch"] = "group"
    stages: Positive = 4
    feedback: bool = False

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        for key, value in (("reduction", self.reduction), ("stages", self.stages)):
            if value < 1:
                raise Refusal(f"method.{key}={value}: expected at least 1.")
        stem, stages = parts(facts, self.stages)
        layouts.require_maps(facts, stages if stem is None else [stem, *stages], "cst")
        narrowest = min((facts.taps[i] for i in stages), key=lambda tap: tap.channels)
        if self.reduction > narrowest.channels:
            raise Refusal(
                f"method.reduction={self.reduction}: {narrowest.module} of {facts.name} has {narrowest.channels} "
                f"channels; expected at most that."
            )
        if self.feedback and len(stages) < 2:
            raise Refusal(
                f"method.feedback=true: {facts.name} is calibrated at its last tap alone, behind which there is no "
                f"stage to feed; method.feedback=false works."
            )

    def adapt(self, backbone: Backbone, plan: Plan) -> Side | None:
        freeze(backbone)
        if not self.feedback:
            return SideNet(backbone.facts, self)
        FedBack(backbone.facts, self).attach(backbone)
        return None


class State(NamedTuple):
    """What a stage hands to the next: S (B, c, N), its grid, and itself. Of the stem: the tap, its grid, None."""

    x: Tensor
    grid: layouts.Grid
    stage: Stage | None


class SideNet(Side):
    """The side net over all stages: from condensed taps to calibrated ones, O_1 to O_4, or O_4 alone."""

    stages: Any  # a list of Stage, whose methods nn.ModuleList would hide

    def __init__(self, facts: Facts, options: CST) -> None:
        super().__init__()
        self.stem, self.given = parts(facts, options.stages)
        self.wanted = self.given if self.stem is None else (self.stem, *self.given)
        taps = [facts.taps[i] for i in self.wanted]
        self.prefix = facts.prefix if taps[-1].layout == "NLC" else 0
        self.first, self.layout = taps[0], taps[0].layout
        self.halvings = 0 if self.stem is None else _halvings(*taps[:2])
        self.condensed = f"stem-{self.halvings}" if self.halvings else ""
        self.stages = nn.ModuleList()
        below = None if self.stem is None else taps[0].channels
        for i in self.given:
            stage = Stage(facts.taps[i], below, self.prefix, options)
            self.stages.append(stage)
            below = stage.width

    def condense(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """The taps with the stem max-pooled to the grid of the first stage: a quarter of it, in a ResNet."""
        return list(taps) if self.stem is None else [self.pooled(taps[0]), *taps[1:]]

    def pooled(self, stem: Tensor) -> Tensor:
        for _ in range(self.halvings):  # channels last: five times as fast on a CPU
            stem = F.max_pool2d(stem.contiguous(memory_format=torch.channels_last), 3, 2, 1).contiguous()
        return stem

    def begin(self, stem: Tensor) -> State:
        """What the first stage sees below it: the condensed stem."""
        return State(layouts.flatten_tap(stem, self.layout), grid_of(stem, self.first, self.prefix), None)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        below = None if self.stem is None else self.begin(taps[0])
        calibrated = []
        last = len(self.stages) - 1
        for i, (stage, tap) in enumerate(zip(self.stages, taps[-len(self.stages) :], strict=True)):
            below = stage(tap, below)
            if i == last or self.every:
                calibrated.append(stage.calibrate(tap, below))
        return calibrated


class Stage(nn.Module):
    """One stage of the side net.

    Args:
        tap: the stage's output in the backbone.
        below: the channels of what the stage reads besides, if anything.
        prefix: the number of class and register tokens.
    """

    def __init__(self, tap: Tap, below: int | None, prefix: int, options: CST) -> None:
        super().__init__()
        self.tap, self.layout, self.prefix = tap, tap.layout, prefix
        self.width = width = tap.channels // options.reduction
        self.reduce = nn.Linear(tap.channels, width, bias=False)
        self.reduce_norm = norm(options.norm, width)
        self.gate: Gate | None = None
        if below is not None:
            self.transition = nn.Linear(below, width, bias=False)
            self.transition_norm = norm(options.norm, width)
            self.gate = Gate(options.gate, width, options.gate_init)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.block_norm = norm(options.norm, width)
        self.pointwise = nn.Linear(width, width, bias=False)
        self.expand = nn.Linear(width, tap.channels, bias=False)
        self.gamma = nn.Parameter(torch.zeros(tap.channels))
        nn.init.zeros_(self.pointwise.weight)

    def forward(self, tap: Tensor, below: State | None) -> State:
        """S (B, c, N) of this stage, from B (B, …) and the state of the stage below."""
        grid = grid_of(tap, self.tap, self.prefix)
        mixed = F.relu_(self.reduce_norm(layouts.project_tap(tap, self.reduce.weight, self.layout)))
        if below is not None and self.gate is not None:
            weight = self.transition.weight
            if below.stage is not None:
                weight = weight @ below.stage.view()
            carried = layouts.pointwise(layouts.resize_grid(below.x, self.prefix, below.grid, grid), weight)
            mixed = self.gate(mixed, F.relu_(self.transition_norm(carried)))
        return State(mixed + self._block(mixed, grid), grid, self)

    def calibrate(self, tap: Tensor, state: State) -> Tensor:
        """O from B, in B's own layout."""
        return tap + layouts.project_to_tap(state.x, self._expansion(), self.layout, tap.shape)

    def view(self) -> Tensor:
        """S' = S + reduce(gamma (expand S)), as one matrix (c, c)."""
        change = self.reduce.weight @ self._expansion()
        return change + torch.eye(self.width, dtype=change.dtype, device=change.device)

    def _block(self, x: Tensor, grid: layouts.Grid) -> Tensor:
        map_ = self.depthwise(x[:, :, self.prefix :].unflatten(2, grid)).flatten(2)
        added = layouts.pointwise(F.relu_(self.block_norm(map_)), self.pointwise.weight)
        if not self.prefix:
            return added
        return torch.cat([added.mean(2, keepdim=True).expand(-1, -1, self.prefix), added], 2)

    def _expansion(self) -> Tensor:
        return self.gamma[:, None] * self.expand.weight


class Gate(nn.Module):
    """Maximal transition calibration, in four readings: from R and D (B, c, N), both at least 0, to M."""

    def __init__(self, kind: str, width: int, start: float) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gate":
            self.a = nn.Parameter(torch.full((width,), start * TEMPERATURE))
        if kind == "input_gate":
            self.mix = nn.Linear(width, width)
            nn.init.zeros_(self.mix.weight)
            nn.init.constant_(self.mix.bias, start)

    def forward(self, reduced: Tensor, below: Tensor) -> Tensor:
        if self.kind == "max":
            return torch.maximum(reduced, below)
        if self.kind == "sum":
            return reduced + below
        if self.kind == "gate":
            mu = torch.sigmoid(self.a / TEMPERATURE)
        else:
            mu = torch.sigmoid(self.mix((reduced + below).mean(2)))
        return torch.lerp(below, reduced, mu[..., None].to(below.dtype))


class FedBack(SideNet):
    """The side net inside the backbone: forward hooks put O_s in the place of B_s, and the later stages go on from it.

    Its parameters are the backbone's submodule `calibration`.
    """

    def attach(self, backbone: Backbone) -> None:
        backbone.calibration = self
        self._below: State | None = None
        taps = backbone.facts.taps
        if self.stem is not None:
            backbone.net.get_submodule(taps[self.stem].module).register_forward_hook(self._begin)
        for i, stage in zip(self.given, self.stages, strict=True):
            backbone.net.get_submodule(taps[i].module).register_forward_hook(partial(self._calibrate, stage))

    def _begin(self, module: nn.Module, args: tuple, stem: Tensor) -> None:
        self._below = self.begin(self.pooled(stem))

    def _calibrate(self, stage: Stage, module: nn.Module, args: tuple, tap: Tensor) -> Tensor:
        state = stage(tap, self._below)
        self._below = None if stage is self.stages[-1] else state  # nothing of this pass is kept after it
        return stage.calibrate(tap, state)


def parts(facts: Facts, stages: int) -> tuple[int | None, tuple[int, ...]]:
    """The indices of the stem's tap, if there is one, and of the stages' taps."""
    count = len(facts.taps)
    chosen = list(range(max(count - stages, 0), count))
    if len({t.shape for t in facts.taps}) == 1 and count > stages:
        chosen = [round(count * (i + 1) / stages) - 1 for i in range(stages)]
    return (chosen[0] - 1 if chosen[0] else None), tuple(chosen)


def norm(kind: str, width: int) -> nn.Module:
    """Batch norm, or group norm of at least eight channels a group, over (B, width, N)."""
    if kind == "batch":
        return nn.BatchNorm1d(width)
    most = max(1, width // 8)
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if width % groups == 0), width)


def _halvings(stem: Tap, first: Tap) -> int:
    """How often the stem's map is halved until it is no finer than the first stage's."""
    if stem.layout != "NCHW" or first.layout != "NCHW":
        return 0
    count, side = 0, stem.shape[1]
    while side > first.shape[1]:
        count, side = count + 1, -(-side // 2)
    return count
