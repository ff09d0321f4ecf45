"""Modules without weights: what a backbone is made of whose weights stay in their file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from peftbench.common.errors import Refusal

INSTEAD = "give backbone.stream=false"


class Absent(nn.Parameter):
    """A parameter whose values are in the file. It has a shape, but takes part in no operation with real tensors.

    A plain tensor on the meta device would not do: torch multiplies a real matrix by one without an error, and the
    result is whatever was in memory.

    Raises:
        Refusal: an operation takes it together with a real tensor.
    """

    label = "a weight"

    @staticmethod
    def of(parameter: nn.Parameter, label: str) -> Absent:
        """The absent form of a parameter; a refusal calls it by `label`."""
        absent = Absent(parameter.detach(), requires_grad=False)
        absent.label = label
        return absent

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            tensors = tensors_in((args, kwargs))
            if not all(t.is_meta for t in tensors):
                label = next((t.label for t in tensors if isinstance(t, Absent)), Absent.label)
                raise Refusal(
                    f"backbone.stream=true: {label} is read outside the block that it belongs to, so this model "
                    f"cannot be streamed; {INSTEAD}."
                )
        return super(nn.Parameter, cls).__torch_function__(func, types, args, kwargs or {})  # nn.Parameter's is off


class Weightless(TorchFunctionMode):
    """Modules that are made inside have no weights: their parameters are on the meta device, their buffers real.

    What is loaded into a parameter is only noted: `source(parameter)` is the tensor that it was to be copied from.

    Raises:
        Refusal: a real tensor is computed from weights, of which there are none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}  # the parameter too, so that its id stays its own

    def __enter__(self) -> Weightless:
        self._hook = register_module_parameter_registration_hook(_forget)  # type: ignore[arg-type]
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        self._hook.remove()
        super().__exit__(*problem)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_ and args[0].is_meta:
            self._sources[id(args[0])] = (args[0], args[1])
            return args[0]
        if func == Tensor.device.__get__:  # a model asks it in order to put a buffer there
            return torch.device("cpu")
        result = func(*args, **(kwargs or {}))
        inputs = {t.is_meta for t in tensors_in((args, kwargs))}
        if inputs == {True, False} and not all(t.is_meta for t in tensors_in(result)):
            raise Refusal(
                f"backbone.stream=true: the model computes with its weights while it is made, so it cannot be "
                f"streamed; {INSTEAD}."
            )
        return result

    def source(self, parameter: nn.Parameter) -> Tensor | None:
        """The tensor that was loaded into a parameter; None where nothing was."""
        return self._sources.get(id(parameter), (None, None))[1]


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _forget(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
    if parameter.is_meta:
        return None
    return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
