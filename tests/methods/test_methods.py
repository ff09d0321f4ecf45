"""Methods: each trains exactly what it says, differs from its neighbours, and leaves what is frozen frozen."""

import dataclasses

import pytest
import torch

import peftbench
from peftbench import backbones
from peftbench.common.config_files import names
from peftbench.config import CONFIGS
from peftbench.methods.base import Method, Plan
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import DEAR, OTHER_NAMES, REFUSES, SMALL, composed, on_meta, parameters
from support.backbones import method as method_of
from support.batches import batch
from support.models import adapted_model

# A method added later is one row: its parameters on ViT-B/16, ResNet-50, EfficientFormer-L1 and Swin-B, from the
# formulas in the comments; None where it refuses.
COUNTS = {
    # every weight of timm's model without its classifier
    "full": {"vit_b": 85_798_656, "resnet50": 23_508_032, "efficientformer_l1": 11_391_928, "swin_b": 86_743_224},
    "linear": {"vit_b": 0, "resnet50": 0, "efficientformer_l1": 0, "swin_b": 0},
    # ViT-B: 12 (768 + 2304 + 768 + 768 + 3072 + 768) + 768 (patches) + 768 (norm); ResNet-50: batch-norm biases
    "bitfit": {"vit_b": 102_912, "resnet50": 26_560, "efficientformer_l1": None, "swin_b": None},
    # ViT-B: 12 x 8 x (768 + 2304 + 768 + 768 + 768 + 3072 + 3072 + 768)
    "lora": {"vit_b": 1_179_648, "resnet50": "formula", "efficientformer_l1": None, "swin_b": None},
    # L 2 r (d + n): 12 x 16 x (768 + 197); ResNet-50: 5 x 16 x (2048 + 49) + 8 x (64 + 256 + 512 + 1024)
    # EfficientFormer-L1: 4 x 16 x (448 + 49) + 8 x (48 + 96 + 224)
    # Swin-B: 4 x 16 x (1024 + 49) + 8 x (128 + 256 + 512)
    "losa": {"vit_b": 185_280, "resnet50": 182_608, "efficientformer_l1": 34_752, "swin_b": 75_840},
    # widths c = C / 8; each stage 2 C c (reduce, expand) + 9 c + c^2 (block) + 6 c (norms) + c (gate) + C (gamma), and
    # what comes from below it, stem first. ViT-B: 4 (2 x 768 x 96 + 16 x 96 + 96^2 + 768) + 768 x 96 + 3 x 96^2.
    # EfficientFormer and Swin have no stem: 3 c less at the first stage (no gate, two norms)
    "cst": {"vit_b": 737_280, "resnet50": 1_536_256, "efficientformer_l1": 74_106, "swin_b": 386_384},
    # ViT-B, c = 96: 12 (768 c (down) + 12 c^2 + 13 c (block)) + 11 (gates) + 2 c (norm) + 768 c (up); of maps each tap
    # C c + 18 c^2 + 4 c, and c c' where the width changes: ResNet-50 has c = 8 (stem), 32, 64, 128, 256
    "lst": {"vit_b": 2_300_747, "resnet50": 2_834_724, "efficientformer_l1": 115_875, "swin_b": 708_803},
    # LoRA's and the patches': + 8 x (768 + 768); EfficientFormer-L1 by kind of layer in tests/test_petah.py
    "petah": {"vit_b": 1_191_936, "resnet50": "formula", "efficientformer_l1": 340_568, "swin_b": "formula"},
    # blocks of width d: 2 d r + r + d each. ViT-B: 12 (2 x 768 x 8 + 8 + 768); ResNet-50: 17 x 15,104 + 16 x 8;
    # EfficientFormer-L1: 17 x 3,472 + 15 x 8; Swin-B: 17 x 12,032 + 24 x 8
    "adapter": {"vit_b": 156_768, "resnet50": 256_896, "efficientformer_l1": 59_144, "swin_b": 204_736},
    "adaptformer": {"vit_b": 1_189_632, "resnet50": 1_949_440, "efficientformer_l1": 448_848, "swin_b": 1_553_664},
    # and a scale of each channel: 2 d r + r + 2 d
    "adapter_plus": {"vit_b": 165_984, "resnet50": 272_000, "efficientformer_l1": 62_616, "swin_b": 216_768},
    # and a norm: 2 d r + r + 3 d
    "pfeiffer": {"vit_b": 175_200, "resnet50": 287_104, "efficientformer_l1": 66_088, "swin_b": 228_800},
    # two in each block, and its norms: 2 (2 d r + r + d) + 4 d
    "houlsby": {"vit_b": 350_400, "resnet50": None, "efficientformer_l1": None, "swin_b": 457_600},
    # two in each block, 2 groups: d r + r + d r / 2 + d. EfficientFormer-L1: qkv and fc1 of its last block, of 448
    "repadapter": {"vit_b": 239_808, "resnet50": None, "efficientformer_l1": 11_664, "swin_b": 313_216},
    # two in each block: 2 d r + r + d + 9 r^2 + r; EfficientFormer-L1: one behind each of 14 blocks of maps
    "convpass": {"vit_b": 327_552, "resnet50": None, "efficientformer_l1": 59_696, "swin_b": 437_504},
    # two in each block, one behind each of a CNN's: 133 d + 9,728
    "mona": {"vit_b": 2_684_928, "resnet50": 2_164_480, "efficientformer_l1": 607_696, "swin_b": 3_667_456},
    # twice the channels. ViT-B: 2 (12 x 11 x 768 + 768 (patches) + 768 (norm)); ResNet-50: 2 x 26,560 channels of batch
    # norms; Swin-B: 2 (11 (2 x 128 + 2 x 256 + 18 x 512 + 2 x 1024) + 2 x 128 (patches) + 4 (128 + 256 + 512) + 1024)
    "ssf": {"vit_b": 205_824, "resnet50": 53_120, "efficientformer_l1": 43_056, "swin_b": 274_432},
    # rows and biases: ViT-B 2 x (12 x 9 + 1) x 768; ResNet-50 2 x 26,560; Swin-B 110,208 rows, 108,416 biases and its
    # tables of 63,544
    "gps": {"vit_b": 167_424, "resnet50": 53_120, "efficientformer_l1": "formula", "swin_b": 282_168},
    # 2 d r + 12 L r^2, and with one core of three dimensions 2 d r + 12 L r + r^3 at rank 32
    "fact": {"vit_b": 61_440, "resnet50": None, "efficientformer_l1": None, "swin_b": None},
    "fact_tk": {"vit_b": 86_528, "resnet50": None, "efficientformer_l1": None, "swin_b": None},
    # the last block and the last norm, 7,087,872 + 1,536 on ViT-B; of EfficientFormer timm knows whole stages
    "partial": {"vit_b": 7_089_408, "resnet50": 4_462_592, "efficientformer_l1": 8_504_968, "swin_b": 12_603_680},
    # ViT-B: 25 norms of 2 x 768
    "ln_tune": {"vit_b": 38_400, "resnet50": 53_120, "efficientformer_l1": 34_608, "swin_b": 57_600},
    # 2 x 2 x 768 x 12, and 9 x 768 for the convolution
    "dtl": {"vit_b": 36_864, "resnet50": None, "efficientformer_l1": None, "swin_b": None},
    "dtl_plus": {"vit_b": 43_776, "resnet50": None, "efficientformer_l1": None, "swin_b": None},
    # ViT-B: 12 (768^2 + 768)
    "apla": {"vit_b": 7_087_104, "resnet50": None, "efficientformer_l1": None, "swin_b": 6_991_616},
}
# These train nothing: the head is worked out, and counted apart.
COUNTS |= dict.fromkeys(("knn", "logreg", "ncm", "ridge"), COUNTS["linear"])
# of 32 queries and width d, 32 d + d^2: d is 768 on ViT-B, 2048 on ResNet-50, 448 on EfficientFormer-L1, 1024 on Swin-B
COUNTS["attentive"] = {"vit_b": 614_400, "resnet50": 4_259_840, "efficientformer_l1": 215_040, "swin_b": 1_081_344}
# two layers of d^2 + d and the gains and biases of their norms: 2 (d^2 + 3 d)
COUNTS["mlp"] = {"vit_b": 1_184_256, "resnet50": 8_400_896, "efficientformer_l1": 404_096, "swin_b": 2_103_296}
# 12 blocks, or the first alone, 10 prompts of 768
COUNTS["vpt"] = {"vit_b": 92_160, "resnet50": None, "efficientformer_l1": None, "swin_b": 120_320}
COUNTS["vpt_shallow"] = COUNTS["vpt"] | {"vit_b": 7_680, "swin_b": None}
FORMS_OF_LORA = ("dora", "rslora", "pissa", "olora", "lora_plus", "pace")
# DoRA has a length of each row besides: 12 x (2304 + 768 + 3072 + 768) on ViT-B
COUNTS |= {name: dict(COUNTS["lora"]) for name in FORMS_OF_LORA}
COUNTS["dora"]["vit_b"] = 1_262_592
# These train what full fine-tuning trains, on another path.
COUNTS |= dict.fromkeys(("ftp", "tpgm", "l2sp", "wise_ft", "lp_ft"), COUNTS["full"])
EVERYTHING = {"full", "ftp", "tpgm", "l2sp", "wise_ft", "lp_ft"}  # batch-norm statistics move too
SAME_STEPS = {
    "dtl_plus",  # those of dtl where the class token is pooled right behind it (tests/methods/test_dtl.py)
    *("wise_ft", "lp_ft", "spt", "lora_plus", "pace"),  # those of another method: they differ before the first or later
    *("knn", "logreg", "ncm", "ridge"),  # none (tests/methods/test_solved.py)
}
# What these train is decided by data (tests/test_spt.py counts it); here, the budget that is aimed at.
_AIM = dict.fromkeys(("vit_b", "resnet50", "efficientformer_l1", "swin_b"), "about 400,000 parameters")
COUNTS |= {name: _AIM for name in ("spt", "spt_lora", "spt_adapter", "spt_sparse")}  # noqa: C420
COUNTS["bitfit"] |= {"efficientformer_l1": "formula", "swin_b": "formula"}
for _form in ("lora", *FORMS_OF_LORA):
    COUNTS[_form] |= {"efficientformer_l1": "formula", "swin_b": "formula"}


def test_every_method_has_its_row():
    assert set(COUNTS) == set(names("method", [CONFIGS]))


def expected(method, name):
    """The count by formula over the layers, where it is not a plain figure."""
    count = COUNTS[method][name]
    if count != "formula":
        return count
    net = on_meta(composed(f"backbone={name}").backbone).net
    if method == "bitfit":
        return sum(p.numel() for n, p in net.named_parameters() if n.split(".")[-1] == "bias")
    if method == "gps":
        rows = sum(len(m.weight) for m in net.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
        whole = {n: p for n, p in net.named_parameters() if n.split(".")[-1] == "gamma" or "bias" in n}
        return rows + sum(p.numel() for n, p in whole.items() if "norm" not in n)
    if method == "petah":
        found = [m for m in net.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
        return sum(8 * (len(m.weight) + m.weight[0].numel()) for m in found)
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    if not linear:  # A (r k, C k) and B (O k, r k) of each convolution with as many channels as the rank
        found = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels >= 8]
        low_rank = sum(8 * m.kernel_size[0] ** 2 * (m.in_channels + m.out_channels) for m in found)
    else:
        found, low_rank = linear, sum(8 * (m.in_features + m.out_features) for m in linear)
    return low_rank + (sum(len(m.weight) for m in found) if method == "dora" else 0)


def count_parameters(method, name):
    """As `peftbench.count_parameters`, with each backbone built once."""
    return parameters(method_of(method), on_meta(composed(f"backbone={name}").backbone))


@pytest.mark.parametrize("method", COUNTS)
@pytest.mark.parametrize("name", ["vit_b", "resnet50", "efficientformer_l1", "swin_b"])
def test_exact_parameter_counts(method, name):
    count = expected(method, name)
    if count is None or isinstance(count, str):
        with pytest.raises(peftbench.UserError, match=count or "petah|attn.proj|equal blocks|works?[.]"):
            count_parameters(method, name)
    else:
        assert count_parameters(method, name) == count


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": {"a": 1}}, r"method.rank={'a': 1}: expected a whole number."),
        ({"rank=3 foo": 1}, r"method.rank=3 foo: there is no such key."),
        ({"rank": "4"}, r"method.rank='4': expected a whole number."),
        ({"layers": {1}}, r"method.layers={1}: expected a number, a string, true, false, null or a list."),
    ],
)
def test_options_that_cannot_be_counted_are_one_sentence(options, told):
    with pytest.raises(peftbench.UserError) as raised:
        peftbench.count_parameters("lora", "vit_nano", **options)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize("word", ['method.rank={"a": 1}', "method.rank foo=3", "method.layers=[*qkv"])
def test_what_hydra_cannot_read_is_named_alone(word):
    with pytest.raises(peftbench.UserError) as raised:
        peftbench.compose("method=lora", "backbone=vit_nano", word, "data=digits")
    assert (
        str(raised.value) == f"{word}: cannot be read; expected key=value, special characters quoted: \"key='a [b'\"."
    )


def test_counts_follow_the_options():
    assert peftbench.count_parameters("lora", "vit_b", rank=4) == 589_824
    # query, key and value inputs alone: 12 x 8 x (768 + 2304), the 0.29 M of the literature
    assert peftbench.count_parameters("lora", "vit_b", layers=["*qkv"]) == 294_912
    assert peftbench.count_parameters("lora", "vit_g") == 40 * 8 * ((1408 * 4) + 2 * 1408 + 2 * (1408 + 6144))


def steps(model, n=3):
    named = model.trainable()
    inner = torch.optim.AdamW(named, lr=1e-2, weight_decay=0.5)
    optimizer = model.method.optimizer(named, {n: p.detach().clone() for n, p in named}, inner)
    optimizer.objective = lambda: model.loss(batch())  # of TPGM
    losses = []
    for _ in range(n):
        model.train()
        loss = model.loss(batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


EVERY = [(m, f) for f in SMALL for m in sorted(COUNTS) if f not in REFUSES.get(m, ())]
PAIRS = [pytest.param(m, f, marks=pytest.mark.slow) if m in DEAR and f != "vit" else (m, f) for m, f in EVERY]
LONGER = [
    (m, f) if f == "vit" and m not in OTHER_NAMES else pytest.param(m, f, marks=pytest.mark.slow) for m, f in EVERY
]


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_what_is_frozen_stays_bit_identical_and_what_trains_moves(method, family):
    model = adapted_model(method, family)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    trained = {n for n, _ in model.trainable()}
    steps(model)
    after = model.state_dict()
    for name, tensor in before.items():
        same = torch.equal(tensor, after[name])
        if name in trained:
            assert not same, f"{name} should train"
        elif method not in EVERYTHING and not name.startswith("side."):  # the statistics of a side net's own norms move
            assert same, f"{name} should be frozen"


@pytest.mark.parametrize(("method", "family"), LONGER)
def test_training_lowers_the_loss(method, family):
    losses = steps(adapted_model(method, family), 12)
    assert losses[-1] < losses[0] - 0.03


@pytest.mark.parametrize("family", ["vit", *(pytest.param(f, marks=pytest.mark.slow) for f in ("cnn", "hybrid"))])
def test_no_two_methods_compute_the_same(family):
    """Different trajectories from the same start: a copied method would show."""
    methods = [m for m in COUNTS if m not in SAME_STEPS and family not in REFUSES.get(m, ())]
    seen = {m: tuple(steps(adapted_model(m, family), 4)) for m in methods}
    assert len(set(seen.values())) == len(seen)
    same = [m for m in seen if method_of(m).identity_start and not (m in EVERYTHING and family != "vit")]
    starts = {seen[m][0] for m in same}
    assert max(starts) - min(starts) < 1e-5, "every method starts as the backbone it adapts"


def test_the_linear_probe_sends_nothing_into_the_backbone():
    model = adapted_model("linear", "vit")
    for parameter in model.backbone.parameters():
        parameter.requires_grad = True  # on purpose: no gradient may arrive all the same
    model.train()
    model.loss(batch()).backward()
    inside = {n: p.grad for n, p in model.backbone.named_parameters()}
    tail = {f"net.{t}" for t in model.backbone.facts.tail}
    assert all(g is None for n, g in inside.items() if n.rsplit(".", 1)[0] not in tail)


def test_modes_frozen_norms_never_move_and_drop_path_is_off_under_side_methods():
    spec = dataclasses.replace(SMALL["vit"], drop_path=0.5)
    for method, live in (("linear", False), ("lora", True)):
        backbone = backbones.build_with_weights(spec, 32)
        model = Model(backbone, Classification(backbone, ["x"] * 3))
        model.adapted(method_of(method).adapt(backbone, Plan()))
        model.train()
        drops = [m for m in backbone.modules() if type(m).__name__ == "DropPath"]
        assert drops
        assert all(m.training is live for m in drops)
        with torch.no_grad():
            torch.manual_seed(0)
            first = model(batch()[0])
            second = model(batch()[0])
        assert torch.equal(first, second) is not live
    cnn = adapted_model("bitfit", "cnn").train()
    assert not any(m.training for m in cnn.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    full = adapted_model("full", "cnn").train()
    assert all(m.training for m in full.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("method", COUNTS)
def test_a_method_declares_the_hooks_that_it_defines_and_no_others(method):
    kind = type(method_of(method))
    for hook, attribute in Method.HOOKS.items():
        declared = bool(getattr(kind, attribute))  # a property, where that depends on options
        assert declared == (getattr(kind, hook) is not getattr(Method, hook)), (hook, attribute)
    assert kind.anchored == (kind.own_optimizer or kind.finishes), "every shipped one stays near its start"


@pytest.mark.parametrize(("hook", "attribute"), Method.HOOKS.items())
def test_a_hook_that_is_not_declared_is_refused_where_it_is_defined(hook, attribute):
    members = {hook: lambda self, *_: None}
    with pytest.raises(peftbench.UserError) as raised:
        type("Mine", (Method,), members)
    assert str(raised.value) == (
        f"Mine: defines {hook}(), and nobody would call it; declare {attribute}: ClassVar[bool] = True in the class."
    )
    assert getattr(type("Mine", (Method,), {**members, attribute: True}), attribute)
