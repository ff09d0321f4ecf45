"""Which runs of a sweep can be trained together, and which are one and the same."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence

from peftbench.common.errors import UserError
from peftbench.config import Config, identity
from peftbench.methods.base import Method, Plan
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.tasks.base import task_class

_OWN = ("lr", "weight_decay", "betas", "momentum", "nesterov", "schedule", "warmup", "min_lr")


def signature(config: Config) -> Hashable | None:
    """Equal for runs that can be trained together; None for a run that cannot be with any.

    Seeds, options of the method and settings of the optimizer may differ; the order of the batches may not, which is
    `data.order_seed` or else the seed. Runs with shifted test sets (`data.ood`), with a method that has an optimizer or
    a last step of its own, or with an optimizer other than AdamW and SGD go apart, and so does detection.
    Raises Refusal where the method refuses the backbone.
    """
    method: Method = instantiate(config.method)
    several = config.trainer.devices * config.trainer.nodes > 1
    if not method.side or several or not task_class(config.task).trains_jointly:
        return None
    if _apart(config, method):
        return None
    backbone = refuse_incompatible(config, method)
    side = method.adapt(backbone, Plan())
    if side is None:  # one that feeds back into the backbone
        return None
    whole = identity(config)
    del whole["method"]["options"]
    for key in _OWN:
        del whole["optimizer"][key]
    seed = whole.pop("seed")
    whole["data"]["order_seed"] = seed if config.data.order_seed is None else config.data.order_seed
    if not config.backbone.pretrained:
        whole["backbone"]["seed"] = seed  # its weights are drawn from it
    taps = (side.wanted, side.condensed, backbone.pooling, type(side).__qualname__, config.backbone.weights)
    return json.dumps([whole, taps, config.output_dir, config.force], sort_keys=True)


def _apart(config: Config, method: Method) -> bool:
    return (
        method.own_optimizer
        or method.finishes
        or bool(config.data.ood)
        or config.optimizer.name not in ("adamw", "sgd")
    )


def arranged(configs: Sequence[Config], size: int) -> list[list[int]]:
    """Indices of the configs in groups that can be trained in one pass, up to `size` each."""
    if size == 1:
        return [[i] for i in range(len(configs))]
    kinds: list[Hashable | None] = []
    for config in configs:
        try:
            kinds.append(signature(config))
        except UserError:  # said again, and recorded, when its turn comes
            kinds.append(None)
    return groups(kinds, size)


def groups(signatures: Sequence[Hashable | None], size: int) -> list[list[int]]:
    """Indices in groups of up to `size` with equal signatures, in order of their first."""
    found: list[list[int]] = []
    open_: dict[Hashable, list[int]] = {}
    for index, own in enumerate(signatures):
        if own is None or size == 1 or len(open_.get(own, [0] * size)) >= size:
            found.append([index])
            if own is not None:
                open_[own] = found[-1]
        else:
            open_[own].append(index)
    return found
