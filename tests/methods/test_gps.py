"""GPS: which entries it takes, by which gradients, what else trains, its counts, and that it merges."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import peftbench
from peftbench import config
from peftbench.costs import SavedBytes
from peftbench.methods.base import Plan
from peftbench.methods.gps import GPS, contrastive, largest_of_rows
from peftbench.methods.lora import LoRA
from peftbench.methods.spt import sensitivity
from peftbench.methods.spt.parts import Sparse
from peftbench.models.model import Model
from peftbench.tasks.classification.task import Classification
from support.backbones import SMALL, composed, on_meta, parameters, with_weights
from support.batches import batch


def untouched(family="vit"):
    backbone = with_weights(SMALL[family], 32)
    return Model(backbone, Classification(backbone, ["a", "b", "c"]))


def adapted(method, family="vit", batches=1):
    model = untouched(family)
    method.check(model.backbone)
    plan = method.prepare(model, [batch()] * batches)
    model.adapted(method.adapt(model.backbone, plan))
    return model, plan


@pytest.mark.parametrize(
    ("name", "k", "count"),
    [
        # rows of 48 linear layers and of the patches, and their biases: 2 x 12 x (3 + 1 + 4 + 1) x 768 + 2 x 768
        ("vit_s", 1, 83_712),
        ("vit_b", 3, 334_848),
        # 2 x 110,208 + 18,048 (gamma) + 1,024 (biases of the norms between stages, which have no `norm` in their names)
        pytest.param("convnext_base", 1, 239_488, marks=pytest.mark.slow),
        pytest.param("hybrid_nano", 1, "formula", marks=pytest.mark.slow),
    ],
)
def test_further_counts(name, k, count):
    spec = config.Backbone(name, pretrained=False) if name == "convnext_base" else composed(f"backbone={name}").backbone
    backbone = on_meta(spec)
    if count == "formula":
        rows = [m for m in backbone.net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        biased = [p for n, p in backbone.net.named_parameters() if n.endswith("bias") and "norm" not in n]
        count = sum(len(m.weight) for m in rows) + sum(len(p) for p in biased)
    assert parameters(GPS(k=k), backbone) == count


# -- which entries


def test_the_golden_case_takes_the_largest_of_each_row_and_ties_go_to_the_lowest_index():
    gradient = torch.tensor([[1.0, -3.0], [2.0, 2.0]])
    assert largest_of_rows(gradient, 1).tolist() == [1, 2]
    assert largest_of_rows(torch.zeros(3, 4), 2).tolist() == [0, 1, 4, 5, 8, 9], "a row of zeros has as many"
    assert largest_of_rows(torch.ones(2, 1, 1, 2), 20).tolist() == [0, 1, 2, 3], "a short row is taken whole"
    keep = torch.tensor([[True, False], [False, False]])
    assert largest_of_rows(gradient, 1, keep).tolist() == [0], "pruned zeros are never taken"


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=5), k=st.integers(1, 8))
def test_every_row_has_k_entries_and_none_larger_is_left_out(rows, k):
    chosen = largest_of_rows(torch.tensor(rows, dtype=torch.float32), k)
    want = []
    for i, row in enumerate(rows):
        order = sorted(range(6), key=lambda j: (-abs(row[j]), j))[:k]
        want += sorted(6 * i + j for j in order)
    assert chosen.tolist() == want
    assert chosen.dtype == torch.int32


def test_gradients_are_summed_with_their_signs_or_squared():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

    def loss(net, sign):
        return (sign * net.w).sum()

    batches = [torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0])]
    assert sensitivity(One(), batches, loss, reduce="sum")["w"].tolist() == [0, 3]
    assert sensitivity(One(), batches, loss)["w"].tolist() == [2, 5]


def test_the_contrastive_loss_is_that_of_the_formula():
    model = untouched().double().eval()
    images, labels = batch()
    images = model.normalize(images.double())
    found = contrastive(model, images, labels, 0.5)
    with torch.no_grad():
        views = [model.backbone.pool(model.extract(x)[-1]) for x in (images, images.flip(-1))]
    z = torch.nn.functional.normalize(torch.cat(views), dim=1)
    y, total = labels.tolist() * 2, 0.0
    for i in range(16):
        others = [a for a in range(16) if a != i]
        below = sum(torch.exp(z[i] @ z[a] / 0.5) for a in others)
        same = [a for a in others if y[a] == y[i]]
        total -= sum(torch.log(torch.exp(z[i] @ z[p] / 0.5) / below) for p in same) / len(same)
    assert found.item() == pytest.approx((total / 16).item(), rel=1e-5)


def test_the_plan_takes_the_entries_whose_gradients_are_largest():
    """By the gradients of a whole pass that autograd gives, of the loss that is asked for."""
    for options, loss in (
        ({}, lambda model: contrastive(model, *batch(), 0.07)),
        ({"loss": "ce", "k": 2}, lambda model: model.loss(batch())),
    ):
        model = untouched()
        plan = GPS(**options).prepare(model, [batch()] * 2)
        gradient = torch.autograd.grad(loss(model.train()), model.backbone.net.blocks[1].mlp.fc2.weight)[0]
        chosen = plan.tensors["blocks.1.mlp.fc2.weight"].long().view(48, -1)
        columns = gradient.abs().topk(options.get("k", 1), 1).indices.sort(1).values
        assert (chosen == columns + 192 * torch.arange(48)[:, None]).float().mean() > 0.95  # rounding may break ties
        assert plan.facts["loss"] == options.get("loss", "contrastive")


@pytest.mark.parametrize("family", ["vit", pytest.param("cnn", marks=pytest.mark.slow)])
def test_what_trains_is_k_entries_a_row_the_biases_and_the_head(family):
    model, plan = adapted(GPS(k=2), family)
    again = GPS(k=2).prepare(untouched(family), [batch()])
    assert all(torch.equal(t, again.tensors[n]) for n, t in plan.tensors.items())
    weights = {n: m for n, m in model.backbone.net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for layer in weights.values():
        sparse = layer.sparse_weight
        assert isinstance(sparse, Sparse)
        rows = sparse.indices.long() // layer._parameters["weight"][0].numel()
        assert rows.bincount().tolist() == [2] * layer._parameters["weight"].shape[0]
    whole = {n for n, _ in model.trainable() if not n.endswith("sparse_weight.values")}
    names = [n for n, _ in untouched(family).backbone.named_parameters()]
    assert whole == {
        *("task.head.weight", "task.head.bias"),
        *(f"backbone.{n}" for n in names if n.endswith("bias") and "norm" not in n),
    }
    inside = sum(p.numel() for n, p in model.trainable() if n.startswith("backbone."))
    assert plan.facts["trainable"] == inside == sum(row["parameters"] for row in plan.facts["layers"])


@pytest.mark.parametrize("family", ["vit", pytest.param("cnn", marks=pytest.mark.slow)])
def test_random_entries_merge(family):
    method = GPS(k=2)
    model, _ = adapted(method, family)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for kind, limit in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        one = copy.deepcopy(model).to(kind).eval()
        random = torch.Generator().manual_seed(2)
        for name, p in one.named_parameters():
            if name.endswith("values"):
                p.data = 0.1 * torch.randn(p.shape, generator=random, dtype=kind)
        with torch.no_grad():
            beside = one(images.to(kind))
            method.merge(one.backbone)
            assert set(one.state_dict()) == set(untouched(family).state_dict())
            assert (one(images.to(kind)) - beside).abs().max() <= limit * beside.abs().max()


def test_a_step_keeps_no_more_for_backward_than_loras():
    """But for the images, which the convolution of the patches reads, and LoRA does not adapt it."""
    kept = {}
    for name in ("gps", "lora"):
        model = untouched()
        if name == "gps":
            model, _ = adapted(GPS())
        else:
            model.adapted(LoRA(rank=2).adapt(model.backbone, Plan()))
        meter = SavedBytes(model.train())
        with meter.counting():
            model.loss(batch())
        kept[name] = meter.total
    assert kept["gps"] <= kept["lora"] + 4 * batch()[0].numel()


# -- mistakes


def test_targets_without_one_class_each_take_the_tasks_own_loss_or_are_refused():
    assert GPS()._loss_for(torch.zeros(4, 3)) == GPS()._loss_for([{}]) == GPS(loss="ce")._loss_for([{}]) == "ce"
    assert GPS()._loss_for(torch.zeros(4, dtype=torch.long)) == "contrastive"
    with pytest.raises(
        peftbench.Refusal, match=r"method.loss=contrastive: compares images by their class.*give method"
    ):
        GPS(loss="contrastive")._loss_for(torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"k": 0}, "method.k=0: expected at least 1."),
        ({"batches": 0}, "method.batches=0: expected at least 1."),
        (
            {"k": 9999},
            "method.k=9999: the longest row of a weight of vit_tiny_patch16_224 has 768 entries; expected at most "
            "that.",
        ),
        (
            {"loss": "ce", "temperature": 0.5},
            "method.temperature=0.5: is of method.loss=contrastive alone; leave it out of ce.",
        ),
        ({"temperature": 0.0}, "method.temperature=0.0: expected a number above 0."),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(peftbench.UserError) as raised:
        GPS(**options).check(on_meta(SMALL["vit"], 32))
    assert str(raised.value) == told


def test_without_a_look_at_the_data_nothing_is_adapted():
    with pytest.raises(peftbench.UserError, match="decided by a look at the data"):
        GPS().adapt(with_weights(SMALL["vit"], 32), Plan())
