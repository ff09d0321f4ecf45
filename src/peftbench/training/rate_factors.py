"""What each parameter's learning rate is multiplied with, by its name: the one place where all such factors meet."""

from __future__ import annotations

import math

from peftbench import config
from peftbench.backbones.depths import layers_below_head
from peftbench.common.errors import UserError
from peftbench.methods.base import Method
from peftbench.models.model import Model
from peftbench.optim import Factors

_BACKBONE, _HEAD = "backbone.net.", "task."


def rate_factors(model: Model, method: Method, spec: config.Optimizer) -> Factors:
    """Factors on the learning rate of what trains; names with a factor of 1 are left out.

    A parameter's factor is the product of the method's own (`Method.rates`), of `layer_decay` to the power of how many
    layers it lies below the head where it is in the backbone, and of `head_lr` where it is the task's. A side net
    stands beside the backbone and has no depth.

    Args:
        model: adapted by the method.
        method: which may have factors of its own.
        spec: of the run.

    Raises:
        UserError: the method names something that does not train, or its factor is not a number above 0.
    """
    names = [name for name, _ in model.trainable()]
    factors = dict.fromkeys(names, 1.0)
    for name, factor in method.rates(names).items():
        if name not in factors or not 0 < factor < math.inf:
            raise UserError(
                f"{type(method).__name__}.rates(): {name}={factor}: expected the name of something that trains, and a "
                f"number above 0."
            )
        factors[name] = float(factor)
    if spec.layer_decay is not None:
        inside = {name: name.removeprefix(_BACKBONE) for name in names if name.startswith(_BACKBONE)}
        layers = layers_below_head(model.backbone, inside.values())
        for name, own in inside.items():
            factors[name] *= spec.layer_decay ** layers[own]
    for name in names:
        if name.startswith(_HEAD):
            factors[name] *= spec.head_lr
    return {name: factor for name, factor in factors.items() if factor != 1}
