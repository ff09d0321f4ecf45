"""Whether a run goes on from the taps of a frozen prefix of its backbone, as a side method does from all taps."""

from __future__ import annotations

from collections.abc import Callable

from peftbench.config import Config
from peftbench.methods.base import Method
from peftbench.models.kept_taps import why_in_one_pass
from peftbench.models.model import Model


def choose_prefix(
    config: Config, method: Method, model: Model, one_size: bool, tell: Callable[[str], None] = lambda text: None
) -> None:
    """Has an adapted model compute the blocks before the first trained layer apart, where method and config allow it.

    `one_size` is whether all images have the same size; `tell` is called with why not, where taps were asked for.
    """
    if not method.prefix:
        return
    why = why_in_one_pass(config, one_size) or model.start_behind_prefix(method.prefix == "all")
    if why and config.taps.mode in ("memory", "disk"):
        tell(f"taps={config.taps.mode}: no block of {model.backbone.facts.name} runs ahead of training, since {why}")
