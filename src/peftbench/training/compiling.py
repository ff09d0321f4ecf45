"""`trainer.compile`: the blocks of the backbone, compiled for training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from peftbench.backbones.checkpointing import last_called
from peftbench.backbones.facts import WHOLE
from peftbench.common import terminal
from peftbench.common.foreign_text import first_sentence
from peftbench.common.out_of_memory import is_out_of_memory
from peftbench.common.seeds import random_numbers_kept
from peftbench.costs import wait_for
from peftbench.data.images import Indices
from peftbench.training.micro_batches import sizes_of_parts

RECOMPILED_AT_MOST = 256
"""Blocks of a kind share their code, and each shape of theirs is compiled; dynamo gives up after 8 by itself."""


class CompiledBlocks:
    """While training lasts, each block's `forward` is compiled; hooks, names and files know nothing of it.

    Hooks, which give the taps, are called around `forward`, so that they see what they see without. Outside of train
    mode a block computes as it does without: what is validated and tested is what a loaded model computes.

    Every size of a batch is compiled before the first step, by a pass that leaves no trace. Where that fails the run
    goes on without, and says so once. Compiled code is of one shape (`dynamic=False`), so that the bits of a step
    depend on nothing that came before it, and a run resumes to the same bits.

    Attributes:
        blocks: how many blocks are compiled.
        seconds: what compiling took.
        why_not: why none is, where none is.
    """

    def __init__(self) -> None:
        self.blocks, self.seconds, self.why_not = 0, 0.0, ""
        self._changed: list[nn.Module] = []

    def begin(self, fit: Any) -> None:
        """Compiles for every size of batch of this training; the loss is that of `fit.model`."""
        began = time.perf_counter()
        if fit.model.task.blank_targets(1) is None:
            self.why_not = "the sizes of its batches are not known before"
        else:
            try:
                self.compile(fit.model.backbone)
                for images in _sizes(fit):
                    _pass(fit, images)
            except Exception as problem:  # dynamo, its compiler and a model each fail in their own ways
                if is_out_of_memory(problem):
                    raise
                self.end()
                self.why_not = first_sentence(problem, 160)
        wait_for(fit.device)
        self.seconds = time.perf_counter() - began
        self.blocks = len(self._changed)
        if self.why_not and fit.trainer.is_global_zero:
            text = f"trainer.compile=true: this model is trained without, since it cannot be compiled: {self.why_not}"
            terminal.console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """The blocks are as they were."""
        for block in self._changed:
            del block.forward
        self._changed = []

    def stamp(self) -> dict[str, Any]:
        """What the record says: how many blocks were compiled, or why none was."""
        return {"blocks": self.blocks, "without": self.why_not} if self.why_not else {"blocks": self.blocks}

    def compile(self, backbone: Any) -> None:
        """Has the blocks compile when they first compute in train mode. Raises RuntimeError where there is none."""
        import torch._dynamo

        limit = torch._dynamo.config.cache_size_limit
        torch._dynamo.config.cache_size_limit = max(limit, RECOMPILED_AT_MOST)
        for block in _blocks(backbone):
            block.forward = _compiled_in_train_mode(block)
            self._changed.append(block)
        if not self._changed:
            raise RuntimeError("it is not cut into blocks")


def _compiled_in_train_mode(block: nn.Module) -> Any:
    plain = block.forward
    compiled = torch.compile(plain, dynamic=False)

    def forward(*arguments: Any, **named: Any) -> Any:
        return (compiled if block.training else plain)(*arguments, **named)

    return forward


def _blocks(backbone: Any) -> list[nn.Module]:
    """The tapped modules, those of plain sequences one by one: blocks of one kind are then compiled once."""
    modules = [backbone.net.get_submodule(t.module) for t in backbone.facts.taps if t.module != WHOLE]
    return list(dict.fromkeys(block for module in modules for block in _parts(module)))


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if last_called(module) is module:
        yield module
        return
    for part in module.children():
        yield from _parts(part)


def _sizes(fit: Any) -> list[int]:
    """The numbers of images that a pass of this training may have."""
    order = fit.trainer.train_dataloader.batch_sampler
    shares = {min(order.batch_size, order.size)}
    rest = order.size % order.batch_size
    if rest >= 2 and order.limit is None:
        shares.add(rest)
    images = {-(-share // order.share.processes) for share in shares}
    images |= {share // order.share.processes for share in shares}
    return sorted({part for n in images if n for part in sizes_of_parts(n, fit.config.trainer.micro_batch)})


def _pass(fit: Any, images: int) -> None:
    """The loss of the first images and its gradients, of which nothing stays: numbers drawn, statistics, gradients."""
    model = fit.model
    batch = fit.trainer.train_dataloader.dataset.__getitems__(Indices(range(images), 0))
    batch = fit.trainer.strategy.batch_to_device(batch, fit.device)
    with undone(model, fit.device), fit.trainer.precision_plugin.forward_context():
        loss = model.loss(batch)
        torch.autograd.grad(loss, [p for _, p in model.trainable()], allow_unused=True)


@contextlib.contextmanager
def undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the model's buffers and the state of random numbers may change; afterwards they are as before."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with random_numbers_kept(device):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in kept:
                        buffer.copy_(kept[name])
