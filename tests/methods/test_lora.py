"""LoRA: its formula on layers and convolutions, merging, and layers whose weight is read directly."""

import pytest
import torch

import peftbench
from peftbench import backbones, config
from peftbench.methods.base import Plan
from peftbench.methods.lora import LoRA
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, has_update
from peftbench.models.model import Model
from peftbench.runs.build import instantiate
from peftbench.tasks.classification.task import Classification
from support.backbones import SMALL
from support.batches import batch


@pytest.mark.parametrize("path", ["input", "read"])
def test_lora_computes_the_papers_formula(path):
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4)
    x, weight = torch.randn(3, 6), layer.weight
    plain = layer(x)
    LowRankUpdate.add(layer, Form(2, 0.5, path))
    assert torch.equal(layer(x), plain)
    torch.nn.init.normal_(layer.lora_b)
    want = x @ (weight + 0.5 * layer.lora_b @ layer.lora_a).T + layer.bias
    assert torch.allclose(layer(x), want, atol=1e-6)
    assert torch.allclose(torch.nn.functional.linear(x, layer.weight, layer.bias), want, atol=1e-6)
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    assert layer.state_dict()["weight"].data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("path", ["input", "read"])
def test_a_merged_lora_is_a_plain_layer_of_the_same_outputs(path):
    layer = torch.nn.Linear(6, 4)
    update = LowRankUpdate.add(layer, Form(2, 0.5, path))
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 6)
    want = layer(x)
    update.merge()
    assert type(layer) is torch.nn.Linear
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert torch.allclose(layer(x), want, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_lora_of_a_convolution_is_its_authors_and_merges(stride):
    layer = torch.nn.Conv2d(6, 4, 3, stride=stride, padding=1)
    x, frozen = torch.randn(2, 6, 9, 9), layer.weight
    plain = layer(x)
    LowRankUpdate.add(layer, Form(2, 0.5, "read", kernel_rows=True))
    assert torch.equal(layer(x), plain)
    assert (layer.lora_a.shape, layer.lora_b.shape) == ((6, 18), (12, 6))
    torch.nn.init.normal_(layer.lora_b)
    weight = frozen + 0.5 * (layer.lora_b @ layer.lora_a).reshape(4, 6, 3, 3)
    want = torch.nn.functional.conv2d(x, weight, layer.bias, stride, 1)
    assert torch.allclose(layer(x), want, atol=1e-6)
    assert set(layer.state_dict()) == {"weight", "bias", "lora_a", "lora_b"}
    backbone = backbones.build_with_weights(SMALL["cnn"], 32)
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
    assert not any(has_update(m) for m in backbone.modules())


def test_lora_reaches_layers_whose_weight_is_read_directly():
    spec = config.Backbone(
        "beit_base_patch16_224", args={"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}, pretrained=False
    )
    backbone = backbones.build_with_weights(spec, 32)
    model = Model(backbone, Classification(backbone, ["x"] * 3))
    model.adapted(LoRA(rank=2).adapt(backbone, Plan()))
    model.loss(batch()).backward()
    assert all(p.grad is not None for _, p in model.trainable())
