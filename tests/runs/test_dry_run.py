"""`peftbench plan`: what it says before a run is what the run then records."""

import json

import pytest
import torch

import peftbench
from peftbench import backbones, config, pruning
from peftbench.common.vtab_tasks import TASKS
from peftbench.data.vtab import Vtab
from peftbench.runs.dry_run import plan_run

METHODS = ["petah", "cst", *(pytest.param(m, marks=pytest.mark.slow) for m in ("full", "bitfit", "losa", "ssf", "gps"))]


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_equals_its_run(method, tiny, tmp_path):
    config = peftbench.compose(*tiny, f"method={method}", "pruning=none", "taps=off", f"output_dir={tmp_path}")
    planned = plan_run(config)
    record = peftbench.run(config)
    assert planned.parameters == record.costs["parameters"]
    assert planned.step.saved == record.costs["memory"]["saved_for_backward"]
    assert planned.step.peak >= planned.step.saved
    rows = sum(r.trained + r.added for r in planned.rows)
    assert rows == record.costs["parameters"]["method"]
    assert sum(r.base for r in planned.rows) == record.costs["parameters"]["backbone"]
    side = method in ("linear", "losa", "cst", "lst")
    assert planned.relative_time < 0.5 if side else planned.relative_time <= 1


@pytest.mark.slow
@pytest.mark.parametrize("pruning", ["unstructured", "structured"])
@pytest.mark.parametrize("method", ["petah"])
def test_a_plan_of_a_pruned_backbone_equals_its_run(method, pruning, tiny, tmp_path):
    words = [w for w in tiny if not w.startswith("backbone")]
    words += ["backbone=hybrid_nano", "data.size=64", f"method={method}", f"pruning={pruning}"]
    config = peftbench.compose(*words, f"output_dir={tmp_path}")
    planned, record = plan_run(config), peftbench.run(config)
    assert planned.parameters == record.costs["parameters"]
    assert planned.step.saved == record.costs["memory"]["saved_for_backward"]
    gone = sum(r.pruned for r in planned.rows)
    assert gone == (282_408 if pruning == "structured" else 0)
    notes = " ".join(planned.notes)
    assert ("merging is unmerged" in notes) == (pruning == "unstructured")
    assert [r.merges for r in planned.rows if r.added] == [pruning == "structured"] * sum(
        r.added > 0 for r in planned.rows
    )


def test_half_precision_is_planned_too(tiny, tmp_path):
    config = peftbench.compose(*tiny, "method=full", "trainer.precision=bf16", f"output_dir={tmp_path}")
    saved = peftbench.run(config).costs["memory"]["saved_for_backward"]
    assert plan_run(config).step.saved == pytest.approx(saved, rel=0.01)  # autocast keeps some copies of its own


@pytest.mark.slow
def test_the_command_line_names_layers_and_reasons(cli):
    words = ("plan", "method=petah", "backbone=hybrid_nano", "data=digits", "data.size=64", "data.batch_size=2")
    status, out, told = cli(*words)
    assert status == 0, told
    assert "138,472" in out
    assert "left as it is: its update of rank 8 has 328" in out
    status, out, _ = cli(*words, "pruning=structured", "--json")
    found = json.loads(out)
    rows = {r["name"]: r for r in found["rows"]}
    assert found["parameters"]["method"] == sum(r["trained"] + r["added"] for r in rows.values()) == 118_360
    assert rows["stages.0.0.conv1_1x1.conv"]["pruned"] == 16 * 16
    assert rows["stages.2.1.conv_kxk.conv"]["merges"]


@pytest.mark.slow
def test_a_billion_parameters_are_planned_without_weights():
    planned = plan_run(peftbench.compose("method=lora", "backbone=vit_g", "data=digits", "data.batch_size=1"))
    assert planned.parameters["backbone"] == 1_011_203_840
    assert planned.parameters["method"] == peftbench.count_parameters("lora", "vit_g")
    assert planned.step.peak > 1e8


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["method=spt"], "decided by a look at the data"),
        (["method=lora", "method.dropout=0.1", "backbone=resnet50"], "give method.dropout=0"),
        (["--verbose"], "--verbose: there is no such option"),
        (["method=petah", "method.rank=0"], "method.rank=0"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_cannot_be_planned_is_one_sentence(cli, words, answer):
    status, _, told = cli("plan", "data=digits", "backbone=vit_nano", *words)
    assert status == 2
    assert answer in told
    assert len(told.strip().splitlines()) == 1


def test_a_merge_that_the_run_takes_is_planned(tiny):
    words = [*tiny, "method=petah", "pruning=unstructured"]
    assert plan_run(peftbench.compose(*words, "pruning.merge=dense")).step == plan_run(peftbench.compose(*words)).step


def test_a_plan_of_a_pruned_file_says_whose_zeros_they_are(cli, tmp_path):
    backbone = backbones.build_with_weights(peftbench.compose("backbone=vit_nano", "data=digits").backbone)
    pruned = pruning.prune(backbone, config.Pruning("unstructured", 0.5))
    pruning.save_pruned(pruned, tmp_path / "it.safetensors")
    words = ("plan", "method=lora", "backbone=vit_nano", "data=digits", f"backbone.weights={tmp_path}/it.safetensors")
    status, told, _ = cli(*words)
    assert status == 0
    assert "their zeros are in the file" in " ".join(told.split())
    assert "0 of" not in told


@pytest.mark.parametrize("method", ["losa", *(pytest.param(m, marks=pytest.mark.slow) for m in ("petah", "full"))])
def test_shapes_that_are_known_are_those_that_the_fake_mode_gives(method, monkeypatch):
    words = [f"method={method}", "backbone=vit_nano", "data=digits", "data.size=32", "data.batch_size=3"]
    spec = peftbench.compose(*words)
    short = plan_run(spec)
    monkeypatch.setattr("peftbench.costs.simulated.run_operator", lambda func, args, kwargs: func(*args, **kwargs))
    assert plan_run(spec) == short


def test_weights_and_kept_taps_are_planned_as_a_run_has_them(tiny, tmp_path):
    words = [*tiny, "method=cst", "data.stage=fit", f"output_dir={tmp_path}"]
    spec = peftbench.compose(*words, "taps=memory")
    planned, record = plan_run(spec), peftbench.run(spec)
    taps = record.costs["taps"]
    assert (planned.taps.mode, planned.taps.why) == ("memory", "")
    assert sum(planned.taps.bytes.values()) == taps["bytes"]
    assert sum(planned.taps.images.values()) == taps["rows"]
    model = peftbench.load(record.folder, merge=False).model
    normalisation = model.mean.nbytes + model.std.nbytes
    tensors = [*model.parameters(), *model.buffers()]
    assert planned.weights == sum(t.nbytes for t in tensors) - normalisation + 2 * 3 * torch.float32.itemsize
    wanted = {  # what `auto` chooses: the first that has room
        "disk": [],
        "memory": ["taps.max_gb=0"],
        "off": ["taps.max_gb=0", "taps.memory_gb=0"],
    }
    for mode, limits in wanted.items():
        taps = plan_run(peftbench.compose(*words, *limits)).taps
        assert taps.mode == mode
        assert bool(taps.why) == (mode == "off")
    changing = plan_run(peftbench.compose(*words, "data.augment=flip")).taps
    assert (changing.mode, changing.bytes) == ("off", {})
    assert "changes the images in every epoch" in changing.why


def test_tasks_of_vtab_are_planned_without_their_images(cli, tmp_path):
    for task, known in TASKS.items():
        outline = Vtab(task, known.classes).outline()
        assert len(outline.classes) == known.classes
        assert [len(s) for s in (outline.train, outline.val, outline.trainval, outline.test)] == [
            *(800, 200, 1000),
            known.test[0],
        ]
    words = ("backbone=resnet_nano", "method=linear", "data=vtab/dtd", f"data.root={tmp_path}", "data.size=32")
    status, out, told = cli("plan", *words, "--json")
    assert (status, told) == (0, "")
    planned = json.loads(out)
    assert planned["parameters"]["head"] == 47 * (planned["parameters"]["head"] // 47)
    assert planned["taps"]["images"] == {"train": 1000}
    assert "47 classes and 1,000 images to train on, 1,880 images to test" in " ".join(planned["notes"])
    status, _, told = cli(*words, "trainer.progress=false")
    assert status == 2, "a run needs them"
    assert "peftbench data prepare vtab/dtd" in told


def test_a_probe_times_steps_and_says_with_which_weights(cli, tiny, tmp_path):
    words = [*(w for w in tiny if "pretrained" not in w), "method=linear", "trainer.epochs=3", "taps=memory"]
    status, out, told = cli("plan", *words, "probe=true")
    assert (status, told) == (0, "")
    shown = " ".join(out.split())
    for part in (
        "measured (cpu, batch 16, from kept taps) about",
        "computing the taps once about",
        "3 epochs of 2 steps",
    ):
        assert part in shown
    assert "random weights" not in shown
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    words = [w for w in words if not w.startswith("backbone")]
    words += ["backbone=timm", "backbone.name=resnet10t.c3_in1k", "data.batch_size=2"]
    planned = plan_run(peftbench.compose(*words), probe=True)
    assert planned.probe.weights == "random"
    assert "those of resnet10t.c3_in1k are not on this machine" in " ".join(planned.notes)
    probe = planned.probe
    assert probe.run >= probe.filling + probe.evaluating + 3 * 2 * probe.step


@pytest.mark.slow
@pytest.mark.parametrize("words", [["method=lora"], ["method=losa", "taps=memory"], ["method=linear", "taps=off"]])
def test_a_probe_foretells_the_time_of_a_run(words, tmp_path):
    words = [*words, "backbone=vit_nano", "data=digits", "trainer.epochs=2", "trainer.max_batches=12"]
    spec = peftbench.compose(*words, "trainer.progress=false", f"output_dir={tmp_path}")
    probe, costs = plan_run(spec, probe=True).probe, peftbench.run(spec).costs
    times = costs["time"]
    took = times["train"] + times["validate"] + times["test"] + costs.get("taps", {}).get("seconds", 0)
    assert took / 4 < probe.run < took * 4
    assert times["step"]["median"] / 4 < probe.step < times["step"]["median"] * 4


@pytest.mark.slow
def test_a_probe_of_a_detector_says_that_a_run_measures_it(tmp_path):
    words = ["task=detection", "backbone=resnet_nano", "data=digits_det", "method=linear"]
    planned = plan_run(peftbench.compose(*words, f"output_dir={tmp_path}"), probe=True)
    assert planned.probe is None
    assert "probe: nothing is timed" in " ".join(planned.notes)
