"""Runs of the forms of LoRA: resumed to the bit, loaded, merged, in two processes."""

from pathlib import Path

import pytest
import torch

import peftbench
from peftbench.common.sealed_file import read_tensors
from support.finished_runs import finish, logits_of, pictures, same
from support.processes import one_and_two_processes
from support.runs import QUICK, learned
from support.stops import interrupted_and_undisturbed

DATA = ["data.eval_batch_size=200", "logger=none", "taps=off", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


def test_a_run_of_pissa_keeps_what_its_factors_began_as_and_merges_exactly(data, tmp_path):
    record = finish(tmp_path, data, "pissa", "vit_nano", "method.dora=true", "optimizer.lr=1e-2")
    plan, _ = read_tensors(Path(record.folder) / "plan.safetensors")
    delta = learned(record)
    assert record.plan["init"] == "pissa"
    assert {n.rpartition(".")[2] for n in delta} == {"lora_a", "lora_b", "lora_magnitude", "weight", "bias"}
    for name, origin in plan.items():
        assert origin.shape == delta[f"backbone.net.{name.removesuffix('0')}"].shape
    beside = peftbench.load(record.folder, merge=False)
    merged = peftbench.load(record.folder)
    assert merged.merged
    assert torch.equal(logits_of(data, merged)[0], logits_of(data, beside)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["method=dora"], ["method=pissa"], ["method=lora_plus", "method.dropout=0.2"]], ids=" ".join
)
def test_it_resumes_to_the_same_bits(words, tmp_path, monkeypatch):
    resumed, undisturbed = interrupted_and_undisturbed(
        tmp_path, monkeypatch, *DATA, "backbone=vit_nano", "backbone.pretrained=true", *words
    )
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dora", "pissa"])
def test_two_processes_learn_what_one_does(method, tmp_path):
    words = [*QUICK, *DATA, f"method={method}", "backbone=vit_nano", "backbone.pretrained=true"]
    one_and_two_processes(words, tmp_path, rtol=1e-3, atol=1e-5)
