"""PETAH: counts, updates of every kind of layer, merging, what stays as it was."""

import dataclasses
import re

import pytest
import timm
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import nn

import peftbench
from peftbench import backbones, config
from peftbench.backbones.layers import layers
from peftbench.methods.base import Plan
from peftbench.methods.petah import PETAH
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, has_update, weight_path_fits
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import method as method_of
from support.backbones import on_meta, parameters, with_weights

FORMERS = {name: f"efficientformer_{name}" for name in ("l1", "l3", "l7")}
FAMILIES = {
    "efficientformer": ("efficientformer_l1", None),
    "efficientformerv2": ("efficientformerv2_s0", None),
    "fastvit": ("fastvit_t8", 64),
    "mobilevit": ("mobilevit_xxs", 64),
    "edgenext": ("edgenext_xx_small", 64),
    "repvit": ("repvit_m0_9", 64),
    "coatnet": ("coatnet_nano_rw_224", 64),
    "maxvit": ("maxvit_rmlp_pico_rw_256", 64),
    "levit": ("levit_128s", None),
    "cnn": ("resnet10t", 64),
    "lite": ("tf_efficientnet_lite0", 64),
    "vit": ("vit_tiny_patch16_224", None),
    "swin": ("swin_tiny_patch4_window7_224", 64),
}


def spec(name):
    small = {
        "vit_tiny_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48},
        "efficientformer_l1": {"depths": (1, 1, 1, 2)},
        "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24},
    }
    return config.Backbone(name, args=small.get(name, {}), pretrained=False)


def adapted(name, size=None, **options):
    backbone = with_weights(spec(name), size)
    method = PETAH(**options)
    method.check(backbone)
    model = Model(backbone, Classification(backbone, ["a", "b", "c"]))
    model.adapted(method.adapt(backbone, Plan()))
    return model, method


def counted(name, **options):
    """What `peftbench.count_parameters` counts, with each backbone built once."""
    backbone = on_meta(config.Backbone(name, pretrained=False))
    return parameters(dataclasses.replace(method_of("petah"), **options), backbone)


# -- counts: the specification's table, per kind of layer


@pytest.mark.parametrize(
    ("name", "rank", "attn", "linear", "conv1x1", "kxk", "stem", "every"),
    [
        ("l1", 6, 20_736, 47_616, 181_440, 26_370, 1_890, 255_426),
        ("l1", 8, 27_648, 63_488, 241_920, 35_160, 2_520, 340_568),
        ("l3", 6, 86_016, 208_896, 337_920, 35_874, 2_466, 582_690),
        ("l3", 8, 114_688, 278_528, 450_560, 47_832, 3_288, 776_920),
        ("l7", 6, 196_608, 565_248, 518_400, 47_970, 3_618, 1_131_618),
        ("l7", 8, 262_144, 753_664, 691_200, 63_960, 4_824, 1_508_824),
    ],
)
def test_exact_counts_by_kind_of_layer(name, rank, attn, linear, conv1x1, kxk, stem, every):
    def count(*targets):
        return counted(FORMERS[name], rank=rank, targets=targets)

    assert count("attn") == attn
    assert count("attn", "mlp") == linear
    assert count("conv1x1") == conv1x1
    assert count("stem", "downsample", "convkxk") == kxk
    assert count("stem") == stem
    assert peftbench.count_parameters("petah", FORMERS[name], rank=rank) == every


@pytest.mark.parametrize(
    ("name", "norms", "biases"), [("l1", 34_608, 20_184), ("l3", 67_648, 47_648), ("l7", 115_488, 93_840)]
)
def test_exact_counts_of_norms_and_biases(name, norms, biases):
    alone = counted(FORMERS[name])
    assert counted(FORMERS[name], norms="affine") == alone + norms
    assert counted(FORMERS[name], bias="all") == alone + biases


def test_ranks_follow_patterns():
    base = counted("efficientformer_l1", rank=4)
    more = counted("efficientformer_l1", rank=4, ranks=("*qkv=8", "stages.3.blocks.4.*=6"))
    # qkv 448 -> 1536 and proj, fc1, fc2 of the last block go from 4 to 6: the last match counts
    assert more - base == 2 * (448 + 1536 + 1024 + 448 + 2 * (448 + 1792))


def test_a_rank_is_clamped_to_what_the_weight_has():
    skipped = PETAH(rank=16).skipped(backbones.build_on_meta(spec("repvit_m0_9"), 64))
    assert "of rank 9 has" in skipped["stages.0.blocks.0.token_mixer.conv.c"]


def test_a_layer_whose_update_would_be_no_smaller_is_left_alone_and_named():
    backbone = backbones.build_on_meta(config.Backbone("mobilevit_xxs", pretrained=False), 64)
    skipped = PETAH().skipped(backbone)
    assert skipped["stages.0.0.conv2_kxk.conv"] == "its update of rank 8 has 328 parameters, its weight 288"
    PETAH().adapt(backbone, Plan())
    assert not has_update(backbone.net.get_submodule("stages.0.0.conv2_kxk.conv"))
    assert {x.name for x in layers(backbone) if not has_update(x.module)} == set(skipped)


# -- one layer: forward, gradients, merging


def cases():
    def conv(*args, kind=nn.Conv2d, **kwargs):
        return lambda: kind(*args, **kwargs)

    yield "linear", lambda: nn.Linear(12, 20), (3, 5, 12)
    yield "linear without bias", lambda: nn.Linear(12, 20, bias=False), (3, 12)
    for k in (1, 3, 5, 7, (2, 4), (3, 1)):
        yield f"{k}", conv(6, 10, k), (2, 6, 11, 13)
    yield "stride", conv(6, 10, 3, stride=2, padding=1), (2, 6, 11, 13)
    yield "strides", conv(6, 10, 3, stride=(2, 1), padding=(0, 2), bias=False), (2, 6, 11, 12)
    yield "same", conv(6, 10, 4, padding="same"), (2, 6, 11, 13)
    yield "dynamic same", conv(6, 10, 3, stride=2, kind=Conv2dSame), (2, 6, 11, 13)
    yield "reflect", conv(6, 10, 3, padding=1, padding_mode="reflect"), (2, 6, 11, 13)
    yield "circular", conv(6, 10, 3, padding=1, padding_mode="circular"), (2, 6, 11, 13)
    yield "dilation", conv(6, 10, 3, dilation=2), (2, 6, 11, 13)
    yield "groups", conv(6, 10, 3, groups=2), (2, 6, 11, 13)
    yield "depthwise", conv(6, 6, 3, padding=1, groups=6), (2, 6, 11, 13)
    yield "depthwise multiplier", conv(6, 12, 3, padding=1, groups=6), (2, 6, 11, 13)


CASES = {name: (make, shape) for name, make, shape in cases()}


@pytest.mark.parametrize("apart", [False, True], ids=["weight", "apart"])
@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_merged_layer_and_their_gradients_those_of_the_whole_weight(case, apart):
    make, shape = CASES[case]
    torch.manual_seed(0)
    layer, twin = make().double(), make().double()
    twin.load_state_dict(layer.state_dict())
    layer.weight.requires_grad = False
    apart = apart and isinstance(layer, nn.Conv2d) and layer.groups == 1 and type(layer) is nn.Conv2d
    path = "input" if apart else "weight" if weight_path_fits(layer) else "read"
    update = LowRankUpdate.add(layer, Form(3, 0.7, path, fused=True))
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    assert torch.equal(layer(x), twin(x))
    nn.init.normal_(layer.lora_b)
    nn.init.normal_(layer.lora_a)
    y = layer(x)
    cotangent = torch.randn_like(y)
    gradients = torch.autograd.grad(
        y, [x, layer.lora_a, layer.lora_b, *([layer.bias] if layer.bias is not None else [])], cotangent
    )

    low, high = layer.lora_a.detach().requires_grad_(), layer.lora_b.detach().requires_grad_()
    whole = twin.weight.detach() + 0.7 * (high @ low).view(twin.weight.shape)
    given = {"weight": whole, **({"bias": twin.bias} if twin.bias is not None else {})}
    expected = torch.func.functional_call(twin, given, x)
    theirs = torch.autograd.grad(expected, [x, low, high, *([twin.bias] if twin.bias is not None else [])], cotangent)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    for ours, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)

    before = layer._parameters["weight"]
    bytes_ = before.clone()
    update.merge()
    assert torch.equal(before, bytes_)
    assert type(layer) is type(twin)
    assert set(layer.state_dict()) == set(twin.state_dict())
    torch.testing.assert_close(layer(x), y, rtol=1e-10, atol=1e-10)
    assert not has_update(layer)


def test_the_update_runs_in_the_precision_of_autocast():
    torch.manual_seed(0)
    for make, shape in (CASES["linear"], CASES["3"]):
        layer = make()
        layer.weight.requires_grad = False
        LowRankUpdate.add(layer, Form(3, 1.0, "weight", fused=True))
        nn.init.normal_(layer.lora_b)
        x = torch.randn(shape, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()
        assert layer.lora_a.grad.dtype == x.grad.dtype == torch.float32
        torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)


def test_a_masked_update_leaves_masked_weights_at_zero():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 10, 3)
    mask = torch.rand(layer.weight.shape) < 0.5
    with torch.no_grad():
        layer.weight.mul_(mask)
    update = LowRankUpdate.add(layer, Form(3, 1.0, "read", fused=True), mask)
    nn.init.normal_(layer.lora_b)
    assert torch.equal(layer.weight == 0, ~mask)
    layer(torch.randn(2, 6, 8, 8)).sum().backward()
    assert layer.lora_a.grad.abs().sum() > 0
    update.merge()
    assert torch.equal(layer.weight == 0, ~mask)


# -- whole backbones


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) if f in ("maxvit", "coatnet") else f for f in FAMILIES]
)
def test_every_family_starts_as_it_was_learns_and_merges(family):
    name, size = FAMILIES[family]
    start = with_weights(spec(name), size)
    model, method = adapted(name, size, rank=4)
    size = start.facts.input_size
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    model.eval(), start.eval()
    x = model.normalize(images)
    with torch.no_grad():
        assert torch.equal(model.backbone.taps(x, (-1,))[0], start.taps(x, (-1,))[0])
    named = dict(model.backbone.net.named_parameters())
    trained = {n for n, p in named.items() if p.requires_grad}
    assert trained == {n for n in named if n.endswith(("lora_a", "lora_b"))}
    frozen = {n: t.clone() for n, t in model.backbone.net.state_dict().items() if n not in trained}

    model.train()
    optimizer = torch.optim.AdamW([p for _, p in model.trainable()], lr=1e-2)
    for step in range(2):
        optimizer.zero_grad()
        model.loss((images, torch.tensor([0, 2]))).backward()
        if not step:  # B is 0: no gradient reaches A yet
            reached = [n for n in trained if n.endswith("lora_b") and named[n].grad.abs().sum() > 0]
            assert reached
            assert not any(named[n].grad.abs().sum() for n in trained if n.endswith("lora_a"))
        optimizer.step()
    assert all(torch.equal(t, frozen[n]) for n, t in model.backbone.net.state_dict().items() if n in frozen)
    model.eval()
    with torch.no_grad():
        apart = model(images)
        method.merge(model.backbone)
        merged = model(images)
    assert set(model.backbone.state_dict()) == set(start.state_dict())
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-4 * apart.abs().max().item())


@pytest.mark.parametrize("name", ["repvit_m0_9", "fastvit_t8"])
def test_merging_before_reparameterising_equals_the_tuned_model(name):
    model, method = adapted(name, 64, rank=2)
    for n, p in model.backbone.net.named_parameters():
        if n.endswith("lora_b"):
            nn.init.normal_(p, std=1e-3)
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.backbone.pool(model.backbone.taps(x, (-1,))[0])
        method.merge(model.backbone)
        fused = timm.utils.reparameterize_model(model.backbone.net).eval()
        again = fused(x)
    torch.testing.assert_close(again, features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("norms", "moves"), [("frozen", False), ("affine", False), ("affine+stats", True)])
def test_statistics_move_only_where_asked(norms, moves):
    model, _ = adapted("mobilevit_xxs", 64, norms=norms)
    before = {n: t.clone() for n, t in model.state_dict().items() if "running" in n or "num_batches" in n}
    model.train()
    model.loss((torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])))
    same = [torch.equal(t, before[n]) for n, t in model.state_dict().items() if n in before]
    assert before
    assert not any(same) if moves else all(same)


def test_weight_standardised_convolutions_are_refused_with_what_would_work():
    backbone = backbones.build_on_meta(spec("resnetv2_50x1_bit"), 64)
    assert any(isinstance(m, StdConv2d) for m in backbone.net.modules())
    with pytest.raises(peftbench.Refusal, match="standardised"):
        PETAH().check(backbone)
    mixed = backbones.build_on_meta(config.Backbone("vit_tiny_r_s16_p8_224", pretrained=False))
    with pytest.raises(peftbench.Refusal, match="standardised") as told:
        PETAH().check(mixed)
    targets = tuple(re.search(r"method\.targets=\[(.+)\]", str(told.value))[1].split(","))
    PETAH(targets=targets).check(mixed)


NOWHERE = "pruning.images=/nowhere: there is no folder /nowhere; give the folder of your images."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["method.rank=0"], "method.rank=0"),
        (["method.alpha=-1"], "method.alpha=-1"),
        (["method.targets=[conv]"], "'conv' is no kind of layer"),
        (["method.targets=[depthwise]", "backbone=vit_nano"], "kinds attn, mlp, stem"),
        (["method.rank=100000"], "method.rank=100000: leaves no layer of mobilevit_xxs to adapt, since"),
        (["method.rank=76"], "layer stages.4.1.conv_fusion.conv allows at most 75"),
        (["method.targets=[depthwise]", "method.form=conv"], "to adapt (stages.0.0.conv2"),
        (["method.ranks=['*qkv']"], "expected pattern=rank"),
        (["method.ranks=['nothing=3']"], "no layer of"),
        (["method.ranks=['*qkv=4000']"], "allows at most"),
        (["method.form=v9"], "method.form"),
        (["pruning.ratio=1"], "pruning.ratio=1"),
        (["pruning.ratio=-0.1"], "pruning.ratio=-0.1"),
        (["pruning.ratio=nan"], "pruning.ratio=nan"),
        (["pruning=structured", "pruning.round_to=0"], "pruning.round_to=0"),
        (["pruning=structured", "pruning.heads=0.5", "backbone=efficientnet_lite0"], "no attention whose heads"),
        (["pruning=unstructured", "pruning.merge=masked", "method=lora"], "unmerged or dense"),
        (["pruning=unstructured", "pruning.criterion=taylor", "pruning.images=/nowhere"], NOWHERE),
        (["pruning.images=/nowhere"], "pruning.images=/nowhere: pruning.criterion=magnitude looks at no images"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_options_are_one_sentence(cli, options, words):
    status, _, told = cli("method=petah", "backbone=hybrid_nano", "data=digits", *options)
    assert status == 2
    assert words in told
    assert "data.root" not in told
    assert len(told.strip().splitlines()) == 1


def test_an_image_that_pruning_cannot_read_is_named(cli, tmp_path):
    for label in "ab":
        (tmp_path / "seen" / label).mkdir(parents=True)
        (tmp_path / "seen" / label / "broken.png").write_text("no picture")
    words = ["pruning.criterion=taylor", f"pruning.images={tmp_path / 'seen'}", f"output_dir={tmp_path / 'out'}"]
    status, _, told = cli("method=petah", "backbone=hybrid_nano", "data=digits", *words)
    assert status == 2
    assert "broken.png cannot be read as an image" in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out/**/*.*"))
