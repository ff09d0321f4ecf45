"""Where a tuned model looks: Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391), computed by captum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.facts import WHOLE
from peftbench.models.model import Model
from peftbench.tuned.load import Tuned

EXTRA = "pip install 'peftbench[explain]'"
LEAST = 4
"""Positions a side of a map that says where: the last map of a ResNet at 32 pixels has one."""


def why_no_maps(tuned: Tuned) -> str:
    """Why there are none for this model, and what would help where something does; the empty string where there are."""
    backbone = tuned.model.backbone
    try:
        import captum.attr  # noqa: F401
    except ImportError as problem:
        return f"Maps of where the model looks need captum ({problem}): {EXTRA}."
    if not tuned.model.task.predicts_tensor or tuned.run.frames is not None:
        return "There are no maps of where the model looks for this kind of prediction."
    if backbone.streamed:
        return "There are no maps of where the model looks: the blocks of a streamed backbone keep no gradients."
    if _mapped_tap(tuned.model) is None:
        return f"There are no maps of where the model looks: no tap of {backbone.facts.name} is laid out on a grid."
    return ""


def heat_maps(tuned: Tuned, images: Tensor, outputs: list[int]) -> Tensor:
    """For each image where its output was raised, (B, H, W) from 0 to 1 on the model's input; 0 where nowhere.

    The gradient is of the output before any softmax, by the last map that can still change it: where a ViT pools its
    class token, the patches of the last tap cannot, and the tap before it is taken (our reading).

    Args:
        tuned: the model, for which `why_no_maps` says nothing.
        images: uint8 (B, 3, H, W), as `tuned.transform` makes them.
        outputs: the index of an output for each image.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    above = _Mapped(tuned.model)
    pixels = tuned.model.normalize(images.to(tuned.device)).requires_grad_()
    with torch.enable_grad():
        cam = LayerGradCam(above, above.map)
        maps = cam.attribute(pixels, target=torch.tensor(outputs, device=pixels.device), relu_attributions=True)
    maps = LayerAttribution.interpolate(maps.float(), images.shape[-2:], "bilinear")[:, 0].detach().cpu().clamp(min=0)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _mapped_tap(model: Model) -> int | None:
    """The deepest tap, as an index into `facts.taps`, that can change what is pooled and is a map of `LEAST` a side.

    Where none is so large, the deepest of more than one position.
    """
    taps = model.backbone.facts.taps
    count = len(taps) - 1 if model.backbone.pools_class_token else len(taps)
    sides = {i: min(tap.grid) for i, tap in enumerate(taps[:count]) if tap.grid is not None and tap.module != WHOLE}
    large = [i for i, side in sides.items() if side >= LEAST]
    return max(large or [i for i, side in sides.items() if side > 1], default=None)


class _Mapped(nn.Module):
    """The model with one of its taps passed through `map` in the form (B, C, H, W), and gradients all the way.

    (`Model.frozen` computes taps without gradients, as training wants it.)
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.map = model, nn.Identity()
        self.tap = _mapped_tap(model)

    def forward(self, images: Tensor) -> Tensor:
        backbone = self.model.backbone
        assert self.tap is not None
        facts, before = backbone.facts.taps[self.tap], backbone.facts.prefix + backbone.added_tokens

        def through_map(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            tap = backbone.without_added(output)
            mapped = self.map(backbone.maps([tap], [self.tap])[0])  # type: ignore[list-item]
            if facts.layout == "NCHW":
                return mapped
            if facts.layout == "NHWC":
                return mapped.permute(0, 2, 3, 1)
            return torch.cat([output[:, :before], mapped.flatten(2).transpose(1, 2)], 1)

        handle = backbone.net.get_submodule(facts.module).register_forward_hook(through_map)
        try:
            if self.model.side is None:
                return self.model(images)
            taps = backbone.taps(self.model.frames(images), self.model.kept)
            return self.model(images, self.model.condense(taps))
        finally:
            handle.remove()
