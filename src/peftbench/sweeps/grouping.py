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

_FREE = (
    "lr",
    "weight_decay",
    "betas",
    "momentum",
    "nesterov",
    "schedule",
    "warmup",
    "min_lr",
    "head_lr",
    "decay_norms",
)


def joint_signature(config: Config) -> Hashable | None:
    """Equal for runs that can be trained together; None for a run that cannot be with any.

    Options of the method, settings of the optimizer, and seeds (but where the side net draws in training) may differ;
    the order of the batches may not, which is `data.order_seed` or else the seed. Runs with shifted test sets
    (`data.ood`, or the data set's own), with a method that has an optimizer or a last step of its own or whose head is
    solved, or with an optimizer other than AdamW and SGD go apart; so do those of a task that trains alone, and those
    that decide in their course what they keep or when they end (`trainer.keep`, `patience`, `minutes`, `ema`) or at
    which rate they train (`optimizer.find_lr`).
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
    for key in _FREE:
        whole["optimizer"].pop(key, None)
    seed = whole.pop("seed")
    whole["data"]["order_seed"] = seed if config.data.order_seed is None else config.data.order_seed
    if not config.backbone.pretrained:
        whole["backbone"]["seed"] = seed  # its weights are drawn from it
    if side.draws:
        whole["seed"] = seed
    taps = (side.wanted, side.condensed, backbone.pooling, type(side).__qualname__, config.backbone.weights)
    return json.dumps([whole, taps, config.output_dir, config.force], sort_keys=True)


def _apart(config: Config, method: Method) -> bool:
    return (
        method.solves
        or method.own_optimizer
        or method.finishes
        or bool(config.data.ood)
        or instantiate(config.data).shifts
        or config.trainer.alone
        or config.optimizer.find_lr
        or config.optimizer.library != "own"
        or config.optimizer.name not in ("adamw", "sgd")
    )


def arrange_in_groups(configs: Sequence[Config], size: int) -> list[list[int]]:
    """Indices of the configs in groups that can be trained in one pass, up to `size` each."""
    if size == 1:
        return [[i] for i in range(len(configs))]
    signatures: list[Hashable | None] = []
    for config in configs:
        try:
            signatures.append(joint_signature(config))
        except UserError:  # said again, and recorded, when its turn comes
            signatures.append(None)
    return group_by_signature(signatures, size)


def group_by_signature(signatures: Sequence[Hashable | None], size: int) -> list[list[int]]:
    """Indices in groups of up to `size` with equal signatures, in order of their first."""
    groups: list[list[int]] = []
    latest: dict[Hashable, list[int]] = {}  # the group of each signature that runs may still join
    for index, signature in enumerate(signatures):
        group = latest.get(signature) if signature is not None else None
        if group is not None and len(group) < size:
            group.append(index)
            continue
        groups.append([index])
        if signature is not None:
            latest[signature] = groups[-1]
    return groups
