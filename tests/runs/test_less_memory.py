"""Memory that is not enough: the sentence, the choice of `trainer.accumulate=auto`, and what `plan` foretells."""

from __future__ import annotations

import json

import pytest
import torch

import peftbench
from peftbench.config import identity
from peftbench.runs import device_memory, micro_batch_choice
from peftbench.runs.data_sets import outline_data
from peftbench.runs.dry_run import plan_run
from peftbench.runs.memory_ways import ways_to_less_memory
from peftbench.training.module import Fit

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"), RuntimeError(CPU)]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu"])
def test_out_of_memory_is_a_sentence_that_names_what_fits(cli, tiny, tmp_path, monkeypatch, error):
    def fails(self, batch, batch_idx):
        raise error

    monkeypatch.setattr(Fit, "training_step", fails)
    status, _, told = cli(*tiny, "method=full")
    assert status == 2
    assert len(told.strip().splitlines()) == 1
    assert "data.batch_size=16: out of memory on cpu (" in told
    for way in (
        "trainer.grad_checkpointing=true",
        "trainer.micro_batch=8",
        "trainer.accumulate=auto",
        "precision=bf16",
    ):
        assert way in told
    assert "data.batch_size=4" in told
    (file,) = tmp_path.glob("*/result.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert record["reason"] in told


def test_any_other_error_stays_what_it_is(tiny, tmp_path, monkeypatch):
    def fails(self, batch, batch_idx):
        raise RuntimeError("something else")

    monkeypatch.setattr(Fit, "training_step", fails)
    with pytest.raises(RuntimeError, match="something else"):
        peftbench.run(peftbench.compose(*tiny, "method=full", f"output_dir={tmp_path}"))


def test_auto_chooses_a_part_keeps_it_and_has_the_id_of_that_part(tiny, tmp_path, monkeypatch):
    words = [*tiny, "method=bitfit", f"output_dir={tmp_path}"]
    auto = peftbench.compose(*words, "trainer.accumulate=auto")
    memory = plan_run(peftbench.compose(*words))
    enough_for_some = memory.weights + int(0.7 * memory.step.peak)
    monkeypatch.setattr(device_memory, "free_memory", lambda: enough_for_some / device_memory.SHARES["cpu"])
    tried = []

    def try_step(config, method, splits, images):
        tried.append(images)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(micro_batch_choice, "try_step", try_step)
    record = peftbench.run(auto)
    part = record.stamps["accumulate"]["micro_batch"]
    assert tried == [tried[0], part]
    assert 1 < tried[0] < 16
    assert part == -(-tried[0] // 2)
    assert record.config["trainer"] | {"accumulate": 1, "micro_batch": part} == record.config["trainer"]
    monkeypatch.setattr(device_memory, "free_memory", lambda: 2**40)
    assert peftbench.run(auto).id == record.id, "whatever is free by now"
    assert peftbench.run(peftbench.compose(*words, f"trainer.micro_batch={part}")).id == record.id
    assert len(tried) == 2


@pytest.mark.slow
def test_a_batch_that_fits_is_not_divided_and_its_run_is_the_plain_one(tiny, tmp_path):
    words = [*tiny, "method=bitfit", f"output_dir={tmp_path}"]
    chosen = peftbench.run(peftbench.compose(*words, "trainer.accumulate=auto"))
    assert chosen.stamps["accumulate"]["micro_batch"] is None
    assert peftbench.run(peftbench.compose(*words)).id == chosen.id


@pytest.mark.parametrize(
    ("words", "free", "answer"),
    [
        (["method=bitfit"], 1.0, "not even one image"),
        (["method=spt"], 2**40, "decided by a look at the data"),
    ],
    ids=["too little", "unforeseen"],
)
def test_what_auto_cannot_choose_is_one_sentence(cli, tiny, monkeypatch, words, free, answer):
    def try_step(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(micro_batch_choice, "try_step", try_step)
    monkeypatch.setattr(device_memory, "free_memory", lambda: free)
    status, _, told = cli(*tiny, *words, "trainer.accumulate=auto")
    assert status == 2
    assert answer in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.slow
def test_ways_are_what_a_plan_with_them_says(tiny):
    config = peftbench.compose(*tiny, "method=full")
    ways = {way.words: way for way in ways_to_less_memory(config, outline_data(config).splits)}
    assert set(ways) == {
        "trainer.grad_checkpointing=true",
        *(f"trainer.micro_batch={n}" for n in (8, 4, 2)),
        "trainer.precision=bf16",
        "data.batch_size=4",
    }
    for words in ("trainer.grad_checkpointing=true", "trainer.micro_batch=4"):
        step = plan_run(peftbench.compose(*tiny, "method=full", words)).step
        assert (ways[words].peak, ways[words].saved) == (step.peak, step.saved)
    assert ways["trainer.grad_checkpointing=true"].saved < plan_run(config).step.saved


@pytest.mark.slow
@pytest.mark.parametrize("words", ["trainer.grad_checkpointing=true", "trainer.micro_batch=5"])
def test_a_plan_of_a_way_equals_its_run(tiny, tmp_path, words):
    config = peftbench.compose(*tiny, "method=full", words, f"output_dir={tmp_path}")
    planned, measured = plan_run(config).step.saved, peftbench.run(config).costs["memory"]["saved_for_backward"]
    assert planned <= measured <= planned + 8 * config.data.batch_size, "a part's labels keep those of the whole batch"


def test_the_command_shows_the_ways(cli, tiny):
    status, out, told = cli("plan", *tiny, "method=full", "memory=true")
    assert (status, told) == (0, "")
    assert "memory of a step with trainer.grad_checkpointing=true" in " ".join(out.split())


def test_what_changes_no_number_is_no_part_of_the_id(tiny):
    def part(*words):
        return identity(peftbench.compose(*tiny, "method=full", *words))

    assert part("trainer.grad_checkpointing=true") == part()
    for words in ("trainer.compile=true", "trainer.channels_last=true", "trainer.micro_batch=4"):
        assert part(words) != part()
