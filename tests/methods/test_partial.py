"""Partial fine-tuning: what its presets choose, rows alone, statistics that stay, and how far backward goes."""

import json

import pytest
import torch

import peftbench
from peftbench.cli.main import main
from peftbench.costs import SavedBytes
from peftbench.methods.partial import Partial, _Rows
from peftbench.methods.spt.parts import add_parts
from peftbench.models.model import Model
from peftbench.runs.dry_run import plan_run
from peftbench.tasks.classification.task import Classification
from support.backbones import SMALL, composed, on_meta, parameters, with_weights
from support.batches import batch
from support.mistakes import refused

# Preset, options: the counts on ViT-B/16, ViT-S/16, Swin-B, ResNet-50, ConvNeXt-B and hybrid_nano; None is a refusal.
PLACES = ("vit_b", "vit_s", "swin_b", "resnet50", "convnext_b", "hybrid_nano")
COUNTS = [
    ({"preset": "ln"}, (38_400, 19_200, 57_600, 53_120, 40_192, 7_536)),
    ({"preset": "attn_proj"}, (7_087_104, 1_774_080, 6_991_616, None, None, 62_176)),
    ({"preset": "attn_proj", "rows": 8}, (8 * 9_228, 8 * 4_620, 8 * 12_056, None, None, 5_960)),
    ({"preset": "last_k"}, (7_089_408, 1_775_232, 12_603_680, 4_462_592, 8_450_048, 439_424)),
    ({"preset": "last_k", "unit": "stage"}, (7_089_408, 1_775_232, 27_306_560, 14_964_736, 27_445_248, 459_680)),
    ({"preset": "first_k"}, (7_087_872, 1_774_464, 198_948, 75_008, 138_496, 1_472)),
    ({"preset": "head_and_norms"}, (38_400, 19_200, 57_600, 53_120, 40_192, 7_536)),
    ({"names": ("*norm1.*", "*.fc1.bias")}, (55_296, 27_648, 72_192, None, 48_128, None)),
]


@pytest.mark.parametrize(
    "place", [pytest.param(b, marks=() if b in ("vit_b", "resnet50") else pytest.mark.slow) for b in PLACES]
)
def test_what_the_presets_train(place):
    for options, counts in COUNTS:
        count, backbone = counts[PLACES.index(place)], on_meta(composed(f"backbone={place}").backbone)
        if options.get("names") and place in ("convnext_b", "resnet50", "hybrid_nano"):
            continue  # which have no norm1
        if count is None:
            with pytest.raises(peftbench.Refusal, match=r"no projection behind an attention \(attn.proj\)"):
                parameters(Partial(**options), backbone)
        else:
            assert parameters(Partial(**options), backbone) == count, options


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (['method.names=["blks.*"]'], "method.names=['blks.*']: 'blks.*' matches no parameter of vit_tiny"),
        (["method.k=9"], "has 8 blocks; expected at most that."),
        (["method.names=[*norm*]", "method.k=2"], "method.k=2: counts for method.preset=last_k and first_k alone"),
        (["method.preset=ln", "method.unit=stage"], "and method.preset=ln chooses otherwise; leave one of the two out"),
        (["method.k=0"], "method.k=0: expected at least 1"),
        (["method.preset=ln", "method.rows=2"], "method.rows=2: none of the chosen tensors"),
        (["method.preset=attn_proj", "method.rows=999"], "has 128 rows; expected at most that."),
    ],
)
def test_what_cannot_be_chosen_is_one_sentence(cli, words, told):
    refused(cli("method=partial", "backbone=vit_nano", "data=digits", *words), told)


def made(options, family="vit"):
    backbone = with_weights(SMALL[family], 32)
    method = Partial(**options)
    method.check(backbone)
    model = Model(backbone, Classification(backbone, ["a", "b", "c"]))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plan = method.prepare(model, [])
    model.adapted(method.adapt(backbone, plan))
    return model, method, plan


@pytest.mark.parametrize("family", ["vit", pytest.param("cnn", marks=pytest.mark.slow)])
def test_rows_that_were_not_drawn_stay_to_the_byte_and_merge_to_the_bit(family):
    names = ("*attn.proj.weight",) if family == "vit" else ("layer2.*conv*.weight", "layer2.*bn1.*")
    model, method, plan = made({"names": names, "rows": 3}, family)
    net = model.backbone.net
    before = {n: t.clone() for n, t in model.backbone.state_dict().items() if ".sparse_" not in n}
    optimizer = torch.optim.AdamW([p for _, p in model.trainable()], lr=0.01, weight_decay=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        model.train().loss(batch()).backward()
        optimizer.step()
    beside = model.eval()(batch()[0])
    method.merge(model.backbone)
    assert torch.equal(model.eval()(batch()[0]), beside)
    assert set(net.state_dict()) == {n.removeprefix("net.") for n in before}
    for name, rows in plan.tensors.items():
        drawn = torch.zeros(len(net.get_parameter(name)), dtype=torch.bool)
        drawn[rows.long()] = True
        moved = (net.get_parameter(name) != before[f"net.{name}"]).flatten(1)
        assert moved[drawn].any()
        assert not moved[~drawn].any()
        if (bias := net.state_dict().get(name.replace("weight", "bias"))) is not None:
            assert not (bias != before[f"net.{name.replace('weight', 'bias')}"])[~drawn].any()
    trained = {n.removesuffix(".weight") for n in plan.tensors}
    for name, tensor in net.state_dict().items():
        if name.rpartition(".")[0] not in trained and ".bn1." not in name:
            assert torch.equal(tensor, before[f"net.{name}"]), name


@pytest.mark.parametrize("rows", [3, 15])  # of 16: some rows, and so many that all are computed with
def test_rows_have_the_gradients_that_they_have_in_the_whole_weight(rows):
    layer, x = torch.nn.Linear(4, 16).requires_grad_(False), torch.randn(5, 4)
    drawn = torch.randperm(16)[:rows].sort().values
    part = _Rows((drawn[:, None] * 4 + torch.arange(4)).flatten(), layer.weight)
    whole = layer.weight.clone().requires_grad_()
    torch.nn.functional.linear(x, whole, layer.bias).square().sum().backward()
    add_parts(layer, {"sparse_weight": part}, called=True)
    layer(x).square().sum().backward()
    torch.testing.assert_close(part.values.grad.view(rows, 4), whole.grad[drawn])


def test_rows_are_planned_without_data(tiny):
    """Where they lie is drawn later; that they are as many rows is enough for what a step takes."""
    words = ["method=apla", "backbone=vit_nano", *(w for w in tiny if "backbone" not in w)]
    planned = plan_run(peftbench.compose(*words, "method.rows=8"))
    assert planned.parameters["method"] == 8 * 8 * 129
    assert 0 < planned.step.saved < planned.step.peak
    assert planned.relative_time < 1


@pytest.mark.slow
def test_the_rows_are_drawn_by_the_seed_and_come_with_the_run(cli, tmp_path, tiny, capsys):
    words = ["method=apla", "method.rows=2", "backbone=vit_nano", *(w for w in tiny if "backbone" not in w)]
    for seed in (0, 1):
        assert cli(*words, f"seed={seed}", f"output_dir={tmp_path / str(seed)}")[0] == 0
    memory = json.loads(next((tmp_path / "0").glob("*/result.json")).read_text())["costs"]["memory"]
    planned = plan_run(peftbench.compose(*words, f"output_dir={tmp_path}"))
    assert planned.step.saved == memory["saved_for_backward"]
    plans = [json.loads(next((tmp_path / s).glob("*/plan.json")).read_text()) for s in "01"]
    assert plans[0] == plans[1], "as many, of the same layers"
    assert plans[0]["trainable"] == 8 * 2 * 129 == sum(row["parameters"] for row in plans[0]["layers"])
    runs = [next((tmp_path / s).glob("*/plan.safetensors")).parent for s in "01"]
    tensors = [peftbench.load(run, merge=False).model.state_dict() for run in runs]
    place = "backbone.net.blocks.0.attn.proj.sparse_weight.indices"
    assert not torch.equal(tensors[0][place], tensors[1][place])
    beside, merged = (peftbench.load(runs[0], merge=merge)(batch()[0]) for merge in (False, True))
    assert torch.equal(beside, merged)
    capsys.readouterr()
    assert main(["layers", str(runs[0])]) == 0
    assert "2,064 trainable: rows" in capsys.readouterr().out
    (runs[0] / "plan.json").unlink()
    with pytest.raises(peftbench.UserError, match=r"plan\.json: is missing"):
        peftbench.load(runs[0])


def test_nothing_before_the_first_trained_tensor_is_kept_for_backward():
    """Of two blocks the last one trains: the tap before it has no graph, and half of what full tuning keeps is kept."""
    model, _, _ = made({"preset": "last_k"})
    first, last = model.backbone.taps(model.frames(batch()[0]))
    assert not first.requires_grad
    assert last.requires_grad
    kept = []
    for options in ({"preset": "last_k"}, {"names": ("*",)}):
        model, _, _ = made(options)
        meter = SavedBytes(model.train())
        with meter.counting():
            model.loss(batch())
        kept.append(meter.total)
    assert kept[0] < 0.56 * kept[1]


def test_statistics_of_batch_norms_stay_where_their_scales_train():
    for options in ({"preset": "ln"}, {"preset": "last_k"}):
        model, _, _ = made(options, "cnn")
        before = {n: b.clone() for n, b in model.named_buffers()}
        model.train().loss(batch()).backward()
        assert any(p.grad.any() for n, p in model.trainable() if ".bn" in n)
        assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_norms_alone_train_over_weights_in_few_bits():
    assert Partial(preset="ln").keeps_weights
    assert not Partial(preset="ln", names=("*fc1*",)).keeps_weights
    assert not Partial().keeps_weights
