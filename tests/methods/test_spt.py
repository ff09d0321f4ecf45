"""SPT on every kind of backbone: the plan is what trains, resumes and is rebuilt from a delta."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import peftbench
from peftbench import backbones, config, deltas
from peftbench.methods.base import Plan
from peftbench.methods.spt_adapter import SPTAdapter
from peftbench.methods.spt_lora import SPTLoRA
from peftbench.methods.spt_sparse import SPTSparse
from peftbench.models.model import Model
from peftbench.runs.run import run
from peftbench.tasks.classification.task import Classification
from peftbench.training.checkpoint import Checkpoints
from support.batches import batch
from support.runs import SMALL, learned

METHODS = {"lora": SPTLoRA, "adapter": SPTAdapter, "sparse": SPTSparse}
BACKBONES = {
    "vit": config.Backbone(
        "vit_tiny_patch16_224", args={"img_size": 32, "depth": 2, "embed_dim": 48}, pretrained=False
    ),
    "cnn": peftbench.compose("backbone=resnet_nano").backbone,
    "hybrid": peftbench.compose("backbone=hybrid_nano").backbone,
    "read weights": config.Backbone(
        "beit_base_patch16_224", args={"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}, pretrained=False
    ),
}


# -- the method, on every kind of backbone


def planned(method, family):
    torch.manual_seed(0)
    backbone = backbones.build_with_weights(BACKBONES[family], 32)
    method.check(backbone)
    model = Model(backbone, Classification(backbone, ["x"] * 3))
    return model, method.prepare(model, [batch()] * 2)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("family", BACKBONES)
def test_the_plan_is_what_trains_starts_as_the_backbone_and_merges(kind, family):
    method = METHODS[kind]()
    model, plan = planned(method, family)
    images = batch()[0]
    with torch.no_grad():
        before = model.eval()(images)
    plain = {n: t.clone() for n, t in model.state_dict().items()}
    model.adapted(method.adapt(model.backbone, plan))
    inside = [(n, p) for n, p in model.trainable() if not n.startswith("task.")]
    assert sum(p.numel() for _, p in inside) == plan.facts["trainable"]
    assert sum(layer["parameters"] for layer in plan.facts["layers"]) == plan.facts["trainable"]
    assert not any("patch_embed" in n or "pos_embed" in n for n, _ in inside)
    assert set(plain) <= set(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(model.eval()(images), before, atol=1e-6)
    optimizer = torch.optim.AdamW([p for _, p in model.trainable()], lr=1e-2, weight_decay=0.5)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        model.loss(batch()).backward()
        optimizer.step()
    names = {n for n, _ in model.trainable()}
    after = model.state_dict()
    assert all(torch.equal(after[n], plain[n]) for n in plain if n not in names), "frozen, to the last bit"
    moved = {n: p for n, p in inside if n.endswith("values")}
    assert all((p != 0).float().mean() > 0.5 for p in moved.values()), "norms' and biases' entries train too"
    with torch.no_grad():
        want = model.eval()(images)
        method.merge(model.backbone)
        assert torch.allclose(model(images), want, atol=1e-5)
    if kind != "adapter":
        assert set(model.state_dict()) == set(plain)


def test_a_plan_is_deterministic_and_follows_the_seed_of_its_control():
    a, b = (planned(SPTLoRA(), "vit")[1] for _ in range(2))
    assert a.facts == b.facts
    assert all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)
    c = planned(SPTLoRA(choose="random"), "vit")[1]
    assert c.facts["layers"] != a.facts["layers"]


def test_efficientformer_which_keeps_its_biases_in_eval_mode_is_scored_and_trained():
    backbone = backbones.build_with_weights(config.Backbone("efficientformer_l1", pretrained=False))
    model = Model(backbone, Classification(backbone, ["x"] * 3))
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    method = SPTSparse(budget=5000)
    plan = method.prepare(model, [(images, torch.tensor([0, 1]))] * 2)
    model.adapted(method.adapt(backbone, plan))
    model.train()
    model.loss((images, torch.tensor([0, 1]))).backward()
    assert any(p.grad is not None for _, p in model.trainable())


def test_budgets_out_of_range_are_refused_before_any_data():
    backbone = backbones.build_on_meta(BACKBONES["vit"], 32)
    for budget in (48, -5, 1e9, 0.0):
        with pytest.raises(peftbench.UserError, match=r"method\.budget=.* takes more than 48 .* at most"):
            SPTLoRA(budget=budget).check(backbone)
    SPTLoRA(budget=0.01).check(backbone)
    for wrong in ({"rank": 0}, {"alpha": -1.0}, {"dropout": 1.0}, {"step": 0}, {"beta": 0.0}, {"batches": 0}):
        with pytest.raises(peftbench.UserError, match=f"method.{next(iter(wrong))}="):
            SPTLoRA(**wrong).check(backbone)
    with pytest.raises(peftbench.UserError, match=r"decided by a look at the data: about 400,000 parameters"):
        peftbench.count_parameters("spt", "vit_b")
    with pytest.raises(peftbench.UserError, match="decided by a look at the data"):
        SPTLoRA().adapt(backbone, Plan())


def test_the_usual_budget():
    sizes = {"vit_b": 400_000, "vit_g": 400_000, "vit_nano": None}
    for name, expected in sizes.items():
        backbone = backbones.build_on_meta(peftbench.compose(f"backbone={name}").backbone)
        assert SPTLoRA().amount(backbone) == expected or backbone.facts.parameters // 20


# -- runs


QUICK = [*SMALL, "trainer.epochs=2", "trainer.max_batches=2", "data.batch_size=20"]


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_plan_and_resumes_to_the_same_bits(tmp_path, monkeypatch):
    words = ["method=spt", "optimizer=ftp"]
    config_ = [peftbench.compose(*QUICK, *words, f"output_dir={tmp_path / place}") for place in "ab"]
    undisturbed = run(config_[0])
    folder = Path(undisturbed.folder)
    facts = json.loads((folder / "plan.json").read_text())
    assert undisturbed.plan == facts
    assert undisturbed.costs["parameters"]["method"] == facts["trainable"]
    held = learned(undisturbed)
    assert not any(n.endswith("conv1.weight") for n in held), "a delta holds entries, not the weights they are of"
    assert (
        sum(t.numel() for n, t in held.items() if "task" not in n and not n.endswith("indices")) == (facts["trainable"])
    )
    batch_end, seen = Checkpoints.on_train_batch_end, []

    def stop(self, *arguments):
        seen.append(1)
        self.stop = len(seen) >= 3
        batch_end(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert run(config_[1]).status == "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(SPTLoRA, "prepare", lambda *_: pytest.fail("the plan is written already"))
        resumed = run(config_[1])
    a, b = learned(undisturbed), learned(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert resumed.metrics == undisturbed.metrics


def test_a_plan_and_a_delta_rebuild_the_tuned_model():
    method = SPTLoRA(budget=3000)
    model, plan = planned(method, "vit")
    model.adapted(method.adapt(model.backbone, plan))
    for _, p in model.trainable():
        nn.init.normal_(p, std=0.02)
    delta = deltas.changed_tensors(model.state_dict(), model.start())
    other, _ = planned(method, "vit")
    other.adapted(method.adapt(other.backbone, Plan(plan.tensors, json.loads(json.dumps(plan.facts)))))
    deltas.attach(other, delta, "the delta")
    images = batch()[0]
    with torch.no_grad():
        assert torch.equal(model.eval()(images), other.eval()(images))
