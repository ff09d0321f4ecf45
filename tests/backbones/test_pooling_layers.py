"""Layers that pool: they are called, not read, and they serve the pooled features alone."""

import pytest
import torch

from peftbench import backbones, config
from peftbench.backbones.stream import modules_to_stream
from peftbench.backbones.weight_reads import layers_read
from support.backbones import on_meta

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}


def built(name, args=VIT, size=32):
    return on_meta(config.Backbone(name, args=args, pretrained=False), size)


@pytest.mark.parametrize(
    ("name", "args", "layer"),
    [
        ("vit_base_patch16_siglip_224", VIT, "attn_pool.kv"),
        ("convnext_atto", {"depths": (1,) * 4, "dims": (8,) * 4, "head_hidden_size": 16}, "head.pre_logits.fc"),
        ("efficientvit_b0", {}, "head.classifier.0"),
    ],
)
def test_a_layer_of_the_pooling_head_is_called_and_not_read(name, args, layer):
    backbone = built(name, args)
    assert layer in backbone.facts.called
    assert layer in backbone.facts.pools
    assert layer not in layers_read(backbone)
    own = {id(p) for p in backbone.net.get_submodule(layer).parameters()}
    assert own <= {id(p) for p in backbone.tail_parameters()}, "what reads maps alone leaves it untrained"
    assert not any(m.startswith(layer.split(".")[0]) for m in modules_to_stream(backbone.net, backbone.facts))


def test_a_weight_counts_as_read_where_it_is_computed_with_and_not_where_it_is_asked_for_its_type():
    assert layers_read(built("beit_base_patch16_224")) == {"blocks.0.attn.qkv", "blocks.1.attn.qkv"}
    assert not layers_read(built("convit_tiny", {"img_size": 32, "depth": 1}))  # asks qk's weight for its device
    backbone = built("vit_tiny_patch16_224")
    read = backbone.net.blocks[1].mlp.fc1
    backbone.net.blocks[0].register_forward_hook(lambda module, given, output: output + read.weight.sum())
    assert layers_read(backbone) == {"blocks.1.mlp.fc1"}
    assert type(read) is torch.nn.Linear


@pytest.mark.parametrize(
    ("name", "pools"),
    [
        ("vit_tiny_patch16_224", (True, False, True)),
        ("beit_base_patch16_224", (False, True, True)),
        ("deit_tiny_distilled_patch16_224", (False, False, False)),  # two class tokens, whatever it is told
        ("vit_base_patch16_siglip_224", (False, False, False)),
    ],
)
def test_which_tokens_a_model_pools_is_found_not_believed(name, pools):
    backbones_of_it = [built(name), backbones.build_with_weights(config.Backbone(name, args=VIT, pretrained=False), 32)]
    for backbone in backbones_of_it:
        pooling = backbone.pooling
        assert (backbone.pools_class_token, backbone.pools_patches, backbone.repools) == pools
        assert backbone.pooling == pooling
