"""Streaming: block by block from the file, equal to the ordinary forward to the bit, in a fraction of its memory."""

import dataclasses

import pytest
import safetensors.torch
import timm
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer, build_model_with_cfg

import peftbench
from peftbench import backbones, config
from peftbench.backbones import stream
from peftbench.common.errors import Refusal, UserError
from peftbench.methods.base import freeze

VIT = ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64, "embed_dim": 48, "num_heads": 3}, 64)
SWIN = ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (2, 1, 2, 1), "embed_dim": 24}, 64)
BEIT = ("beit_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 64}, 64)
FAMILIES = [
    VIT,
    SWIN,
    ("swinv2_tiny_window8_256", {"img_size": 64, "depths": (2, 1, 1, 1), "embed_dim": 24}, 64),
    BEIT,
    ("vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 56, "embed_dim": 96, "num_heads": 3}, 56),
    ("deit_tiny_distilled_patch16_224", {"depth": 2, "img_size": 64}, 64),
    ("eva02_tiny_patch14_224", {"depth": 2, "img_size": 56}, 56),
    ("convnext_atto", {}, 64),
    ("efficientnet_b0", {}, 64),
    ("efficientformer_l1", {}, 224),  # caches its attention biases
    ("cait_xxs24_224", {"img_size": 64, "depth": 2}, 64),  # cannot be cut into taps
]


def save(folder, name, args, change=lambda state: state, classes=0, **more):
    """A spec whose weights are a file of random ones, none of which is the neutral element that timm begins with."""
    torch.manual_seed(0)
    state = timm.create_model(name, num_classes=classes, **args).state_dict()
    state = {k: t + 0.02 * torch.randn(t.shape) if t.is_floating_point() else t for k, t in state.items()}
    path = folder / "weights.safetensors"
    safetensors.torch.save_file({k: t.abs() if "running_var" in k else t for k, t in change(state).items()}, path)
    return config.Backbone(name=name, args=args, weights=str(path), **more)


def streamed(spec, size=None):
    return backbones.build_with_weights(dataclasses.replace(spec, stream=True), size)


def check(spec, size=None, dtype=torch.float32):
    """The streamed backbone, after it was compared with the ordinary one to the last bit."""
    ours, theirs = streamed(spec, size), backbones.build_with_weights(spec, size)
    freeze(theirs)  # torch chooses between two ways to multiply by whether a weight requires a gradient
    assert ours.facts == theirs.facts
    assert ours.start == theirs.start
    assert ours.fingerprint == theirs.fingerprint
    assert any(p.is_meta for p in ours.parameters())
    assert not any(p.requires_grad for p in ours.parameters())
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x = torch.randn(3, 3, ours.facts.input_size, ours.facts.input_size, dtype=dtype)
    with torch.no_grad():
        for _ in range(2):
            taps, expected = ours.taps(x), theirs.taps(x)
            assert all(torch.equal(a, b) for a, b in zip(taps, expected, strict=True))
        assert torch.equal(ours.pool(taps[-1]), theirs.pool(expected[-1]))
        assert torch.equal(ours.taps(x, [0])[0], expected[0])
    assert all(
        p.is_meta for slots in ours.blocks.slots.values() for p in (s.owner.get_parameter(s.leaf) for s in slots)
    )
    return ours


@pytest.mark.parametrize("name", ["vit_nano", "resnet_nano", "hybrid_nano"])
def test_shipped_backbones_stream_to_the_bit(name):
    ours = check(peftbench.compose(f"backbone={name}").backbone)
    assert set(ours.blocks.slots) >= {t.module for t in ours.facts.taps} - {"act1", "stem"}


@pytest.mark.parametrize(("name", "args", "size"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_families_stream_to_the_bit(tmp_path, monkeypatch, name, args, size):
    monkeypatch.setattr(stream, "LEAST", 0)
    check(save(tmp_path, name, args), size)


@pytest.mark.parametrize(("name", "args", "size"), [VIT, SWIN, BEIT], ids=["vit", "swin", "beit"])
def test_what_is_too_large_is_read_in_parts(tmp_path, monkeypatch, name, args, size):
    spec = save(tmp_path, name, args)
    whole = check(spec, size).blocks.slots
    monkeypatch.setattr(stream, "BOUND", 20_000)
    parts = check(spec, size).blocks.slots
    assert not set(parts) & {"blocks.0", "layers.0"}
    assert len(parts) > 2 * len(whole)
    # BEiT's attention reads the weight of its projection instead of calling it
    assert ("blocks.0.attn.qkv" in parts) is (name == VIT[0])


def test_in_another_type_it_equals_the_ordinary_in_that_type(tmp_path):
    check(save(tmp_path, *VIT[:2]), 64, torch.float64)


@pytest.mark.parametrize("change", ["classifier", "half precision", "other names", "another size"])
def test_files_are_read_as_timm_loads_them(tmp_path, change):
    if change == "classifier":
        check(save(tmp_path, *VIT[:2], classes=7), 64)
    if change == "half precision":
        check(save(tmp_path, *VIT[:2], lambda state: {k: t.bfloat16() for k, t in state.items()}), 64)
    if change == "other names":  # OpenCLIP's
        check(save(tmp_path, "convnext_atto", {}, lambda state: {f"visual.trunk.{k}": t for k, t in state.items()}), 64)
    if change == "another size":  # timm resamples the position embedding
        spec = save(tmp_path, *VIT[:2])
        assert check(dataclasses.replace(spec, args=VIT[1] | {"img_size": 96})).net.pos_embed.shape[1] == 37


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the resampling
def test_weights_that_timm_makes_anew_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    spec = save(tmp_path, *SWIN[:2])
    other = dataclasses.replace(spec, args=SWIN[1] | {"window_size": 4})
    check(other, 64)  # its tables of relative positions are resampled
    monkeypatch.setattr(stream, "BOUND", 1000)
    with pytest.raises(Refusal, match=r"does not hold layers\.0\.blocks\.0\.attn\.relative_position_bias_table"):
        streamed(other, 64)


def test_taps_are_handed_on_as_they_are_computed(tmp_path):
    spec = save(tmp_path, *VIT[:2])
    x = torch.randn(2, 3, 64, 64)
    for backbone in (streamed(spec, 64), backbones.build_with_weights(spec, 64)):
        seen = []
        with torch.no_grad():
            assert backbone.taps(x, emit=lambda i, tap, seen=seen: seen.append((i, tap))) == []
            assert [i for i, _ in seen] == [0, 1]
            assert all(torch.equal(tap, other) for (_, tap), other in zip(seen, backbone.taps(x), strict=True))
            seen.clear()
            backbone.taps(x, [-1], emit=lambda i, tap, seen=seen: seen.append((i, tap)))
            assert [i for i, _ in seen] == [1]


# -- models that read weights where they should not


class Shared(VisionTransformer):
    """Two blocks with one mlp, and a norm in both."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks[1].mlp = self.blocks[0].mlp
        self.blocks[1].norm1.weight = self.blocks[0].norm1.weight


class Outside(VisionTransformer):
    def _pos_embed(self, x):
        return super()._pos_embed(x) + torch.nn.functional.linear(x.new_ones(48), self.blocks[1].attn.proj.weight)


class InPlace(VisionTransformer):
    def _pos_embed(self, x):
        return super()._pos_embed(x).add_(self.blocks[1].norm1.weight.mean())


class Computed(VisionTransformer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.blocks[0].norm1.weight.mean().detach()


class Mixing(VisionTransformer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("scale", torch.ones(48).mul_(self.blocks[0].norm1.weight), persistent=False)


class Asking(VisionTransformer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.blocks[0].norm1.weight.mean().item()


def _register(kind):
    def build(pretrained=False, **kwargs):
        return build_model_with_cfg(kind, f"stream_{kind.__name__.lower()}", pretrained, **kwargs)

    build.__name__ = f"stream_{kind.__name__.lower()}"
    build.__module__ = __name__
    return register_model(build)


for _kind in (Shared, Outside, InPlace, Computed, Mixing, Asking):
    _register(_kind)


def test_weights_that_blocks_share_stay_in_memory(tmp_path):
    ours = check(save(tmp_path, "stream_shared", VIT[1], change=lambda s: {k: t.clone() for k, t in s.items()}))
    assert not ours.net.blocks[0].mlp.fc1.weight.is_meta
    assert ours.net.blocks[0].mlp.fc1.weight is ours.net.blocks[1].mlp.fc1.weight
    assert ours.net.blocks[0].attn.qkv.weight.is_meta


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("outside", "blocks.1.attn.proj.weight is read outside the block that it belongs to"),
        ("inplace", "a weight is read outside the block"),
        ("computed", "keeps weights, or what was computed from them"),
        ("mixing", "computes with its weights while it is made"),
        ("asking", "cannot be streamed ("),
    ],
)
def test_a_model_that_reads_weights_elsewhere_is_refused(tmp_path, kind, says):
    spec = save(tmp_path, f"stream_{kind}", VIT[1])
    backbones.build_with_weights(spec)
    with pytest.raises(Refusal) as refusal:
        streamed(spec)
    assert says in str(refusal.value)
    assert str(refusal.value).endswith("give backbone.stream=false.")
    assert "\n" not in str(refusal.value)


# -- files


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not a readable weights file"),
        (lambda path: path.write_bytes(b"nothing"), "is not a readable weights file"),
        (lambda path: safetensors.torch.save_file({"a.weight": torch.zeros(2)}, path), "Missing key"),
    ],
    ids=["missing", "truncated", "no safetensors", "other names"],
)
def test_a_bad_file_is_one_sentence(tmp_path, spoil, says):
    spec = save(tmp_path, *VIT[:2])
    spoil(tmp_path / "weights.safetensors")
    with pytest.raises(UserError) as mistake:
        streamed(spec, 64)
    assert says.lower() in str(mistake.value).lower()
    assert "\n" not in str(mistake.value)


def test_a_torch_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    for weights in (str(tmp_path / "weights.pth"), "package:efficientnet_lite0"):
        with pytest.raises(UserError, match=r"in no \.safetensors file.*backbone\.stream=false"):
            streamed(config.Backbone(name="tf_efficientnet_lite0", weights=weights))


def test_the_file_of_the_hub_is_streamed_where_it_lies(tmp_path, monkeypatch):
    path = save(tmp_path, "resnet18", {}, classes=1000).weights
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: path)
    check(config.Backbone(name="resnet18.a1_in1k"), 64)


def test_other_files_can_be_saved_as_one_that_streams(tmp_path):
    """As docs/streaming.md says."""
    spec = peftbench.compose("backbone=efficientnet_lite0").backbone
    built = backbones.build_with_weights(spec)
    safetensors.torch.save_file(built.net.state_dict(), tmp_path / "weights.safetensors")
    ours = check(dataclasses.replace(spec, weights=str(tmp_path / "weights.safetensors")), 64)
    assert ours.fingerprint == built.fingerprint


@pytest.mark.parametrize(("spoil", "says"), [("change", "was changed"), ("remove", "can no longer be read")])
def test_a_file_that_changes_meanwhile_is_noticed_and_leaves_the_blocks_as_they_were(tmp_path, spoil, says):
    path = tmp_path / "weights.safetensors"
    backbone = streamed(save(tmp_path, *VIT[:2]), 64)
    before = path.read_bytes()
    path.unlink()
    if spoil == "change":
        path.write_bytes(before)
    with pytest.raises(UserError, match=says):
        backbone.taps(torch.zeros(1, 3, 64, 64))
    assert all(p.is_meta for p in backbone.net.blocks.parameters())
