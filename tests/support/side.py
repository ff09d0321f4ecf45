"""A side method on a small backbone, and a step of it."""

import torch

from peftbench import config
from peftbench.costs import SavedBytes
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import method as method_of
from support.backbones import with_weights

# every layout, with and without class tokens, stems and one width: (timm name, arguments, input size)
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 5, "embed_dim": 48}, 32),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "depth": 2, "embed_dim": 48, "num_heads": 2}, 42),
    "resnet": ("resnet26", {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}, 64),
    "efficientnet": ("tf_efficientnet_lite0", {}, 64),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [16, 24, 32, 48]}, 64),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 16}, 64),
    "hybrid": ("mobilevit_xxs", {}, 64),
    "pyramid of tokens": ("hiera_tiny_224", {"img_size": (64, 64), "stages": (1, 1, 1, 1), "embed_dim": 16}, 64),
    "maps, then tokens": ("efficientformer_l1", {"depths": (1, 1, 1, 1), "embed_dims": (16, 24, 32, 48)}, 224),
    "whole": ("cait_xxs24_224", {"img_size": 64, "depth": 2}, 64),
}


def make(method, family, *words, **changed):
    """A model of 3 classes with random weights, and the backbone's spec."""
    name, args, size = FAMILIES[family] if isinstance(family, str) else family
    backbone = with_weights(config.Backbone(name, args=args | changed, pretrained=False), size)
    for module in backbone.modules():  # timm starts the last norm of a residual branch at zero: its inside is dead
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    built = method_of(method, *words)
    built.check(backbone)
    torch.manual_seed(1)
    model = Model(backbone, Classification(backbone, ["x"] * 3))
    model.adapted(built.adapt(backbone, Plan()))
    return model.train()


def batch(model, n=4):
    size = model.backbone.facts.input_size
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=g), torch.arange(n) % 3


def optimizer(model):
    return torch.optim.AdamW([p for _, p in model.trainable()], lr=1e-2)


def step(model, opt, cached=None):
    model.train()
    loss = model.loss(batch(model), cached)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()


def randomise(module):
    """So that nothing starts at zero, at one or alike."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def saved(method, family, *words, **changed):
    model = make(method, family, *words, **changed)
    meter = SavedBytes(model)
    with meter.counting():
        model.loss(batch(model))
    return meter.total
