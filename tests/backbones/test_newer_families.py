"""The newer families: taps, tail and maps are timm's own to the bit; encoders without a head are refused."""

import pytest
import torch

import peftbench
from peftbench import backbones, config
from peftbench.backbones.facts import WHOLE
from support.backbones import on_meta

DINOV3 = {"depth": 2, "embed_dim": 96, "num_heads": 3}
VIT = {"depth": 2, "embed_dim": 64, "num_heads": 2}
HIERA = {"stages": (1, 1, 1, 1), "embed_dim": 16}
FAMILIES = {
    "DINOv3": ("vit_small_patch16_dinov3", DINOV3, 64),
    "PE": ("vit_pe_core_tiny_patch16_384", {"img_size": 64, "depth": 2}, 64),
    "EVA02": ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, 56),
    "SigLIP 2": ("vit_base_patch16_siglip_224", VIT | {"img_size": 64}, 64),
    "AIMv2": ("aimv2_large_patch14_224", VIT | {"img_size": 56}, 56),
    "FastViT": ("fastvit_t8", {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)}, 64),
    "Hiera": ("hiera_tiny_224", HIERA, 224),
    "Hiera with windows": ("hiera_small_abswin_256", HIERA, 256),
    "Qwen 3": ("qwen3_vit_88m", {"depth": 2}, 64),
}
YAMLS = ("vit_b_dinov3", "vit_b_pe", "eva02_b", "vit_b_siglip2", "aimv2_l", "fastvit_t8", "hiera_b")


def built(name: str, arguments: dict, size: int) -> backbones.Backbone:
    """With random weights, none of which is zero or one, as layer scales and norms begin."""
    torch.manual_seed(0)
    backbone = backbones.build_with_weights(config.Backbone(name, args=arguments, pretrained=False), size)
    for parameter in backbone.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return backbone


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments", "size"), FAMILIES.values(), ids=FAMILIES)
def test_taps_tail_and_maps_are_timms_own_to_the_bit(name, arguments, size):
    backbone = built(name, arguments, size)
    facts = backbone.facts
    assert facts == on_meta(config.Backbone(name, args=arguments, pretrained=False), size).facts
    images = torch.randn(2, 3, size, size)
    taps = backbone.taps(images)
    features, theirs = backbone.net.forward_intermediates(images, norm=False, output_fmt="NCHW")
    assert torch.equal(backbone.net.forward_features(images), features)
    assert torch.equal(backbone.pool(taps[-1]), backbone.net.forward_head(features, pre_logits=True))
    for ours, own in zip(backbone.maps(taps), theirs, strict=True):
        assert torch.equal(ours, own)


@torch.no_grad()
@pytest.mark.slow
def test_a_mobilenet_v5_has_its_fused_stages_as_its_only_tap():
    backbone = built("mobilenetv5_300m", {"channel_multiplier": 0.1}, 128)
    (tap,) = backbone.facts.taps
    assert (tap.module, tap.layout, tap.shape) == (WHOLE, "NCHW", (2048, 16, 16))
    images = torch.randn(1, 3, 128, 128)
    features = backbone.net.forward_features(images)
    (ours,) = backbone.taps(images)
    assert torch.equal(ours, features)
    assert torch.equal(backbone.maps([ours])[0], features)
    assert torch.equal(backbone.pool(ours), backbone.net.forward_head(features, pre_logits=True))


def test_what_a_module_gives_is_left_in_its_own_order_where_the_model_goes_on_from_it():
    backbone = built("hiera_tiny_224", HIERA, 224)
    assert [bool(tap.order) for tap in backbone.facts.taps] == [True, True, True, False]
    first = backbone.facts.taps[0]
    with torch.no_grad():
        (rows,) = backbone.taps(torch.randn(1, 3, 224, 224), [0])
        seen = []
        handle = backbone.net.get_submodule(first.module).register_forward_hook(lambda *a: seen.append(a[2]))
        torch.manual_seed(1)
        images = torch.randn(1, 3, 224, 224)
        (rows,), (raw,) = backbone.taps(images, [0]), backbone.taps(images, [0], raw=True)
        handle.remove()
    assert torch.equal(raw, seen[-1])
    assert torch.equal(rows, raw[:, list(first.order)])
    assert not torch.equal(rows, raw)


@pytest.mark.parametrize("name", [pytest.param("mobilenetv5_300m_enc", marks=pytest.mark.slow), "qwen3_vit_88m_enc"])
def test_an_encoder_without_a_head_is_refused(name):
    with pytest.raises(peftbench.Refusal, match="no pooling for it"):
        on_meta(config.Backbone(name, pretrained=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", YAMLS)
def test_their_yamls_compose_and_are_cut_at_their_blocks(name):
    facts = on_meta(peftbench.compose(f"backbone={name}").backbone).facts
    assert facts.taps[0].module != WHOLE
    assert all(tap.grid for tap in facts.taps)
