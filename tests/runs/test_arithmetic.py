"""In which arithmetic a run computes, on GPUs that stand in for those that are not here."""

import dataclasses

import pytest
import torch

import peftbench
from peftbench.common.errors import UserError
from peftbench.config import run_id
from peftbench.runs.arithmetic import settled_arithmetic
from peftbench.runs.dry_run import plan_run
from support.mistakes import files, refused
from support.runs import SMALL, compose

T4, V100, A100 = ("Tesla T4", (7, 5)), ("Tesla V100", (7, 0)), ("NVIDIA A100", (8, 0))
GPU = [*SMALL, "method=linear", "trainer=gpu"]


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(*each)`: the GPUs of this machine, a name and a capability each."""

    def have(*each):
        monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_75 sm_80 sm_90", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(each))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(each))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: each[i][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: each[i][1])

    return have


@pytest.mark.parametrize(
    ("each", "words", "precision", "why"),
    [
        ([A100], [], "bf16", "NVIDIA A100 (compute capability 8.0) has it"),
        ([T4], [], "16", "Tesla T4 (compute capability 7.5) only emulates bf16"),
        ([A100, T4], ["trainer.strategy=ddp", "trainer.devices=2"], "16", "Tesla T4 (compute capability 7.5)"),
        ([A100, T4], [], "bf16", "NVIDIA A100"),
        ([], ["trainer.accelerator=auto"], "32", "on the CPU"),
        ([T4], ["trainer.accelerator=cpu"], "32", "on the CPU"),
    ],
)
def test_precision_is_chosen_by_the_devices_and_said(gpus, each, words, precision, why):
    gpus(*each)
    told = []
    config, about = settled_arithmetic(peftbench.compose(*GPU, *words), told.append)
    assert config.trainer.precision == precision
    assert why in told[0]
    assert f"trainer.precision={precision}" in told[0]
    assert about["arithmetic"]["asked"] == "auto"
    assert about["arithmetic"]["precision"] == precision
    given = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, precision=precision))
    assert run_id(config, "", "") == run_id(given, "", "")


def test_a_gpu_that_is_not_here_has_bf16_in_a_plan_and_nothing_is_said(gpus):
    gpus()
    told = []
    config, _ = settled_arithmetic(peftbench.compose(*GPU), told.append)
    assert (config.trainer.precision, told) == ("bf16", [])


def test_what_was_given_stays_and_tf32_is_stamped_where_a_gpu_computes(gpus):
    gpus(A100)
    config = peftbench.compose(*GPU, "trainer.precision=32", "trainer.tf32=false")
    told = []
    assert settled_arithmetic(config, told.append) == (config, {"arithmetic": {"precision": "32", "tf32": False}})
    gpus()
    cpu = peftbench.compose(*SMALL, "method=linear", "trainer=cpu")
    assert settled_arithmetic(cpu, told.append) == (cpu, {})
    assert told == []


@pytest.mark.parametrize(
    ("each", "precision", "parts"),
    [
        (T4, "bf16", ["trainer.precision=bf16", "Tesla T4", "7.5", "trainer.precision=16"]),
        (V100, "auto", ["trainer.accelerator=gpu", "Tesla V100", "7.0", "sm_75, sm_80, sm_90", "accelerator=cpu"]),
    ],
)
def test_what_a_gpu_cannot_do_is_refused_in_one_sentence_before_anything_is_read(
    gpus, cli, tmp_path, each, precision, parts
):
    gpus(each)
    refused(cli(*GPU, f"trainer.precision={precision}"), *parts)
    assert files(tmp_path) == []
    with pytest.raises(UserError, match=parts[0]):
        plan_run(peftbench.compose(*GPU, f"trainer.precision={precision}"))


def test_tf32_is_on_while_a_run_computes_and_in_its_id_where_it_is_off(tmp_path, monkeypatch):
    seen = []
    from peftbench.models.model import Model

    loss = Model.loss

    def look(self, *given):
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return loss(self, *given)

    monkeypatch.setattr(Model, "loss", look)
    words = ["method=linear", "taps=off", "trainer.epochs=1", "trainer.max_batches=1"]
    ids = [peftbench.run(compose(tmp_path, *words, *more)).id for more in ([], ["trainer.tf32=false"])]
    assert seen == [(True, True), (False, False)]
    assert len(set(ids)) == 2


def test_plan_and_version_say_which_gpus_torch_was_built_for(monkeypatch, capsys):
    from peftbench.cli.main import main

    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_75 sm_90", raising=False)
    assert main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("peftbench ")
    assert "built for sm_75, sm_90" in second
    words = [*SMALL, "method=linear"]
    assert any("built for sm_75, sm_90" in note for note in plan_run(peftbench.compose(*words)).notes)
    assert not any("built for" in note for note in plan_run(peftbench.compose(*words, "trainer=cpu")).notes)
