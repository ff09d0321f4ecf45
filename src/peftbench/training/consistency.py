"""PACE (Ni et al., NeurIPS 2024, arXiv 2409.17137): predictions that stay alike under noise on what a method adds.

Each layer with a branch gives h0(x) + z · branch(x), z ~ N(1, σ_l²), one draw for each image and channel, shared by its
tokens. A step computes the batch twice with two draws and adds λ · mean over images of |f1 - f2|² to the first loss; f
are the head's outputs, squared and summed over classes; gradients go through both. Masks of dropout and drop-path are
shared by both passes; the paper divides them by their mean, which is left out here. σ falls linearly with depth: on a
plain ViT the first block has none, the second σ, and the head, a branch beside nothing, σ / L of L blocks. Others begin
with their first block, as the official code's Swin does. Where layers are counted otherwise than by blocks, that is our
reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from peftbench import config
from peftbench.backbones import Backbone
from peftbench.backbones.depths import layers_below_head
from peftbench.common.errors import Refusal
from peftbench.common.seeds import mix
from peftbench.methods.base import Branch, Method
from peftbench.models.model import Model
from peftbench.training.micro_batches import parts_of_batch


class Consistency:
    """The loss of a step with noise on a method's branches.

    Args:
        model: adapted by the method; its task has a `head` whose outputs (B, …) are compared.
        method: gives the branches.
        spec: of the run; `consistency` is λ.

    Raises:
        Refusal: the method has added no branch to this backbone.
    """

    def __init__(self, model: Model, method: Method, spec: config.Trainer) -> None:
        self.model, self.weight, self.every = model, spec.consistency, spec.consistency_every
        branches = method.branches(model.backbone)
        if not branches:
            raise Refusal(
                f"trainer.consistency={spec.consistency}: the method has added no branch to "
                f"{model.backbone.facts.name} that noise could scale; leave it out."
            )
        shares = noise_shares(model.backbone, [branch.name for branch in branches])
        self.noisy = [(b, spec.consistency_noise * shares[b.name]) for b in branches if shares[b.name]]
        self.of_head = spec.consistency_noise * shares[""]

    def loss(self, batch: Any, step: int, *place: int) -> Tensor:
        """A scalar. `place` seeds the noise; with `every` N each N-th step is of the penalty, on half of the batch.

        Args:
            batch: as `Model.loss` takes it.
            step: of the optimizer, from 0.
            place: whole numbers that say where in the run this batch is.
        """
        if (step + 1) % self.every:
            with self._noise(batch, mix(*place, 1)):
                return self.model.loss(batch)
        if self.every > 1:
            size = self.model.task.size(batch)
            batch = parts_of_batch(batch, size, max(1, (size + 1) // 2))[0][0]
        state = _random_state()
        with self._noise(batch, mix(*place, 1)) as first:
            loss = self.model.loss(batch)
        _set_random_state(state)
        with self._noise(batch, mix(*place, 2)) as second:
            self.model.loss(batch)
        distance = (first[-1].float() - second[-1].float()).square().flatten(1).sum(1).mean()
        return loss + self.weight * distance

    @contextmanager
    def _noise(self, batch: Any, seed: int) -> Iterator[list[Tensor]]:
        """Inside, branches and the head's outputs are scaled; gives the list that takes these outputs."""
        outputs: list[Tensor] = []
        images = batch[0].shape[:-3].numel()
        generator = torch.Generator(batch[0].device).manual_seed(seed)

        def of_head(head: Any, inputs: Any, output: Tensor) -> Tensor:
            outputs.append(scaled(output, len(output), 1, self.of_head, generator, "the head"))
            return outputs[-1]

        with ExitStack() as held:
            for branch, deviation in self.noisy:
                branch.hold(partial(_of_branch, branch, images, deviation, generator))
                held.callback(branch.release)
            held.callback(self.model.task.get_submodule("head").register_forward_hook(of_head).remove)
            yield outputs


def noise_shares(backbone: Backbone, names: list[str]) -> dict[str, float]:
    """By the name of a layer the share of σ that its noise has, from 0 to 1; under "" that of the head.

    With b the layers between a layer and the head: (b + 1) / L, of a plain ViT 0 from its first block, b = L, down. L
    counts the blocks of a ViT, and of other families the layers, all but the stem, which has the share of the first.
    """
    top = max(layers_below_head(backbone, backbone.built).values())
    plain = len({tap.shape for tap in backbone.facts.taps}) == 1
    blocks = max(top - 1 if plain else top, 1)
    inside = {name: f"{name}.added" for name in names}  # a parameter of the layer, whatever it is called
    below = layers_below_head(backbone, inside.values())
    depths = {name: below[parameter] for name, parameter in inside.items()}
    shares = {n: 0.0 if plain and b >= blocks else min(1.0, (b + 1) / blocks) for n, b in depths.items()}
    return shares | {"": 1 / blocks}


def scaled(branch: Tensor, images: int, axis: int, deviation: float, generator: torch.Generator, name: str) -> Tensor:
    """The branch times z, one for each image and channel.

    Args:
        branch: (R, …) with R rows for `images` images in their order: windows, say, are several rows of an image.
        images: how many there are.
        axis: of the channels.
        deviation: of z, whose mean is 1.
        generator: on the branch's device.
        name: of the layer, for the message.

    Raises:
        Refusal: the rows are not as many for each image.
    """
    each, rest = divmod(len(branch), images)
    if rest or not each:
        raise Refusal(
            f"trainer.consistency: {name} is given {len(branch)} rows for {images} images, so that noise of "
            f"its own for each image has no place; leave that layer or trainer.consistency out."
        )
    channels = branch.shape[axis]
    noise = torch.randn(images, channels, generator=generator, device=branch.device)
    noise = (1 + deviation * noise).to(branch.dtype).repeat_interleave(each, 0)
    shape = [1] * branch.ndim
    shape[0], shape[axis] = len(branch), channels
    return branch * noise.view(shape)


def _of_branch(branch: Branch, images: int, deviation: float, generator: torch.Generator, given: Tensor) -> Tensor:
    return scaled(given, images, branch.axis, deviation, generator, branch.name)


def _random_state() -> tuple[Tensor, Any]:
    """Of what draws masks: the CPU's and, where one is used, the GPU's."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _set_random_state(state: tuple[Tensor, Any]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
