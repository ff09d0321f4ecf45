"""Pruning of single weights: exact counts of zeros, what stays zero, and the ways of merging."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peftbench
from peftbench import backbones, config, pruning
from peftbench.methods.base import Plan
from peftbench.methods.petah import PETAH
from peftbench.models.model import Model
from peftbench.pruning.masks import masks_of_lowest, prunable
from peftbench.runs.build import instantiate
from peftbench.tasks.classification.task import Classification
from support.pruned import features, of, unstructured, zeros

VIT = config.Backbone("vit_tiny_patch16_224", args={"img_size": 32, "depth": 2, "embed_dim": 48}, pretrained=False)


# -- unstructured


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    ratio=st.floats(0, 0.999),
    values=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_exactly_the_share_is_masked_whatever_the_ties(sizes, ratio, values, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"w{i}": torch.randint(values, (n,), generator=generator).float() for i, n in enumerate(sizes)}
    masks = masks_of_lowest(scores, ratio)
    flat, kept = torch.cat(list(scores.values())), torch.cat([masks[n] for n in scores])
    assert int((~kept).sum()) == round(ratio * len(flat))
    if (~kept).any() and kept.any():
        assert flat[~kept].max() <= flat[kept].min()
        edge = flat[~kept].max()
        at_edge = kept[flat == edge].int()
        assert (at_edge.diff() >= 0).all()  # of equals the first go


@pytest.mark.parametrize("ratio", [0, 0.3, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("name", ["hybrid_nano", "vit_nano", "resnet_nano"])
def test_zeros_are_exact_and_nothing_else_changes(name, ratio):
    whole = backbones.build_with_weights(of(name))
    before = {n: t.clone() for n, t in whole.net.state_dict().items()}
    weights = prunable(whole)
    count = sum(p.numel() for p in weights.values())
    natural = zeros(whole)  # resnet_nano has one
    pruned = pruning.prune(whole, unstructured(ratio))
    assert zeros(pruned) == max(round(ratio * count), natural)
    after = pruned.net.state_dict()
    assert all(torch.equal(t, before[n]) for n, t in after.items() if n not in weights)
    assert all(torch.equal(after[n], before[n] * m) for n, m in pruned.masks.items())
    assert sum(int((~m).sum()) for m in pruned.masks.values()) == zeros(pruned)
    first = next(n for n, t in before.items() if t.ndim == 4)
    assert first not in weights


def test_constant_weights_are_pruned_to_the_count():
    whole = backbones.build_with_weights(VIT, 32)
    with torch.no_grad():
        for parameter in prunable(whole).values():
            parameter.fill_(1.0)
    count = sum(p.numel() for p in prunable(whole).values())
    assert zeros(pruning.prune(whole, unstructured(0.3))) == round(0.3 * count)


def test_criteria_and_scopes_differ():
    images = torch.randn(4, 3, 64, 64)
    specs = [unstructured(), unstructured(scope="layer"), unstructured(criterion="taylor")]
    found = [pruning.prune(backbones.build_with_weights(of("hybrid_nano")), s, images) for s in specs]
    assert len({pruning.mask_hash(b.masks) for b in found}) == len({b.fingerprint for b in found}) == 3
    per_layer = [(~m).float().mean().item() for m in found[1].masks.values()]
    assert all(abs(share - 0.5) < 0.02 for share in per_layer)
    again = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), specs[2], images)
    assert pruning.mask_hash(again.masks) == pruning.mask_hash(found[2].masks)


def test_taylor_scores_are_weight_times_gradient():
    whole = backbones.build_with_weights(VIT, 32)
    images = torch.randn(3, 3, 32, 32)
    weight = whole.net.get_parameter("blocks.0.mlp.fc1.weight")
    weight.requires_grad = True
    loss = whole.pool(whole.taps(images, (-1,))[0]).square().sum() / 2 / 3
    (gradient,) = torch.autograd.grad(loss, weight)
    from peftbench.pruning.scores import taylor_scores

    found = taylor_scores(whole, prunable(whole), images)["blocks.0.mlp.fc1.weight"]
    torch.testing.assert_close(found, (weight * gradient).abs().detach())


# what trains the weights themselves, and what trains beside them
@pytest.mark.parametrize("method", ["full", "ftp", "l2sp", "bitfit", "petah", "lora", "linear", "losa"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zeros_survive_training(method, optimizer):
    torch.manual_seed(0)
    pruned = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), unstructured(0.7))
    count = zeros(pruned)
    built = instantiate(peftbench.compose(f"method={method}").method)
    pruned.merging = "masked" if "masked" in built.merges else built.merges[0]
    model = Model(pruned, Classification(pruned, ["a", "b"]))
    model.adapted(built.adapt(pruned, Plan()))
    pruning.hold_zeros(pruned)
    named = model.trainable()
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"lr": 1e-3, "weight_decay": 0.5} | ({"momentum": 0.9, "nesterov": True} if optimizer == "sgd" else {})
    inner = kinds[optimizer](named, **options)
    stepper = built.optimizer(named, {n: p.detach().clone() for n, p in named}, inner)
    model.train()
    images, labels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
    for _ in range(3):
        stepper.zero_grad()
        model.loss((images, labels)).backward()
        stepper.step()
    assert zeros(pruned) == count
    built.merge(pruned)
    assert zeros(pruned) == count


def test_the_three_ways_of_merging():
    found = {}
    for merging in ("unmerged", "masked", "dense"):
        torch.manual_seed(0)
        pruned = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), unstructured(0.5))
        pruned.merging = merging
        method = PETAH()
        method.adapt(pruned, Plan())
        for n, p in pruned.net.named_parameters():
            if n.endswith("lora_b"):
                torch.nn.init.normal_(p, std=0.01)
        before = features(pruned)
        method.merge(pruned)
        found[merging] = before
        torch.testing.assert_close(features(pruned), before, rtol=1e-3, atol=1e-4)
        lost = pruning.sparsity(pruned)
        assert lost == pytest.approx(0.5, abs=1e-4) if merging != "dense" else lost < 0.1
        assert any(n.endswith("lora_a") for n in pruned.net.state_dict()) == (merging == "unmerged")
    assert torch.equal(found["unmerged"], found["dense"])
    assert not torch.allclose(found["masked"], found["dense"], atol=1e-3)


# -- merging


def test_zeros_survive_averaging_and_folding_of_batch_norms():
    torch.manual_seed(0)
    pruned = pruning.prune(backbones.build_with_weights(of("resnet_nano")), unstructured(0.6))
    averaged = torch.optim.swa_utils.AveragedModel(
        pruned.net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn()
    )
    pruning.hold_zeros(pruned)
    optimizer = torch.optim.AdamW(pruned.net.parameters(), lr=1e-3, weight_decay=0.5)
    for _ in range(2):
        pruned.net(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(pruned.net)
    state = averaged.module.state_dict()
    assert all((state[n][~m] == 0).all() for n, m in pruned.masks.items())
    block = pruned.net.layer1[0]
    folded = torch.nn.utils.fuse_conv_bn_eval(block.conv1.eval(), block.bn1.eval())
    mask = pruned.masks["layer1.0.conv1.weight"]
    assert torch.equal(folded.weight == 0, ~mask)


def test_merging_twice_is_merging_once():
    torch.manual_seed(0)
    whole, method = backbones.build_with_weights(of("hybrid_nano")), PETAH()
    method.adapt(whole, Plan())
    for n, p in whole.net.named_parameters():
        if n.endswith("lora_b"):
            torch.nn.init.normal_(p, std=0.01)
    method.merge(whole)
    once = {n: t.clone() for n, t in whole.net.state_dict().items()}
    method.merge(whole)
    assert all(torch.equal(t, once[n]) for n, t in whole.net.state_dict().items())


def test_a_mask_goes_to_the_device_of_the_gradients_once(monkeypatch):
    layer = torch.nn.Linear(4, 3, device="meta")
    pruning.hold_zeros(SimpleNamespace(net=layer, masks={"weight": torch.ones(3, 4, dtype=torch.bool)}))
    moves, move = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda t, *to, **more: moves.append(to) or move(t, *to, **more))
    for _ in range(3):
        layer(torch.ones(2, 4, device="meta")).sum().backward()
    assert moves.count((torch.device("meta"),)) == 1
