"""Frozen taps in bf16: each is rounded as soon as it is there."""

import weakref

import torch

from peftbench.backbones import Backbone
from peftbench.config import Backbone as Config
from support.models import adapted_model

DEEP = Config("vit_tiny_patch16_224", args={"img_size": 32, "depth": 6, "embed_dim": 48}, pretrained=False)


def test_no_more_than_a_block_has_is_in_float32_and_the_bits_are_those_of_rounding_at_the_end(monkeypatch):
    model = adapted_model("losa", DEEP).eval()
    images = torch.randint(256, (2, 3, *model.backbone.facts.canvas), dtype=torch.uint8)
    alive, most = weakref.WeakSet(), []
    taps = Backbone.taps

    def watched(self, x, wanted=None, emit=None, *more):
        def emitted(index, tap):
            alive.add(tap)
            emit(index, tap)
            most.append(len(alive))

        return taps(self, x, wanted, emit and emitted, *more)

    with torch.autocast("cpu", torch.bfloat16):
        at_the_end = [tap.to(torch.bfloat16) for tap in _as_they_are(model, images)]
        monkeypatch.setattr(Backbone, "taps", watched)
        rounded = model.frozen(images)
    assert len(most) == len(model.kept) == 6
    assert max(most) <= 2
    assert all(map(torch.equal, rounded, at_the_end))


def _as_they_are(model, images):
    from peftbench.common.machine import has_bf16

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
        return model.backbone.taps(model.frames(images), model.kept)
