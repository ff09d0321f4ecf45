"""Models with a layer or taps of their own kind: small layers, class tokens that come in late, attention pools."""

from __future__ import annotations

import json

import pytest

from peftbench import backbones, config, costs
from peftbench.cli.main import main
from peftbench.common.errors import UserError
from peftbench.methods.lora import LoRA
from peftbench.methods.losa import LoSA
from peftbench.methods.shared.low_rank_update import has_update

SWIN_V2 = config.Backbone(
    "swinv2_tiny_window8_256",
    args={"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2], "window_size": 4},
    pretrained=False,
)
CONVIT = config.Backbone("convit_tiny", args={"depth": 4, "local_up_to_layer": 2}, pretrained=False)
TINY = ["backbone.pretrained=false", "data=digits", "data.size=32", "data.batch_size=4", "trainer.max_batches=1"]


@pytest.mark.parametrize(
    ("name", "args", "size", "small"),
    [
        (SWIN_V2.name, SWIN_V2.args, 32, "layers.0.blocks.0.attn.cpb_mlp.0"),
        ("vit_relpos_small_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 32, "rel_pos.mlp.fc1"),
        ("convit_tiny", {"depth": 2}, 32, "blocks.0.attn.pos_proj"),
        ("mixer_s32_224", {"img_size": 64}, 64, "blocks.0.mlp_tokens.fc1"),
    ],
)
def test_a_layer_that_is_below_the_rank_is_left_alone_and_told(name, args, size, small):
    spec = config.Backbone(name, args=args, pretrained=False)
    backbone = backbones.build_on_meta(spec, size)
    method = LoRA()
    method.check(backbone)
    left = method.skipped(backbone)
    (found,) = [layer for layer in left if layer.endswith(small)] or [list(left)]
    assert left[found].startswith("it allows at most rank ")
    method.adapt(backbone, method.prepare(backbone, ()))
    layers = dict(backbone.net.named_modules())
    assert not has_update(layers[found])
    assert any(map(has_update, layers.values()))


def test_a_rank_that_no_layer_has_is_refused_with_the_most():
    backbone = backbones.build_on_meta(SWIN_V2, 32)
    with pytest.raises(UserError, match=r"^method\.rank=4000: layer .* allows at most \d+\.$"):
        LoRA(rank=4000).check(backbone)


@pytest.mark.slow
def test_a_run_says_which_layers_are_left(cli, tmp_path):
    args = "+backbone.args={depths:[1,1],embed_dim:16,num_heads:[2,2],window_size:4}"
    words = ["method=lora", "backbone=timm", f"backbone.name={SWIN_V2.name}", args, *TINY, "trainer.epochs=1"]
    status, out, err = cli(*words)
    assert status == 0, err
    assert "4 layers are left as they are, such as layers.0.blocks.0.attn.cpb_mlp.0" in " ".join((out + err).split())
    (record,) = tmp_path.glob("lora-*/result.json")
    reasons = json.loads(record.read_text())["plan"]["skipped"].values()
    assert all(why.startswith("it allows at most rank") for why in reasons)


def test_losa_reads_the_taps_that_have_a_class_token():
    backbone = backbones.build_on_meta(CONVIT, 32)
    told = r"^method\.tap_last=null: blocks\.1 of convit_tiny and what .* no class token yet.*give method\.tap_last=2\."
    with pytest.raises(UserError, match=told):
        LoSA().check(backbone)
    LoSA(tap_last=2).check(backbone)


def test_an_attention_pool_is_counted_with_all_weights_trained(tmp_path):
    args = "+backbone.args={depth:1,embed_dim:48,num_heads:4}"
    words = ["method=full", "backbone=timm", "backbone.name=vit_base_patch16_siglip_224", args, *TINY]
    assert main([*words, "trainer.epochs=1", "trainer.progress=false", f"output_dir={tmp_path}"]) == 0
    (record,) = tmp_path.glob("full-*/result.json")
    assert json.loads(record.read_text())["costs"]["flops"] > 0


def test_a_meter_that_fails_is_a_missing_figure(tiny, tmp_path, monkeypatch, capsys):
    def fails(*given):
        raise ZeroDivisionError("no time passed")

    for name in ("flops", "latency"):
        monkeypatch.setattr(costs, name, fails)
    assert main([*tiny, "method=linear", f"output_dir={tmp_path}", "trainer.progress=true"]) == 0
    told = " ".join("".join(capsys.readouterr()).split())
    (record,) = tmp_path.glob("linear-*/result.json")
    content = json.loads(record.read_text())
    assert "flops" not in content["costs"]
    assert "latency" not in content["costs"]["time"]
    for name in ("flops", "latency"):
        assert f"costs.{name}: could not be measured (no time passed); the record goes without it" in told
