"""Pruning of channels and heads: what goes, that the smaller net equals the one with zeros, what it saves."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peftbench import backbones, config, pruning
from peftbench.backbones.channels import attention_heads, hidden_channels, owned_parameters
from peftbench.methods.base import Plan
from peftbench.methods.petah import PETAH
from support.pruned import features, of, structured


@pytest.mark.parametrize(
    ("name", "ratio", "removed"),
    [
        ("l1", 0.25, 2_267_952),
        ("l1", 0.5, 4_535_904),
        ("l3", 0.25, 5_786_112),
        ("l3", 0.5, 11_572_224),
        ("l7", 0.25, 15_330_624),
        ("l7", 0.5, 30_661_248),
    ],
)
def test_exact_counts_of_what_goes(name, ratio, removed):
    whole = backbones.build_on_meta(of(f"efficientformer_{name}"))
    count = whole.facts.parameters
    assert count - pruning.prune(whole, structured(ratio)).facts.parameters == removed


def masked_twin(spec, kept):
    """The whole backbone with zeros where `kept` (first layer -> indices) leaves something out."""
    whole = backbones.build_with_weights(spec)
    with torch.no_grad():
        for group in hidden_channels(whole):
            if group.first in kept:
                out = torch.ones(group.count, dtype=torch.bool)
                out[kept[group.first]] = False
                for parameter, dim in owned_parameters(whole.net, group):
                    parameter.movedim(dim, 0)[out] = 0
    return whole


@pytest.mark.parametrize("name", ["hybrid_nano", "vit_nano", "resnet_nano", "efficientnet_lite0"])
def test_the_smaller_net_equals_the_one_with_zeros(name):
    spec = of(name)
    whole = backbones.build_with_weights(spec)
    size = min(64, whole.facts.input_size)
    kept = {g.first: torch.arange(0, g.count, 2) for g in hidden_channels(whole)}
    assert kept
    from peftbench.backbones.channels import shrink_backbone

    twin = features(masked_twin(spec, kept), whole.facts.input_size if name == "vit_nano" else size)
    before = whole.facts.parameters
    shrink_backbone(whole, kept, {})
    small = backbones.Backbone(whole.net, "small", None, whole.facts.input_size)
    torch.testing.assert_close(
        features(small, whole.facts.input_size if name == "vit_nano" else size), twin, rtol=1e-4, atol=1e-5
    )
    assert small.facts.parameters < before
    assert not list(small.net.buffers()) or all("mask" not in n for n, _ in small.net.named_buffers())


@pytest.mark.slow
def test_what_another_module_reads_is_never_taken():
    for name in ("densenet121", "vgg11_bn", "regnety_002", "mobilenetv3_small_100", "convnext_atto", "seresnet18"):
        spec = config.Backbone(name, pretrained=False)
        whole = backbones.build_with_weights(spec, 64)
        kept = {g.first: torch.arange(0, g.count, 2) for g in hidden_channels(whole)}
        from peftbench.backbones.channels import shrink_backbone

        shrink_backbone(whole, kept, {})
        assert features(whole).isfinite().all()
        torch.manual_seed(0)


@pytest.mark.parametrize("name", ["regnety_002", "resnext26ts"])
def test_channels_that_read_a_group_of_inputs_are_never_taken(name):
    whole = backbones.build_on_meta(config.Backbone(name, pretrained=False))
    grouped = [n for n, m in whole.net.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped
    assert not {g.first for g in hidden_channels(whole)} & set(grouped)


def test_macs_fall_and_forward_works_at_any_batch():
    counted = {}
    for ratio in (0.0, 0.5):
        net = pruning.prune(backbones.build_on_meta(of("efficientformer_l1")), structured(ratio)).net
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 3, 224, 224, device="meta"))
        counted[ratio] = counter.get_total_flops()
    assert counted[0.5] < 0.65 * counted[0.0]
    pruned = pruning.prune(backbones.build_with_weights(of("hybrid_nano")), structured())
    for batch in (1, 8):
        assert pruned.net(torch.zeros(batch, 3, 64, 64)).shape[0] == batch


@pytest.mark.parametrize("name", ["vit_nano", "efficientformer_l1"])
def test_heads_really_go(name):
    spec = config.Backbone(**{**vars(of(name)), "pretrained": name == "vit_nano"})
    torch.manual_seed(0)
    whole = backbones.build_with_weights(spec)
    attentions = attention_heads(whole)
    count = attentions[0].count
    twin = backbones.build_with_weights(spec)
    twin.net.load_state_dict(whole.net.state_dict())
    pruned = pruning.prune(whole, structured(0.0, heads=0.5))
    assert pruned.kept["heads"] == {h.module: count // 2 for h in attentions}
    first = pruned.net.get_submodule(attentions[0].module)
    assert first.num_heads == count // 2
    assert first.proj.in_features == twin.net.get_submodule(attentions[0].module).proj.in_features // 2
    # the weakest heads went: with their columns of proj at zero the whole net gives the same
    size = pruned.facts.input_size
    with torch.no_grad():
        for head in attentions:
            module = twin.net.get_submodule(head.module)
            ours = pruned.net.get_submodule(head.module).proj.weight
            columns = [int((module.proj.weight == c[:, None]).all(0).nonzero()[0]) for c in ours.T]
            out = torch.ones(module.proj.in_features, dtype=torch.bool)
            out[columns] = False
            module.proj.weight[:, out] = 0
    torch.testing.assert_close(features(pruned, size), features(twin, size), rtol=1e-4, atol=1e-5)


def test_adapting_then_pruning_equals_pruning_the_merged():
    torch.manual_seed(0)
    whole = backbones.build_with_weights(of("hybrid_nano"))
    method = PETAH()
    method.adapt(whole, Plan())
    for n, p in whole.net.named_parameters():
        if n.endswith("lora_b"):
            torch.nn.init.normal_(p, std=0.01)
    method.merge(whole)
    merged = {n: t.clone() for n, t in whole.net.state_dict().items()}
    pruned = pruning.prune(whole, structured())
    fresh = backbones.build_with_weights(of("hybrid_nano"))
    fresh.net.load_state_dict(merged)
    assert torch.equal(features(pruning.prune(fresh, structured())), features(pruned))
