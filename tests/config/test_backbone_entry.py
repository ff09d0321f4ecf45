"""`backbone.args` and `backbone.cfg` build a model: where weights come from is for `backbone.weights` alone."""

from __future__ import annotations

import shutil

import pytest
import yaml

import peftbench
from peftbench import config
from peftbench.cli.main import main
from peftbench.common.errors import UserError

COMPOSED = peftbench.compose("method=linear", "backbone=vit_nano", "data=digits").to_dict()
ELSEWHERE = [
    ("args", "checkpoint_path", "/etc/hostname"),
    ("args", "cache_dir", "/tmp/there"),
    ("args", "pretrained_cfg", {"hf_hub_id": "stranger/model"}),
    ("args", "pretrained_cfg_overlay", {"url": "https://stranger.example/x.pth"}),
    ("args", "pretrained_strict", False),
    ("cfg", "hf_hub_id", "stranger/model"),
    ("cfg", "hf_hub_filename", "model.bin"),
    ("cfg", "url", "https://stranger.example/x.pth"),
    ("cfg", "file", "/etc/hostname"),
    ("cfg", "source", "hf-hub"),
    ("cfg", "custom_load", True),
    ("cfg", "state_dict", {}),
]


@pytest.mark.parametrize(("section", "key", "value"), ELSEWHERE)
def test_what_leads_to_other_weights_is_refused_whoever_gives_it(section, key, value):
    told = rf"^backbone.{section}.{key}=.*: says where weights come from, as backbone.weights alone does; give backbone"
    with pytest.raises(UserError, match=told):
        config.Backbone("resnet18", **{section: {key: value}})
    with pytest.raises(UserError, match=told):
        config.Config.from_dict({**COMPOSED, "backbone": {**COMPOSED["backbone"], section: {key: value}}})


@pytest.mark.parametrize("verb", [("predict", "images=x.png"), ("export", "format=onnx"), ("evaluate", "data=digits")])
def test_a_shared_config_asks_the_hub_for_nothing(finished, tmp_path, monkeypatch, capsys, verb):
    import huggingface_hub

    asked: list[object] = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *words, **more: asked.append(words))
    (run,) = finished.glob("linear-*")
    shutil.copytree(run, tmp_path / "shared")
    file = tmp_path / "shared" / "config.yaml"
    values = yaml.safe_load(file.read_text())
    values["backbone"] |= {"pretrained": True, "cfg": {"source": "hf-hub", "hf_hub_id": "stranger/model"}}
    file.write_text(yaml.safe_dump(values))
    assert main([verb[0], f"run={tmp_path / 'shared'}", verb[1]]) == 2
    assert asked == []
    assert (
        "config.yaml: backbone.cfg.hf_hub_id='stranger/model': says where weights come from" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("args", {"in_chans": 1}, "in_chans=1: images are read in three channels"),
        ("args", {"features_only": True}, "gives another model than the classifier"),
        ("args", {"out_indices": [1]}, "gives another model than the classifier"),
        ("args", {"num_classes": 3}, "is as many as the data have classes"),
        ("args", {"pretrained": True}, "is for backbone.pretrained to say"),
        ("args", {"scriptable": True}, "is of timm's own way"),
        ("cfg", {"mean": 3}, "mean=3: expected three numbers"),
        ("cfg", {"mean": [0.5]}, "expected three numbers"),
        ("cfg", {"std": [0.5, 0, 0.5]}, "expected three numbers above 0"),
        ("cfg", {"mean": "*"}, "expected three numbers"),
        ("cfg", {"input_size": "1_000"}, "expected channels, height and width"),
        ("cfg", {"input_size": [1, 32, 32]}, "expected channels, height and width"),
        ("cfg", {"pool_size": 7}, "expected height and width"),
        ("cfg", {"interpolation": "cubic"}, "expected one of bicubic, bilinear, nearest, lanczos"),
        ("cfg", {"crop_pct": 0}, "expected a share above 0"),
        ("cfg", {"classifier": 3}, "expected the name of a layer"),
        ("cfg", {"fixed_input_size": 3}, "expected true or false"),
        ("cfg", {"num_classes": "x"}, "expected a whole number"),
    ],
)
def test_a_value_of_another_form_is_one_sentence(section, values, told):
    with pytest.raises(UserError, match=told):
        config.Backbone("resnet18", **{section: values})


@pytest.mark.parametrize("word", ["depth=-1", "num_heads=0", "norm_layer=foo", "embed_dim=x", "global_pool=foo"])
def test_arguments_that_a_model_breaks_on_are_shown(capsys, word):
    words = ["plan", "method=linear", "backbone=vit_nano", "backbone.pretrained=false", "data=digits"]
    assert main([*words, f"++backbone.args.{word}"]) == 2
    told = capsys.readouterr().err
    assert f"'{word.partition('=')[0]}'" in told
    assert "vit_tiny_patch16_224 cannot be built with them" in told


def test_what_the_shipped_backbones_say_is_taken():
    spec = config.Backbone("resnet18", args={"in_chans": 3, "drop_path_rate": 0.1}, cfg={"crop_pct": None})
    assert spec.args["in_chans"] == 3
