"""LoRA: its formula on layers and convolutions, merging, and layers whose weight is read directly."""

import pytest
import torch

import peftbench
from peftbench import backbones, config
from peftbench.methods.base import Plan
from peftbench.methods.lora import LoRA, LowRankLinear, LowRankWeight, low_rank_conv
from peftbench.models.model import Model
from peftbench.runs.build import instantiate
from peftbench.tasks.classification.task import Classification
from support.backbones import SMALL
from support.batches import batch


@pytest.mark.parametrize("kind", [LowRankLinear, LowRankWeight])
def test_lora_computes_the_papers_formula(kind):
    torch.manual_seed(0)
    plain = torch.nn.Linear(6, 4)
    layer = kind.around(plain, rank=2, scale=0.5, dropout=0.0)
    x = torch.randn(3, 6)

    def answer():
        weight = layer.weight if kind is LowRankWeight else None
        return layer(x) if weight is None else torch.nn.functional.linear(x, weight, layer.bias)

    assert torch.equal(answer(), plain(x))
    torch.nn.init.normal_(layer.lora_b)
    want = x @ (plain.weight + 0.5 * layer.lora_b @ layer.lora_a).T + plain.bias
    assert torch.allclose(answer(), want, atol=1e-6)
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    assert layer.state_dict()["weight"].data_ptr() == plain.weight.data_ptr()


@pytest.mark.parametrize("kind", [LowRankLinear, LowRankWeight])
def test_a_merged_lora_is_a_plain_layer_of_the_same_outputs(kind):
    layer = kind.around(torch.nn.Linear(6, 4), rank=2, scale=0.5, dropout=0.0)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 6)
    want = torch.nn.functional.linear(x, layer.weight + (kind is LowRankLinear) * 0.5 * layer.lora_b @ layer.lora_a)
    with torch.no_grad():
        merged = layer.merged()
    assert type(merged) is torch.nn.Linear
    assert set(merged.state_dict()) == {"weight", "bias"}
    assert torch.allclose(merged(x), want + merged.bias, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_lora_of_a_convolution_is_its_authors_and_merges(stride):
    plain = torch.nn.Conv2d(6, 4, 3, stride=stride, padding=1)
    layer = low_rank_conv(plain, rank=2, scale=0.5)
    x = torch.randn(2, 6, 9, 9)
    assert torch.equal(layer(x), plain(x))
    assert (layer.lora_a.shape, layer.lora_b.shape) == ((6, 18), (12, 6))
    torch.nn.init.normal_(layer.lora_b)
    weight = plain.weight + 0.5 * (layer.lora_b @ layer.lora_a).reshape(4, 6, 3, 3)
    want = torch.nn.functional.conv2d(x, weight, plain.bias, stride, 1)
    assert torch.allclose(layer(x), want, atol=1e-6)
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    backbone = backbones.build(SMALL["cnn"], 32)
    method = instantiate(peftbench.compose("method=lora").method)
    names = set(backbone.state_dict())
    method.adapt(backbone, Plan())
    for name, parameter in backbone.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.01)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tuned = backbone.taps(image)[-1]
        backbone.merging = ""
        method.merge(backbone)
        assert torch.allclose(backbone.taps(image)[-1], tuned, atol=1e-4)
    assert set(backbone.state_dict()) == names
    assert not any(type(m).__name__ == "LowRankConv" for m in backbone.modules())


def test_lora_reaches_layers_whose_weight_is_read_directly():
    spec = config.Backbone(
        "beit_base_patch16_224", args={"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}, pretrained=False
    )
    backbone = backbones.build(spec, 32)
    model = Model(backbone, Classification(backbone, ["x"] * 3))
    model.adapted(LoRA(rank=2).adapt(backbone, Plan()))
    model.loss(batch()).backward()
    assert all(p.grad is not None for _, p in model.trainable())
