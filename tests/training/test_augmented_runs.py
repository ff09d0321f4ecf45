"""Runs with mixed images, weighed classes and flipped tests: stopped, in two processes, together, and in use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench.cli.main import main
from peftbench.results import Record
from peftbench.runs.run import run, run_jointly
from peftbench.sweeps.grouping import joint_signature
from support.finished_runs import QUIET, finish, logits_of, pictures, records_in, same
from support.forks import python
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

MIXED = ["data.mixup=0.4", "data.cutmix=1.0", "data.jitter=0.3", "data.erase=0.5", "data.augment=randaugment"]
EVEN = ["data.sampler=balanced", "task.class_weights=balanced", "task.focal_gamma=1.5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"), train=12, test=5)


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, "method=bitfit", *MIXED, *EVEN)
    assert resumed.costs["time"]["sessions"] == 2
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 3, 5, 8])
def test_with_the_best_epoch_and_an_average_too(tmp_path, monkeypatch, at):
    more = ["trainer.ema=0.9", "trainer.keep=best", "trainer.epochs=3", "data.tta=flip"]
    pair = interrupted_and_undisturbed(tmp_path, monkeypatch, "method=full", *MIXED, *EVEN, *more, at=at)
    assert same(*map(learned, pair))
    assert pair[0].metrics == pair[1].metrics


@pytest.mark.slow
def test_two_processes_reach_what_one_does(tmp_path):
    """Norms keep their statistics under bitfit on a ViT; sums are ordered otherwise, so equal to rounding."""
    words = [*SMALL, "backbone=vit_nano", "method=bitfit", *MIXED, *EVEN, "data.tta=flip", "trainer.accelerator=cpu"]
    words += ["trainer.epochs=1", "trainer.max_batches=4", "data.batch_size=16", "logger=none"]
    records: list[Record] = []
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"])):
        command = [python(), "-m", "peftbench", *words, *more, f"output_dir={tmp_path / place}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
        assert done.returncode == 0, done.stderr
        records += records_in(tmp_path / place)
    one, two = records
    assert two.history[0]["train_loss"] == pytest.approx(one.history[0]["train_loss"], rel=1e-4)
    a, b = learned(one), learned(two)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.slow
def test_runs_together_are_each_as_alone(tmp_path):
    words = [*SMALL, "method=linear", *MIXED, *EVEN, "data.tta=flip", "trainer.epochs=1", "trainer.max_batches=3"]
    configs = [peftbench.compose(*words, f"optimizer.lr={lr}", f"output_dir={tmp_path / 'together'}") for lr in (1, 2)]
    assert len({joint_signature(config) for config in configs}) == 1 != {None}
    for lr, record in zip((1, 2), run_jointly(configs), strict=True):
        alone = run(peftbench.compose(*words, f"optimizer.lr={lr}", f"output_dir={tmp_path / 'alone'}"))
        assert same(learned(record), learned(alone))
        assert record.metrics == alone.metrics


@pytest.fixture(scope="module")
def flipped(data, tmp_path_factory) -> Record:
    words = ["data.tta=flip", "data.resize=pad", "optimizer.lr=1e-2", *EVEN[:1]]
    return finish(tmp_path_factory.mktemp("flipped"), data, "losa", "resnet_nano", *words)


def test_a_record_is_of_the_mean_over_an_image_and_its_mirror_image(flipped, data, tmp_path):
    assert flipped.stamps["data"]["tta"] == "flip"
    assert flipped.stamps["data"]["transform"]["resize"] == "pad"
    tuned = peftbench.load(flipped.folder)
    assert tuned.transform.resize == "pad"
    logits, labels = logits_of(data, tuned)
    once = finish_once(flipped)
    one, _ = logits_of(data, once)
    images = torch.stack([tuned.transform(p) for c in tuned.classes for p in sorted((data / "test" / c).iterdir())])
    with torch.no_grad():
        both = (once(images) + once(images.flip(-1))) / 2
    assert torch.allclose(logits, both, atol=1e-5)
    assert not torch.allclose(logits, one, atol=1e-3)
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert flipped.metrics["test/loss"] == pytest.approx(loss, rel=1e-4)
    tasks = peftbench.MultiTask(None, [flipped.folder])
    assert torch.allclose(next(iter(tasks(images).values())), logits, atol=1e-5)
    words = [f"run={flipped.folder}", f"images={data / 'test'}", f"out={tmp_path / 'p.json'}"]
    assert main(["predict", *words]) == 0
    told = {Path(row["image"]): row["predictions"] for row in json.loads((tmp_path / "p.json").read_text())["images"]}
    files = [p for c in tuned.classes for p in sorted((data / "test" / c).iterdir())]
    for file, row in zip(files, logits.softmax(1), strict=True):
        assert told[file][0]["probability"] == pytest.approx(row.max().item(), abs=1e-4)


def finish_once(record: Record) -> peftbench.Tuned:
    """The same model without flips."""
    tuned = peftbench.load(record.folder)
    tuned.model.flips = False
    return tuned


@pytest.mark.slow
def test_an_exported_model_looks_once_and_that_is_told(flipped, data, tmp_path, capsys):
    out = tmp_path / "model.pt2"
    assert main(["export", f"run={flipped.folder}", "format=torch_export", f"out={out}"]) == 0
    told = capsys.readouterr().err
    assert "was tested with data.tta=flip; what is exported looks at an image once" in " ".join(told.split())
    once = finish_once(flipped)
    images = torch.stack([once.transform(p) for p in sorted((data / "test").rglob("*.png"))[:3]])
    with torch.no_grad():
        answer = torch.export.load(out).module()(images.float() / 255)
        assert torch.allclose(answer, once(images), atol=1e-3)


@pytest.mark.slow
def test_taps_are_kept_of_what_training_looks_at_alone(data, tmp_path, capsys):
    words = ["method=linear", "backbone=resnet_nano", "data=folder", f"data.root={data}", "data.size=32"]
    words += ["trainer.epochs=1", "data.val_fraction=0.25", *QUIET, "taps=memory", f"output_dir={tmp_path}"]
    record = run(peftbench.compose(*words, "data.tta=flip", "data.resize=crop", "data.sampler=balanced"))
    assert record.costs["taps"]["mode"] == "memory"
    assert record.costs["taps"]["rows"] == 36
    mixed = run(peftbench.compose(*words, "data.mixup=0.2"))
    assert mixed.costs["taps"]["mode"] == "off"
    assert "data.mixup=0.2 mixes the images in every step; data.mixup=0 keeps them" in capsys.readouterr().err
    fixed = run(peftbench.compose(*words, "data.erase=0.2", "data.jitter=0.3", "taps.views=3"))
    assert fixed.costs["taps"]["rows"] == 3 * 36 + 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["taps.views=2", "data.mixup=0.2"],
            "data.mixup=0.2: mixes other images in every step, and taps.views=2 trains",
        ),
        (["data=digits_det", "data.mixup=0.2"], "data.mixup=0.2: is not for task=detection; leave it out"),
        (["data=digits_det", "data.tta=flip"], "data.tta=flip: is not for task=detection; leave it out (of such keys"),
        (["data=digits_det", "data.resize=pad"], "data.resize=pad: is not for task=detection"),
        (["data=digits_det", "data.sampler=balanced"], "data.sampler=balanced: is not for task=detection"),
        (["data=digits_det", "data.erase=0.1"], "data.erase=0.1: is not for task=detection"),
        (
            ["task=multilabel", "data.sampler=balanced"],
            "data.sampler=balanced: is not for task=multilabel; leave it out (of such keys",
        ),
        (
            ["task=regression", "data.cutmix=1"],
            "data.cutmix=1.0: is not for task=regression; leave it out (of such keys",
        ),
        (["data.jitter=2"], "data.jitter=2.0: expected a number from 0 to 1"),
        (["data.mixup=-1"], "data.mixup=-1.0: expected 0 or more"),
        (["data.sampler=even"], "data.sampler='even': expected 'shuffle' or 'balanced'"),
        (["task.class_weights=[0,0]"], "task.class_weights=[0.0, 0.0]: leaves nothing to learn"),
        (["task.class_weights=[1,-1]"], "task.class_weights"),
        (["task.class_weights=even"], "task.class_weights='even': expected"),
        (["task.focal_gamma=-1"], "task.focal_gamma=-1.0: expected 0 or more"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_makes_no_sense_gets_a_sentence(words, told):
    with pytest.raises(peftbench.UserError) as refused:
        peftbench.compose("data=digits", *words)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


def test_weights_of_another_number_of_classes_are_refused_before_anything_is_written(tmp_path, cli):
    for verb in ([], ["plan"]):
        status, _, err = cli(*verb, *SMALL, "method=linear", "task.class_weights=[1,2]")
        assert status == 2
        assert (
            "task.class_weights=[1.0, 2.0]: 2 numbers, and there are 10 classes; expected one for each, in the order "
            "0, 1, 2, …, or balanced."
        ) in err
    assert not list(tmp_path.glob("*/result.json"))


@pytest.mark.slow
def test_parts_of_a_batch_are_mixed_as_the_whole_one(tmp_path):
    words = [*SMALL, "backbone=vit_nano", "method=bitfit", *MIXED, *EVEN, "trainer.epochs=1", "trainer.max_batches=4"]
    whole, parts = (
        run(peftbench.compose(*words, *more, f"output_dir={tmp_path / str(len(more))}"))
        for more in ([], ["trainer.micro_batch=3"])
    )
    assert parts.history[0]["train_loss"] == pytest.approx(whole.history[0]["train_loss"], rel=1e-4)
    a, b = learned(whole), learned(parts)
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.slow
def test_a_probe_that_comes_first_sees_mixed_images_too(tmp_path, capsys):
    words = [*SMALL, *MIXED, *EVEN, "data.tta=flip", "trainer.epochs=2", f"output_dir={tmp_path}"]
    both = run(peftbench.compose(*words, "method=lp_ft", "method.probe_epochs=2"))
    phase = both.stamps["first_phase"]
    probe = run(peftbench.compose(*words, "method=linear", f"optimizer.lr={phase['lr']}"))
    assert [row["train_loss"] for row in phase["history"]] == [row["train_loss"] for row in probe.history]
    assert "data.mixup=0.4 mixes the images in every step" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rate_is_looked_for_on_mixed_images(tmp_path):
    words = [*SMALL, *MIXED, *EVEN, "method=linear", "trainer.epochs=1"]
    looked = run(peftbench.compose(*words, "optimizer.find_lr=true", f"output_dir={tmp_path / 'looked'}"))
    rate = looked.stamps["found_lr"]["lr"]
    given = run(peftbench.compose(*words, f"optimizer.lr={rate}", f"output_dir={tmp_path / 'given'}"))
    assert same(learned(looked), learned(given))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_tasks_with_targets_in_floats_mix_them(tmp_path, monkeypatch, task):
    mixed = ["data.mixup=0.4", *(["data.cutmix=1.0"] if task == "multilabel" else []), *MIXED[2:], "data.tta=flip"]
    pair = interrupted_and_undisturbed(tmp_path, monkeypatch, "method=bitfit", f"task={task}", *mixed)
    assert same(*map(learned, pair))
    assert pair[0].metrics == pair[1].metrics
