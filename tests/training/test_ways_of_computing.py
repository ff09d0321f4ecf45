"""Checkpointing, parts of a batch and channels last: what they change of a run, and what they do not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import peftbench
from peftbench.data.images import Batch
from peftbench.runs.run import run
from peftbench.training.micro_batches import parts_of_batch
from support.finished_runs import records_in, same
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

WORDS = [*SMALL, "logger=none", "data.stage=tune", "data.batch_size=16", "data.eval_batch_size=200", "taps=off"]
SHORT = [*WORDS, "trainer.epochs=1", "trainer.max_batches=2"]


def of(folder, *words):
    return run(peftbench.compose(*SHORT, *words, f"output_dir={folder}"))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Full fine-tuning of a backbone whose batch norms move."""
    return of(tmp_path_factory.mktemp("full"), "method=full")


def test_checkpointing_changes_memory_and_not_a_bit(tmp_path, full):
    record = of(tmp_path, "method=full", "trainer.grad_checkpointing=true")
    assert same(learned(record), learned(full)), "weights, and statistics that would move twice"
    assert (record.id, record.metrics) == (full.id, full.metrics)
    kept, before = (r.costs["memory"]["saved_for_backward"] for r in (record, full))
    assert kept < 0.75 * before


CHANGING = ("full", "bitfit", "lora", "petah", "spt", "ftp")
BACKBONES = ("resnet_nano", "vit_nano", "hybrid_nano")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", CHANGING)
def test_checkpointing_is_the_same_to_the_bit_everywhere(tmp_path, method, backbone):
    words = [f"method={method}", f"backbone={backbone}", "data.size=64", "backbone.drop_path=0.0"]
    plain = of(tmp_path / "a", *words)
    less = of(tmp_path / "b", *words, "trainer.grad_checkpointing=true")
    assert same(learned(plain), learned(less))
    assert plain.metrics == less.metrics
    assert less.costs["memory"]["saved_for_backward"] < plain.costs["memory"]["saved_for_backward"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["backbone=vit_nano", "backbone.drop_path=0.3"], ["trainer.precision=bf16"]])
def test_what_is_drawn_and_rounded_is_so_again_in_backward(tmp_path, words):
    plain = of(tmp_path / "a", "method=full", *words)
    assert same(learned(plain), learned(of(tmp_path / "b", "method=full", *words, "trainer.grad_checkpointing=true")))


@pytest.mark.slow
def test_a_detector_reads_the_same_maps_under_checkpointing(tmp_path):
    words = ["data=digits_det", "method=full", "data.batch_size=2", "data.eval_batch_size=2", "data.size=64"]
    words = [*(w for w in SHORT if not w.startswith("data")), "data.stage=tune", *words]
    one, two = (
        run(peftbench.compose(*words, *more, f"output_dir={tmp_path}/{len(more)}"))
        for more in ([], ["trainer.grad_checkpointing=true"])
    )
    assert same(learned(one), learned(two))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["method=linear", "trainer.grad_checkpointing=true"], "sends no gradient through the backbone"),
        (["method=linear", "trainer.compile=true"], "trains beside them"),
        (
            ["backbone=timm", "backbone.name=selecsls42", "method=full", "trainer.grad_checkpointing=true"],
            "selecsls42 has no gradient checkpointing",
        ),
        (["method=full", "trainer.micro_batch=0"], "trainer.micro_batch=0: expected at least 1"),
        (["method=full", "trainer.accumulate=some"], "trainer.accumulate='some': expected"),
        (["method=full", "trainer.accumulate=auto", "trainer.micro_batch=2"], "leave one of them out"),
        (["method=full", "trainer.accumulate=auto", "trainer=ddp"], "give trainer.micro_batch=N"),
        (["method=full", "trainer.compile=true", "trainer=fsdp"], "trainer.compile=true: needs whole blocks"),
        (["method=full", "trainer.micro_batch=2", "trainer=fsdp"], "trainer.micro_batch=2: needs whole blocks"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_what_cannot_be_is_one_sentence(cli, words, answer):
    words = ["trainer.epochs=1", "trainer.max_batches=1", *words]
    status, _, told = cli("data=digits", "backbone.pretrained=false", "trainer.progress=false", *words)
    assert status == 2
    assert answer in told
    assert len(told.strip().splitlines()) == 1


# -- parts of a batch


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 3))
def test_parts_hold_every_image_once(size, most, frames):
    whole = Batch(torch.arange(size), list(range(size)), [torch.arange(size * frames), torch.arange(size)])
    parts = parts_of_batch(whole, size, most)
    counts = [count for _, count in parts]
    assert sum(counts) == size
    assert max(counts) <= most
    assert max(counts) - min(counts) <= 1
    assert len(parts) == -(-size // most)
    assert torch.cat([part.images for part, _ in parts]).tolist() == whole.targets
    assert [target for part, _ in parts for target in part.targets] == whole.targets
    assert torch.cat([part.taps[0] for part, _ in parts]).tolist() == list(range(size * frames))
    assert all(len(part.images) == count == len(part.taps[1]) for part, count in parts)


def test_uneven_parts_of_a_batch_weigh_as_much_as_their_images(tmp_path):
    """16 images are 6, 5 and 5; batch norms stay as they are under bitfit, so that the step is that of the whole."""
    words = ["method=bitfit", "optimizer=sgd", "optimizer.lr=0.1", "trainer.accumulate=2"]
    whole, parts = (of(tmp_path, *words, *more) for more in ([], ["trainer.micro_batch=7"]))
    assert whole.id != parts.id
    assert parts.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=1e-5)
    expected, found = learned(whole), learned(parts)
    assert all(torch.allclose(found[name], expected[name], atol=2e-6) for name in expected)
    assert parts.history[-1]["step"] == whole.history[-1]["step"] == 1
    saved = [r.costs["memory"]["saved_for_backward"] for r in (parts, whole)]
    assert saved[0] == pytest.approx(saved[1] * 6 / 16, rel=0.05)
    idle = of(tmp_path, *words, "trainer.micro_batch=16")
    assert (idle.id, idle.was_there) == (whole.id, True), "what divides no batch is no other run"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["method=ftp"], ["method=losa", "taps=memory"], ["trainer.precision=bf16"]])
def test_parts_are_the_whole_under_other_methods(tmp_path, words):
    words = ["backbone=vit_nano", "method=lora", *words, "optimizer.lr=0.001"]
    whole, parts = (of(tmp_path, *words, *more) for more in ([], ["trainer.micro_batch=5"]))
    coarse = 1e-4 if words[-2].startswith("method") or "taps=memory" in words else 1e-2
    assert parts.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=coarse)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["trainer.micro_batch=5"], ["trainer.grad_checkpointing=true", "trainer.ema=0.9"]])
def test_it_resumes_to_the_same_bits(tmp_path, monkeypatch, words):
    more = ["method=full", "trainer.epochs=2", "trainer.max_batches=4", *words]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *WORDS, *more, at=6)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.slow
def test_two_processes_that_work_in_parts_learn_what_one_does(tmp_path, cli):
    words = [*SHORT, "method=bitfit", "optimizer=sgd", "optimizer.lr=0.1", "trainer.accelerator=cpu"]
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2", "trainer.micro_batch=3"])):
        assert cli(*words, *more, f"output_dir={tmp_path}/{place}")[0] == 0
    one, two = (records_in(tmp_path / place)[0] for place in ("one", "two"))
    expected, found = learned(one), learned(two)
    assert all(torch.allclose(found[name], expected[name], atol=2e-6) for name in expected)


# -- channels last


def test_channels_last_is_a_run_of_its_own_that_differs_by_rounding(tmp_path):
    words = ["method=bitfit", "optimizer=sgd", "optimizer.lr=0.1"]
    plain, other = (of(tmp_path, *words, *more) for more in ([], ["trainer.channels_last=true"]))
    assert plain.id != other.id
    assert other.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=1e-4)
    expected, found = learned(plain), learned(other)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", [*CHANGING, "losa", "cst", "lst", "linear"])
def test_every_method_takes_channels_last(tmp_path, method, backbone):
    words = [f"method={method}", f"backbone={backbone}", "data.size=64"]
    plain, other = (of(tmp_path, *words, *more) for more in ([], ["trainer.channels_last=true"]))
    assert other.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=2e-3)


@pytest.mark.slow
def test_kept_taps_of_channels_last_are_those_of_each_pass(tmp_path):
    words = ["method=losa", "trainer.channels_last=true"]
    live, kept = (of(tmp_path / mode, *words, f"taps={mode}") for mode in ("off", "memory"))
    assert same(learned(live), learned(kept))
