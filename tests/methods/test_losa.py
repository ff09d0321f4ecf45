"""LoSA: the recursion of the paper, what its options change, and that nothing of it enters the backbone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import peftbench
from peftbench import config
from peftbench.costs import SavedBytes
from peftbench.methods.base import Plan
from peftbench.methods.linear import Linear
from peftbench.methods.losa import LoSA
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import composed, on_meta, parameters, with_weights
from support.backbones import method as method_of


def vit(**args: object) -> config.Backbone:
    """A plain ViT of 17 tokens: three blocks of width 32."""
    small = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 4} | args
    return config.Backbone("vit_tiny_patch16_224", args=small, pretrained=False)


def model(spec: config.Backbone, losa: LoSA | Linear | None = None, size: int | None = 32) -> Model:
    backbone = with_weights(spec, size)
    losa = losa or LoSA(rank=2)
    losa.check(backbone)
    torch.manual_seed(1)
    made = Model(backbone, Classification(backbone, ["a", "b", "c"]))
    made.adapted(losa.adapt(backbone, Plan()))
    return made


def awake(made: Model, std: float = 0.3) -> Model:
    """With up-projections that are not zero."""
    torch.manual_seed(2)
    for name, parameter in made.side.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(parameter, std=std)
    return made


def batch(size: int = 32, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=g), torch.arange(n) % 3


def oracle(taps: list[np.ndarray], start: np.ndarray, made: Model, norm: str) -> np.ndarray:
    """y_i = y_{i-1} + C(N(x)) + T(N(x + C(N(x)))), x = b_i + y_{i-1}, written with NumPy in double precision."""
    mixers = {k: {n: p.detach().double().numpy() for n, p in m.named_parameters()} for k, m in made.side.mixers.items()}

    def gelu(x: np.ndarray) -> np.ndarray:
        return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()

    def normed(x: np.ndarray) -> np.ndarray:
        if norm == "none":
            return x
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    y = start
    for i, b in enumerate(taps):
        x = b + y
        c = gelu(normed(x) @ mixers["channel"]["down"][i].T) @ mixers["channel"]["up"][i].T
        u = normed(x + c).transpose(0, 2, 1)
        t = (gelu(u @ mixers["token"]["down"][i].T) @ mixers["token"]["up"][i].T).transpose(0, 2, 1)
        y = y + c + t
    return y


@pytest.mark.parametrize("norm", ["none", "ln_noaffine", "ln"])
@pytest.mark.parametrize("start", ["last", "first", "zero"])
def test_the_recursion_is_the_one_written_down(norm, start):
    made = awake(model(vit(), LoSA(rank=2, norm=norm, start=start)))
    made.side.every = True
    taps = made.frozen(batch()[0])
    plain = [t.double().numpy() for t in taps]
    y0 = {"last": plain[-1], "first": plain[0], "zero": np.zeros_like(plain[0])}[start]
    found = made.side(taps)[-1].detach().numpy()
    assert np.allclose(found, oracle(plain, y0, made, norm), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_nano", "resnet_nano", "hybrid_nano", "efficientnet_lite0", "swin_t"])
@pytest.mark.parametrize("norm", ["none", "ln_noaffine"])
def test_the_first_logits_are_the_linear_probes(name, norm):
    words = [f"backbone={name}", *(["backbone.pretrained=false"] if name == "swin_t" else [])]
    spec = composed(*words).backbone
    side, probe = model(spec, LoSA(norm=norm), None), model(spec, Linear(), None)
    images = batch(side.backbone.facts.input_size, 2)[0]
    assert torch.allclose(side.eval()(images), probe.eval()(images), atol=1e-6)


def test_averaged_patches_start_at_a_probe_of_averaged_patches():
    made = model(vit(), LoSA(rank=2, pooling="avg"))
    images = batch()[0]
    tokens = made.backbone.net.forward_features(made.normalize(images))
    assert torch.allclose(made(images), made.task.head(tokens[:, 1:].mean(1)), atol=1e-6)
    assert made.side.mixers["token"].down.shape == (3, 2, 16)


def test_a_distilled_deit_pools_two_class_tokens_whatever_it_is_told():
    spec = dataclasses.replace(vit(), name="deit_tiny_distilled_patch16_224")
    with pytest.raises(peftbench.Refusal, match=r"pooling=avg: deit_tiny.* has its own pooling; give .*pooling=model"):
        model(spec, LoSA(rank=2, pooling="avg"))
    with pytest.raises(peftbench.Refusal, match=r"pools its class token, .*; give method.mixers=\[channel,token\]"):
        model(spec, LoSA(rank=2, mixers=("channel", "space")))
    made = awake(model(spec))
    made.loss(batch()).backward()
    assert all(p.grad.any() for p in made.side.parameters())


def test_no_gradient_reaches_the_backbone_even_where_it_would_be_taken():
    made = awake(model(vit()))
    tail = {f"net.{t}" for t in made.backbone.facts.tail}
    for parameter in made.backbone.parameters():
        parameter.requires_grad = True  # on purpose
    assert all(t.grad_fn is None for t in made.frozen(batch()[0]))
    made.train()
    made.loss(batch()).backward()
    inside = {n: p.grad for n, p in made.backbone.named_parameters() if n.rsplit(".", 1)[0] not in tail}
    assert all(g is None for g in inside.values())


def saved(spec: config.Backbone, losa: LoSA) -> int:
    made = awake(model(spec, losa)).train()
    meter = SavedBytes(made)
    with meter.counting():
        made.loss(batch())
    return meter.total


@pytest.mark.parametrize("norm", ["none", "ln_noaffine"])
def test_what_is_kept_for_backward_is_the_side_paths_alone(norm):
    base = saved(vit(), LoSA(rank=2, norm=norm))
    assert saved(vit(mlp_ratio=8), LoSA(rank=2, norm=norm)) == base
    assert saved(vit(num_heads=8), LoSA(rank=2, norm=norm)) == base
    assert saved(vit(), LoSA(rank=4, norm=norm)) > base
    assert saved(vit(depth=6), LoSA(rank=2, norm=norm)) > base


def test_without_a_norm_little_more_than_the_taps_is_kept():
    made = awake(model(vit(embed_dim=128))).train()
    meter = SavedBytes(made)
    with meter.counting():
        made.loss(batch())
    taps = sum(t.numel() * t.element_size() for t in made.frozen(batch()[0]))
    assert taps <= meter.total < 1.6 * taps


def test_first_the_up_projections_wake_then_everything():
    made = model(vit()).train()
    made.loss(batch()).backward()
    grads = {n: p.grad.abs().max().item() for n, p in made.side.named_parameters()}
    assert {n for n, g in grads.items() if g > 0} == {"mixers.channel.up", "mixers.token.up"}
    assert made.task.head.weight.grad.abs().max() > 0
    optimizer = torch.optim.AdamW([p for _, p in made.trainable()], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        made.loss(batch()).backward()
        optimizer.step()
    optimizer.zero_grad()
    made.loss(batch()).backward()
    for name, parameter in made.side.named_parameters():
        assert (parameter.grad.flatten(1).abs().sum(1) > 0).all(), name


def test_tokens_are_mixed_and_without_the_token_mixer_they_are_not():
    def class_token(mixers, permuted):
        made = awake(model(vit(), LoSA(rank=2, mixers=mixers)))
        made.side.every = True
        taps = made.frozen(batch()[0])
        if permuted:  # which token stands where is all that changes
            taps = [torch.cat([t[:, :1], t[:, 1:].flip(1)], 1) for t in taps]
        return made.side(taps)[-1][:, 0]

    both, channel = ("channel", "token"), ("channel",)
    assert not torch.allclose(class_token(both, False), class_token(both, True), atol=1e-3)
    assert torch.allclose(class_token(channel, False), class_token(channel, True), atol=1e-6)


def test_a_tap_acts_from_its_own_layer_on():
    made = awake(model(vit()))
    taps = made.frozen(batch()[0])
    before = made.side(taps)[-1]
    other = [torch.randn_like(taps[0]), *taps[1:]]
    assert not torch.allclose(made.side(other)[-1], before)
    for mixer in made.side.mixers.values():  # without g_1, b_1 is not read
        mixer.up.data[0] = 0
    assert torch.equal(made.side(other)[-1], made.side(taps)[-1])


def test_kept_taps_train_to_the_same_bits():
    def losses(cached: bool) -> list[float]:
        made = awake(model(vit())).train()
        optimizer = torch.optim.AdamW([p for _, p in made.trainable()], lr=1e-2)
        kept = made.frozen(batch()[0]) if cached else None
        found = []
        for _ in range(3):
            loss = made.loss(batch(), kept)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    assert losses(True) == losses(False)


def test_the_first_token_alone_gives_the_same_logits_and_gradients():
    def gradients(pooled: bool) -> list[torch.Tensor]:
        made = awake(model(vit())).train()
        assert not made.side.every
        made.side.every = not pooled
        made.loss(batch()).backward()
        return [p.grad for _, p in made.trainable()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_what_trains_is_the_side_net_and_the_head():
    made = model(vit())
    assert {n.split(".")[0] for n, _ in made.trainable()} == {"side", "task"}
    moved = awake(made)
    copy = model(vit())
    copy.load_state_dict(moved.state_dict())
    assert torch.equal(copy(batch()[0]), moved(batch()[0]))


def counted(name, **options):
    """What `peftbench.count_parameters` counts, with each backbone built once."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    backbone = on_meta(composed(f"backbone={name}").backbone)
    return parameters(dataclasses.replace(method_of("losa"), **options), backbone)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 111_552),
        ({"rank": 4}, 55_776),
        ({"bias": True}, 118_716),
        ({"norm": "ln"}, 111_552 + 12 * 4 * 384),
        ({"norm": "ln_noaffine"}, 111_552),
        ({"mixers": ["channel"]}, 12 * 16 * 384),
        ({"mixers": ["token"]}, 12 * 16 * 197),
        ({"pooling": "avg"}, 12 * 16 * (384 + 196)),
        ({"tap_every": 2}, 6 * 16 * (384 + 197)),
        ({"tap_last": 4}, 4 * 16 * (384 + 197)),
        ({"mixers": ["channel", "space", "time"], "frames": 8, "pooling": "avg"}, 12 * 16 * (384 + 196 + 8)),
    ],
)
def test_every_option_counts_as_its_formula_says(options, count):
    assert counted("vit_s", **options) == count


def test_the_published_sizes():
    for name, count in {"vit_b": 185_280, "vit_s": 111_552, "vit_l": 468_864, "vit_g": 1_065_600}.items():
        assert counted(name, rank=8) == count
    clip = {"mixers": ["channel", "space", "time"], "frames": 8, "pooling": "avg"}
    assert counted("vit_b", **clip) == 186_624
    assert peftbench.count_parameters("losa", "vit_b", **clip) == 186_624


def test_over_four_tokens_the_token_mixer_has_rank_four_at_most():
    def count(rank: int) -> int:
        both, channel = (counted("resnet_nano", rank=rank, mixers=m) for m in (["channel", "token"], ["channel"]))
        return both - channel

    taps = 5
    assert [count(rank) for rank in (3, 4, 5)] == [2 * 4 * r * taps for r in (3, 4, 4)]


def test_every_option_computes_something_else():
    variants = [
        {},
        {"norm": "ln_noaffine"},
        {"norm": "ln", "init": "trunc_normal"},
        {"bias": True, "init": "trunc_normal"},
        {"mixers": ("token", "channel")},
        {"mixers": ("channel",)},
        {"tap_every": 2},
        {"tap_last": 1},
        {"start": "first"},
        {"start": "zero"},
        {"pooling": "avg"},
    ]
    seen = {round(awake(model(vit(), LoSA(rank=2, **v))).loss(batch()).item(), 6) for v in variants}
    assert len(seen) == len(variants)


def test_clips_are_mixed_along_time():
    made = awake(model(vit(), LoSA(rank=2, mixers=("channel", "space", "time"), frames=2, pooling="avg")))
    clips = batch(n=6)[0].unflatten(0, (3, 2))
    turned = clips.flip(1)
    assert made(clips).shape == (3, 3)
    assert not torch.allclose(made(clips), made(turned), atol=1e-4)
    still = awake(model(vit(), LoSA(rank=2, mixers=("channel", "space"), pooling="avg")))
    assert torch.allclose(still(clips), still(turned), atol=1e-5)  # a mean over frames knows no order


def test_another_input_size_is_refused_and_nothing_is_interpolated():
    for made in (
        model(vit(dynamic_img_size=True)),
        model(composed("backbone=resnet_nano").backbone, LoSA(), None),
    ):
        size = made.backbone.facts.input_size
        made(batch(size)[0])
        with pytest.raises(peftbench.UserError, match=f"the mixers are for .* give images of {size} pixels"):
            made(batch(2 * size)[0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method.rank=0"], "method.rank=0: expected at least 1."),
        (["method.rank=4000"], "method.rank=4000: the taps of"),
        (["method.rank=x"], "method.rank='x': expected"),
        (["method.tap_last=99"], "method.tap_last=99: "),
        (["method.tap_every=0"], "method.tap_every=0: expected at least 1."),
        (["method.mixers=[]"], "method.mixers=[]: "),
        (["method.mixers=[token,space]"], "method.mixers=['token', 'space']: "),
        (["method.mixers=[channel,time]"], "method.mixers: time mixes the frames of a clip"),
        (["method.frames=4"], "method.frames=4: the items of data=digits are images"),
        (["method.norm=batch"], "method.norm='batch': expected"),
        (["method.mixers=[channel,space]"], "method.mixers=['channel', 'space']: "),
        (["backbone=resnet_nano", "method.pooling=avg"], "method.pooling=avg: "),
        (["backbone=resnet_nano", "method.mixers=[token]"], "method.mixers=['token']: "),
        (["backbone=resnet_nano", "method.start=first"], "method.start=first: "),
    ],
)
def test_bad_options_get_one_sentence(cli, words, told):
    status, out, err = cli(
        "method=losa", *([] if "backbone" in words[0] else ["backbone=vit_nano"]), "data=digits", *words
    )
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
