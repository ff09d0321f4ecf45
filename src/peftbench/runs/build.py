"""From the sections of a config to objects: method, data set, backbone, transform."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from peftbench import backbones
from peftbench.config import Config
from peftbench.data.images import IMAGENET, Transform
from peftbench.runs import starting_backbone
from peftbench.tasks.detection.scenes import SceneTransform


def instantiate(section: Any) -> Any:
    """The object that a config section's import path names, with the section's options."""
    module, _, name = section.path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    options = {f.name: section.options[f.name] for f in dataclasses.fields(kind) if f.name in section.options}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def build_backbone(spec: Config, tell: Callable[[str], None] = lambda text: None) -> backbones.Backbone:
    """The backbone that a run starts from: its weights (random ones drawn from the run's seed), pruned as it says.

    Raises:
        UserError: as `starting_backbone.build`.
    """
    return starting_backbone.build(spec, instantiate(spec.method), tell)


def unstreamed(spec: Config) -> Config:
    """The same config with all of its backbone in memory, where a run streamed it from its file."""
    return dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, stream=False))


def transform_of(spec: Config, backbone: backbones.Backbone) -> Transform | SceneTransform:
    """From an image to this backbone's input."""
    facts, data = backbone.facts, spec.data
    scales = {"model": (facts.mean, facts.std), "imagenet": IMAGENET, "none": ((0.0,) * 3, (1.0,) * 3)}
    filter_ = facts.interpolation if data.interpolation == "model" else data.interpolation
    mean, std = scales[data.normalize]
    if spec.task.name == "detection":
        size = None if data.size is None else facts.canvas
        shorter, longer = data.options["min_size"], data.options["max_size"]
        coarsest = max(
            starting_backbone.DIVISOR, *(round(facts.canvas[0] / tap.grid[0]) for tap in facts.taps if tap.grid)
        )
        return SceneTransform(size, tuple(shorter), longer, filter_, mean, std, data.augment, coarsest)
    assert isinstance(facts.input_size, int)
    return Transform(facts.input_size, filter_, mean, std, data.augment)
