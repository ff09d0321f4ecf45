"""The models that several topics measure: random weights, ten classes, fused AdamW."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

import peftbench
from peftbench.config import Config
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs.build import instantiate
from peftbench.tasks.base import task_class

CLASSES = [str(i) for i in range(10)]


def random_config(*words: str) -> Config:
    """The config of these words, with a backbone of random weights."""
    return peftbench.compose("backbone.pretrained=false", *words)


def plain_model(config: Config, classes: Sequence[str] = CLASSES) -> Model:
    """The backbone and the task's head, without a method."""
    backbone = peftbench.build_backbone(config)
    return Model(backbone, task_class(config.task).build(config.task, backbone, classes))


def adapted_model(config: Config, classes: Sequence[str] = CLASSES, batches: Iterable[Any] | None = None) -> Model:
    """The same, adapted by the config's method, which looks at `batches` first where they are given."""
    torch.manual_seed(0)
    model = plain_model(config, classes)
    method = instantiate(config.method)
    plan = Plan() if batches is None else method.prepare(model, batches)
    model.adapted(method.adapt(model.backbone, plan))
    return model


def training_step(
    model: Any, optimizer: torch.optim.Optimizer, loss: Callable[[Any], torch.Tensor]
) -> Callable[[], None]:
    """A call that makes one training step."""

    def step() -> None:
        value = loss(model)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def fused_adamw(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """AdamW as peftbench runs it."""
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


def hf_peft(topic: str) -> Any:
    """Hugging Face's `peft`, the peer; where it is missing, the benchmark ends with one sentence."""
    try:
        import peft
    except ImportError:
        sys.exit(f"bench {topic}: its peer is HF peft; pip install 'peftbench[bench]'.")
    return peft
