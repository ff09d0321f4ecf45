"""What of a frozen backbone need not be hashed again for each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from peftbench.deltas import changed_tensors


class Unmoved:
    """Finds what has changed since the start, and looks at a frozen weight once as long as nobody writes to it.

    torch counts what is written to a tensor. A weight that trains, a buffer and a shard are looked at each time.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = [module]  # in a list: it is no part of itself
        self._as_it_was: dict[str, tuple[int, int]] = {}

    def changed(self, state: Mapping[str, Tensor], start: Mapping[str, str]) -> dict[str, Tensor]:
        """As `changed_tensors`, of the module's own state."""
        frozen = {
            name: (parameter.data_ptr(), parameter._version)
            for name, parameter in self._module[0].named_parameters(remove_duplicate=False)
            if name in start and name in state and _stays(parameter, state[name])
        }
        known = {name for name, mark in frozen.items() if self._as_it_was.get(name) == mark}
        changed = changed_tensors({n: t for n, t in state.items() if n not in known}, start)
        self._as_it_was = {name: mark for name, mark in frozen.items() if name not in changed}
        return changed


def _stays(parameter: Tensor, kept: Tensor) -> bool:
    """Whether it is whole, here and frozen, and what is kept is the parameter's own memory."""
    if parameter.requires_grad or parameter.is_meta or hasattr(parameter, "to_local"):
        return False
    return parameter.data_ptr() == kept.data_ptr()
