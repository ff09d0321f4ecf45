"""VPT: prompts enter every block, or the first, of a plain vision transformer, and leave no trace in its taps."""

import copy
import re

import pytest
import torch

import peftbench
from peftbench import backbones, config
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs import device_memory
from peftbench.runs.data_sets import outline_data
from peftbench.runs.dry_run import plan_run
from peftbench.tasks.classification.task import Classification
from support.backbones import composed, on_meta, parameters, with_weights
from support.backbones import method as method_of
from support.batches import batch
from support.finished_runs import pictures, same
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

VIT = {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 2}
FAMILIES = {
    "class token": ("vit_tiny_patch16_224", VIT | {"patch_size": 8}, 32),
    "mean of patches": ("vit_tiny_patch16_224", VIT | {"patch_size": 8, "global_pool": "avg"}, 32),
    "registers": ("vit_small_patch14_reg4_dinov2", VIT | {"img_size": 42}, 42),
    "two class tokens": ("deit_tiny_distilled_patch16_224", VIT, 32),
    "an attention pools": ("vit_base_patch16_siglip_224", VIT, 32),
    "a norm before": ("vit_base_patch16_clip_224", VIT, 32),
}
ROTATING = {
    "EVA": ("eva02_tiny_patch14_224", VIT | {"img_size": 28}, 28),
    "DINOv3": ("vit_small_patch16_dinov3", VIT, 32),
}
"""Those that rotate by position."""
DEPTHS = ("deep", "shallow")
PAIRS = [
    pytest.param(family, depth, marks=() if family in ("registers", "mean of patches") else pytest.mark.slow)
    for family in FAMILIES
    for depth in DEPTHS
]


def plain(family):
    name, args, size = (FAMILIES | ROTATING)[family]
    backbone = with_weights(config.Backbone(name, args=args, pretrained=False), size)
    random = torch.Generator().manual_seed(1)
    for parameter in backbone.parameters():
        if parameter.data.abs().max() < 1e-2:  # biases, and scales that timm starts near zero
            parameter.data.uniform_(0.1, 0.5, generator=random)
    torch.manual_seed(4)
    return Model(backbone, Classification(backbone, ["a", "b", "c"]))


def prompted(family, *words):
    model, built = plain(family), method_of("vpt", *words)
    built.check(model.backbone)
    torch.manual_seed(1)
    model.adapted(built.adapt(model.backbone, Plan()))
    return model


def images(model, count=2):
    random = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, *model.backbone.facts.canvas, generator=random)


@pytest.mark.parametrize(("family", "depth"), PAIRS)
def test_prompts_at_the_end_of_the_sequence_change_the_taps_by_rounding_only(family, depth):
    """Written down block by block, with the prompts behind the patches, where nothing of ours puts them."""
    model = prompted(family, f"method.depth={depth}", "method.prompts=3").eval()
    net, x = plain(family).backbone.net.eval(), images(model)
    tokens = model.backbone.net.prompts.tokens
    assert tokens.shape == (3 if depth == "deep" else 1, 3, 48)
    with torch.no_grad():
        taps = model.backbone.taps(x)
        y, written = net.norm_pre(net._pos_embed(net.patch_embed(x))), []
        for i, block in enumerate(net.blocks):
            if i == 0 or depth == "deep":
                y = torch.cat([y if i == 0 else y[:, :-3], tokens[i].expand(2, -1, -1)], 1)
            y = block(y)
            written.append(y[:, :-3])
        assert [tuple(t.shape[1:]) for t in taps] == [tap.shape for tap in model.backbone.facts.taps]
        assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(taps, written, strict=True))
        pooled = net.forward_head(net.norm(written[-1]), pre_logits=True)
        assert torch.allclose(model(x), model.task.head(pooled), atol=1e-5)
        assert not torch.allclose(model(x), plain(family).eval()(x), atol=1e-5)
    torch.manual_seed(3)
    model.train().loss((x, torch.tensor([0, 1]))).backward()
    assert all(part.any() for part in tokens.grad), "the prompts of every block train"


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("family", ROTATING)
def test_prompts_are_not_rotated_where_positions_are(family, depth):
    """Written down with the prompts behind the patches, where the rotation that is none is theirs."""
    words = [f"method.depth={depth}", "method.prompts=3"]
    model, net = prompted(family, *words).eval(), plain(family).backbone.net.eval()
    x, tokens = images(model), model.backbone.net.prompts.tokens
    with torch.no_grad():
        y, rotation = net._pos_embed(net.patch_embed(x))
        sine, cosine = torch.zeros(3, rotation.shape[-1] // 2), torch.ones(3, rotation.shape[-1] // 2)
        rotation = torch.cat([rotation, torch.cat([sine, cosine], -1)])
        y = net.norm_pre(y)
        for i, block in enumerate(net.blocks):
            if i == 0 or depth == "deep":
                y = torch.cat([y if i == 0 else y[:, :-3], tokens[i].expand(2, -1, -1)], 1)
            y = block(y, rope=rotation)
            assert torch.allclose(model.backbone.taps(x, [i])[0], y[:, :-3], atol=1e-5)
        pooled = net.forward_head(net.norm(y[:, :-3]), pre_logits=True)
        assert torch.allclose(model(x), model.task.head(pooled), atol=1e-5)
    other = copy.deepcopy(model).train()
    backbones.checkpoint_blocks(other.backbone)
    for each in (model.train(), other):
        each.loss((x, torch.tensor([0, 1]))).backward()
    gradients = [each.backbone.net.prompts.tokens.grad for each in (model, other)]
    assert torch.equal(*gradients)
    assert all(part.any() for part in gradients[0])


@pytest.mark.parametrize("family", ["mean of patches", "EVA"])
def test_prompts_are_pooled_with_the_patches_where_that_is_asked_for(family):
    model = prompted(family, "method.pool=all", "method.prompts=3").eval()
    net, x, left = model.backbone.net, images(model), []
    handle = net.blocks[-1].register_forward_hook(lambda module, given, output: left.append(output))
    with torch.no_grad():
        logits = model(x)
        handle.remove()
        pooled = net.forward_head(net.norm(left[0]), pre_logits=True)  # timm's own mean, of all behind the class token
        assert torch.equal(logits, model.task.head(pooled))
        assert not torch.allclose(logits, prompted(family, "method.prompts=3").eval()(x), atol=1e-6)
        assert model.backbone.taps(x)[-1].shape[1] == left[0].shape[1] - 3
    model.train().loss((x, torch.tensor([0, 1]))).backward()
    assert all(part.any() for part in net.prompts.tokens.grad)


@pytest.mark.slow
def test_a_run_that_pools_its_prompts_over_rotated_positions_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    from peftbench.tuned.export.files import export

    words = ["data=digits", "method=vpt", "method.pool=all", "backbone=timm", "backbone.name=eva02_tiny_patch14_224"]
    words += ["+backbone.args.depth=2", "data.size=28", "backbone.pretrained=false", "logger=none"]
    words += ["trainer.epochs=1", "trainer.max_batches=1"]
    record = peftbench.run(peftbench.compose(*words, f"output_dir={tmp_path}", "trainer.progress=false"))
    assert export(record.folder, "onnx").difference < 1e-4
    assert export(record.folder, "torch_export").difference < 1e-4


def test_what_pools_no_mean_has_no_prompts_to_average():
    with pytest.raises(peftbench.UserError, match=r"method\.pool=all: .* pools no mean \(its pooling is 'token'\)"):
        prompted("class token", "method.pool=all")


@pytest.mark.slow
def test_exact_counts():
    """ViT-B/16, ViT-S/16; the others are refused."""
    for name, deep, shallow in (("vit_b", 92_160, 7_680), ("vit_s", 46_080, 3_840)):
        backbone = on_meta(composed(f"backbone={name}").backbone)
        assert parameters(method_of("vpt"), copy.deepcopy(backbone)) == deep
        assert parameters(method_of("vpt_shallow"), backbone) == shallow
    maps = "computes with feature maps, and has no sequence of tokens"
    for name in ("resnet50", "hybrid_nano", "convnext_b"):
        with pytest.raises(peftbench.Refusal, match=f"{maps}.*method=lora and method=petah work"):
            method_of("vpt").check(on_meta(composed(f"backbone={name}").backbone))


REFUSED = {
    "beit_base_patch16_224": "adds biases by position between its tokens",
    "swinv2_tiny_window8_256": "computes with feature maps, and has no sequence of tokens",
    "cait_xxs24_224": "is built otherwise than timm's plain vision transformers",
}


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_what_tells_positions_apart_is_refused(name, why):
    args = {"img_size": 32} | ({"depths": [1]} if "swin" in name else {"depth": 1})
    with pytest.raises(peftbench.Refusal, match=rf"method=vpt: {name} {why}.* method=lora and method=petah work\."):
        method_of("vpt").check(on_meta(config.Backbone(name, args=args, pretrained=False), 32))


def test_prompts_start_within_the_published_bound():
    backbone = with_weights(config.Backbone("vit_base_patch16_224", args={"depth": 1}, pretrained=False), 224)
    method_of("vpt", "method.prompts=50").adapt(backbone, Plan())
    largest = backbone.net.prompts.tokens.abs().max()
    assert 0.062 < largest <= 0.0625


def test_dropout_is_drawn_anew_in_every_block_and_in_training_alone():
    model = prompted("class token", "method.dropout=0.5")
    prompts = model.train().backbone.net.prompts
    torch.manual_seed(0)
    dropped = torch.stack([prompts.of_block(i, 4) for i in range(3)]) == 0
    assert (dropped.float().mean() - 0.5).abs() < 0.05
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(model.eval().backbone.net.prompts.of_block(1, 2)[1], prompts.tokens[1])


@pytest.mark.parametrize("depth", DEPTHS)
def test_blocks_that_are_computed_again_give_the_same_gradients_and_a_copy_has_its_own_prompts(depth):
    model = prompted("class token", f"method.depth={depth}")
    other = copy.deepcopy(model)
    backbones.checkpoint_blocks(other.backbone)
    given = images(model), torch.tensor([0, 1])
    gradients = []
    for each in (model.train(), other.train()):
        each.loss(given).backward()
        gradients.append(each.backbone.net.prompts.tokens.grad)
    assert torch.equal(*gradients)
    before = model.eval()(given[0])
    torch.nn.init.zeros_(other.backbone.net.prompts.tokens)
    assert torch.equal(model(given[0]), before)
    assert not torch.equal(other.eval()(given[0]), before)


def test_a_plan_shows_the_longer_sequence():
    def planned(*words):
        return plan_run(peftbench.compose("method=vpt", "backbone=vit_nano", "data=digits", *words))

    few, many = planned("method.prompts=1"), planned("method.prompts=65")
    assert few.parameters["method"] * 65 == many.parameters["method"]
    assert many.step.flops > 1.7 * few.step.flops  # 130 tokens for 66
    assert many.step.peak > 1.7 * few.step.peak


@pytest.mark.slow
def test_more_prompts_than_memory_are_told_what_fits(monkeypatch):
    spec = peftbench.compose("method=vpt", "backbone=vit_nano", "data=digits", "method.prompts=500")
    splits = outline_data(spec).splits
    monkeypatch.setattr(device_memory, "usable_memory", lambda config: 2**30)
    fits = r"out of memory on .*; what would fit in .*trainer\.micro_batch="
    with pytest.raises(peftbench.UserError, match=fits), device_memory.out_of_memory_told(spec, splits):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_more_prompts_than_memory_are_refused_by_what_plan_says_before_anything_is_written(cli, tmp_path, monkeypatch):
    words = ["method=vpt", "backbone=vit_nano", "data=digits", "data.batch_size=4", "method.prompts=200"]
    monkeypatch.setattr(device_memory, "free_memory", lambda: 50e6 / device_memory.SHARES["cpu"])
    status, _, err = cli(*words, f"output_dir={tmp_path / 'runs'}", "trainer.accelerator=cpu")
    assert status == 2
    assert err.count("\n") == 1
    told = r"method\.prompts=200: a step of data\.batch_size=4 takes about .*, and a run may take 50 MB here; "
    fits = re.search(told + r"method\.prompts=(\d+) would fit", err)
    assert fits, err
    assert not list((tmp_path / "runs").glob("*"))
    planned = plan_run(peftbench.compose(*words, f"method.prompts={fits[1]}"))
    assert planned.weights + planned.step.peak <= 50e6
    status, out, _ = cli("plan", *words, "trainer.accelerator=cpu")
    assert status == 0
    assert "are more than the 50 MB that a run may take on this machine" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method.prompts=1000000000000000"], "method.prompts=1000000000000000: are "),
        (["method.prompts=0"], "method.prompts=0: expected at least 1"),
        (["method.dropout=1.0"], "method.dropout=1.0: expected a share"),
        (["backbone=resnet_nano"], "method=vpt: resnet18"),
        (["data=digits_det", "+backbone.args.global_pool=avg", "method.pool=all"], "method.pool=all: is of pooled"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, told, cli):
    words = ["method=vpt", "backbone=vit_nano", "data=digits", *words]
    status, _, err = cli(*{w.partition("=")[0]: w for w in words}.values(), "trainer.max_batches=1")
    assert status == 2
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_run_resumes_to_the_same_bits_loads_and_is_exported(depth, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from peftbench.tuned.export.files import export

    data = pictures(tmp_path / "pictures")
    words = [*SMALL, "data=folder", f"data.root={data}", "data.val_fraction=0.25", "data.batch_size=16", "logger=none"]
    words += ["trainer.max_batches=2", "trainer.epochs=3", "backbone=vit_nano", "data.size=null", "method=vpt"]
    words += [f"method.depth={depth}", "method.dropout=0.1", "optimizer.layer_decay=0.8"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, at=3)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics
    assert {n for n in learned(resumed) if n.startswith("backbone")} == {"backbone.net.prompts.tokens"}
    tuned = [peftbench.load(record.folder) for record in (resumed, undisturbed)]
    pixels = torch.stack([tuned[0].transform(path) for path in sorted(data.glob("test/*/*.png"))])
    assert torch.equal(tuned[0](pixels), tuned[1](pixels))
    assert export(resumed.folder, "onnx").difference < 1e-4
    assert export(resumed.folder, "torch_export").difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["fasterrcnn", "retinanet", "fcos"])
def test_it_trains_a_detector_of_a_plain_vit(detector):
    from support.detection import make, trained

    losses = trained(make("vpt", "vit_nano", f"task.detector={detector}"), 3, torch.optim.AdamW, 1e-4)
    assert losses[-1] < losses[0]


def test_a_batch_of_small_images_trains_it():
    model = prompted("class token")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for _, p in model.trainable()], lr=1e-2)
    first = model.train().loss(batch())
    first.backward()
    optimizer.step()
    assert model.loss(batch()) < first
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"backbone.net.prompts.tokens", "task.head.weight", "task.head.bias"}
