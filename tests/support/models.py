"""A small model that a method has adapted, its plan made as a run makes it."""

import torch

from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import SMALL, with_weights
from support.backbones import method as method_of
from support.batches import batch


def adapted_model(method, family, *words, classes=3):
    """The model of three classes on a backbone, one of `SMALL` or any; `model.method` is the method."""
    backbone = with_weights(SMALL[family] if isinstance(family, str) else family, 32)
    built = method_of(method, *words)
    built.check(backbone)
    model = Model(backbone, Classification(backbone, ["x"] * classes))
    with torch.random.fork_rng():
        plan = built.prepare(model, [batch()] * 2)
    model.adapted(built.adapt(backbone, plan))
    model.method = built
    return model
