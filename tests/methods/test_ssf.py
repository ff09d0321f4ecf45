"""SSF: counts, where a scale stands and along which axis, what is left without a shift, and merging."""

import copy

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench import config
from peftbench.backbones.norms import before_batch_norm
from peftbench.methods import ssf
from peftbench.methods.base import Plan
from peftbench.methods.ssf import SSF
from support.backbones import SMALL, composed, on_meta, parameters, with_weights
from support.merging import assert_it_merges

SWIN = config.Backbone(
    "swin_tiny_patch4_window7_224", args={"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 16}, pretrained=False
)
CONVNEXT = config.Backbone("convnext_atto", args={"depths": (1, 1, 1, 1), "dims": (16, 16, 24, 32)}, pretrained=False)
VIT = ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2})
NETS = {
    "vit": (SMALL["vit"], 32),
    "cnn": (SMALL["cnn"], 32),
    "hybrid": (SMALL["hybrid"], 32),
    "swin": (SWIN, 64),
    "convnext": (CONVNEXT, 64),
}
FAST = {"vit", "cnn"}
EACH = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NETS]


def adapted(spec, size, **options):
    backbone = with_weights(spec, size)
    method = SSF(**options)
    method.check(backbone)
    before = copy.deepcopy(backbone)
    method.adapt(backbone, Plan())
    return before, backbone, method


def parts(backbone, word="ssf_"):
    return {n.removeprefix("net."): p for n, p in backbone.named_parameters() if word in n}


def randomized(backbone, seed=0):
    """Scales and shifts of the size of weights, so that nothing is hidden by a start near the identity."""
    random = torch.Generator().manual_seed(seed)
    for name, p in parts(backbone).items():
        p.data = torch.randn(p.shape, generator=random, dtype=p.dtype) * 0.3 + ("scale" in name)
    return backbone


def features(backbone, images):
    backbone.eval()
    with torch.no_grad():
        return backbone.pool(backbone.taps(images)[-1])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 2 (12 x 11 x 384 + 384 (patches) + 384 (norm))
        ("vit_s", 102_912),
        # 2 (7 x 18,048 (blocks) + 2 x 128 (stem) + 384 + 768 + 1536 (between stages) + 1024 (head.norm))
        pytest.param("convnext_base", 260_608, marks=pytest.mark.slow),
        pytest.param("hybrid_nano", "formula", marks=pytest.mark.slow),
    ],
)
def test_further_counts(name, count):
    spec = config.Backbone(name, pretrained=False) if name == "convnext_base" else composed(f"backbone={name}").backbone
    backbone = on_meta(spec)
    if count == "formula":  # every convolution but one has its batch norm; linear layers and norms each have their own
        net = backbone.net
        normed = {n.rpartition(".")[0] for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
        bare = [m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and n.rpartition(".")[0] not in normed]
        own = [m for m in net.modules() if isinstance(m, nn.Linear | nn.LayerNorm | nn.BatchNorm2d)]
        shiftless = sum(len(m.weight) for m in bare if m.bias is None)
        count = 2 * sum(len(m.weight) for m in [*own, *bare]) - shiftless
    assert parameters(SSF(), backbone) == count


# -- one layer: its axis, its shift, merging


def batch_norm():
    norm = nn.BatchNorm2d(8).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


LAYERS = {
    "tokens": (lambda: nn.Linear(6, 8), (2, 8, 6), -1),
    "maps, channels last": (lambda: nn.Linear(6, 8), (2, 8, 8, 6), -1),
    "a map as wide as its channels": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 8, 8), 1),
    "a depthwise convolution": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 8, 8), 1),
    "a layer norm": (lambda: nn.LayerNorm(8), (2, 8, 8), -1),
    "a layer norm of maps": (lambda: LayerNorm2d(8), (2, 8, 8, 8), 1),
    "a batch norm": (batch_norm, (2, 8, 8, 8), 1),
    "a layer without bias": (lambda: nn.Linear(6, 8, bias=False), (2, 8, 6), -1),
}


class Net(nn.Module):
    """What a backbone is asked for, around one layer."""

    def __init__(self, layer):
        super().__init__()
        self.net = nn.Module()
        self.net.layer = layer
        self.merging = ""


@pytest.mark.parametrize("case", LAYERS)
def test_channels_are_scaled_along_their_axis_and_merged(case):
    make, shape, axis = LAYERS[case]
    torch.manual_seed(0)
    layer = make().double()
    for p in layer.parameters():
        nn.init.normal_(p)
    names, kind, plain = set(layer.state_dict()), type(layer), copy.deepcopy(layer)
    x = torch.randn(shape, dtype=torch.float64)
    ssf._add(layer, not isinstance(layer, nn.LayerNorm | nn.BatchNorm2d), "identity", "layer")
    assert torch.equal(layer(x), plain(x))
    assert ("ssf_shift" in dict(layer.named_parameters())) == (plain.bias is not None)
    for part in ssf.PARTS:
        if part in dict(layer.named_parameters()):
            nn.init.normal_(layer.get_parameter(part))
    y = plain(x).movedim(axis, -1)
    want = (y * layer.ssf_scale + (0 if plain.bias is None else layer.ssf_shift)).movedim(-1, axis)
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    SSF().merge(Net(layer))
    assert type(layer) is kind
    assert set(layer.state_dict()) == names
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)


# -- whole backbones


@pytest.mark.parametrize("net", EACH)
def test_random_scales_of_a_whole_backbone_merge(net):
    spec, size = NETS[net]
    before, backbone, method = adapted(spec, size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert_it_merges(method, before, backbone, images, features, randomized)


def test_what_is_scaled_on_a_vit_is_every_layer_and_norm():
    _, backbone, _ = adapted(*NETS["vit"])
    scaled = {n.rpartition(".")[0] for n in parts(backbone)}
    inside = [
        f"blocks.{i}.{n}" for i in range(2) for n in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ]
    assert scaled == {"patch_embed.proj", "norm", *inside}


def test_a_layer_and_its_batch_norm_have_one_scale_behind_the_norm():
    """Two in a row would be one; a batch norm without weights takes none, and its convolution has it."""
    _, backbone, _ = adapted(*NETS["cnn"])
    scaled = {n.rpartition(".")[0] for n in parts(backbone)}
    assert scaled == {n for n, m in backbone.net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    bare = with_weights(*NETS["cnn"])
    bare.net.bn1 = nn.BatchNorm2d(bare.net.bn1.num_features, affine=False).eval()
    covered = before_batch_norm(bare)
    assert "conv1" not in covered
    assert "layer1.0.conv1" in covered


@pytest.mark.slow
def test_a_batch_norm_of_flattened_tokens_is_behind_its_linear_layer():
    """LeViT's norms see tokens in another shape than the linear layer gave."""
    backbone = on_meta(config.Backbone("levit_128s", pretrained=False))
    linear = {n for n, m in backbone.net.named_modules() if isinstance(m, nn.Linear)}
    assert linear <= before_batch_norm(backbone)


def test_the_last_map_of_convnext_is_scaled_behind_the_pooled_norm():
    """At 64 px its stem's map is as wide as it has channels, 16: the axis goes by layout, not by size."""
    before, backbone, _ = adapted(*NETS["convnext"])
    names = {n.rpartition(".")[0] for n in parts(backbone)}
    assert "head.norm" in names
    assert names == {n for n, m in backbone.net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.LayerNorm)}
    image = torch.randn(1, 3, 64, 64)
    stem = backbone.net.stem[0]
    nn.init.normal_(stem.ssf_scale)
    with torch.no_grad():
        assert before.net.stem[0](image).shape == (1, 16, 16, 16)
        torch.testing.assert_close(stem(image), before.net.stem[0](image) * stem.ssf_scale.view(1, -1, 1, 1))


def test_what_has_no_bias_has_no_shift():
    """Swin's merging of patches has its norm alone; DINOv3's qkv and what BEiT reads have a scale alone."""
    _, swin, _ = adapted(*NETS["swin"])
    assert not [n for n in parts(swin) if "reduction" in n]
    assert "layers.1.downsample.norm.ssf_shift" in parts(swin)
    name, args = VIT
    for spec in (
        config.Backbone(name, args=args | {"qkv_bias": False}, pretrained=False),
        config.Backbone("beit_base_patch16_224", args=args, pretrained=False),
    ):
        _, backbone, _ = adapted(spec, 32)
        assert set(parts(backbone, "attn.qkv.ssf")) == {"blocks.0.attn.qkv.ssf_scale"}
        assert set(parts(backbone, "attn.proj.ssf")) == {f"blocks.0.attn.proj.ssf_{p}" for p in ("scale", "shift")}


def test_the_shift_of_keys_has_no_gradient():
    _, backbone, _ = adapted(*NETS["vit"])
    randomized(backbone.double())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    backbone.pool(backbone.taps(images)[-1]).square().sum().backward()
    queries, keys, values = backbone.net.blocks[0].attn.qkv.ssf_shift.grad.chunk(3)
    assert keys.abs().max() < 1e-10 * values.abs().max()
    assert queries.abs().max() > 1e-6 * values.abs().max()


def test_the_published_start_is_near_the_identity_and_says_so():
    before, backbone, method = adapted(*NETS["vit"], init="random")
    assert not method.identity_start
    scales, shifts = (torch.cat(list(parts(backbone, w).values())) for w in ("scale", "shift"))
    assert scales.mean().item() == pytest.approx(1, abs=2e-3)
    assert shifts.mean().item() == pytest.approx(0, abs=2e-3)
    assert [s.std().item() for s in (scales, shifts)] == pytest.approx([0.02, 0.02], rel=0.1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(features(backbone, images), features(before, images))


def test_a_net_without_norms_is_refused():
    with pytest.raises(peftbench.Refusal) as raised:
        SSF().check(on_meta(config.Backbone("test_nfnet", pretrained=False), 32))
    assert str(raised.value) == (
        "method=ssf: test_nfnet has no norms, and stem.conv1 takes no scale: its weight is standardised each time it "
        "is used, so that no update of it can be merged; method=bitfit and method=linear work."
    )


def test_half_precision_stays_half():
    layer = nn.Conv2d(3, 4, 1)
    ssf._add(layer, True, "random", "layer")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 3, 5, 5)).dtype == torch.bfloat16
        assert F.relu(layer(torch.randn(1, 3, 5, 5))).dtype == torch.bfloat16
