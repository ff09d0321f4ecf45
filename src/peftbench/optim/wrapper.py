"""What optimizers that stay near a start have in common: an inner optimizer, names, and anchors."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from peftbench.common.errors import Refusal, UserError, nearest


class Anchored(Optimizer):
    """An optimizer around another one, which knows where each of its tensors began.

    `param_groups`, `state` and `defaults` are those of the inner optimizer, so that schedulers, gradient clipping and
    scaling work on it unseen.

    Args:
        inner: any torch optimizer; names come from it where it was built with `model.named_parameters()`.
        anchors: name -> tensor; None takes the values that the parameters have now, before any checkpoint is loaded.
        exclude: names of tensors that the inner optimizer has to itself (a freshly initialised head).

    Raises:
        UserError: a name that the inner optimizer has not, names where it knows none, an anchor that is missing or of
            another shape.
        Refusal: sharded parameters, of which no process holds a whole row.
    """

    needs_held_out_loss: ClassVar[bool] = False
    """Its steps differentiate `objective`, the loss of a held-out batch, which training sets as an attribute."""

    def __init__(
        self, inner: Optimizer, *, anchors: Mapping[str, Tensor] | None = None, exclude: Collection[str] = ()
    ) -> None:
        self.inner = inner
        self._built = False
        super().__init__(inner.param_groups, inner.defaults)
        self._built = True
        label = type(self).__name__
        if isinstance(inner, Anchored):
            raise UserError(f"{label} around {type(inner).__name__}: one of them is enough; give a plain optimizer.")
        if isinstance(exclude, str):
            exclude = (exclude,)
        named = self.named()
        if any(hasattr(p, "to_local") for _, p in named):
            raise Refusal(f"{label} needs whole tensors and does not run sharded; trainer=ddp and one device do.")
        names = {n for n, _ in named if n is not None}
        needed = [("exclude", exclude), ("anchors", anchors or ())]
        for key, needed_names in needed:
            if len(needed_names) and not names:
                raise UserError(
                    f"{label} {key}={sorted(needed_names)[:3]}: the inner optimizer knows no names; build it with "
                    f"model.named_parameters()."
                )
            for name in needed_names:
                if name not in names:
                    raise UserError(f"{label} {key}: there is no tensor '{name}'{nearest(name, names)}.")
        self.exclude = frozenset(exclude)
        self.tensors = [p for n, p in named if n not in self.exclude]
        """The parameters that are held near their anchors, in the order of the inner optimizer's groups."""
        self.names = [n for n, _ in named if n not in self.exclude]
        self.anchors = [self._anchor(n, p, anchors) for n, p in zip(self.names, self.tensors, strict=True)]
        self._digests: list[str] | None = None

    def named(self) -> list[tuple[str | None, torch.nn.Parameter]]:
        """(name or None, parameter) of every parameter of the inner optimizer, in its order."""
        named: list[tuple[str | None, torch.nn.Parameter]] = []
        for group in self.param_groups:
            names = group.get("param_names") or [None] * len(group["params"])
            named += zip(names, group["params"], strict=True)
        return named

    def _anchor(self, name: str | None, parameter: Tensor, anchors: Mapping[str, Tensor] | None) -> Tensor:
        if anchors is None:
            return parameter.detach().clone()
        assert name is not None
        if name not in anchors:
            raise UserError(f"{type(self).__name__} anchors: '{name}' has none; give one, or exclude it.")
        if anchors[name].shape != parameter.shape:
            raise UserError(
                f"{type(self).__name__} anchors: '{name}' has shape {list(anchors[name].shape)}, its parameter "
                f"{list(parameter.shape)}."
            )
        # In the parameter's own strides: what is computed from both then runs along memory.
        return torch.empty_like(parameter).copy_(anchors[name].detach())

    # -- the inner optimizer, seen from outside

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's groups."""
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        if self._built:
            self.inner.param_groups = value

    @property
    def state(self) -> Any:
        """The inner optimizer's state; what this one keeps is in `own_state`."""
        return self.inner.state

    @state.setter
    def state(self, value: Any) -> None:
        if self._built:
            self.inner.state = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once built: what joins late has no anchor from the start. Raises UserError."""
        if self._built:
            raise UserError(f"{type(self).__name__}: give the inner optimizer every parameter before it is wrapped.")

    def __getstate__(self) -> dict[str, Any]:
        """Everything, since torch's own keeps three attributes alone."""
        return self.__dict__

    # -- steps and states

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimizer and what this one adds. `closure` is called once, before both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    @abstractmethod
    def _step(self) -> None:
        """Steps the inner optimizer and does what this one adds; without gradients."""

    def own_state(self) -> list[dict[str, Tensor]]:
        """What this optimizer keeps for each of `tensors`: loading copies into these very tensors."""
        return [{} for _ in self.tensors]

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and under `anchored` what this one keeps for each tensor, by its place among all."""
        places = {p: i for i, (_, p) in enumerate(self.named())}
        own = {
            places[p]: {"name": n, "anchor": d, **{k: t.clone() if t.ndim == 0 else t for k, t in kept.items()}}
            for p, n, d, kept in zip(self.tensors, self.names, self._anchor_digests(), self.own_state(), strict=True)
        }
        return {**self.inner.state_dict(), "anchored": {"kind": type(self).__name__, "tensors": own}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken, bit for bit, if the anchors are the same.

        Raises:
            UserError: it is the state of another optimizer or model, or of other anchors, which happens when this
                optimizer was built after the trained weights had been loaded.
        """
        label = type(self).__name__
        kept = state_dict.get("anchored")
        if not isinstance(kept, Mapping) or kept.get("kind") != label:
            kind = kept.get("kind") if isinstance(kept, Mapping) else "a plain optimizer"
            raise UserError(f"the state is that of {kind}; expected one of {label}.")
        places = {p: i for i, (_, p) in enumerate(self.named())}
        mine = {places[p]: i for i, p in enumerate(self.tensors)}
        theirs: Mapping[int, Mapping[str, Any]] = kept["tensors"]
        if set(theirs) != set(mine):
            raise UserError(
                f"the state is of another model, or excludes other tensors: it holds {len(theirs)} tensors, "
                f"expected {len(mine)}."
            )
        own, digests = self.own_state(), self._anchor_digests()
        for place, i in mine.items():
            name = self.names[i] or f"tensor {place}"
            entry = theirs[place]
            if entry["name"] not in (None, self.names[i]) and self.names[i] is not None:
                raise UserError(f"the state is of another model: it has '{entry['name']}' where '{name}' is expected.")
            for key, tensor in own[i].items():
                if key not in entry or entry[key].shape != tensor.shape:
                    shape = list(entry[key].shape) if key in entry else "nothing"
                    raise UserError(
                        f"the state is of another model: {key} of '{name}' is {shape}, expected {list(tensor.shape)}."
                    )
            if entry["anchor"] != digests[i]:
                raise UserError(
                    f"the state was saved with another anchor of '{name}'; build {label} on the starting weights, and "
                    f"load the trained ones after that."
                )
        self.inner.load_state_dict({k: v for k, v in state_dict.items() if k != "anchored"})
        with torch.no_grad():
            for place, i in mine.items():
                for key, tensor in own[i].items():
                    tensor.copy_(theirs[place][key])

    def _anchor_digests(self) -> list[str]:
        """Short hashes: a checkpoint need not hold the anchors to know them again."""
        if self._digests is None:
            self._digests = [_digest(a) for a in self.anchors]
        return self._digests


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    return hashlib.sha256(data.numpy().data).hexdigest()[:16]
