"""What methods offer as branches is all that they add: without it a net is the untouched one, twice it moves twice."""

import pytest
import torch

import peftbench
from peftbench import config
from peftbench.methods.shared.branches import OutputOf
from peftbench.methods.spt.parts import Adapter, Sparse
from peftbench.models.model import Model
from peftbench.training.consistency import Consistency, scaled
from support.backbones import SMALL, composed, with_weights
from support.batches import batch
from support.models import adapted_model

SLOW = pytest.mark.slow
CASES = [
    *(("vit", m) for m in ("adapter", "convpass", "repadapter", "spt_lora", "spt_adapter")),
    *(pytest.param("vit", m, marks=SLOW) for m in ("adapter_plus", "houlsby", "pfeiffer", "mona", "fact", "fact_tk")),
    *(pytest.param("hybrid", m, marks=SLOW) for m in ("adapter", "convpass", "mona", "repadapter", "spt_lora")),
    *(pytest.param("cnn", m, marks=SLOW) for m in ("adapter", "mona", "spt_lora", "spt_adapter")),
    *(pytest.param("swin", m, marks=SLOW) for m in ("adapter", "houlsby", "convpass", "mona", "repadapter")),
]


BACKBONES = SMALL | {
    "swin": config.Backbone(
        "swin_tiny_patch4_window7_224", args={"depths": [2, 2], "embed_dim": 16, "num_heads": [2, 2]}, pretrained=False
    ),
    "beit": config.Backbone(
        "beit_base_patch16_224", args={"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}, pretrained=False
    ),
}


def moved(method: str, family: str):
    """The adapted model with what was added away from its start, single entries of weights apart."""
    everywhere = ["method.alpha=1e6"] if method.startswith("spt") else []
    model = adapted_model(method, BACKBONES[family], *everywhere).eval()
    names = {n for n, p in model.trainable() if n.startswith("backbone.")}
    sparse = {id(p) for m in model.modules() if isinstance(m, Sparse) for p in m.parameters()}
    built = {f"backbone.net.{n}" for n in model.backbone.built}
    for name, parameter in model.named_parameters():
        if name in names - built and id(parameter) not in sparse:
            parameter.data.copy_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("family", "name"), CASES)
@torch.no_grad()
def test_branches_are_all_that_a_method_adds(family, name):
    torch.manual_seed(0)
    model, images = moved(name, family), batch(4)[0]
    whole, untouched = model(images), Model(with_weights(BACKBONES[family], 32), model.task).eval()
    branches = model.method.branches(model.backbone)
    assert len({b.name for b in branches}) == len(branches) > 1

    def scaled_by(factor):
        for branch in branches:
            branch.hold(lambda added: factor * added)
        logits = model(images)
        for branch in branches:
            branch.release()
        return logits

    torch.testing.assert_close(scaled_by(0.0), untouched(images))
    torch.testing.assert_close(scaled_by(1.0), whole, rtol=1e-3, atol=1e-4)
    assert (scaled_by(1.5) - whole).abs().max() > 0.01 * whole.abs().max()
    assert torch.equal(model(images), whole), "nothing is left behind"


def test_an_adapters_distance_of_predictions_is_that_of_the_paper():
    """Of a linear net behind it, f = V (h + z A(h)): the mean of |f1 - f2|^2 is 2 sigma^2 times |V_j|^2 A(h)_j^2."""
    model = moved("adapter", "vit")
    branches = model.method.branches(model.backbone)
    last, h = branches[-1], torch.randn(1, 1, 48)
    assert isinstance(last, OutputOf)
    v, generator = torch.randn(4, 48), torch.Generator().manual_seed(1)
    with torch.no_grad():
        added = last.module(h).flatten()
        last.hold(lambda branch: scaled(branch, 40_000, last.axis, 0.7, generator, last.name))
        (first, second) = (last.module(h.expand(40_000, 1, 48)).squeeze(1) @ v.T for _ in range(2))
        last.release()
    found = (first - second).square().sum(1).mean()
    assert found.item() == pytest.approx((2 * 0.7**2 * v.square().sum(0) @ added.square()).item(), rel=0.03)


@pytest.mark.slow
def test_a_plan_says_what_of_spt_has_a_branch():
    entries = adapted_model("spt_lora", "vit", "method.alpha=1e-6")
    assert entries.method.branches(entries.backbone) == []
    with pytest.raises(peftbench.Refusal, match=r"consistency=0\.1: the method has added no branch to vit_tiny"):
        Consistency(entries, entries.method, composed("method=pace", "data=digits").trainer)
    some = adapted_model("spt_adapter", "vit", "method.alpha=20")
    layers = {n for n, m in some.backbone.net.named_modules() if isinstance(m, Adapter)}
    sparse = {n for n, m in some.backbone.net.named_modules() if isinstance(m, Sparse)}
    branches = some.method.branches(some.backbone)
    assert {f"{b.name}.adapter" for b in branches} == layers
    assert 0 < len(layers) < len(layers | sparse)
    read = adapted_model("spt_lora", BACKBONES["beit"], "method.alpha=1e6", "method.choose=random")
    with pytest.raises(peftbench.Refusal, match=r"blocks\.0\.attn\.qkv is read instead of called.* take method=spt_ad"):
        read.method.branches(read.backbone)
