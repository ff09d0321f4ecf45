"""Mona: its equation, exact counts, its start, and detection with Swin, for which it was made."""

import pytest
import torch
from torch.nn import functional as F

from peftbench.methods.mona import MonaBranch
from support.backbones import SMALL, composed, method, on_meta, parameters, spec, with_weights
from support.detection import make, scenes, trained


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        pytest.param("vit_s", 1_459_200, marks=pytest.mark.slow),
        pytest.param("convnext_b", 2_750_592, marks=pytest.mark.slow),  # one behind each of 36 blocks
        ("hybrid_nano", 133 * 472 + 10 * 9728),
    ],
)
def test_exact_counts(backbone, count):
    assert parameters(method("mona"), on_meta(composed(f"backbone={backbone}").backbone)) == count


@pytest.mark.slow
def test_the_count_on_swin_l():
    assert parameters(method("mona"), on_meta(spec("swin_large_patch4_window7_224"))) == 5_267_712


def branch():
    block = with_weights(SMALL["vit"], 32).facts.blocks[0]
    torch.manual_seed(0)
    made = MonaBranch(method("mona", "method.rank=8"), block, torch.empty(0)).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made, torch.randn(2, *block.shape, dtype=torch.float64)


def test_a_branch_is_its_equation_on_the_grid_and_at_the_class_token():
    made, x = branch()
    normed = F.layer_norm(x, x.shape[-1:], made.norm.weight, made.norm.bias)
    v = (normed * made.of_normed + x * made.of_input) @ made.down.T + made.down_bias
    images, parts = [v[:, :1].mT.reshape(2, 8, 1, 1), v[:, 1:].mT.reshape(2, 8, 2, 2)], []
    for image in images:
        sums = [
            F.conv2d(image, conv.weight, conv.bias, padding=size // 2, groups=8)
            for conv, size in zip(made.depthwise, (3, 5, 7), strict=True)
        ]
        image = image + sum(sums) / 3
        parts.append((image + F.conv2d(image, made.pointwise.weight, made.pointwise.bias)).flatten(2).mT)
    expected = F.gelu(torch.cat(parts, 1)) @ made.up.T + made.up_bias
    torch.testing.assert_close(made(x), expected, rtol=1e-10, atol=1e-10)


def test_without_its_convolutions_it_is_a_bottleneck():
    made, x = branch()
    for conv in (*made.depthwise, made.pointwise):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    normed = F.layer_norm(x, x.shape[-1:], made.norm.weight, made.norm.bias)
    u = normed * made.of_normed + x * made.of_input
    expected = F.gelu(u @ made.down.T + made.down_bias) @ made.up.T + made.up_bias
    torch.testing.assert_close(made(x), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_it_starts_elsewhere_than_the_backbone_unless_it_is_told_to():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = with_weights(SMALL["vit"], 32).eval().taps(x)[-1]
    for words, same in ((["method.init=zero"], True), ([], False)):
        net = with_weights(SMALL["vit"], 32)
        built = method("mona", *words)
        built.adapt(net, None)
        assert built.identity_start is same
        assert torch.equal(net.eval().taps(x)[-1], plain) is same
    branch = net.net.blocks[0].branch
    assert set(branch.of_normed.tolist()) == {torch.tensor(1e-6).item()}
    assert set(branch.of_input.tolist()) == {1.0}


@pytest.mark.parametrize(
    "method_", ["mona", *(pytest.param(m, marks=pytest.mark.slow) for m in ("adapter", "convpass"))]
)
def test_a_detector_on_swin_trains_with_what_is_added_to_its_maps(method_):
    args = "+backbone.args={depths:[1,1,1,1],embed_dim:16,num_heads:[1,2,2,2]}"
    swin = ["backbone.name=swin_tiny_patch4_window7_224", "backbone.pretrained=false", args]
    model = make(method_, "timm", *swin, "task.detector=fasterrcnn")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    losses = trained(model, count=6)
    assert min(losses[1:]) < losses[0]
    assert all(p.grad is not None for _, p in model.trainable())
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    inside = {n for n in moved if n.startswith("backbone.")}
    assert inside
    assert all(".branch." in n for n in inside)
    with torch.no_grad():
        assert len(model.eval().evaluate(scenes())) == 2
