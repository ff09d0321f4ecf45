"""Pruning: exact counts of zeros and of what goes, what stays pruned, and the pruned backbone as a file."""

import json
import re

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import peftbench
from peftbench import backbones, config, pruning
from peftbench.backbones.channels import heads, hidden, members
from peftbench.methods.base import Plan
from peftbench.methods.petah import PETAH
from peftbench.models.model import Model
from peftbench.pruning.masks import lowest, prunable
from peftbench.runs.build import instantiate
from peftbench.tasks.classification.task import Classification

VIT = config.Backbone("vit_tiny_patch16_224", args={"img_size": 32, "depth": 2, "embed_dim": 48}, pretrained=False)


def of(name):
    return peftbench.compose(f"backbone={name}").backbone


def unstructured(ratio=0.5, **options):
    return config.Pruning("unstructured", ratio=ratio, **options)


def structured(ratio=0.5, **options):
    return config.Pruning("structured", ratio=ratio, **options)


def features(backbone, size=64):
    x = torch.linspace(-3, 3, 2 * 3 * size * size).sin().view(2, 3, size, size)
    with torch.no_grad():
        return backbone.pool(backbone.taps(x, (-1,))[0])


def zeros(backbone):
    return sum(int((p == 0).sum()) for p in prunable(backbone).values())


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
    masks = lowest(scores, ratio)
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
    whole = backbones.build(of(name))
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
    whole = backbones.build(VIT, 32)
    with torch.no_grad():
        for parameter in prunable(whole).values():
            parameter.fill_(1.0)
    count = sum(p.numel() for p in prunable(whole).values())
    assert zeros(pruning.prune(whole, unstructured(0.3))) == round(0.3 * count)


def test_criteria_and_scopes_differ():
    images = torch.randn(4, 3, 64, 64)
    specs = [unstructured(), unstructured(scope="layer"), unstructured(criterion="taylor")]
    found = [pruning.prune(backbones.build(of("hybrid_nano")), s, images) for s in specs]
    assert len({pruning.mask_hash(b.masks) for b in found}) == len({b.fingerprint for b in found}) == 3
    per_layer = [(~m).float().mean().item() for m in found[1].masks.values()]
    assert all(abs(share - 0.5) < 0.02 for share in per_layer)
    again = pruning.prune(backbones.build(of("hybrid_nano")), specs[2], images)
    assert pruning.mask_hash(again.masks) == pruning.mask_hash(found[2].masks)


def test_taylor_scores_are_weight_times_gradient():
    whole = backbones.build(VIT, 32)
    images = torch.randn(3, 3, 32, 32)
    weight = whole.net.get_parameter("blocks.0.mlp.fc1.weight")
    weight.requires_grad = True
    loss = whole.pool(whole.taps(images, (-1,))[0]).square().sum() / 2 / 3
    (gradient,) = torch.autograd.grad(loss, weight)
    from peftbench.pruning.scores import taylor

    found = taylor(whole, prunable(whole), images)["blocks.0.mlp.fc1.weight"]
    torch.testing.assert_close(found, (weight * gradient).abs().detach())


# what trains the weights themselves, and what trains beside them
@pytest.mark.parametrize("method", ["full", "ftp", "l2sp", "bitfit", "petah", "lora", "linear", "losa"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zeros_survive_training(method, optimizer):
    torch.manual_seed(0)
    pruned = pruning.prune(backbones.build(of("hybrid_nano")), unstructured(0.7))
    count = zeros(pruned)
    built = instantiate(peftbench.compose(f"method={method}").method)
    pruned.merging = "masked" if "masked" in built.merges else built.merges[0]
    model = Model(pruned, Classification(pruned, ["a", "b"]))
    model.adapted(built.adapt(pruned, Plan()))
    pruning.hold(pruned)
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
        pruned = pruning.prune(backbones.build(of("hybrid_nano")), unstructured(0.5))
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


# -- structured


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
    whole = backbones.meta(of(f"efficientformer_{name}"))
    count = whole.facts.parameters
    assert count - pruning.prune(whole, structured(ratio)).facts.parameters == removed


def masked_twin(spec, kept):
    """The whole backbone with zeros where `kept` (first layer -> indices) leaves something out."""
    whole = backbones.build(spec)
    with torch.no_grad():
        for group in hidden(whole):
            if group.first in kept:
                out = torch.ones(group.count, dtype=torch.bool)
                out[kept[group.first]] = False
                for parameter, dim in members(whole.net, group):
                    parameter.movedim(dim, 0)[out] = 0
    return whole


@pytest.mark.parametrize("name", ["hybrid_nano", "vit_nano", "resnet_nano", "efficientnet_lite0"])
def test_the_smaller_net_equals_the_one_with_zeros(name):
    spec = of(name)
    whole = backbones.build(spec)
    size = min(64, whole.facts.input_size)
    kept = {g.first: torch.arange(0, g.count, 2) for g in hidden(whole)}
    assert kept
    from peftbench.backbones.channels import shrink

    twin = features(masked_twin(spec, kept), whole.facts.input_size if name == "vit_nano" else size)
    before = whole.facts.parameters
    shrink(whole, kept, {})
    small = backbones.Backbone(whole.net, "small", None, whole.facts.input_size)
    torch.testing.assert_close(
        features(small, whole.facts.input_size if name == "vit_nano" else size), twin, rtol=1e-4, atol=1e-5
    )
    assert small.facts.parameters < before
    assert not list(small.net.buffers()) or all("mask" not in n for n, _ in small.net.named_buffers())


def test_what_another_module_reads_is_never_taken():
    for name in ("densenet121", "vgg11_bn", "regnety_002", "mobilenetv3_small_100", "convnext_atto", "seresnet18"):
        spec = config.Backbone(name, pretrained=False)
        whole = backbones.build(spec, 64)
        kept = {g.first: torch.arange(0, g.count, 2) for g in hidden(whole)}
        from peftbench.backbones.channels import shrink

        shrink(whole, kept, {})
        assert features(whole).isfinite().all()
        torch.manual_seed(0)


@pytest.mark.parametrize("name", ["regnety_002", "resnext26ts"])
def test_channels_that_read_a_group_of_inputs_are_never_taken(name):
    whole = backbones.meta(config.Backbone(name, pretrained=False))
    grouped = [n for n, m in whole.net.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert grouped
    assert not {g.first for g in hidden(whole)} & set(grouped)


def test_macs_fall_and_forward_works_at_any_batch():
    counted = {}
    for ratio in (0.0, 0.5):
        net = pruning.prune(backbones.meta(of("efficientformer_l1")), structured(ratio)).net
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, 3, 224, 224, device="meta"))
        counted[ratio] = counter.get_total_flops()
    assert counted[0.5] < 0.65 * counted[0.0]
    pruned = pruning.prune(backbones.build(of("hybrid_nano")), structured())
    for batch in (1, 8):
        assert pruned.net(torch.zeros(batch, 3, 64, 64)).shape[0] == batch


@pytest.mark.parametrize("name", ["vit_nano", "efficientformer_l1"])
def test_heads_really_go(name):
    spec = config.Backbone(**{**vars(of(name)), "pretrained": name == "vit_nano"})
    torch.manual_seed(0)
    whole = backbones.build(spec)
    attentions = heads(whole)
    count = attentions[0].count
    twin = backbones.build(spec)
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
    whole = backbones.build(of("hybrid_nano"))
    method = PETAH()
    method.adapt(whole, Plan())
    for n, p in whole.net.named_parameters():
        if n.endswith("lora_b"):
            torch.nn.init.normal_(p, std=0.01)
    method.merge(whole)
    merged = {n: t.clone() for n, t in whole.net.state_dict().items()}
    pruned = pruning.prune(whole, structured())
    fresh = backbones.build(of("hybrid_nano"))
    fresh.net.load_state_dict(merged)
    assert torch.equal(features(pruning.prune(fresh, structured())), features(pruned))


# -- as a file


@pytest.mark.parametrize("spec", [unstructured(0.7), structured(heads=0.5)], ids=["unstructured", "structured"])
def test_a_pruned_backbone_is_one_of_its_own(tmp_path, spec):
    pruned = pruning.prune(backbones.build(of("hybrid_nano")), spec)
    pruning.save(pruned, tmp_path / "it.safetensors")
    again = backbones.build(config.Backbone(**{**vars(of("hybrid_nano")), "weights": str(tmp_path / "it.safetensors")}))
    assert again.fingerprint == pruned.fingerprint != backbones.build(of("hybrid_nano")).fingerprint
    assert pruning.mask_hash(again.masks) == pruning.mask_hash(pruned.masks)
    assert again.kept == pruned.kept
    assert torch.equal(features(again), features(pruned))
    with pytest.raises(peftbench.Refusal, match="are of a pruned backbone"):
        pruning.prune(again, spec)


@pytest.mark.parametrize(
    ("name", "told", "says"),
    [
        ("resnet_nano", {}, "is mobilevit_xxs, pruned; give backbone.name=mobilevit_xxs"),
        ("hybrid_nano", {"kept": {"channels": {}}}, "does not fit mobilevit_xxs"),
        ("hybrid_nano", {"kept": {"channels": {"any": -1}}}, "does not say how it was pruned"),
        ("hybrid_nano", {"kept": [1]}, "does not say how it was pruned"),
        ("hybrid_nano", {"masked": ["nothing.weight"]}, "masks nothing.weight"),
    ],
    ids=str,
)
def test_a_pruned_file_of_another_model_or_altered_is_one_sentence(tmp_path, name, told, says):
    pruned = pruning.prune(backbones.build(of("hybrid_nano")), structured())
    path = tmp_path / "it.safetensors"
    pruning.save(pruned, path)
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata=about | {k: json.dumps(v) for k, v in told.items()})
    with pytest.raises(peftbench.UserError, match=re.escape(says)):
        backbones.build(config.Backbone(**{**vars(of(name)), "weights": str(path)}))


def test_a_pruned_file_that_keeps_more_than_there_is_is_refused(tmp_path):
    pruned = pruning.prune(backbones.build(of("hybrid_nano")), structured())
    pruned.kept["channels"] = dict.fromkeys(pruned.kept["channels"], 9999)
    pruning.save(pruned, tmp_path / "it.safetensors")
    with pytest.raises(peftbench.UserError, match="does not fit mobilevit_xxs"):
        backbones.build(config.Backbone(**{**vars(of("hybrid_nano")), "weights": str(tmp_path / "it.safetensors")}))


def test_the_command_line_prunes_says_so_and_shares_the_file(cli, tmp_path, tiny):
    words = [*tiny, "method=petah", "backbone=hybrid_nano", "backbone.pretrained=true", "data.size=64"]
    words.append("trainer.progress=true")
    runs = {}
    for pruned, seed in (("unstructured", 0), ("unstructured", 1), ("structured", 0), ("none", 0)):
        given = [] if pruned == "unstructured" else [f"pruning={pruned}"]  # the method's own
        status, _, told = cli(*words, *given, f"seed={seed}")
        assert status == 0, told
        assert ("pruning=" in told) == (pruned != "none")
        assert "layers are left as they are" in told
    for path in tmp_path.glob("petah-*/result.json"):
        record = json.loads(path.read_text())
        runs.setdefault(record["config"]["pruning"]["name"], []).append(record)
    assert {n: len(r) for n, r in runs.items()} == {"unstructured": 2, "structured": 1, "none": 1}
    files = sorted(p.name for p in (tmp_path / "backbones").iterdir())
    assert len(files) == 2
    stamps = {n: r[0]["stamps"]["backbone"] for n, r in runs.items()}
    assert "pruning" not in stamps["none"]
    assert stamps["unstructured"]["pruning"]["merge"] == "unmerged"
    assert stamps["unstructured"]["pruning"]["mask"]
    assert all(s["fingerprint"][:10] in " ".join(files) for n, s in stamps.items() if n != "none")
    saved = safetensors.torch.load_file(tmp_path / "backbones" / files[0])
    assert set(saved) == set(backbones.build(of("hybrid_nano")).net.state_dict())
    deltas = list(tmp_path.glob("petah-*/delta.safetensors"))
    names = set(safetensors.torch.load_file(deltas[0]))
    assert names
    assert all("lora_" in n or n.startswith("task.") for n in names)
    status, _, told = cli(
        *words, "pruning=none", f"backbone.weights={tmp_path / 'backbones' / files[0]}", "method=linear"
    )
    assert status == 0, told


def test_a_table_says_what_runs_of_the_same_names_differ_in():
    from peftbench.results.labels import differences
    from peftbench.results.record import Record

    def record(method="petah", seed=0, scaled=False, **pruning):
        options = {"name": method, "path": "x", "options": {"rank": 8, "rslora": scaled}}
        config = {"method": options, "backbone": {"name": "b"}, "data": {"name": "d"}, "seed": seed, "pruning": pruning}
        return Record("id", "complete", config)

    records = [record(name="none", ratio=0.0), record(name="structured", ratio=0.5), record("lora"), record(seed=1)]
    found = differences(records)
    assert [found[id(r)] for r in records] == ["pruning=none", "pruning=structured pruning.ratio=0.5", "", ""]
    records = [record(scaled=s, name="structured", ratio=r) for s in (False, True) for r in (0.0, 0.5)]
    found = differences(records)
    assert [found[id(r)] for r in records[1:]] == [
        "rslora=false pruning.ratio=0.5",
        "rslora=true pruning.ratio=0.0",
        "rslora=true pruning.ratio=0.5",
    ]


def test_zeros_survive_averaging_and_folding_of_batch_norms():
    torch.manual_seed(0)
    pruned = pruning.prune(backbones.build(of("resnet_nano")), unstructured(0.6))
    averaged = torch.optim.swa_utils.AveragedModel(
        pruned.net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn()
    )
    pruning.hold(pruned)
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
    whole, method = backbones.build(of("hybrid_nano")), PETAH()
    method.adapt(whole, Plan())
    for n, p in whole.net.named_parameters():
        if n.endswith("lora_b"):
            torch.nn.init.normal_(p, std=0.01)
    method.merge(whole)
    once = {n: t.clone() for n, t in whole.net.state_dict().items()}
    method.merge(whole)
    assert all(torch.equal(t, once[n]) for n, t in whole.net.state_dict().items())
