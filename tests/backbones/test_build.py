"""Backbones: taps and tail to the bit, maps of tokens, input sizes, and what cannot be built."""

import copy

import pytest
import safetensors.torch
import timm
import torch

from peftbench import backbones, config
from peftbench.backbones.facts import WHOLE
from peftbench.common.errors import Refusal, UserError
from support.backbones import spec

FAMILIES = [  # (timm name, arguments that make it small, input size)
    ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64}, 64),
    ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64, "global_pool": "avg"}, 64),
    ("deit3_small_patch16_224", {"depth": 2, "img_size": 64, "embed_dim": 96, "num_heads": 3}, 64),
    ("vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 56, "embed_dim": 96, "num_heads": 3}, 56),
    ("beit_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 64}, 64),
    ("resnet18", {}, 64),
    ("tf_efficientnet_lite0", {}, 64),
    ("mobilenetv3_small_100", {}, 64),
    ("convnext_atto", {}, 64),
    ("regnety_002", {}, 64),
    ("mobilevit_xxs", {}, 64),
    ("edgenext_xx_small", {}, 64),
    ("efficientformer_l1", {}, 224),
    ("efficientformerv2_s0", {}, 224),
    ("fastvit_t8", {}, 64),
    ("repvit_m0_9", {}, 64),
    ("levit_128s", {}, 224),
    ("coatnet_nano_rw_224", {"img_size": 64}, 64),
    ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 2, 1)}, 64),
    ("pvt_v2_b0", {}, 64),
]


@pytest.mark.parametrize(("name", "args", "size"), FAMILIES, ids=[f"{f[0]}-{i}" for i, f in enumerate(FAMILIES)])
def test_taps_and_tail_reproduce_timm_to_the_bit(name, args, size):
    torch.manual_seed(0)
    backbone = backbones.build_with_weights(spec(name, args), size)
    facts = backbone.facts
    assert facts.taps[-1].module != WHOLE
    assert backbones.build_on_meta(spec(name, args), size).facts == facts
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        taps = backbone.taps(x)
        expected = backbone.net.forward_head(backbone.net.forward_features(x), pre_logits=True)
        assert torch.equal(backbone.pool(taps[-1]), expected)
        assert torch.equal(backbone.taps(x, [-1])[0], taps[-1])
    assert expected.shape == (2, facts.width)
    for tap, fact in zip(taps, facts.taps, strict=True):
        assert tuple(tap.shape[1:]) == fact.shape
    for map_, fact in zip(backbone.maps(taps), facts.taps, strict=True):
        assert map_.shape[:2] == (2, fact.channels)
        assert abs(map_.shape[2] - size / fact.reduction) <= 1
    assert not any(m._forward_hooks for m in backbone.net.modules())


def test_a_model_that_cannot_be_cut_has_its_whole_output_as_tap():
    backbone = backbones.build_with_weights(spec("cait_xxs24_224", {"img_size": 64, "depth": 2}), 64)
    assert [t.module for t in backbone.facts.taps] == [WHOLE]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.net.forward_head(backbone.net.forward_features(x), pre_logits=True)
        assert torch.equal(backbone.pool(backbone.taps(x)[-1]), expected)


def test_maps_of_tokens_drop_the_prefix_and_keep_the_grid():
    backbone = backbones.build_with_weights(spec("vit_tiny_patch16_224", {"depth": 1, "img_size": 32}), 32)
    tap = torch.arange(5 * 192.0).reshape(1, 5, 192)
    (map_,) = backbone.maps([tap])
    assert map_.shape == (1, 192, 2, 2)
    assert torch.equal(map_[0, :, 0, 1], tap[0, 2])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "resnet19"}, "no such model (did you mean 'resnet18'?)"),
        ({"name": "resnet18.nothing_in1k"}, "no weights 'nothing_in1k'"),
        ({"name": "resnet18", "args": {"nothing": 1}}, "backbone.args.nothing"),
        ({"name": "vgg11", "drop_path": 0.1}, "has no drop-path"),
        ({"name": "resnet18", "weights": "package:nothing", "pretrained": True}, "shipped are"),
        ({"name": "resnet18", "weights": "package:efficientnet_lite0", "pretrained": True}, "fit tf_efficientnet_l"),
        ({"name": "resnet18", "weights": "nowhere.pth", "pretrained": True}, "there is no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_sentence(wrong, says):
    with pytest.raises(UserError) as mistake:
        backbones.build_with_weights(config.Backbone(**{"pretrained": False, **wrong}))
    assert says in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_model_with_several_branches_is_refused():
    with pytest.raises(Refusal, match="not one tensor but several"):
        backbones.build_on_meta(config.Backbone("crossvit_tiny_240", pretrained=False))


def test_a_model_of_one_input_size_refuses_another():
    with pytest.raises(Refusal, match="built for one input size"):
        backbones.build_on_meta(spec("efficientformer_l1"), 64)


def test_another_input_size_resamples_position_embeddings(tmp_path):
    import timm

    net = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    args = {"depth": 1}
    backbone = backbones.build_with_weights(
        config.Backbone(name="vit_tiny_patch16_224", weights=str(path), args=args), 64
    )
    assert backbone.facts.input_size == 64
    assert backbone.net.pos_embed.shape == (1, 17, 192)


@pytest.mark.parametrize("name", ["vit_nano", "resnet_nano", "hybrid_nano"])
def test_the_small_backbones_are_small_and_shipped(name):
    import peftbench
    from peftbench.backbones.weights import HERE

    path = HERE / f"{name}.safetensors"
    assert path.stat().st_size <= 4_000_000
    backbone = backbones.build_with_weights(peftbench.compose(f"backbone={name}").backbone)
    assert backbone.facts.parameters < 2_000_000
    assert backbone.facts.input_size == 64


def test_efficientnet_lite0_recognises_photos_and_would_not_with_wrong_preprocessing():
    """The weights fit in order only: a wrong place or normalisation would cost points silently."""
    import timm
    from sklearn.datasets import load_sample_images

    from peftbench.backbones.weights import fetch_weights
    from peftbench.data.decoding import decode_image

    net = timm.create_model("tf_efficientnet_lite0")
    net.load_state_dict(fetch_weights("tf_efficientnet_lite0", "package:efficientnet_lite0"))
    net.eval()
    china, flower = load_sample_images().images
    images = torch.stack([torch.from_numpy(decode_image(i, 224, "bicubic").copy()) for i in (china, flower)])
    with torch.no_grad():
        logits = net((images.float() - 127.5) / 127.5)
    # ImageNet-1k: palace 698, monastery 663, bell cote 442, stupa 832, boathouse 449; daisy 985
    assert set(logits[0].topk(5).indices.tolist()) & {698, 663, 442, 832, 449}
    assert 985 in logits[1].topk(5).indices.tolist()


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        ({}, {0.0}),
        ({"drop_path": 0.3}, {0.0, 0.1, 0.2, 0.3}),
        ({"args": {"depths": [2, 2], "drop_path_rate": 0.3}}, {0.0, 0.1, 0.2, 0.3}),
    ],
    ids=["none", "of the config", "of timm's arguments"],
)
def test_a_drop_path_of_zero_is_none_in_families_that_have_some_by_default(words, shares):
    """timm's Swin has 0.1 where nothing is said."""
    spec = config.Backbone("swin_tiny_patch4_window7_224", pretrained=False, **({"args": {"depths": [2, 2]}} | words))
    backbone = backbones.build_on_meta(spec)
    drops = [m.drop_prob for m in backbone.net.modules() if isinstance(m, timm.layers.DropPath)]
    assert {round(drop, 6) for drop in drops} | {0.0} == shares, "identities are blocks without any"
    again = copy.deepcopy(backbone)
    assert {m.drop_prob for m in again.net.modules() if isinstance(m, timm.layers.DropPath)} == set(drops)
