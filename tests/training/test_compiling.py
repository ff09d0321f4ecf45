"""`trainer.compile`: taps, names and files as without, and a run that goes on where nothing can be compiled."""

from __future__ import annotations

import functools

import pytest
import torch

import peftbench
from peftbench.runs.run import run
from support.finished_runs import same
from support.runs import SMALL, learned
from support.stops import interrupted_and_undisturbed

WORDS = [*SMALL, "logger=none", "data.stage=tune", "data.batch_size=16", "data.eval_batch_size=200", "method=full"]
SHORT = [*WORDS, "trainer.epochs=1", "trainer.max_batches=2"]


def of(folder, *words):
    return run(peftbench.compose(*SHORT, *words, f"output_dir={folder}"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return of(tmp_path_factory.mktemp("plain"))


def test_a_model_that_cannot_be_compiled_trains_without_and_says_so_once(tmp_path, monkeypatch, capsys, plain):
    def fails(forward, **options):
        def compiled(*arguments):
            forward(*arguments)  # and moves statistics
            raise RuntimeError("no C++ compiler here. Install one")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    record = of(tmp_path, "trainer.compile=true")
    told = capsys.readouterr().err
    assert told.count("is trained without, since it cannot be compiled: no C++ compiler here") == 1
    assert record.stamps["compiled"] == {"blocks": 0, "without": "no C++ compiler here"}
    assert same(learned(record), learned(plain)), "what failed left no trace"
    assert record.id != plain.id


def test_compiled_blocks_leave_taps_names_and_evaluation_as_they_were(tmp_path, monkeypatch, plain):
    """The stand-in computes as the block does, so that the run is the plain one to the bit."""
    calls = []

    def counted(forward, **options):
        assert options == {"dynamic": False}

        def compiled(*arguments):
            calls.append(torch.is_grad_enabled())
            return forward(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", counted)
    record = of(tmp_path, "trainer.compile=true")
    blocks = record.stamps["compiled"]["blocks"]
    assert blocks >= 8
    assert calls == [True] * blocks * 3, "in a pass before training and in two steps, and in no evaluation"
    assert same(learned(record), learned(plain))
    assert record.metrics == plain.metrics
    assert record.costs["time"]["compile"] > 0


VIT = ["backbone=vit_nano", "data.size=32"]


@pytest.mark.slow
def test_compiled_training_learns_what_plain_training_does_and_resumes(tmp_path, monkeypatch):
    more = [*VIT, "optimizer.lr=0.0001", "trainer.epochs=2", "trainer.max_batches=3", "trainer.compile=true"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *WORDS, *more)
    assert undisturbed.stamps["compiled"] == {"blocks": 8}
    assert same(learned(resumed), learned(undisturbed))
    plain = run(peftbench.compose(*WORDS, *more[:-1], f"output_dir={tmp_path}"))
    assert undisturbed.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=1e-3)
    assert learned(undisturbed).keys() == learned(plain).keys()
    tuned = peftbench.load(undisturbed.folder)
    assert not any("forward" in vars(module) for module in tuned.model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("words", [["trainer.grad_checkpointing=true"], ["trainer.micro_batch=5"]], ids=" ".join)
def test_compiled_blocks_go_with_other_ways(tmp_path, words):
    plain, compiled = (of(tmp_path, *VIT, *words, *more) for more in ([], ["trainer.compile=true"]))
    assert compiled.stamps["compiled"] == {"blocks": 8}
    assert compiled.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=1e-3)


@pytest.mark.slow
def test_a_machine_without_a_compiler_trains_without(tmp_path, monkeypatch, capsys):
    import torch._dynamo
    from torch._inductor import config as inductor
    from torch._inductor import cpp_builder

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    for cached in vars(cpp_builder).values():
        if isinstance(cached, functools._lru_cache_wrapper):
            cached.cache_clear()
    torch._dynamo.reset()
    record = of(tmp_path, *VIT, "trainer.compile=true")
    assert record.stamps["compiled"]["blocks"] == 0
    assert capsys.readouterr().err.count("trainer.compile=true: this model is trained without") == 1
