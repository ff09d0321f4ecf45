"""Devices and precisions that are not there."""

from __future__ import annotations

import pytest
import torch

from support.mistakes import files, record, refused


def test_half_precision_on_a_cpu_is_refused(cli, tiny):
    refused(cli(*tiny, "method=linear", "trainer=cpu", "trainer.precision=16"), "trainer.precision", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which has half precision")
def test_half_precision_is_refused_where_auto_finds_a_cpu_before_anything_is_read(cli, tiny, tmp_path):
    refused(cli(*tiny, "method=linear", "trainer.precision=16"), "trainer.precision", "bf16")
    assert files(tmp_path) == []


def test_several_devices_need_a_strategy(cli, tiny, tmp_path):
    refused(cli(*tiny, "method=linear", "trainer.devices=2"), "trainer.devices=2", "trainer=ddp")
    assert files(tmp_path) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(cli, tiny, tmp_path):
    refused(cli(*tiny, "method=linear", "trainer=gpu"), "trainer.accelerator=gpu")
    assert record(tmp_path)["status"] == "failed"
