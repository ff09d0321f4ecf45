"""Whole runs: what they leave, that they repeat, resume and compare honestly."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

import peftbench
from peftbench import backbones, deltas
from peftbench.common.seeds import mix
from peftbench.data.decoding import decode_image
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.results import read_record
from peftbench.results.per_image import read_right, stamped
from peftbench.runs.build import instantiate
from peftbench.runs.run import run
from peftbench.tasks.classification.task import Classification
from peftbench.training import Stopped
from peftbench.training.checkpoint import Checkpoints
from support.finished_runs import records_in, same
from support.forks import python
from support.runs import QUICK, SMALL, compose, learned


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """An undisturbed run of full fine-tuning, which moves everything that can move."""
    return run(compose(tmp_path_factory.mktemp("full"), "method=full", "data.augment=crop"))


def test_a_run_leaves_record_delta_config_and_csv(full):
    folder = Path(full.folder)
    found = {p.name for p in folder.iterdir()}
    files = {"result.json", "delta.safetensors", "config.yaml", "metrics.csv", "checkpoint.ckpt", "test_right.bits"}
    assert files == found
    stored = json.loads((folder / "result.json").read_text())
    assert stored["schema"] == 1
    assert stored["status"] == "complete"
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert [float(r["train_loss"]) for r in rows] == [h["train_loss"] for h in stored["history"]]


def test_the_record_holds_every_cost_and_stamp(full):
    costs, stamps = full.costs, full.stamps
    assert costs["parameters"]["method"] == full.costs["parameters"]["backbone"]
    assert costs["parameters"]["head"] == 192 * 10 + 10
    assert costs["delta_bytes"] == (Path(full.folder) / "delta.safetensors").stat().st_size
    assert 0 < costs["time"]["step"]["median"] <= costs["time"]["step"]["p95"]
    assert costs["time"]["images_per_second"] == pytest.approx(20 / costs["time"]["step"]["median"])
    assert costs["time"]["train"] > 0
    assert costs["time"]["test"] > 0
    assert costs["time"]["latency"] > 0
    assert costs["flops"] > 1e6
    assert costs["memory"]["saved_for_backward"] > 1e5
    peak = costs["memory"]["peak"]
    assert 0 < peak["above"] < peak["total"]
    assert peak["measure"] == "resident"
    assert stamps["backbone"]["weights"] == "random"
    assert len(stamps["backbone"]["fingerprint"]) == len(stamps["data"]["hash"]) == 64
    assert stamps["data"]["split"] == "digits-v1"
    assert set(stamps["data"]["images"]) == {"train", "val", "test"}
    right = read_right(full.folder, stamped(stamps))
    assert len(right) == stamps["data"]["images"]["test"]
    assert right.mean() == pytest.approx(full.metrics["test/accuracy"])
    assert stamps["versions"]["torch"] == torch.__version__.split("+")[0] or stamps["versions"]["torch"]
    assert set(full.metrics) >= {"test/accuracy", "test/loss", "val/accuracy", "train/loss", "test/class_accuracy"}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(full, tmp_path):
    again = run(compose(tmp_path, "method=full", "data.augment=crop"))
    assert again.id == full.id
    assert same(learned(full), learned(again))
    other = run(compose(tmp_path, "method=full", "data.augment=crop", "seed=1"))
    assert other.id != full.id
    assert not same(learned(full), learned(other))


def test_a_complete_run_is_read_and_not_repeated_unless_forced(full):
    config = compose(Path(full.folder).parent, "method=full", "data.augment=crop")
    before = (Path(full.folder) / "result.json").stat().st_mtime_ns
    assert run(config).metrics == full.metrics
    assert (Path(full.folder) / "result.json").stat().st_mtime_ns == before
    forced = run(compose(Path(full.folder).parent, "method=full", "data.augment=crop", "force=true"))
    assert same(learned(forced), safetensors.torch.load_file(_previous(full) / "delta.safetensors"))


def _previous(record):
    (kept,) = Path(record.folder).parent.glob(f".{Path(record.folder).name}.previous*")
    return kept


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """`undisturbed(accumulate)`: the words of a run that nothing interrupted, and its record."""

    @functools.cache
    def trained(accumulate):
        words = ["method=full", "data.augment=crop", f"trainer.accumulate={accumulate}", "trainer.max_batches=4"]
        return words, run(compose(tmp_path_factory.mktemp("undisturbed"), *words))

    return trained


@pytest.mark.parametrize(
    ("stop_at", "accumulate"),
    [
        (3, 2),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (4, 2)]
        ),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, monkeypatch, stop_at, accumulate, undisturbed):
    words, expected = undisturbed(accumulate)
    batch_end = Checkpoints.on_train_batch_end
    seen = []

    def stop(self, *arguments):
        seen.append(1)
        self.stop = len(seen) >= stop_at
        batch_end(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        broken = run(compose(tmp_path / "b", *words))
    assert broken.status == "interrupted"
    assert read_record(Path(broken.folder)).status == "interrupted"
    resumed = run(compose(tmp_path / "b", *words))
    assert resumed.status == "complete"
    assert resumed.costs["time"]["sessions"] == 2
    assert same(learned(expected), learned(resumed))
    assert [h["train_loss"] for h in expected.history] == [h["train_loss"] for h in resumed.history]
    assert resumed.metrics == expected.metrics


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_leaves_a_checkpoint_and_a_record(tmp_path, monkeypatch):
    batch_end = Checkpoints.on_train_batch_end

    def press(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        batch_end(self, *arguments)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", press)
    record = run(compose(tmp_path, "method=bitfit"))
    assert record.status == "interrupted"
    assert "the same command resumes it" in record.reason
    assert (Path(record.folder) / "checkpoint.ckpt").is_file()
    assert issubclass(Stopped, Exception)


def test_a_crash_leaves_a_record_with_its_reason(tmp_path, monkeypatch):
    def crash(self, *arguments):
        raise ValueError("a bug")

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", crash)
    with pytest.raises(ValueError, match="a bug"):
        run(compose(tmp_path, "method=bitfit"))
    (record,) = records_in(tmp_path)
    assert record.status == "failed"
    assert record.reason == "ValueError: a bug"
    assert "a bug" in (Path(record.folder) / "error.log").read_text()


@pytest.mark.parametrize("method", ["linear", "bitfit", "full"])
def test_checkpoint_and_delta_hold_what_was_learned_and_nothing_of_the_frozen_backbone(tmp_path, method):
    record = run(compose(tmp_path, f"method={method}", "backbone.pretrained=true"))
    names = set(learned(record))
    checkpoint = torch.load(Path(record.folder) / "checkpoint.ckpt", weights_only=True)
    assert {n.removeprefix("model.") for n in checkpoint["state_dict"]} == names
    head = {"task.head.weight", "task.head.bias"}
    inside = names - head
    assert head <= names
    if method == "linear":
        assert not inside
    if method == "bitfit":
        assert all(n.endswith(".bias") for n in inside)
        assert len(inside) == 21
    if method == "full":
        assert {n for n in inside if "running_mean" in n}


def test_a_delta_attached_to_a_new_model_predicts_the_same(tmp_path):
    words = ["method=lora", "backbone=vit_nano", "backbone.pretrained=false"]
    config = peftbench.compose(*QUICK, *words, f"output_dir={tmp_path}")
    record = run(config)
    tensors, metadata = deltas.load_delta(Path(record.folder) / "delta.safetensors")
    assert metadata["method"] == "lora"
    assert metadata["fingerprint"] == record.stamps["backbone"]["fingerprint"]

    torch.manual_seed(mix(0, 1))
    backbone = backbones.build_with_weights(config.backbone, 32)
    assert backbone.fingerprint == metadata["fingerprint"]
    model = Model(backbone, Classification(backbone, json.loads(metadata["classes"])))
    model.adapted(instantiate(config.method).adapt(backbone, Plan()))
    model.eval()
    deltas.attach(model, tensors, "the delta")
    dataset = instantiate(config.data).load()
    images = torch.stack([torch.from_numpy(decode_image(i, 32, "bicubic").copy()) for i in dataset.test.images[:192]])
    with torch.no_grad():
        right = (model(images).argmax(1).numpy() == dataset.test.labels[:192]).mean()
    assert right == pytest.approx(record.metrics["test/accuracy"])
    with pytest.raises(peftbench.UserError, match="made by another model"):
        deltas.attach(model, {"nothing": torch.zeros(1)}, "the delta")


def test_tuning_leaves_the_test_images_alone(tmp_path):
    record = run(compose(tmp_path, "method=linear", "data.stage=tune"))
    assert not any(n.startswith("test/") for n in record.metrics)
    assert "val/accuracy" in record.metrics


def test_bf16_label_smoothing_clipping_and_sgd_run(tmp_path):
    words = ["trainer.precision=bf16", "task.label_smoothing=0.1", "trainer.clip=1.0", "optimizer=sgd"]
    record = run(compose(tmp_path, "method=full", *words))
    assert record.status == "complete"


def test_learning_beats_chance_on_real_images(tmp_path):
    config = peftbench.compose(*SMALL, "method=full", "optimizer.lr=3e-3", "trainer.epochs=4", f"output_dir={tmp_path}")
    assert run(config).metrics["test/accuracy"] > 0.8


def test_a_sweep_lands_in_run_folders_and_lists_refusals(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where Hydra would put a folder of its own
    words = ["-m", *QUICK, "method=petah,linear", "seed=0,1"]
    words += ["pruning=unstructured", "pruning.ratio=0.1", "pruning.merge=dense"]  # which the probe cannot
    status, out, err = cli(*words)
    assert status == 0, err
    assert len(list(tmp_path.glob("petah-resnet_nano-digits-s?-*/result.json"))) == 2
    assert out.count("refused method=linear") == 2
    assert "take method=petah" in out
    assert not list(tmp_path.rglob("multirun"))
    assert cli(*words)[0] == 0
    assert len(list(tmp_path.glob("petah-*/"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_kill_nine_in_mid_run_and_the_same_command_end_with_the_same_weights(tmp_path):
    words = [*SMALL, "method=full", "trainer.epochs=3", "trainer.checkpoint_seconds=0", "data.batch_size=100"]

    def start(folder):
        command = [python(), "-m", "peftbench.cli.main", *words, f"output_dir={folder}"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "a").wait() == 0
    victim = start(tmp_path / "b")
    written = set()
    while victim.poll() is None and len(written) < 7:
        for path in (tmp_path / "b").glob("*/checkpoint.ckpt"):
            written.add(path.stat().st_mtime_ns)
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert records_in(tmp_path / "b")[0].status == "running"
    assert start(tmp_path / "b").wait() == 0
    (a,), (b,) = records_in(tmp_path / "a"), records_in(tmp_path / "b")
    assert b.costs["time"]["sessions"] == 2
    assert same(learned(a), learned(b))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, on batches that several can share out evenly."""
    return _trained(tmp_path_factory.mktemp("one"), [])


def _trained(folder, more):
    words = [*SMALL, "method=bitfit", "trainer.epochs=2", "data.batch_size=50", "trainer.accelerator=cpu"]
    words += ["trainer.max_batches=10", "optimizer=sgd", "data.eval_batch_size=500"]
    command = [python(), "-m", "peftbench.cli.main", *more, *words, f"output_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = records_in(folder)
    return record


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_reach_what_one_does(tmp_path, alone, strategy):
    """Over gloo on the CPU: the same batches shared out; sums are ordered otherwise, so equal to rounding."""
    two = _trained(tmp_path, [f"trainer={strategy}", "trainer.devices=2"])
    assert two.history[-1]["train_loss"] == pytest.approx(alone.history[-1]["train_loss"], rel=1e-4)
    assert two.metrics["test/accuracy"] == pytest.approx(alone.metrics["test/accuracy"], abs=0.005)
    assert two.stamps["data"]["images"] == alone.stamps["data"]["images"]
    right = [read_right(r.folder, stamped(r.stamps)) for r in (alone, two)]
    assert right[1].mean() == pytest.approx(two.metrics["test/accuracy"])
    assert (right[0] == right[1]).mean() > 0.99, "in the same order"
    a, b = learned(alone), learned(two)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interrupted_sweep_shows_what_is_done_and_goes_on_with_the_rest(tmp_path):
    words = [*SMALL, "method=bitfit", "data.batch_size=50", "trainer.epochs=1,400", "trainer.checkpoint_seconds=0"]
    command = [python(), "-m", "peftbench.cli.main", "-m", *words, f"output_dir={tmp_path}"]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/checkpoint.ckpt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130
    assert "the same command goes on with what is left" in said
    assert sorted(r.status for r in records_in(tmp_path)) == ["complete", "interrupted"]
