"""SPT: the specification's worked cases, and what must hold of any scores, budget and backbone."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench import backbones, config, deltas
from peftbench.methods.base import Plan
from peftbench.methods.spt import allocate, sensitivity
from peftbench.methods.spt.parts import LowRank, Sparse, merge, tune
from peftbench.methods.spt_adapter import SPTAdapter
from peftbench.methods.spt_lora import SPTLoRA
from peftbench.methods.spt_sparse import SPTSparse
from peftbench.models.model import Model
from peftbench.runs.run import run
from peftbench.tasks.classification.task import Classification
from peftbench.training.checkpoint import Checkpoints

X, T = torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, -2]])
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


def linear():
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    return model


def half_square(model, batch):
    return 0.5 * (model(batch[0]) - batch[1]).square().sum()


# -- scoring


def test_scores_of_the_worked_case():
    scores = sensitivity(linear(), [(X, T)], half_square)
    assert scores["weight"].tolist() == [[1, 4, 9], [4, 16, 36]]


def test_squares_of_batch_means_add():
    model = nn.Linear(1, 1, bias=False)

    def mean(model, batch):
        return (model(batch)).mean()

    plus, minus = torch.ones(1, 1), -torch.ones(1, 1)
    assert sensitivity(model, [plus, minus], mean)["weight"].item() == 2
    assert sensitivity(model, [torch.cat([plus, minus])], mean)["weight"].item() == 0


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scoring_leaves_the_model_as_it_was(mode):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    model[1].eval()
    model[0].weight.requires_grad = False
    model[3].bias.grad = torch.ones(2)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]

    def loss(model, x):
        assert model[2].training is (mode == "train")
        return model(x).square().mean()

    scores = sensitivity(model, [torch.randn(5, 4)] * 2, loss, mode=mode)
    assert set(scores) == {n for n, _ in model.named_parameters()}
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert model[3].bias.grad.tolist() == [1, 1]
    assert all(p.grad is None for n, p in model.named_parameters() if n != "3.bias")


def test_eval_scores_repeat_and_class_tokens_heads_and_embeddings_are_no_candidates():
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 2), "patch_embed": nn.Linear(3, 3)})

    def loss(m, x):
        return m["head"](F.dropout(m["body"](m["patch_embed"](x)), 0.5, m.training)).square().mean()

    a, b = (sensitivity(model, [X], loss) for _ in range(2))
    assert set(a) == {"body.weight", "body.bias"}
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_mistakes_in_scoring_get_one_sentence():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})

    def loss(m, batch):
        return half_square(m["used"], batch)

    with pytest.raises(peftbench.UserError, match=r"'idle\.weight' gets no gradient.*leave it out of the candidates"):
        sensitivity(model, [(X, T)], loss)
    found = sensitivity(model, [(X, T)], loss, unreached="skip")
    assert set(found) == {"used.weight", "used.bias"}
    with pytest.raises(peftbench.UserError, match=r"no parameter 'usd\.weight' \(did you mean 'used\.weight'"):
        sensitivity(model, [(X, T)], loss, ["usd.weight"])
    with pytest.raises(peftbench.UserError, match="the loss of a batch is nan"):
        sensitivity(linear(), [(X * float("nan"), T)], half_square)
    with pytest.raises(peftbench.UserError, match="scores of 'weight' are not all finite"):
        sensitivity(linear(), [(X * 1e30, T * 0 + 1e-30)], lambda m, b: m(b[0] * 1e8).mean())
    with pytest.raises(peftbench.UserError, match="no batches"):
        sensitivity(linear(), [], half_square)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# -- allocation


def once(scores, k, **more):
    """The allocation of exactly K entries."""
    return allocate(scores, more.pop("budget", k), step=k, steps=1, **more)


def test_allocation_of_the_worked_case():
    scores = {"w": torch.tensor([[1.0, 4, 9], [4, 16, 36]])}
    mask = [[False, False, True], [False, True, True]]
    for structured, alpha, module in [
        ("lora", 1, False), ("lora", 2, True), ("lora", 10, True), ("adapter", 2, False), ("adapter", 3, True),
    ]:  # fmt: skip
        found = once(scores, 3, structured=structured, rank=1, alpha=alpha)
        assert found.selected == 3
        assert found.structured == (["w"] if module else [])
        assert found.trainable == ({"lora": 5, "adapter": 7}[structured] if module else 3)
        if not module:
            assert found.sparse["w"].tolist() == mask


def test_vectors_train_whole_from_a_beta_th_on():
    scores = {"v": torch.arange(10.0)}
    whole, single = once(scores, 2, beta=5), once(scores, 1, beta=5)
    assert (whole.full, whole.trainable, whole.sparse) == (["v"], 10, {})
    assert (single.full, single.trainable, single.sparse["v"].sum()) == ([], 1, 1)
    assert once(scores, 9, beta=None).full == []
    assert once({"g": torch.arange(10.0).view(10, 1, 1)}, 2, beta=5).full == ["g"]


def test_thresholds_of_the_released_configurations():
    """ViT-B, rank 8, alpha 10: 1228.8 entries make a LoRA of 12288, 3072 one of 30720; 1306.4 an adapter of 13064."""
    for shape, structured, least, price in [
        ((768, 768), "lora", 1229, 12288), ((3072, 768), "lora", 3072, 30720), ((768, 768), "adapter", 1307, 13064),
        ((3072, 768), "adapter", 5224, 52232), ((64, 16, 3, 3), "lora", 167, 8 * (64 + 16 * 9)),
        ((64, 1, 3, 3), "lora", 59, 8 * (64 + 9)),
    ]:  # fmt: skip
        scores = {"w": torch.rand(shape)}
        if least <= scores["w"].numel():
            assert once(scores, least, structured=structured, budget=least).trainable == price
        assert once(scores, least - 1, structured=structured).trainable == least - 1


def test_fused_attention_inputs_are_three_matrices():
    weight = torch.full((12, 4), 1e-9)
    weight[8:] = torch.arange(1.0, 17).view(4, 4)
    bias = torch.zeros(12)
    bias[4:8] = 100
    found = once({"a.qkv.weight": weight, "a.qkv.bias": bias}, 6, rank=1, alpha=10)
    assert found.structured == ["a.qkv.weight[v]"]
    assert found.full == ["a.qkv.bias[k]"]
    assert found.trainable == 1 * (4 + 4) + 4
    other = once({"a.qkv.weight": torch.rand(10, 4)}, 3, rank=1)
    assert other.structured == ["a.qkv.weight"]


def test_plain_tensors_never_get_a_module():
    assert once({"table": torch.rand(9, 9)}, 60, plain=["table"]).structured == []
    assert once({"table": torch.rand(9, 9)}, 60, structured="none").structured == []


SCORES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda s: len(s) != 3),
    min_size=1,
)


@settings(max_examples=40, deadline=None)
@given(
    shapes=SCORES,
    seed=st.integers(0, 999),
    ties=st.booleans(),
    share=st.floats(0.05, 1),
    rule=st.sampled_from(["nearest", "at_most"]),
    alpha=st.sampled_from([0.5, 1.0, 10.0]),
    structured=st.sampled_from(["lora", "adapter", "none"]),
    fixed=st.integers(0, 5),
    step=st.integers(1, 30),
)
def test_any_allocation_adds_up(shapes, seed, ties, share, rule, alpha, structured, fixed, step):
    g = torch.Generator().manual_seed(seed)
    total = sum(torch.Size(s).numel() for s in shapes.values())
    order = torch.randperm(total, generator=g).float()
    parts = (order // 9 if ties else order).split([torch.Size(s).numel() for s in shapes.values()])
    scores = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
    budget = fixed + max(1, round(share * total))
    options = {"structured": structured, "rank": 1, "alpha": alpha, "fixed": fixed}
    try:
        found = allocate(scores, budget, rule=rule, step=step, **options)
    except peftbench.UserError:  # nothing as small as that: see the mistakes below
        assert rule == "at_most"
        return
    again = allocate(scores, budget, rule=rule, step=step, **options)
    assert found.selected == again.selected
    assert all(torch.equal(found.sparse[n], again.sparse[n]) for n in found.sparse)
    assert not {*found.sparse} & {*found.structured, *found.full}
    whole = sum(scores[n].numel() for n in found.full)
    price = sum(
        len(scores[n]) + scores[n].numel() // len(scores[n]) if structured == "lora" else 3 * len(scores[n]) + 1
        for n in found.structured
    )
    assert found.trainable == sum(int(m.sum()) for m in found.sparse.values()) + whole + price + fixed
    assert found.trainable == sum(found.costs.values()) + fixed
    every = once(scores, found.selected, budget=min(total, found.selected), beta=None, structured="none")
    assert sum(int(m.sum()) for m in every.sparse.values()) == found.selected <= total
    highest = torch.cat([s.flatten() for s in scores.values()]).sort(descending=True).values[found.selected - 1]
    assert all((scores[n][m] >= highest).all() for n, m in found.sparse.items())
    if rule == "at_most":
        assert found.trainable <= budget
    elif not ties:
        for i in (1, 2, 3, 5, 8, 13, 40, 79):
            k = min(step * i, total)
            other = once(scores, k, budget=min(budget, total + fixed), **options).trainable
            assert abs(other - budget) >= abs(found.trainable - budget)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"budget": 7}, "7 parameters train in any case; give more"),
        ({"budget": -1}, "budget=-1: expected a number of parameters"),
        ({"budget": 14}, "there are only 13 parameters"),
        ({"alpha": 0}, "alpha=0: expected a number above 0"),
        ({"beta": -1.0}, "beta=-1.0: expected a number above 0, or None"),
        ({"rank": 0}, "rank=0"),
        ({"step": 0}, "step=0"),
        ({"scores": {"w": torch.tensor([[float("nan")]])}}, "scores of 'w' are not all finite"),
        ({"scores": {"w": -torch.ones(2, 3)}}, "scores of 'w' are not all finite and 0 or more"),
        ({"scores": {}}, "there are no scores"),
        ({"rule": "at_most", "alpha": 100.0, "rank": 9}, "the least that can be tuned is 52 parameters"),
    ],
)
def test_mistakes_in_allocation_get_one_sentence(change, told):
    scores = change.pop("scores", {"w": torch.ones(2, 3)})
    with pytest.raises(peftbench.UserError, match=told):
        allocate(scores, **({"budget": 9, "fixed": 7, "rank": 1} | change))


# -- layers


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped"])
def test_single_entries_compute_and_learn_what_a_masked_weight_does(kind):
    torch.manual_seed(0)
    layer = {
        "linear": nn.Linear(40, 30), "conv": nn.Conv2d(6, 8, 3, padding=1, stride=2),
        "grouped": nn.Conv2d(6, 6, 3, groups=3),
    }[kind]  # fmt: skip
    x = torch.randn(5, 7, 40) if kind == "linear" else torch.randn(2, 6, 9, 9)
    start = layer.weight.detach().clone()
    for count in (1, 12, 200):
        places = torch.randperm(start.numel())[:count]
        part = Sparse(places, start)
        nn.init.normal_(part.values)
        dense = (start.flatten().index_add(0, places, part.values.detach())).view(start.shape).requires_grad_()
        reference, x1, x2 = type(layer), x.clone().requires_grad_(), x.clone().requires_grad_()
        if kind == "linear":
            want = F.linear(x1, dense, layer.bias)
        else:
            want = F.conv2d(x1, dense, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        layer.requires_grad_(False)
        layer.bias.requires_grad_(True)
        tune(layer, {"sparse_weight": part}, called=True)
        assert isinstance(layer, reference)
        got = layer(x2)
        assert torch.allclose(got, want, atol=1e-5)
        assert torch.equal(layer._parameters["weight"], start)
        torch.manual_seed(1)
        grad = torch.randn_like(got)
        layer.bias.grad = None
        got.backward(grad)
        of_bias = layer.bias.grad.clone()
        want.backward(grad)
        assert torch.allclose(x1.grad, x2.grad, atol=1e-4)
        assert torch.allclose(dense.grad.flatten()[places], part.values.grad, atol=1e-3, rtol=1e-4)
        assert torch.allclose(of_bias, layer.bias.grad - of_bias, atol=1e-4)
        assert torch.equal(layer._parameters["weight"], start)
        merge(layer)
        assert torch.allclose(layer(x), got, atol=1e-5)
        layer.weight.data.copy_(start)
        assert type(layer) is reference


def test_single_entries_keep_no_copy_of_the_weight_for_backward():
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    tune(layer, {"sparse_weight": Sparse(torch.arange(100), layer.weight)}, called=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(3, 64))
    assert sorted(t.numel() for t in saved) == [100, 3 * 64]


def test_single_entries_pass_under_mixed_precision():
    layers = [nn.Linear(64, 32), nn.Conv2d(4, 6, 3)]
    for layer, x in zip(layers, (torch.randn(3, 64), torch.randn(2, 4, 8, 8)), strict=True):
        layer.weight.requires_grad_(False)
        part = Sparse(torch.arange(20), layer.weight)
        tune(layer, {"sparse_weight": part}, called=True)
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        assert part.values.grad.dtype == x.grad.dtype == layer.bias.grad.dtype == torch.float32
        rough = part.values.grad.clone()
        part.values.grad = None
        layer(x).square().sum().backward()
        assert torch.allclose(rough, part.values.grad, rtol=0.1, atol=0.1 * part.values.grad.abs().max().item())


def test_an_error_while_a_weight_is_patched_leaves_it_as_it_was():
    layer = nn.Linear(4, 4).requires_grad_(False)
    start = layer.weight.clone()
    part = Sparse(torch.tensor([0, 5]), start)
    nn.init.ones_(part.values)
    tune(layer, {"sparse_weight": part}, called=True)
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 3))
    assert torch.equal(layer._parameters["weight"], start)


def test_low_rank_updates_of_thirds_reach_their_rows_only():
    layer = nn.Linear(4, 12).requires_grad_(False)
    part = LowRank(layer.weight, 2, (0, 2), 3, 0.0, 0.0)
    nn.init.normal_(part.b)
    plain = nn.Linear(4, 12)
    plain.load_state_dict(layer.state_dict())
    tune(layer, {"lora": part}, called=True)
    x = torch.randn(5, 4)
    moved = layer(x) - plain(x)
    assert moved[:, 4:8].abs().max() < 1e-6
    assert torch.allclose(moved[:, :4], x @ part.a[:2].T @ part.b[0].T, atol=1e-6)
    assert torch.allclose(moved[:, 8:], x @ part.a[2:].T @ part.b[1].T, atol=1e-6)
    assert sum(p.numel() for p in part.parameters()) == 2 * 2 * (4 + 4)


# -- the method, on every kind of backbone


def batch(n=8):
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=g), torch.arange(n) % 3


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

QUICK = ["backbone=resnet_nano", "backbone.pretrained=false", "data=digits", "data.size=32", "trainer.progress=false"]
QUICK += ["trainer.epochs=2", "trainer.max_batches=2", "data.batch_size=20"]


def learned(record):
    return safetensors.torch.load_file(Path(record.folder) / "delta.safetensors")


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
        patch.setattr("peftbench.methods.base.Method.prepare", lambda *_: None)
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
