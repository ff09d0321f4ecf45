"""The rule of tasks whose images are squares."""

from __future__ import annotations

from peftbench.common.errors import UserError
from peftbench.config.schema import Config


def refuse_other_shapes(config: Config) -> None:
    """Raises UserError: images that are not square."""
    if isinstance(config.data.size, tuple):
        raise UserError(
            f"data.size={list(config.data.size)}: task={config.task.name} takes square images; give one number."
        )
