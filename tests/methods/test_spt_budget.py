"""SPT's allocation: the worked case, and what must hold of any scores and budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench.methods.spt import allocate
from support.spt import once


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
