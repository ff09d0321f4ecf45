"""Runs on a streamed backbone: the same id and figures, what cannot be streamed, and the memory it takes."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import timm

import peftbench
from support.finished_runs import records_in
from support.forks import python
from support.places import ROOT


def test_a_streamed_run_has_the_same_id_and_the_same_figures(tmp_path, tiny):
    words = [w for w in tiny if "pretrained" not in w] + ["method=linear"]
    runs = {}
    for choice in ("false", "true"):
        told = [f"backbone.stream={choice}", f"output_dir={tmp_path}/{choice}"]
        runs[choice] = peftbench.run(peftbench.compose(*words, *told))
    ours, theirs = runs["true"], runs["false"]
    assert ours.status == "complete"
    assert ours.id == theirs.id
    assert ours.metrics == theirs.metrics
    assert ours.costs["parameters"] == theirs.costs["parameters"]
    assert ours.costs["flops"] == theirs.costs["flops"]
    assert ours.costs["delta_bytes"] == theirs.costs["delta_bytes"]
    assert ours.costs["memory"]["saved_for_backward"] == theirs.costs["memory"]["saved_for_backward"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=lora"], "take a side method such as linear"),
        (["method=full"], "take a side method such as linear"),
        (["backbone.pretrained=false"], "backbone.pretrained=false there is none"),
        (["trainer=fsdp"], "take trainer=ddp"),
        (["backbone=efficientnet_lite0"], "give backbone.stream=false"),
    ],
)
def test_what_cannot_be_streamed_is_refused(cli, words, says):
    words = ["backbone=vit_nano", "method=linear", "data=digits", *words]
    status, _, told = cli(*{w.partition("=")[0]: w for w in words}.values(), "backbone.stream=true")
    assert status == 2
    assert says in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.slow
def test_two_processes_stream_what_one_does(tmp_path, tiny):
    words = [*tiny[2:], "backbone=vit_nano", "data.size=null", "method=linear", "trainer.accelerator=cpu"]
    figures = []
    for choice in ("false", "true"):
        told = [f"backbone.stream={choice}", f"output_dir={tmp_path}/{choice}", "trainer=ddp", "trainer.devices=2"]
        command = [python(), "-m", "peftbench.cli.main", *words, *told]
        subprocess.run(command, check=True, capture_output=True)
        (record,) = records_in(tmp_path / choice)
        figures.append(record.metrics)
    assert figures[0] == figures[1]


SCRIPT = ROOT / "scripts" / "stream_backbone.py"


@pytest.mark.slow
def test_two_blocks_as_wide_as_the_7b_model_stream_to_the_bit_and_side_methods_train_from_their_taps(tmp_path):
    words = ["--backbone", "vit_7b_dinov3", "--blocks", "2", "--dtype", "bfloat16", "--size", "64", "--images", "8"]
    command = [sys.executable, str(SCRIPT), *words, "--compare", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 taps are equal to the bit" in done.stdout
    losses = re.findall(r"loss ([\d.]+) in the first epoch, ([\d.]+) in the last", done.stdout)
    assert len(losses) == 2
    assert all(float(last) < float(first) for first, last in losses)
    peaks = [float(gigabytes) for gigabytes in re.findall(r"\| ([\d.]+) GB \|", done.stdout)]
    assert peaks[0] < 2 < peaks[1]  # 0.36 B parameters: 1.4 GB of floats, twice where timm builds it
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_script_says_at_once_that_the_disk_has_no_room(tmp_path):
    words = ["--backbone", "vit_7b_dinov3", "--images", "1000000", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "26.9 GB of weights and" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


MEASURE = """
    import dataclasses, sys
    import torch
    from peftbench import backbones, config

    def peak():
        return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

    def fill(folder, depth, stream):
        spec = config.Backbone("vit_small_patch16_224", weights=f"{folder}/{depth}.safetensors", stream=stream,
                               args={"img_size": 32, "depth": depth})
        with torch.no_grad():
            backbones.build_with_weights(spec).taps(torch.zeros(32, 3, 32, 32), emit=lambda index, tap: None)
        return peak()

    folder = sys.argv[1]
    fill(folder, 1, False)
    print(fill(folder, 1, True), fill(folder, 12, True), fill(folder, 12, False))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_the_peak_resident_set_stays_far_below_the_weights(tmp_path):
    """ViT-S/16 has 85 MB of weights. The last figure shows that the limit means something."""
    for depth in (1, 12):
        net = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=32, depth=depth)
        safetensors.torch.save_file(net.state_dict(), tmp_path / f"{depth}.safetensors")
    weights = (tmp_path / "12.safetensors").stat().st_size
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    before, streaming, ordinary = map(int, done.stdout.split())
    assert streaming - before < 0.3 * weights
    assert ordinary - before > weights
