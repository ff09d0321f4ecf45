"""Learning rates by depth, of the head and of a method's own, and weight decay on norms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import peftbench
from peftbench import backbones, optim
from peftbench.backbones.depths import layers_below_head
from peftbench.config import Config, Optimizer, identity, replaced
from peftbench.runs.run import run
from support.runs import QUICK, SMALL, learned
from support.stops import interrupted_and_undisturbed

STEP = [*SMALL, "trainer.epochs=1", "trainer.max_batches=1", "data.stage=tune", "logger=none", "taps=off"]
STEP += ["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0"]
STEP += ["optimizer.schedule=constant", "optimizer.warmup=0", "optimizer.lr=0.01"]

FAMILIES = ["vit_tiny_patch16_224", "resnet18", "poolformer_s12"]
FAMILIES += [
    pytest.param(name, marks=pytest.mark.slow)
    for name in (
        *("swin_tiny_patch4_window7_224", "convnext_tiny", "mobilevit_s", "efficientformer_l1", "fastvit_t8"),
        *("tf_efficientnet_lite0", "levit_128", "vit_small_patch14_dinov2", "deit_tiny_distilled_patch16_224"),
        *("beit_base_patch16_224", "maxvit_tiny_tf_224", "edgenext_small", "vit_base_patch16_siglip_224", "csatv2"),
    )
]


@pytest.mark.parametrize("name", FAMILIES)
def test_depths_are_those_of_timm(name):
    """Against timm's own groups of the whole model, its classifier included."""
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=10)
    names = {id(p): n for n, p in whole.named_parameters()}
    groups = param_groups_layer_decay(whole, layer_decay=0.5)
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    words = ["backbone=timm", f"backbone.name={name}", "backbone.pretrained=false", "data=digits"]
    backbone = backbones.build_on_meta(peftbench.compose(*words).backbone)
    layers = layers_below_head(backbone, [n for n, _ in backbone.net.named_parameters()])
    assert len(layers) > 10
    assert {n: 0.5**k for n, k in layers.items()} == {n: expected[n] for n in layers}
    assert max(layers.values()) > 3
    assert min(layers.values()) <= 1


def ratios(folder: Path, words: list[str], *more: str) -> dict[str, float]:
    """What the options `more` multiply the rate of each tensor with that begins at zero: after one step of SGD it is
    its rate times its gradient.
    """
    runs = (run(peftbench.compose(*STEP, *words, *options, f"output_dir={folder}")) for options in ((), more))
    plain, scaled = map(learned, runs)
    assert plain.keys() == scaled.keys()
    zero = [n for n in plain if n.endswith(("lora_b", "bias"))]
    return {n: (scaled[n].norm() / plain[n].norm()).item() for n in zero if plain[n].norm() > 1e-6}


def test_a_step_scales_with_depth_also_of_what_a_method_added(tmp_path):
    """vit_nano has eight blocks, and LoRA's updates take the depth of theirs."""
    words = ["backbone=vit_nano", "method=lora"]
    measured = ratios(tmp_path, words, "optimizer.layer_decay=0.5", "optimizer.head_lr=4")
    blocks = {n: int(n.split(".")[3]) for n in measured if n.startswith("backbone.net.blocks.")}
    assert set(blocks.values()) == set(range(8))
    for name, block in blocks.items():
        assert measured[name] == pytest.approx(0.5 ** (8 - block), rel=0.02), name
    assert measured["task.head.bias"] == pytest.approx(4, rel=0.02)


def test_off_is_what_it_was_and_the_schedule_is_told_without_factors(config, tmp_path):
    off = {"optimizer.layer_decay": 1.0, "optimizer.head_lr": 1, "optimizer.decay_norms": False}
    assert identity(replaced(config, off)) == identity(config)
    assert identity(replaced(config, {"optimizer.layer_decay": 0.9})) != identity(config)
    words = ["method=bitfit", "optimizer.layer_decay=0.3", "optimizer.head_lr=7", "optimizer.schedule=constant"]
    record = run(peftbench.compose(*STEP, *words, f"output_dir={tmp_path}"))
    assert record.history[-1]["lr"] == pytest.approx(0.01)


def test_weight_decay_reaches_norms_and_biases_where_it_is_told_to():
    spec = peftbench.compose(*QUICK, "method=full", "optimizer.weight_decay=0.5").optimizer
    named = list(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).named_parameters(prefix="net"))

    def decays(spec: Optimizer) -> dict[str, float]:
        groups = optim.optimizer(spec, named).param_groups
        return {name: group["weight_decay"] for group in groups for name in group["param_names"]}

    assert decays(spec) == {"net.0.weight": 0.5, "net.0.bias": 0, "net.1.weight": 0, "net.1.bias": 0}
    assert decays(replace(spec, decay_norms=True)) == dict.fromkeys(dict(named), 0.5)


METHOD = """
from dataclasses import dataclass
from peftbench.methods.bitfit import BitFit

@dataclass(frozen=True)
class Mine(BitFit):
    factor: float = 1.0
    wrong: str = ""

    def rates(self, names):
        return {self.wrong or n: self.factor for n in names if n == "task.head.bias"}
"""


@pytest.mark.slow
def test_a_method_may_give_factors_by_name(tmp_path, monkeypatch):
    (tmp_path / "method_with_rates.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["method=bitfit", "method.path=method_with_rates.Mine"]
    measured = ratios(tmp_path, words, "+method.factor=3", "optimizer.head_lr=2")
    assert measured.pop("task.head.bias") == pytest.approx(6, rel=0.02)
    assert measured
    assert all(ratio == pytest.approx(1, rel=0.02) for ratio in measured.values())
    for wrong in ("+method.factor=0", "+method.wrong=nothing"):
        with pytest.raises(
            peftbench.UserError, match=r"Mine\.rates\(\): .* expected the name of something that trains"
        ):
            run(peftbench.compose(*STEP, *words, wrong, f"output_dir={tmp_path}"))


@pytest.fixture(scope="module")
def config() -> Config:
    return peftbench.compose(*QUICK, "method=full")


RECIPE = ["optimizer.layer_decay=0.7", "optimizer.head_lr=3", "optimizer.decay_norms=true"]
TRAINED = [
    pytest.param(words, marks=pytest.mark.slow)
    for words in (["method=ftp"], ["method=tpgm"], ["method=l2sp"], ["method=full", "optimizer=sgd"], ["method=petah"])
]


@pytest.mark.parametrize("words", TRAINED, ids=" ".join)
def test_runs_with_many_groups_resume_to_the_same_bits(tmp_path, monkeypatch, words):
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, *RECIPE)
    assert all(torch.equal(t, learned(undisturbed)[n]) for n, t in learned(resumed).items())
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("layer_decay", 1.5, "optimizer.layer_decay=1.5: expected a number above 0 and at most 1, or null."),
        ("layer_decay", 0, "optimizer.layer_decay=0.0: expected a number above 0 and at most 1, or null."),
        ("head_lr", 0, "optimizer.head_lr=0.0: expected a number above 0."),
    ],
)
def test_mistakes_get_one_sentence(config, key, value, told):
    with pytest.raises(peftbench.UserError) as refused:
        replaced(config, {f"optimizer.{key}": value})
    assert str(refused.value) == told


def test_layer_decay_is_refused_where_no_layer_trains(cli):
    status, _, err = cli(*QUICK, "method=linear", "optimizer.layer_decay=0.5")
    assert status == 2
    assert "optimizer.layer_decay=0.5: method=linear trains no layer of the backbone" in err
    assert len(err.strip().splitlines()) == 1
