"""Taps kept in 8 bits: how far they are from their own, what the record says, and what cannot have them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.runs.run import run
from peftbench.taps.eight_bits import LEAST, decoded, encoded
from support.finished_runs import same
from support.runs import compose, learned
from support.stops import interrupted_and_undisturbed
from support.taps import RUN, history, record


@given(
    st.integers(1, 3),
    st.integers(LEAST, 40),
    st.integers(1, 9),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.floats(-4, 4),
)
@settings(deadline=None, max_examples=40)
def test_no_value_is_further_off_than_half_a_step_of_its_channel(images, positions, channels, dtype, size):
    generator = torch.Generator().manual_seed(positions)
    tap = (torch.randn(images, positions, channels, generator=generator) * 10**size).to(dtype)
    stored = encoded([tap], maps_channels_first=True)
    assert [t.dtype for t in stored] == [torch.int8, dtype]
    (kept,) = decoded(stored)
    assert kept.dtype == dtype
    step = tap.float().abs().amax(1, keepdim=True) / 127
    rounding = 0.0 if dtype == torch.float32 else 127 * torch.finfo(dtype).eps
    assert ((kept.float() - tap.float()).abs() <= step * (0.501 + rounding) + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("channels_first", [True, False])
def test_scales_are_of_channels_in_either_layout(channels_first):
    tap = torch.randn(2, 5, 6, 6) * torch.logspace(-3, 3, 5).view(5, 1, 1)
    laid = tap if channels_first else tap.permute(0, 2, 3, 1).contiguous()
    values, scales = encoded([laid], channels_first)
    assert scales.numel() == 2 * 5
    (kept,) = decoded([values, scales])
    back = kept if channels_first else kept.permute(0, 3, 1, 2)
    assert ((back - tap).abs().amax((0, 2, 3)) < tap.abs().amax((0, 2, 3)) / 250).all()


def test_zeros_and_taps_of_few_positions_stay_as_they_are():
    few, zeros = torch.randn(3, LEAST - 1, 8), torch.zeros(3, LEAST, 8)
    stored = encoded([few, torch.randn(3, 8), zeros], maps_channels_first=True)
    assert len(stored) == 4
    kept = decoded(stored)
    assert kept[0] is few
    assert torch.equal(kept[2], zeros)


def test_a_run_from_eight_bits_is_another_run_and_says_how_far_its_logits_are(cli, tmp_path):
    words = [*(word for word in RUN if not word.startswith("backbone=")), "backbone=vit_nano", "trainer.epochs=1"]
    assert cli(*words, f"output_dir={tmp_path / 'whole'}")[0] == 0
    assert cli(*words, "taps.dtype=int8", f"output_dir={tmp_path / 'disk'}")[0] == 0
    whole, small = (record(tmp_path / n) for n in ("whole", "disk"))
    assert small["id"] != whole["id"]
    assert history(tmp_path / "disk") != history(tmp_path / "whole")
    assert history(tmp_path / "disk")[-1]["train_loss"] == pytest.approx(
        history(tmp_path / "whole")[-1]["train_loss"], rel=0.05
    )
    assert small["costs"]["taps"]["bytes"] < 0.32 * whole["costs"]["taps"]["bytes"]
    stamp = small["stamps"]["taps"]
    assert stamp["dtype"] == "int8"
    assert 0 < stamp["tap_error"] < 0.02
    assert 0 < stamp["logit_error"] < 0.1
    assert stamp["logit_error_most"] > 0
    assert "taps" not in whole["stamps"]


@pytest.mark.slow
def test_runs_from_eight_bits_on_disk_and_in_memory_are_one_and_resume_to_the_bit(tmp_path, monkeypatch):
    words = ["method=losa", "taps.dtype=int8"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, "taps=memory")
    other = run(compose(tmp_path / "disk", *words, "taps=disk"))
    for ours in (resumed, other):
        assert ours.id == undisturbed.id
        assert same(learned(ours), learned(undisturbed))
        assert ours.metrics == undisturbed.metrics
        assert ours.stamps["taps"] == undisturbed.stamps["taps"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["method=bitfit"], "taps.dtype=int8: method=bitfit changes the backbone, so that there are no taps to keep"),
        (["taps=off"], "taps.dtype=int8: is of taps that are kept, and taps=off keeps none; leave one of them out"),
        (["data.augment=flip"], "taps.dtype=int8: taps are not kept, since data.augment=flip changes the images"),
        (["taps.max_gb=0", "taps.memory_gb=0"], "taps.dtype=int8: taps.max_gb=0: these taps need "),
    ],
)
def test_what_keeps_no_taps_refuses_eight_bits(cli, tmp_path, words, sentence):
    status, _, err = cli(*RUN, "taps.dtype=int8", *words, f"output_dir={tmp_path}")
    assert status == 2
    assert sentence in err.splitlines()[-1]
