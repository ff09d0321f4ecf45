"""Small backbones for tests."""

import peftbench
from peftbench import config


def spec(name, args=None, **more):
    return config.Backbone(name=name, args=args or {}, pretrained=False, **more)


# Pretrained: with random weights timm starts the last norm of a residual branch at zero, and its inside is dead.
SMALL = {
    "vit": config.Backbone(
        "vit_tiny_patch16_224", args={"img_size": 32, "depth": 2, "embed_dim": 48}, pretrained=False
    ),
    "cnn": peftbench.compose("backbone=resnet_nano").backbone,
    "hybrid": peftbench.compose("backbone=hybrid_nano").backbone,
}
