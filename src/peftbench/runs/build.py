"""From the sections of a config to objects: method, data set, backbone, transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from peftbench import backbones
from peftbench.config import Config
from peftbench.config.given import refuse_no_config
from peftbench.data.images import Preparation
from peftbench.runs import starting_backbone
from peftbench.runs.data_sets import instantiate as instantiate
from peftbench.tasks.base import task_class


def build_backbone(spec: Config, tell: Callable[[str], None] = lambda text: None) -> backbones.Backbone:
    """The backbone that a run starts from: its weights (random ones drawn from the run's seed), pruned as it says.

    Raises:
        UserError: what is no config, and as `starting_backbone.build`.
    """
    refuse_no_config("build_backbone", spec)
    return starting_backbone.build_starting_backbone(spec, instantiate(spec.method), tell)


def unstreamed(spec: Config) -> Config:
    """The same config with all of its backbone in memory, where a run streamed it from its file."""
    return dataclasses.replace(spec, backbone=dataclasses.replace(spec.backbone, stream=False))


def in_one_pass(spec: Config) -> Config:
    """The same config with one look at an image: see `Task.in_one_pass`."""
    return task_class(spec.task).in_one_pass(spec)


def transform_of(spec: Config, backbone: backbones.Backbone) -> Preparation:
    """From an image to this backbone's input, as the task prepares it."""
    return task_class(spec.task).transform(spec, backbone.facts)
