"""Every method on families of timm that treat their layers in ways of their own.

A layer may be called by the pooling head, called twice, standardised when it is used, have attributes like ours, or
have its weight read instead of being called. Whatever a method adds there starts as nothing, trains, and computes the
same beside the weights as merged into them.
"""

from __future__ import annotations

import pytest
import torch

import peftbench
from peftbench import config, deltas
from peftbench.methods.base import Method, Plan
from peftbench.models.model import Model
from peftbench.runs.start_check import Start
from peftbench.tasks.classification.task import Classification
from support.backbones import method as method_of
from support.backbones import with_weights

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}
STAGES = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
FAST = {
    "an attention pools": ("vit_base_patch16_siglip_224", VIT, 32),
    "scaled and standardised convolutions": ("test_nfnet", {}, 32),
    "weights that are read": ("beit_base_patch16_224", VIT, 32),
}
SLOW = {
    "two class tokens": ("deit_tiny_distilled_patch16_224", VIT, 32),
    "a hidden layer in the head": ("convnext_atto", STAGES | {"head_hidden_size": 24}, 64),
    "MambaOut": ("mambaout_femto", STAGES, 64),
    "EfficientViT of MIT": ("efficientvit_b0", {}, 64),
    "EfficientViT of Microsoft": ("efficientvit_m0", {}, None),
    "timm's own linear layer": ("lowformer_b0", {"depth_list": [0, 1, 1, 1, 2]}, 64),
    "called twice": ("coat_lite_tiny", {"embed_dims": [32, 64, 64, 64]}, 64),
    "norm-free": ("nf_resnet26", {"depths": (1, 1, 1, 1), "channels": (32, 64, 96, 128)}, 64),
    "standardised": ("resnetv2_50x1_bit", {"channels": (128, 128, 256, 256)}, 64),
    "padded when used": ("tf_efficientnet_lite0", {}, 64),
    "a map pools": ("test_vit3", {}, None),
    "registers": ("vit_small_patch14_reg4_dinov2", VIT | {"img_size": 42}, 42),
    "DINOv3": ("vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 48, "num_heads": 2}, 32),
    "PE": ("vit_pe_core_tiny_patch16_384", VIT | {"embed_dim": 64}, 32),
    "AIMv2": ("aimv2_large_patch14_224", VIT | {"img_size": 28}, 28),
    "Hiera": ("hiera_tiny_224", {"stages": (1, 1, 1, 1), "embed_dim": 16}, 224),
    "FastViT": ("fastvit_t8", {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)}, 64),
    "EVA": ("eva02_tiny_patch14_224", VIT | {"img_size": 28}, 28),
    "CaiT": ("cait_xxs24_224", {"img_size": 64, "depth": 2}, 64),
    "XCiT": ("xcit_nano_12_p16_224", {"img_size": 64, "depth": 2}, 64),
    "ConViT": ("convit_tiny", {"img_size": 64, "depth": 2}, 64),
    "EdgeNeXt": ("edgenext_xx_small", {}, 64),
    "LeViT": ("levit_128s", {"embed_dim": (64, 96, 128), "num_heads": (2, 3, 4), "depth": (1, 1, 2)}, None),
    "Swin": ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 16}, 64),
    "Swin v2": ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)}, 64),
    "VGG": ("vgg11", {"mlp_ratio": 1 / 64}, 64),
    "MobileViT": ("mobilevit_xxs", {}, 64),
    "RepViT": ("repvit_m0_9", {"depth": (2, 2, 2, 2)}, 64),
    "PVT": ("pvt_v2_b0", {}, 64),
    "CAFormer": ("poolformerv2_s12", {}, 64),
}
METHODS = {
    "full": (),
    "lp_ft": (),
    "bitfit": (),
    "partial by depth": (),
    "partial of rows": ("method.names=['*weight']", "method.rows=1"),
    "ln_tune": (),
    "dtl": (),
    "linear": (),
    "lora": ("method.rank=1",),
    "dora": ("method.rank=1",),
    "pissa": ("method.rank=1",),
    "petah": (),
    "petah of convolutions": ("method.form=conv",),
    "ssf": (),
    "fact": ("method.rank=4",),
    "fact_tk": ("method.rank=4",),
    "spt_lora": (),
    "spt_adapter": (),
    "spt_sparse": (),
    "gps": (),
    "losa": (),
    "losa of patches": ("method.pooling=avg",),
    "cst": (),
    "lst": (),
    "adapter": (),
    "repadapter": (),
    "convpass": (),
    "mona": ("method.init=zero",),
}
NOT_THERE = {
    *(("dora", family) for family in ("weights that are read", "EVA", "Swin v2")),
    *((form, family) for form in ("dora", "pissa") for family in ("standardised", "norm-free")),
    *((form, "scaled and standardised convolutions") for form in ("dora", "pissa")),
    ("petah", "standardised"),
    ("petah", "scaled and standardised convolutions"),
    ("petah", "norm-free"),
    ("ssf", "scaled and standardised convolutions"),
    ("ssf", "norm-free"),
    ("ln_tune", "scaled and standardised convolutions"),
    ("ln_tune", "norm-free"),
    ("ln_tune", "VGG"),
    ("partial by depth", "CAFormer"),
}
"""(method, family) that are refused, besides `losa of patches` where there are no class tokens to leave out, and side
nets of maps where the taps are none."""
PLAIN_VITS = {"an attention pools", "two class tokens", "registers", "a map pools"}
"""Those whose matrices are tiles of one width."""
ROUNDS = {"CaiT", "EfficientViT of Microsoft"}
"""Sums over tokens or maps are rounded by how their memory lies, which a copy of the same bits may change."""
FAMILIES = FAST | SLOW
PLAIN = {"full", "bitfit", "linear", "partial by depth", "ln_tune"}
"""These add nothing to the backbone."""
STAND_INS = {"fact_tk": "fact", "gps": "spt_sparse"}
"""Methods of which another stands for the mechanism in fast tests."""
RARE = PLAIN | STAND_INS.keys() | {"repadapter", "convpass", "mona", "pissa"}
PAIRS = [
    pytest.param(family, method, marks=() if family in FAST and method not in RARE else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
]


def made(family: str) -> Model:
    """An untouched model of three classes with random weights, none of whose layers is multiplied by zero."""
    name, arguments, size = FAMILIES[family]
    backbone = with_weights(config.Backbone(name, args=arguments, pretrained=False), size)
    random = torch.Generator().manual_seed(1)
    for parameter in backbone.parameters():
        if parameter.data.abs().max() < 1e-2:  # biases; gains and layer scales that timm starts near zero
            parameter.data.uniform_(0.1, 0.5, generator=random)
    deltas.drop_cached_values(backbone)
    return Model(backbone, Classification(backbone, ["a", "b", "c"]))


def images(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    size = (4, 3, *model.backbone.facts.canvas)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=random), torch.tensor([0, 1, 2, 0])


def features(model: Model, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model.backbone.pool(model.extract(batch[0])[-1])


def adapted(model: Model, method: Method, batch: tuple[torch.Tensor, torch.Tensor]) -> list[torch.nn.Parameter]:
    """Adapts a model; what the method added that trains, in order."""
    before = {n for n, _ in model.named_parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plan = method.prepare(model, [batch]) if method.plans else Plan()
        model.adapted(method.adapt(model.backbone, plan))
    return [p for n, p in model.named_parameters() if n not in before and p.requires_grad]


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_what_a_method_adds_starts_as_nothing_trains_and_merges(family, method):
    name = method.split()[0]
    model, built = made(family), method_of(name, *METHODS[method])
    batch = images(model)
    absent = bool({(name, family), (method, family)} & NOT_THERE)
    try:
        built.check(model.backbone)
    except peftbench.Refusal as refusal:
        no_map = "which is no map and no grid of tokens" in str(refusal)
        no_place = {
            "repadapter": "has no linear layer called qkv or fc1",
            "convpass": "has no attention to stand beside",
        }
        unpooled = method == "losa of patches" and not model.backbone.repools
        homeless = no_place.get(name, "-") in str(refusal) or "has no blocks of maps" in str(refusal)
        no_tiles = name.startswith("fact") and "needs a plain ViT" in str(refusal) and family not in PLAIN_VITS
        unequal = "no sequence of equal blocks" in str(refusal) or "lie on no grid" in str(refusal)
        assert absent or no_map or unpooled or homeless or no_tiles or unequal
        return
    assert not absent
    untouched = features(model, batch)
    start = Start(model.backbone, None)
    start.remember(built, model)
    added = adapted(model, built, batch)
    start.refuse_other(built, name, model)
    if method != "losa of patches":  # which pools otherwise
        now = features(model, batch)
        rounded = family in ROUNDS and (now - untouched).abs().max() < 1e-6 * untouched.abs().max()
        assert torch.equal(now, untouched) or rounded
    random = torch.Generator().manual_seed(4)
    for parameter in added:
        parameter.data += torch.randn(parameter.shape, generator=random) * 0.05
    with torch.random.fork_rng():
        torch.manual_seed(5)
        loss = model.train().loss(batch)  # in eval mode some models keep what they made of their biases
    gradients = torch.autograd.grad(loss, added, allow_unused=True) if added else ()
    dead = sum(g is None or not g.any() for g in gradients)
    rest = 20 if name.startswith("spt") else 4 if method == "partial of rows" else len(added) + 1
    assert dead <= len(added) // rest  # single entries, and more so single rows, behind a ReLU may rest
    if built.foldable and added:
        beside = features(model, batch)
        assert not torch.allclose(beside, untouched, rtol=1e-3)
        built.merge(model.backbone)
        deltas.drop_cached_values(model)
        assert (features(model, batch) - beside).abs().max() < 1e-4 * beside.abs().max()
