"""A whole detector as a file, in the form that `task.weights` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch

from peftbench.backbones import Backbone
from peftbench.backbones.weights import BODY
from peftbench.tasks.detection.pretrained import FORMAT
from peftbench.tasks.detection.task import Detection


def save_detector(
    task: Detection,
    backbone: Backbone,
    path: Path,
    detector: str,
    half: bool = False,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes the whole detector, backbone included, in the form that `task.weights` reads.

    Args:
        detector: `task.detector` of the run.
        half: write floating-point numbers in half precision.
        about: what else the file should say of itself.
    """
    state = {f"{BODY}{n}": t for n, t in backbone.net.state_dict().items()} | task.detector.net.state_dict()
    told = {
        **(about or {}),
        "format": FORMAT,
        "backbone": backbone.facts.name,
        "detector": detector,
        "classes": json.dumps(list(task.classes)),
    }
    if half:
        state = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    safetensors.torch.save_file({n: t.contiguous() for n, t in state.items()}, path, told)
