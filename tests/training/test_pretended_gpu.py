"""Runs on a pretended GPU: nothing mixes devices, and the host waits for it as seldom as the documents say."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import peftbench
from peftbench.common.config_files import names
from peftbench.config import CONFIGS
from peftbench.runs.run import run, run_jointly
from support import detection
from support.pretend_gpu import LATE, NAME, Mismatch, counting, pretending, total, why_not
from support.pretended_runs import pretended_runs
from support.runs import told_by

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
SMALL = ["trainer.epochs=1", "trainer.max_batches=3", "trainer.progress=false", "trainer.threads=1", "logger=none"]
VIT = ["backbone=vit_nano", "backbone.pretrained=false", "backbone.args={img_size:32,depth:2,embed_dim:48}"]
DIGITS = ["data=digits", "data.size=32", "data.batch_size=4", "data.eval_batch_size=8"]
SCENES = [*detection.SMALL, "data.images=[16,4,4]", "data.canvas=64", "data.batch_size=4", "data.eval_batch_size=4"]


def test_it_refuses_what_a_gpu_refuses_and_counts_what_the_host_waits_for():
    with pretending() as place:
        here, there = torch.ones(3), torch.ones(3).to(place)
        for mix in (lambda: here + there, lambda: torch.stack([here, there]), lambda: here[there > 0]):
            with pytest.raises(Mismatch, match=r"mixes pretend and cpu.*test_pretended_gpu.py:\d+"):
                mix()
        with pytest.raises(Mismatch, match="random generator"):
            there.clone().normal_(generator=torch.Generator())
        with pytest.raises(TypeError, match="can't convert"):
            there.numpy()
        waited = {
            "a number": lambda: bool((there * torch.tensor(2.0)).sum() > 5),  # a number of the CPU may go along
            "a size": lambda: there[there > 0],
            "copy to the host": lambda: there.tolist(),
            "copy to the device": lambda: torch.tensor([1.0, 2.0], device=place),
        }
        for what, ask in waited.items():
            with counting() as waits:
                ask()
            assert {wait.what: number for wait, number in waits.items() if wait.what != LATE} == {what: 1}
            assert all("test_pretended_gpu.py" in wait.where for wait in waits)
        with counting() as waits:
            there[there > 0] = 2.0
            torch.arange(3, device=place) + torch.randperm(3, device=place, generator=torch.Generator(place))
            here.to(place, non_blocking=True)
        assert {wait.what for wait in waits} == {LATE}
        assert total(waits) == 0


def test_a_module_goes_there_and_back_and_stays_the_same():
    with pretending() as place:
        layer = torch.nn.Linear(3, 2)
        weight = layer.weight
        weight.register_hook(lambda gradient: gradient * 0)
        layer.to(place)(torch.ones(1, 3, device=place)).sum().backward()
        assert layer.weight is weight
        assert weight.grad.device == place
        assert not weight.grad.cpu().any(), "its hook went along"
        assert type(layer.to("cpu").weight) is torch.nn.Parameter


def on_pretended(folder, *words):
    """(record, `Seen`) of a complete run."""
    with pretended_runs() as seen:
        record = run(peftbench.compose(*SMALL, *words, f"output_dir={folder}"))
    assert record.status == "complete", record.reason
    return record, seen


def never_waits(seen):
    """In its last steps, when every added tensor has had a gradient, and in none of the evaluated batches."""
    assert not any(map(total, seen.steps[2:])), seen.steps[-1]
    assert not any(map(total, seen.evaluated)), seen.evaluated[-1]


@pytest.mark.parametrize("method", ["full", "ftp", "lora", "spt_lora"])
def test_a_run_of_each_mechanism_waits_neither_in_its_steps_nor_in_evaluation(tmp_path, method):
    _, seen = on_pretended(tmp_path, *VIT, *DIGITS, f"method={method}")
    assert (len(seen.steps), len(seen.evaluated)) == (3, 6)
    never_waits(seen)


def test_taps_are_filled_and_trained_from_and_the_model_predicts_as_on_the_cpu(tmp_path, capsys):
    words = [*VIT, *DIGITS, "data.eval_batch_size=200", "method=losa", "taps=memory"]
    there, seen = on_pretended(tmp_path / "there", *words)
    assert there.costs["taps"]["computed"] == there.costs["taps"]["rows"] > 900
    never_waits(seen)
    here = run(peftbench.compose(*SMALL, *words, f"output_dir={tmp_path / 'here'}"))
    for name in ("train/loss", "val/loss", "test/loss"):
        assert there.metrics[name] == pytest.approx(here.metrics[name], rel=1e-5)
    images, tables = Path(peftbench.__file__).parent / "data" / "photos" / "test" / "accordion", []
    with pretending(), counting() as waits:
        for device in ("cpu", NAME):
            out = tmp_path / f"{device}.csv"
            words = [f"run={there.folder}", f"images={images}", f"device={device}", f"out={out}"]
            told = told_by(capsys, "predict", *words)
            assert told[0] == 0, told[2]
            tables.append(list(csv.reader(out.read_text(encoding="utf-8").splitlines())))
    assert tables[0] == tables[1]
    assert total(waits), "it did predict there"


@pytest.mark.slow
@pytest.mark.parametrize("method", names("method", [CONFIGS]))
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_every_method_in_every_task_of_pooled_features(tmp_path, task, method):
    try:
        _, seen = on_pretended(tmp_path, *VIT, *DIGITS, f"task={task}", f"method={method}")
    except peftbench.UserError as refused:
        pytest.skip(str(refused))
    never_waits(seen)


OPTIONS = ["ema=0.9", "keep=best", "clip=1", "micro_batch=2", "grad_checkpointing=true", "channels_last=true"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *([f"trainer.{option}"] for option in OPTIONS),
        *([f"optimizer={name}"] for name in names("optimizer", [CONFIGS]) if name != "timm"),
        ["optimizer=timm", "optimizer.name=lion"],
        ["data.mixup=0.2", "data.augment=flip"],
    ],
    ids=" ".join,
)
def test_every_way_of_training(tmp_path, words):
    _, seen = on_pretended(tmp_path, *VIT, *DIGITS, "method=full", *words)
    never_waits(seen)


@pytest.mark.slow
def test_runs_that_train_together(tmp_path):
    words = [*SMALL, *VIT, *DIGITS, "method=losa", f"output_dir={tmp_path}"]
    with pretended_runs() as seen:
        records = run_jointly([peftbench.compose(*words, f"method.rank={rank}") for rank in (2, 4)])
    assert [record.status for record in records] == ["complete"] * 2
    never_waits(seen)


WAITS = {"fasterrcnn": (51, 40), "retinanet": (32, 88), "fcos": (20, 48)}
"""How often the host waits in a training step, and in an evaluated batch, of four images: as in docs/detection.md."""


@pytest.mark.parametrize(
    "detector",
    ["fcos", pytest.param("retinanet", marks=pytest.mark.slow), pytest.param("fasterrcnn", marks=pytest.mark.slow)],
)
def test_a_detector_waits_for_what_torchvision_asks_and_for_nothing_else(tmp_path, detector):
    record, seen = on_pretended(tmp_path, "backbone=resnet_nano", *SCENES, f"task.detector={detector}", "method=full")
    waits_for_torchvision(seen, *WAITS[detector])
    with pretending() as place:
        tuned = peftbench.load(record.folder).to(place)
        with counting() as waits:
            answer = tuned.detect(np.zeros((40, 60, 3), dtype=np.uint8))
    assert {t.device.type for t in answer.values()} == {"cpu"}
    asked = {wait.what: n for wait, n in waits.items() if wait.what != LATE and "peftbench/" in wait.where}
    assert asked == {"copy to the device": 1, "all of the device": 1}, (
        "its pixels go there, and the answer comes at once"
    )


def waits_for_torchvision(seen, in_step, in_batch):
    step, batch = seen.steps[-1], seen.evaluated[-1]
    assert total(step) <= in_step, step
    assert total(batch) <= in_batch, batch
    backward = "lightning/pytorch/core/module.py", "peftbench/optim/tpgm.py"  # of what torchvision indexed by flags
    known = ("torchvision/", *backward)
    assert not {w: n for w, n in (step + batch).items() if w.what != LATE and not w.where.startswith(known)}


@pytest.mark.slow
@pytest.mark.parametrize("method", detection.METHODS)
def test_every_method_in_detection(tmp_path, method):
    words = [*VIT[:2], "backbone.args={img_size:64,depth:2,embed_dim:48}", *SCENES]
    try:
        _, seen = on_pretended(tmp_path, *words, "task.detector=fcos", f"method={method}")
    except peftbench.UserError as refused:
        pytest.skip(str(refused))
    in_step, in_batch = WAITS["fcos"]
    losses = 2 if method == "tpgm" else 1  # TPGM computes that of validation images too
    waits_for_torchvision(seen, losses * in_step, in_batch)
