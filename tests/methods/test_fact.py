"""FacT: counts, its two decompositions, what is shared, merging, and where it has no place."""

import copy

import pytest
import torch
from torch.nn import functional as F

import peftbench
from peftbench import config
from peftbench.methods.base import Plan
from peftbench.methods.fact import FacT
from peftbench.runs.dry_run import plan_run
from support.backbones import SMALL, composed, on_meta, parameters, with_weights
from support.merging import assert_it_merges

ARGS = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}
FORMS = ("tt", "tk")


def adapted(form, dtype=torch.float64, **options):
    """A small ViT before and after, with random factors of the size of weights: nothing is hidden by V's start."""
    before = with_weights(SMALL["vit"], 32).to(dtype)
    backbone, method = copy.deepcopy(before), FacT(form, rank=4, **options)
    method.check(backbone)
    torch.manual_seed(1)
    method.adapt(backbone, Plan())
    return before, backbone, method


def randomized(backbone):
    random = torch.Generator().manual_seed(2)
    for name, p in backbone.named_parameters():
        if "fact" in name:
            p.data = 0.3 * torch.randn(p.shape, generator=random, dtype=p.dtype)
    return backbone.eval()


def features(backbone, images):
    with torch.no_grad():
        return backbone.eval().pool(backbone.taps(images)[-1])


@pytest.mark.parametrize(
    ("name", "form", "rank", "count"),
    [
        # 2 d r + 12 L r^2
        ("vit_b", "tt", 8, 21_504),
        ("vit_s", "tt", 16, 49_152),
        # 2 d r + 12 L r + r^3
        ("vit_b", "tk", 16, 30_976),
        ("vit_s", "tk", 32, 61_952),
    ],
)
def test_further_counts(name, form, rank, count):
    assert parameters(FacT(form, rank=rank), on_meta(composed(f"backbone={name}").backbone)) == count


@pytest.mark.parametrize("form", FORMS)
def test_the_update_is_that_of_the_equation_tile_by_tile(form):
    """Each d x d tile is s V S U, in `tk` with S = (sum_c C[:, :, c] P[c])^T of the tile's own column of P."""
    before, backbone, _ = adapted(form, scale=0.5, dropout=0.0)
    randomized(backbone)
    shared, rank, width = backbone.net.fact, 4, 48
    for name, tall, wide in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
        layer, plain = backbone.net.blocks[1].get_submodule(name), before.net.blocks[1].get_submodule(name)
        whole = plain.weight.detach().clone()
        for k in range(tall * wide):
            row, column = divmod(k, wide)
            if form == "tt":
                middle = layer.fact_part[row * rank : (row + 1) * rank, column * rank : (column + 1) * rank]
            else:
                middle = sum(shared.core[:, :, c] * layer.fact_part[c, k] for c in range(rank)).T
            tile = whole[row * width : (row + 1) * width, column * width : (column + 1) * width]
            tile += 0.5 * shared.v @ middle @ shared.u
        x = torch.randn(2, 5, wide * width, dtype=torch.float64)
        torch.testing.assert_close(layer(x), F.linear(x, whole, plain.bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_it_starts_as_the_backbone_and_merges(form):
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before, backbone, method = adapted(form)
    assert_it_merges(method, before, backbone, images, features, randomized)


@pytest.mark.parametrize("form", FORMS)
def test_factors_are_shared_by_a_copy_s_layers_and_kept_once(form):
    _, backbone, _ = adapted(form)
    other = copy.deepcopy(backbone)
    shared = [n for n in other.state_dict() if "fact." in n]
    assert shared == [f"net.fact.{n}" for n in ("u", "v", *(["core"] if form == "tk" else []))]
    forms = [m.__dict__["fact_form"] for m in other.modules() if "fact_form" in m.__dict__]
    assert len(forms) == 8
    assert all(f.shared is other.net.fact for f in forms)
    assert other.net.fact is not backbone.net.fact


@pytest.mark.slow
def test_a_plan_names_the_shared_factors_beside_the_layers():
    planned = plan_run(composed("method=fact", "backbone=vit_nano", "data=digits", "data.batch_size=2"))
    rows = {row.name: row for row in planned.rows if row.added}
    assert sum(row.added for row in rows.values()) == planned.parameters["method"] == 28_672
    assert (rows["fact"].kind, rows["fact"].added, rows["fact"].merges) == ("shared", 4_096, True)
    assert rows["blocks.0.mlp.fc1"].merges


def test_its_starts_are_the_published_ones():
    """U and S as linear layers, C and P Xavier-uniform, V zero."""
    backbone = with_weights(SMALL["vit"], 32)
    FacT("tk", rank=32).adapt(backbone, Plan())
    shared, parts = backbone.net.fact, [p for n, p in backbone.named_parameters() if n.endswith("fact_part")]
    assert not shared.v.any()
    tiles = sum(p.shape[1] for p in parts)
    assert tiles == 24
    for tensor, bound in (
        (shared.u, 48**-0.5),
        (shared.core, 3**0.5 / 32),
        (torch.cat([p.flatten() for p in parts]), (6 / (32 + tiles)) ** 0.5),
    ):
        assert 0.9 * bound < tensor.abs().max() <= bound
    backbone = with_weights(SMALL["vit"], 32)
    FacT("tt", rank=16).adapt(backbone, Plan())
    mlp = backbone.net.blocks[0].mlp
    assert mlp.fc1.fact_part.shape == (64, 16)
    assert 0.9 * 16**-0.5 < mlp.fc1.fact_part.abs().max() <= 16**-0.5
    assert 0.9 * 64**-0.5 < mlp.fc2.fact_part.abs().max() <= 64**-0.5


def test_dropout_lies_between_the_core_and_v():
    _, backbone, _ = adapted("tt", dropout=0.5)
    randomized(backbone).train()
    layer, x = backbone.net.blocks[0].attn.proj, torch.randn(2, 5, 48, dtype=torch.float64)
    layer.training = True
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    narrow = F.dropout(x @ backbone.net.fact.u.T @ layer.fact_part.T, 0.5)
    torch.testing.assert_close(found, F.linear(x, layer.weight, layer.bias) + narrow @ backbone.net.fact.v.T)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("resnet18", "computes with maps"),
        ("beit_base_patch16_224", "reads the weight of blocks.0.attn.qkv instead of calling it"),
        ("vit_tiny_patch16_224", "has blocks.0.mlp.fc1 of 120 x 48, no tiles of 48 x 48"),
    ],
)
def test_other_nets_are_refused(name, why):
    args = {} if name == "resnet18" else ARGS | ({"mlp_ratio": 2.5} if "vit_" in name else {})
    with pytest.raises(peftbench.Refusal) as raised:
        FacT().check(on_meta(config.Backbone(name, args=args, pretrained=False), 32))
    assert str(raised.value) == (
        f"method=fact: needs a plain ViT, whose matrices are tiles of one width, and {name} {why}; method=lora works."
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 129}, "method.rank=129: expected 1 to 128, the width of vit_tiny_patch16_224."),
        ({"scale": 0.0}, "method.scale=0.0: expected a number above 0."),
        ({"dropout": 1.0}, "method.dropout=1.0: expected a share, at least 0 and below 1."),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(peftbench.UserError) as raised:
        peftbench.count_parameters("fact", "vit_nano", **options)
    assert str(raised.value) == told
