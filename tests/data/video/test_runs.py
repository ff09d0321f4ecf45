"""Clips in models and whole runs."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import peftbench
from peftbench import backbones, costs
from peftbench.data.base import split_hash
from peftbench.data.decoding import decode_image
from peftbench.data.media import frame_files
from peftbench.data.video_folder import VideoFolder
from peftbench.methods.base import Plan
from peftbench.methods.linear import Linear
from peftbench.models.model import Model
from peftbench.results import read_record
from peftbench.tasks.classification.task import Classification
from support.clips import clip, words
from support.places import ROOT

SCRIPT = ROOT / "scripts" / "make_clips.py"


# -- models


@pytest.fixture(scope="module")
def backbone() -> backbones.Backbone:
    torch.manual_seed(0)
    return backbones.build_with_weights(peftbench.compose("backbone=vit_nano", "backbone.pretrained=false").backbone)


@pytest.mark.parametrize("side", [True, False])
def test_a_clip_is_predicted_from_the_mean_of_its_frames_features(backbone, side):
    model = Model(backbone, Classification(backbone, "ab")).eval()
    model.adapted(Linear().adapt(backbone, Plan()) if side else None)
    clips = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        taps = model.extract(clips)
        apart = torch.stack([backbone.pool(model.extract(c)[-1]).mean(0) for c in clips])
        expected = model.task.head(apart)
        assert taps[-1].shape == (6, *backbone.facts.taps[-1].shape)
        torch.testing.assert_close(model(clips), expected)
        torch.testing.assert_close(model(clips[:, [2, 0, 1]]), expected)
        torch.testing.assert_close(model(model.normalize(clips)), expected)
        if side:  # taps stand in for the clips, which keep their first dimensions
            torch.testing.assert_close(model(clips[..., :0, :0], model.frozen(clips)), expected)
        assert model(clips[:0]).shape == (0, 2)


# -- whole runs


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Path:
    """The clips of three photos a split, and of one to validate, as the script makes them."""
    out = tmp_path_factory.mktemp("clips") / "made"
    told = make_clips("--out", out, "--photos", 3, "--frames", 5)
    assert told == f"28 clips in {out}\n"
    return out


def make_clips(*words: object) -> str:
    """What the script prints, started with these words."""
    argv = [str(SCRIPT), *map(str, words)]
    with patch.object(sys, "argv", argv), contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return printed.getvalue()


def test_the_frames_of_a_direction_are_those_of_the_other_the_other_way_round(moving):
    for one, other in (("left", "right"), ("up", "down")):
        for clip_ in (moving / "train" / one).iterdir():
            back = frame_files(moving / "train" / other / clip_.name)
            assert [f.read_bytes() for f in frame_files(clip_)] == [f.read_bytes() for f in reversed(back)]
    left, up = (decode_image(moving / "train" / d / clip_.name / "2.jpg", 64, "nearest") for d in ("left", "up"))
    assert (left == up).all()  # both ways cross in the middle


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_clips_are_trained_on_from_the_command_line(cli, backbone, moving, tmp_path, method):
    status, _, err = cli(*words(moving, tmp_path, f"method={method}", "backbone=vit_nano"))
    assert (status, err) == (0, "")
    (folder,) = tmp_path.glob(f"{method}-vit_nano-video_folder-s0-*")
    record = read_record(folder)
    assert record.status == "complete"
    assert (record.stamps["data"]["frames"], record.stamps["data"]["classes"]) == (3, 4)
    assert record.costs["time"]["images_per_second"] == pytest.approx(4 / record.costs["time"]["step"]["median"])
    assert record.costs["time"]["latency"] > 0
    if method == "linear":
        head = 2 * backbone.facts.width * 4
        image = costs.flops(Model(backbone, Classification(backbone, "abcd")), torch.zeros(1, 3, 64, 64))
        assert record.costs["flops"] == 3 * (image - head) + head


def records(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in folder.glob("*/result.json")]


# -- video files


def test_video_files_and_folders_of_frames_mix_in_a_run(av, cli, moving, tmp_path):
    root = tmp_path / "clips"
    make_clips("--out", root, "--photos", 2, "--frames", 5, "--video")
    clip(root / "train" / "left" / "folder", [1, 2, 3])
    status, _, err = cli(*words(root, tmp_path / "out", "method=linear", "backbone=vit_nano"))
    assert (status, err) == (0, "")
    assert [r["status"] for r in records(tmp_path / "out")] == ["complete"]
    changed = next((root / "test" / "up").iterdir())
    before = split_hash(VideoFolder(str(root)).load().test)
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert split_hash(VideoFolder(str(root)).load().test) != before
