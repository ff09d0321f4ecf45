"""The wrapper around a timm model: taps, tail, pooling, feature maps, and what it was when it started."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.carried import carry, with_carried
from peftbench.backbones.checkpointing import last_called
from peftbench.backbones.cut import learn_facts, replay_tail
from peftbench.backbones.facts import WHOLE, Size, Tap, grid_of
from peftbench.backbones.pooled_tokens import pooled_tokens
from peftbench.common.digests import digests
from peftbench.common.errors import UserError


class _Reached(Exception):
    """The hook on the deepest wanted tap raises it, so that nothing behind is computed."""


class Backbone(nn.Module):
    """A pretrained timm model without its classifier.

    Attributes:
        net: the timm model.
        facts: see `Facts`.
        start: name -> sha256 of every tensor of the state dict as it was built; empty on the meta device.
        built: the names of the parameters in the net as it was built, in its order.
        streamed: whether its blocks are read from a file each time they compute (`stream.Streamed`).
        masks: name in the net -> bool, false where pruning set a weight to zero.
        kept: how many `channels` and `heads` pruning kept where it took some out.
        pruned: how it was pruned: `name` (unstructured or structured) and `ratio`; empty where it was not.
        origin: the fingerprint of the whole backbone that a pruned or quantized one was made from.
        quantized: `int8` or `nf4` where its weights are kept in codes (`quantize`); "" where they are plain.
        recomputes: whether blocks are computed again in backward (`checkpointing`).
        computing: whether it computes for its caller now, and not again for backward.
        added_tokens: how many tokens of a method's own stand behind the prefix tokens, in no tap (`prompting`).
        pools_added: whether `pool` reads them too; the last tap that `taps` gives then carries them along.
        merging: what a method makes of the zeros when it is merged (`Method.merges`); "" where there are none.

    Raises:
        Refusal: its features are not one tensor.
    """

    streamed: ClassVar[bool] = False
    net: Any  # a timm model: nn.Module would hide its methods

    def __init__(
        self, net: nn.Module, name: str, family: str | None, input_size: Size, start: dict[str, str] | None = None
    ) -> None:
        super().__init__()
        self.net = net.eval()
        self.on_meta = not self.streamed and any(p.is_meta for p in net.parameters())
        self.facts = learn_facts(self.net, name, family, input_size, self.on_meta)
        for i, tap in enumerate(self.facts.taps):
            if tap.order:
                self.register_buffer(f"order_{i}", torch.tensor(tap.order), persistent=False)
        if start is None:
            start = {} if self.on_meta else digests(self.state_dict())
        self.start = start
        self.built = tuple(name for name, _ in net.named_parameters())
        self.masks: dict[str, Tensor] = {}
        self.kept: dict[str, dict[str, int]] = {}
        self.pruned: dict[str, Any] = {}
        self.origin = ""
        self.quantized = ""
        self.merging = ""
        self.added_tokens, self.pools_added = 0, False
        self.recomputes, self.computing = False, False

    @property
    def fingerprint(self) -> str:
        """sha256 over names, shapes, types and bytes of every starting tensor."""
        state = self._tensors()
        lines = [f"{k} {tuple(state[k].shape)} {state[k].dtype} {v}" for k, v in sorted(self.start.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def taps(
        self,
        x: Tensor,
        wanted: Sequence[int] | None = None,
        emit: Callable[[int, Tensor], None] | None = None,
        stop: bool = True,
        raw: bool = False,
    ) -> list[Tensor]:
        """The outputs of the tapped modules for normalised images (B, 3, H, W), each in its raw layout.

        Tokens that the model keeps in another order (`Tap.order`) come row by row.

        `wanted` are indices into `facts.taps` (default: all); nothing behind the deepest of them is computed.
        With `emit` none is kept: `emit(index, tap)` is called as each is computed, and the list is empty.
        With `stop` false what lies behind is computed as well, for those who trace the pass: they cannot leave it.
        With `raw` they are what the modules give, before a method's hooks on these have changed it, in their own order.

        Raises:
            UserError: images of another size than `facts.input_size`, which this model cannot take.
        """
        if wanted is None:
            wanted = range(len(self.facts.taps))
        indices = [self.facts.index(i) for i in wanted]
        kept: dict[int, Tensor] = {}
        emit = emit or kept.__setitem__
        self.computing = True
        try:
            if self.facts.taps[0].module == WHOLE:
                emit(0, self.net.forward_features(x))
            else:
                with self._tapped(set(indices), emit, stop, raw), suppress(_Reached):
                    self.net.forward_features(x)
        except (AssertionError, RuntimeError) as problem:  # position embeddings and windows may not fit the size
            (height, width), size = x.shape[-2:], self.facts.input_size
            one_size = isinstance(size, int) and (height, width) != (size, size)  # a detector's differ
            if not one_size or isinstance(problem, torch.OutOfMemoryError):
                raise
            raise UserError(
                f"images: are {height} x {width} pixels, and {self.facts.name} is built for {size} x {size} "
                f"({str(problem).splitlines()[0].rstrip('.')}); give images of {size} pixels, or build the model for "
                f"another data.size."
            ) from None
        finally:
            self.computing = False
        return [kept[i] for i in indices if kept]

    def pool(self, tap: Tensor) -> Tensor:
        """The last tap (B, …) through the tail and timm's pooling: features (B, width)."""
        self.computing = True
        try:
            if self.pools_added:
                tap = with_carried(tap, self.facts.prefix)
            features = replay_tail(self.net, self.facts.tail, self.facts.reshaped, tap)
            return self.net.forward_head(features, pre_logits=True)
        finally:
            self.computing = False

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The names of timm's own classifier layers, which this backbone is without; two where it averages two."""
        names = self.net.pretrained_cfg.get("classifier") or ()
        return (names,) if isinstance(names, str) else tuple(names)

    @property
    def pooling(self) -> str:
        """How the features are pooled, in timm's word: token, avg, … (the empty string where it has none)."""
        return str(getattr(self.net, "global_pool", ""))

    @property
    def pools_class_token(self) -> bool:
        """Whether `pool` reads the first token alone: no other token of the last tap can change the features."""
        return self._has_prefix_tokens and self.pooling == "token" and self._pooled("token") == {0}

    @property
    def pools_patches(self) -> bool:
        """Whether `pool` reads tokens of patches alone, no class or register token."""
        return self._has_prefix_tokens and self._pools_patches(self.pooling)

    @property
    def repools(self) -> bool:
        """Whether `repool` works: a ViT that pools the class token, or the mean of the patches, as it is told to.

        A distilled DeiT pools its two class tokens whatever it is told.
        """
        known = self._has_prefix_tokens and self.pooling in ("token", "avg")
        return known and self._pooled("token") == {0} and self._pools_patches("avg")

    def repool(self, kind: str) -> None:
        """Pools `token` or `avg` from now on."""
        self.net.global_pool = kind

    @torch.no_grad()
    def resizes(self) -> bool:
        """Whether it takes images of other sizes than the one that it was built for."""
        if any(tap.layout == "NLC" or tap.grid is None for tap in self.facts.taps):
            return False
        height, width = self.facts.canvas
        parameter = next(self.net.parameters())
        image = torch.zeros(1, 3, height + 64, width + 32, device=parameter.device, dtype=parameter.dtype)
        try:
            maps = self.maps(self.taps(image))
        except Exception:  # each model fails in its own way
            return False
        strides = [round(height / tap.grid[0]) for tap in self.facts.taps if tap.grid]
        sizes = [(math.ceil((height + 64) / s), math.ceil((width + 32) / s)) for s in strides]
        return [tuple(m.shape[2:]) for m in maps] == sizes

    def maps(self, taps: Sequence[Tensor], indices: Sequence[int] | None = None) -> list[Tensor]:
        """Taps as feature maps (B, C, H, W): prefix tokens dropped, tokens laid out on their grid."""
        indices = range(len(taps)) if indices is None else indices
        return [self._map(t, self.facts.taps[i]) for t, i in zip(taps, indices, strict=True)]

    def without_added(self, x: Tensor) -> Tensor:
        """A block's output without the tokens that a method has added."""
        if not self.added_tokens:
            return x
        prefix = self.facts.prefix
        return torch.cat([x[:, :prefix], x[:, prefix + self.added_tokens :]], 1)

    def tail_parameters(self) -> list[nn.Parameter]:
        """The parameters that only `pool` uses: a task that reads maps alone freezes them."""
        behind = (*self.facts.tail, *sorted(self.facts.pools))
        return list(dict.fromkeys(p for name in behind for p in self.net.get_submodule(name).parameters()))

    @property
    def _has_prefix_tokens(self) -> bool:
        return self.facts.taps[-1].layout == "NLC" and self.facts.prefix > 0

    def _pooled(self, kind: str) -> frozenset[int]:
        return pooled_tokens(self.net, self.facts, kind)

    def _pools_patches(self, kind: str) -> bool:
        return self._pooled(kind) == set(range(self.facts.prefix, self.facts.taps[-1].shape[0]))

    def _map(self, x: Tensor, tap: Tap) -> Tensor:
        if tap.layout == "NCHW":
            return x
        if tap.layout == "NHWC":
            return x.permute(0, 3, 1, 2).contiguous()
        size = grid_of(x, tap, self.facts.prefix)
        return x[:, self.facts.prefix :].transpose(1, 2).reshape(x.shape[0], -1, *size)

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor that `start` has a hash of, for its name, shape and type; its values may be missing."""
        return self.state_dict()

    @contextmanager
    def _tapped(self, indices: set[int], emit: Callable[[int, Tensor], None], stop: bool, raw: bool) -> Iterator[None]:
        def hand_on(index: int) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                tap = self.without_added(output)
                if self.facts.taps[index].order and not raw:
                    tap = tap.index_select(1, self.get_buffer(f"order_{index}"))
                if self.pools_added and index == len(self.facts.taps) - 1:
                    carry(tap, output[:, self.facts.prefix :][:, : self.added_tokens])
                emit(index, tap)
                if stop and index == max(indices):
                    raise _Reached

            return hook

        modules = {i: self.net.get_submodule(self.facts.taps[i].module) for i in indices}
        if self.recomputes:
            modules = {i: last_called(module) for i, module in modules.items()}
        handles = [m.register_forward_hook(hand_on(i), prepend=raw) for i, m in modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
