"""Deltas in models: attached, and detached again without a trace."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from peftbench.common.errors import Refusal, UserError
from peftbench.models.model import Model


def attach(model: Model, tensors: Mapping[str, Tensor], source: str) -> Attached:
    """Puts a delta's tensors into a model built by the same config, in the place of what is there.

    Nothing is added to a weight or written into it: the old tensors are kept, so that detaching gives their very bits.

    Raises:
        Refusal: the delta is of another model: it holds a tensor that the model has not, or has in another shape or
            type; or it lacks one that the backbone cannot give.
    """
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state:
            raise Refusal(f"{source}: holds {name}, which this model has not; it was made by another model.")
        if (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
            ours, theirs = (f"{list(t.shape)} in {str(t.dtype)[6:]}" for t in (state[name], tensor))
            raise Refusal(
                f"{source}: {name} has shape {theirs}, this model's has {ours}; it was made by another model."
            )
    start = model.start()
    if missing := [n for n in state if n not in tensors and n not in start]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Refusal(
            f"{source}: lacks {missing[0]}{more}, which a delta of this model must hold; it was made by another model, "
            f"or is not whole."
        )
    return Attached(model, tensors)


class Attached:
    """A delta in a model. The tensors that were in its place are kept, and `detach` puts them back.

    Attributes:
        model: the model that the delta is in.
        before: name -> the tensor that was there before; empty once the delta is detached.
        put: name -> the tensor object that the delta put there.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.model = model
        self.before: dict[str, Tensor] = {}
        objects = {name: tensor.detach() for name, tensor in tensors.items()}  # new ones, by which it knows its own
        self._swap(objects, self.before)
        self.put = {name: self._tensor_at(name) for name in objects}

    def detach(self) -> None:
        """The model is as it was before, to the bit.

        Raises:
            UserError: it has been detached already, or something else is now in the place of its tensors: another
                delta that was attached after it is detached first.
        """
        if not self.before:
            raise UserError("this delta has been detached already.")
        for name, put in self.put.items():
            if self._tensor_at(name) is not put:
                raise UserError(
                    f"this delta cannot be detached: {name} of the model is no longer what it put there; detach first "
                    f"what was attached after it, and undo what else was done to the model."
                )
        before, self.before, self.put = self.before, {}, {}
        self._swap(dict(reversed(before.items())), {})  # a module under two names was swapped twice

    def _place(self, name: str) -> tuple[dict[str, Tensor | None], str]:
        """The parameters or buffers of the module that owns a tensor, and the tensor's name among them."""
        path, _, last = name.rpartition(".")
        owner = self.model.get_submodule(path)
        return (owner._buffers if last in owner._buffers else owner._parameters), last  # type: ignore[return-value]

    def _tensor_at(self, name: str) -> Tensor | None:
        try:
            tensors, last = self._place(name)
        except AttributeError:  # its module is gone
            return None
        return tensors.get(last)

    def _swap(self, tensors: Mapping[str, Tensor], before: dict[str, Tensor]) -> None:
        """Puts `tensors` into the model and notes in `before` what was in their place."""
        for name, tensor in tensors.items():
            owner, last = self._place(name)
            old = owner[last]
            assert old is not None
            before[name] = old
            if isinstance(old, nn.Parameter):
                if not isinstance(tensor, nn.Parameter):
                    tensor = nn.Parameter(tensor.to(old.device), requires_grad=old.requires_grad)
                owner[last] = tensor
            else:
                owner[last] = tensor.to(old.device)
        drop_cached_values(self.model)


def drop_cached_values(model: nn.Module) -> None:
    """Has modules forget what they computed from their weights in eval mode (timm's caches of attention biases)."""
    mode = model.training
    model.train(True)
    model.train(mode)
