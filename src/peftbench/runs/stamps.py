"""What a number needs to be compared: weights, data, code and machine."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

import torch

from peftbench import backbones
from peftbench.common.commit import code_commit
from peftbench.common.machine import processor_name
from peftbench.config import Config
from peftbench.data.base import Splits
from peftbench.results.task_results import results_of_task
from peftbench.runs import starting_backbone
from peftbench.runs.build import transform_of
from peftbench.tasks.base import task_class


def stamps_of(config: Config, backbone: backbones.Backbone, splits: Splits, hash_: str) -> dict[str, Any]:
    """What a number needs to be compared: weights, data, code and machine."""
    task = task_class(config.task)
    start = task.stamp(config.task, task.start_file(config.task, config.backbone))
    weights = f"those of task.weights={start['weights']}" if start else config.backbone.weights
    return {
        "backbone": {
            "name": config.backbone.name,
            "weights": weights if config.backbone.pretrained else "random",
            "pretrained": config.backbone.pretrained,
            "fingerprint": backbone.fingerprint,
            "input_size": backbone.facts.input_size,
            **({"quantize": coded} if (coded := starting_backbone.quantize_stamp(backbone)) else {}),
            **({"pruning": pruned} if (pruned := starting_backbone.pruning_stamp(backbone, config)) else {}),
        },
        "data": {
            "split": splits.name,
            "stage": config.data.stage,
            "hash": hash_,
            "source": splits.source,
            "classes": len(splits.classes),
            "frames": splits.train.frames,
            **({"notes": list(splits.notes)} if splits.notes else {}),
            **task.looks_at(config),
            "transform": dataclasses.asdict(transform_of(config, backbone)),
        },
        **({"task": start} if start else {}),
        "judged_by": results_of_task(config.task.name, config.task.path).metric,
        "seed": config.seed,
        "versions": {n: version(n) for n in ("peftbench", "torch", "torchvision", "timm", "lightning", "numpy")},
        "commit": code_commit(),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
