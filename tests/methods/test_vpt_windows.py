"""VPT on Swin: each block's prompts enter all windows of their image, and no other's."""

import copy

import pytest
import torch

import peftbench
from peftbench import backbones, config
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import composed, on_meta, parameters, with_weights
from support.backbones import method as method_of

ARGS = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
SWIN = config.Backbone("swin_tiny_patch4_window7_224", args=ARGS, pretrained=False)
WORDS = ["backbone=timm", "backbone.name=swin_tiny_patch4_window7_224", "backbone.pretrained=false", "logger=none"]
WORDS += [f"+backbone.args.{key}={value}".replace(" ", "") for key, value in ARGS.items() if key != "img_size"]


def plain():
    backbone = with_weights(SWIN, 32)
    random = torch.Generator().manual_seed(1)
    for name, parameter in backbone.named_parameters():
        if name.endswith(("bias", "bias_table")):
            parameter.data.uniform_(-0.5, 0.5, generator=random)
    torch.manual_seed(4)
    return Model(backbone, Classification(backbone, ["a", "b", "c"]))


def prompted(*words):
    model, built = plain(), method_of("vpt", "method.prompts=3", *words)
    built.check(model.backbone)
    torch.manual_seed(1)
    model.adapted(built.adapt(model.backbone, Plan()))
    return model


def images(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def written_down(block, x, prompts):
    """The block with prompts before the tokens of each window, as the paper draws it: (1, H, W, d)."""
    rows, columns, width = x.shape[1:]
    attention, (window, _), (shift, _) = block.attn, block.window_size, block.shift_size
    normed = torch.roll(block.norm1(x), (-shift, -shift), (1, 2))
    bias, out = attention._get_rel_pos_bias()[0], torch.empty_like(x)
    for at in range((rows // window) * (columns // window)):
        top, left = (place * window for place in divmod(at, columns // window))
        tokens = normed[0, top : top + window, left : left + window].reshape(-1, width)
        sequence = torch.cat([block.norm1(prompts), tokens])
        query, key, value = attention.qkv(sequence).reshape(len(sequence), 3, attention.num_heads, -1).unbind(1)
        scores = torch.einsum("qhd,khd->hqk", query, key) * attention.scale
        scores[:, 3:, 3:] += bias if block.attn_mask is None else bias + block.attn_mask[at]
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(len(sequence), width)
        out[0, top : top + window, left : left + window] = attention.proj(mixed)[3:].reshape(window, window, width)
    x = x + torch.roll(out, (shift, shift), (1, 2))
    return x + block.mlp(block.norm2(x))


def test_each_window_attends_to_the_prompts_of_its_block():
    model, net, x = prompted().eval(), plain().backbone.net.eval(), images(1)
    tokens = model.backbone.net.prompts.tokens
    assert [tuple(part.shape) for part in tokens] == [(2, 3, 16), (2, 3, 32)]
    with torch.no_grad():
        y = net.patch_embed(x)
        for stage, prompts in zip(net.layers, tokens, strict=True):
            y = stage.downsample(y)
            assert stage.blocks[1].attn_mask is not None
            for block, own in zip(stage.blocks, prompts, strict=True):
                y = written_down(block, y, own)
        pooled = net.forward_head(net.norm(y), pre_logits=True)
        assert torch.allclose(model.backbone.taps(x)[-1], y, atol=1e-5)
        assert torch.allclose(model(x), model.task.head(pooled), atol=1e-5)
        assert not torch.allclose(model(x), plain().eval()(x), atol=1e-5)


def test_logits_of_an_image_do_not_depend_on_what_else_the_batch_holds():
    model, x = prompted().eval(), images(3)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in x])
        assert torch.allclose(model(x), alone, atol=1e-5)


def test_prompts_of_every_block_train_and_nothing_else_and_a_copy_has_its_own():
    model, x = prompted("method.dropout=0.3"), images(2)
    other = copy.deepcopy(model)
    backbones.checkpoint_blocks(other.backbone)
    for each in (model.train(), other.train()):
        torch.manual_seed(3)
        each.loss((x, torch.tensor([0, 1]))).backward()
    tokens, others = (list(each.backbone.net.prompts.tokens) for each in (model, other))
    assert all(part.any() for stage in tokens for part in stage.grad)
    assert {name.split(".")[0] for name, _ in model.backbone.net.named_parameters() if _.requires_grad} == {"prompts"}
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(tokens, others, strict=True))
    before = model.eval()(x)
    for part in others:
        torch.nn.init.zeros_(part)
    assert torch.equal(model(x), before)
    assert not torch.equal(other.eval()(x), before)


def test_exact_counts_and_the_published_bound():
    backbone = on_meta(composed("backbone=swin_b").backbone)
    assert parameters(method_of("vpt", "method.prompts=7"), backbone) == 7 * 12_032
    args = {"depths": [1], "num_heads": [4]}
    backbone = with_weights(config.Backbone("swin_base_patch4_window7_224", args=args, pretrained=False), 224)
    method_of("vpt", "method.prompts=50").adapt(backbone, Plan())
    assert 0.183 < backbone.net.prompts.tokens.abs().max() <= 0.1847


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["method.depth=shallow"],
            r"method=vpt: .* attends within windows, between which prompts .* method\.depth=deep",
        ),
        (["method.pool=all"], r"method\.pool=all: .* attends to prompts within its windows alone .* leave it out\.$"),
    ],
)
def test_what_windows_cannot_have_is_refused(words, sentence):
    with pytest.raises(peftbench.UserError, match=sentence):
        prompted(*words)


@pytest.mark.slow
def test_a_run_is_resumed_predicts_and_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    from peftbench.tuned.export.files import export

    words = ["data=digits", "method=vpt", "data.size=32", *WORDS, "trainer.epochs=1", "trainer.max_batches=2"]
    record = peftbench.run(peftbench.compose(*words, f"output_dir={tmp_path}", "trainer.progress=false"))
    assert export(record.folder, "onnx").difference < 1e-4
    assert export(record.folder, "torch_export").difference < 1e-4
    assert peftbench.load(record.folder).model(images(2)).shape == (2, 10)
