"""Small detectors, and scenes to train them on."""

from __future__ import annotations

import copy
import dataclasses

import torch

import peftbench
from peftbench.backbones import Backbone
from peftbench.common.config_files import names
from peftbench.config import CONFIGS
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.tasks.base import task_class
from support.backbones import method as method_of
from support.backbones import on_meta

DETECTORS = ("fasterrcnn", "retinanet", "fcos")
FAMILIES = {"cnn": "resnet_nano", "vit": "vit_nano", "hybrid": "hybrid_nano"}


def _refused(method):
    """Whether it pools features itself, solves a head, or compares two predictions, which dense tasks refuse."""
    return method.pools or method.solves or method.needs_consistency


METHODS = [m for m in names("method", [CONFIGS]) if not m.startswith("vpt") and not _refused(method_of(m))]
"""All that a detector trains with; VPT, which is of plain ViTs alone, has detectors of its own in its tests."""
SMALL = ["data=digits_det", "task.width=64", "task.hidden=16", "task.rois=16"]
CANVAS = (64, 96)


def scenes(sizes=(CANVAS, (64, 48))):
    """Images on the canvas with targets: one with two objects, the others with none, valid to these sizes."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(sizes), 3, *CANVAS), dtype=torch.uint8, generator=g)
    some = {"boxes": torch.tensor([[4.0, 6, 40, 44], [20, 10, 90, 60]]), "labels": torch.tensor([0, 2])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    about = [{"size": (h, w), "scale": (0.5, 2.0), "original": (h // 2, w * 2)} for h, w in sizes]
    return images, [{**(none if i else some), **a} for i, a in enumerate(about)]


def composed(method, backbone, *words, size=CANVAS):
    given = compose_words(method, backbone, words)
    spec = peftbench.compose(*given)
    return dataclasses.replace(spec, data=dataclasses.replace(spec.data, size=size))


def compose_words(method, backbone, words):
    return [f"method={method}", f"backbone={backbone}", *SMALL, *words]


_started: dict[str, Backbone] = {}


def started(spec, built):
    """The backbone that a run starts from, of what the task and the method accept; each is built once."""
    if spec.pruning.name != "none":
        refuse_incompatible(spec, built)
        return starting_backbone.build_starting_backbone(spec, built)
    task, meta = task_class(spec.task), on_meta(spec.backbone, starting_backbone.input_size(spec))
    built.check(meta)
    task.refuse(spec, built.fixed_size, meta)
    key = repr((spec.backbone, spec.task, spec.data.size, spec.seed))
    if key not in _started:
        _started[key] = starting_backbone.build_starting_backbone(spec, built)
    return copy.deepcopy(_started[key])


def make(method, backbone, *words, size=CANVAS):
    spec = composed(method, backbone, *words, size=size)
    built = instantiate(spec.method)
    net = started(spec, built)
    torch.manual_seed(1)
    model = Model(net, task_class(spec.task).build(spec.task, net, ("a", "b", "c")))
    with torch.random.fork_rng():
        plan = built.prepare(model, [scenes()])
    model.adapted(built.adapt(net, plan))
    model.method = built
    return model


def trained(model, count=2, kind=torch.optim.SGD, lr=0.05):
    """The losses of steps on one batch, with the same proposals drawn each time."""
    named = model.trainable()
    inner = kind(named, lr)
    optimizer = model.method.optimizer(named, {n: p.detach().clone() for n, p in named}, inner)
    optimizer.objective = lambda: model.loss(scenes())  # of TPGM
    losses = []
    for _ in range(count):
        model.train()
        torch.manual_seed(2)
        loss = model.loss(scenes())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
