"""Optimizers by timm's names: each steps, goes on to the same bits, and is wrapped by those that stay near a start."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.optim import list_optimizers
from torch import nn

import peftbench
from peftbench import optim
from peftbench.config import identity, replaced
from peftbench.sweeps.grouping import joint_signature
from support.finished_runs import pictures, same
from support.optimizers import through_a_file
from support.runs import QUICK, SMALL, learned
from support.stops import interrupted_and_undisturbed

NOT_HERE = ("bnb", "fused")  # of libraries for CUDA


def config_of(name: str, *words: str):
    return peftbench.compose(*QUICK, "method=full", "optimizer=timm", f"optimizer.name={name}", *words)


LION = config_of("lion")


def spec_of(name: str):
    return replaced(LION, {"optimizer.name": name}).optimizer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 5))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for seed in steps:
        torch.manual_seed(seed)
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 6, 6)), torch.randint(5, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def go_on(name: str, wrap) -> None:
    """Trains three steps and three more, and the last three again from a file."""
    states = []
    saved = None
    for _ in range(2):
        model = net()
        named = list(model.named_parameters(prefix="net"))
        optimizer = wrap(optim.optimizer(spec_of(name), named))
        if saved is None:
            step(model, optimizer, range(3))
            saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        step(model, optimizer, range(3, 6))
        states.append(model.state_dict())
    assert same(*states)
    assert not same(states[0], net().state_dict())


NAMES = [
    n for n in list_optimizers() if not n.startswith(NOT_HERE) and n not in ("adahessian", "kron", "kronc", "kronw")
]
FEW = ("lion", "muon", "adafactor")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_each_goes_on_from_a_file_to_the_same_bits(name):
    optim.refuse_timm_optimizer(spec_of(name))
    go_on(name, lambda inner: inner)


@pytest.mark.parametrize("name", [n if n == "muon" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_each_can_be_held_near_a_start(name):
    """FTP, and L2-SP, whose anchors are the values at the start: those of a loaded run are not."""
    start = dict(net().named_parameters(prefix="net"))
    go_on(name, lambda inner: optim.FTP(inner, anchors=start, exclude=["net.3.bias"]))
    go_on(name, lambda inner: optim.L2SP(inner, anchors=start))


def test_muon_is_for_the_matrices_of_the_backbone():
    """Its first step has no momentum: orthogonal where it is Muon's, of one size in every entry where it is AdamW's."""
    named = {n: nn.Parameter(torch.zeros(s)) for n, s in SHAPES.items()}
    optimizer = optim.optimizer(replaced(LION, {"optimizer.name": "muon"}).optimizer, list(named.items()))
    for seed, p in enumerate(named.values()):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()
    adamw = {n for n, p in named.items() if p.abs().std() < 1e-3 * p.abs().mean()}
    assert adamw == {*SHAPES} - {"backbone.net.weight", "backbone.net.conv"}


SHAPES = {
    "backbone.net.weight": (12, 8),
    "backbone.net.conv": (8, 4, 3, 3),
    "backbone.net.bias": (12,),
    "backbone.net.pos_embed": (1, 9, 8),
    "backbone.net.depthwise": (8, 1, 3, 3),
    "task.head.weight": (5, 12),
    "task.head.bias": (5,),
}


def test_rates_and_decay_are_ours_and_options_its_own():
    spec = config_of(
        "lion", "+optimizer.args.betas=[0.8,0.9]", "optimizer.weight_decay=0.5", "optimizer.lr=0.1"
    ).optimizer
    named = list(net().named_parameters(prefix="net"))
    groups = optim.optimizer(spec, named, factors={"net.3.weight": 0.5}).param_groups
    rates = {n: g["lr"] for g in groups for n in g["param_names"]}
    decays = {n: g["weight_decay"] for g in groups for n in g["param_names"]}
    assert rates == {n: 0.1 if n != "net.3.weight" else 0.05 for n, _ in named}
    assert decays == {n: 0.5 * (p.ndim > 1) for n, p in named}
    assert {tuple(g["betas"]) for g in groups} == {(0.8, 0.9)}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    data = f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}"
    few = ["trainer.epochs=2", "trainer.max_batches=2", "data.batch_size=16", "logger=none"]
    return [*SMALL, "data=folder", data, "data.val_fraction=0.25", *few, "optimizer=timm"]


RUNS = [
    pytest.param(more, marks=pytest.mark.slow)
    for more in (
        ["optimizer.name=muon", "method=full", "optimizer.layer_decay=0.8", "trainer.ema=0.5"],
        ["optimizer.name=lion", "method=ftp"],
        ["optimizer.name=adafactorbv", "method=full"],
        ["optimizer.name=lamb", "method=lora", "backbone=vit_nano", "data.size=null"],
        ["optimizer.name=adan", "method=losa"],
        ["optimizer.name=nadamw", "method=tpgm"],
        ["optimizer.name=lion", "method=lp_ft", "method.probe_epochs=1"],
    )
]


@pytest.mark.parametrize("more", RUNS, ids=" ".join)
def test_runs_resume_to_the_same_bits(words, tmp_path, monkeypatch, more):
    pair = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, *more, at=3)
    assert same(*map(learned, pair))
    assert pair[0].metrics == pair[1].metrics


def test_the_library_and_its_options_are_in_the_id_and_others_keep_theirs():
    plain = peftbench.compose(*QUICK, "method=full")
    assert not {"library", "args"} & identity(plain)["optimizer"].keys()
    adamw = config_of("adamw")
    assert identity(adamw)["optimizer"]["library"] == "timm"
    assert (
        joint_signature(
            replaced(peftbench.compose(*QUICK, "method=linear", "optimizer=timm", "optimizer.name=sgd"), {})
        )
        is None
    )


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("lionn", [], r"optimizer.name=lionn: expected one that timm knows, .*\(did you mean 'lion'\?\)"),
        (
            "lion",
            ["+optimizer.args.foo=1"],
            r"optimizer.name=lion optimizer.args={'foo': 1}: timm cannot build it \(.*foo",
        ),
        ("lion", ["+optimizer.args.lr=1"], r"optimizer.args.lr=1: is no option of its own; give optimizer.lr"),
        ("lion", ["+optimizer.betas=[0.9,0.9]"], r"optimizer.betas=\[0.9, 0.9\]: is not for optimizer=timm"),
        ("kron", [], r"optimizer.name=kron: keeps rng_state, with which no run could resume"),
        ("adahessian", [], r"optimizer.name=adahessian: differentiates the gradient"),
    ],
)
@pytest.mark.filterwarnings("ignore:It is highly recommended")
def test_mistakes_get_one_sentence_before_data_and_weights(tmp_path, name, more, told):
    with pytest.raises(peftbench.UserError, match=told) as refused:
        peftbench.run(config_of(name, *more, f"output_dir={tmp_path / 'out'}"))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("out/*/result.json"))


def test_names_of_timm_need_its_group(cli):
    status, _, err = cli(*QUICK, "method=full", "optimizer.name=lion")
    assert status == 2
    known = "'adamw', 'sgd', 'ftp' or 'spd'; optimizer=timm takes any that timm knows"
    assert f"optimizer.name='lion': expected {known}" in err
    status, _, err = cli(*QUICK, "method=full", "optimizer=lion")
    assert status == 2
    assert "timm" in err
