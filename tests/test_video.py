"""Clips: which are found, which of their frames are read, and how they go through loading, models and whole runs."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import peftbench
from peftbench import backbones, costs
from peftbench.common.errors import UserError
from peftbench.data.base import DataSet, Split, split_hash
from peftbench.data.images import Images, Indices, Transform, decode, decode_clip
from peftbench.data.loading import loaders
from peftbench.data.media import frame_files, spread
from peftbench.data.video_folder import VideoFolder
from peftbench.methods.base import Plan
from peftbench.methods.linear import Linear
from peftbench.models.model import Model
from peftbench.results import read_record
from peftbench.tasks.classification.task import Classification

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_clips.py"


def frame(value: int, size: tuple[int, int] = (10, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, 7))


def clip(folder: Path, values: Sequence[int], name: str = "{}.png") -> Path:
    """A folder of one-coloured frames: the red of frame i is values[i]."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, value in enumerate(values):
        frame(value).save(folder / name.format(i))
    return folder


def tree(root: Path, classes: Sequence[str] = ("a", "b"), count: int = 5, frames: int = 3) -> Path:
    for at, label in enumerate(classes):
        for i in range(count):
            clip(root / label / f"c{i}", [40 * at + 5 * i + j for j in range(frames)])
    return root


def reds(pixels: np.ndarray | torch.Tensor) -> list[int]:
    """The red of each frame of a clip (T, 3, S, S)."""
    return [int(f[0].flatten()[0]) for f in pixels]


def refuses(dataset: DataSet) -> str:
    with pytest.raises(UserError) as refusal:
        dataset.load()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def images(split: Split, augment: str = "none", memory_gb: float = 1.0, views: int = 0, on_error: str = "refuse"):
    transform = Transform(8, "nearest", (0.5,) * 3, (0.5,) * 3, augment)
    return Images(split, transform, on_error, memory_gb, lambda done, of: None, views)


# -- which clips there are


def test_clips_are_split_by_class_and_know_their_length(tmp_path):
    splits = VideoFolder(str(tree(tmp_path)), val_fraction=0.2, test_fraction=0.2, frames=4).load()
    assert splits.classes == ("a", "b")
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [6, 2, 2]
    assert {s.frames for s in (splits.train, splits.val, splits.test, splits.train + splits.val)} == {4}


def test_folders_of_splits_are_taken_as_they_are_and_a_class_may_be_called_test(tmp_path):
    for role in ("train", "val", "test"):
        tree(tmp_path / "splits" / role, count=2)
    splits = VideoFolder(str(tmp_path / "splits")).load()
    assert splits.test.names == ["test/a/c0", "test/a/c1", "test/b/c0", "test/b/c1"]
    assert VideoFolder(str(tree(tmp_path / "plain", ("a", "test")))).load().classes == ("a", "test")


def test_a_csv_names_clips(tmp_path):
    tree(tmp_path)
    (tmp_path / "l.csv").write_text("path,label,split\na/c0,x,train\na/c1,y,train\nb/c0,x,test\n")
    splits = VideoFolder(str(tmp_path), "l.csv", val_fraction=0).load()
    assert (splits.train.names, splits.test.names) == (["a/c0", "a/c1"], ["b/c0"])
    (tmp_path / "l.csv").write_text("path,label\na/c0,x\na/none,y\n")
    assert refuses(VideoFolder(str(tmp_path), "l.csv")).endswith(f"l.csv:3: there is no clip {tmp_path / 'a/none'}.")


def test_clips_lie_at_any_depth_and_hidden_files_mean_nothing(tmp_path):
    clip(tmp_path / "a" / "day" / "c0", [1])
    clip(tmp_path / "b" / "c1", [2, 3])
    clip(tmp_path / "b" / ".cache", [4])
    clip(tmp_path / ".git" / "c2", [5])
    (tmp_path / "b" / "c1" / "._0.png").write_bytes(b"not an image")
    (tmp_path / "b" / "notes.txt").write_text("no clip")
    splits = VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0).load()
    assert splits.train.names == ["a/day/c0", "b/c1"]
    assert [p.name for p in frame_files(tmp_path / "b" / "c1")] == ["0.png", "1.png"]


def test_a_link_that_leads_back_does_not_go_round_for_ever(tmp_path):
    clip(tmp_path / "a" / "c0", [1])
    (tmp_path / "a" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "linked").symlink_to(clip(tmp_path / "elsewhere" / "c", [2]))
    names = VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0).load().train.names
    assert names == ["a/back", "a/c0", "a/linked", "elsewhere/c"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: clip(root / "a", [1]), "a: holds images, not clips; expected <class>/<clip>/<frame>"),
        (lambda root: (root / "a").mkdir(), "a: is a class folder without clips (folders of frames, or .avi, "),
        (lambda root: (root / "a").write_text(""), "holds no class folders with clips (folders of frames, or .avi, "),
    ],
)
def test_a_tree_that_holds_no_clips_is_refused(tmp_path, make, told):
    make(tmp_path)
    assert told in refuses(VideoFolder(str(tmp_path)))


def test_fewer_frames_than_one_are_refused(tmp_path):
    assert refuses(VideoFolder(str(tree(tmp_path)), frames=0)) == "data.frames=0: expected at least 1."
    with pytest.raises(UserError, match=r"^data\.frames=0: expected at least 1\.$"):
        peftbench.compose("method=losa", "backbone=vit_nano", "data=video_folder", "data.frames=0", "data.root=x")


# -- which frames stand for a clip


@given(st.integers(1, 300), st.integers(1, 40))
def test_frames_are_the_middles_of_equal_stretches_in_order_of_time(count, frames):
    wanted = spread(count, frames)
    assert len(wanted) == frames
    for i, at in enumerate(wanted):
        assert at <= (i + 0.5) * count / frames < at + 1
    assert wanted == sorted(wanted)


@pytest.mark.parametrize(
    ("count", "expected"), [(12, [1, 4, 7, 10]), (4, [0, 1, 2, 3]), (2, [0, 0, 1, 1]), (1, [0] * 4)]
)
def test_a_folder_is_read_in_the_order_of_numbers_and_short_clips_repeat(tmp_path, count, expected):
    made = decode_clip(clip(tmp_path, range(count), "take2_{}.png"), 4, 8, "nearest")
    assert made.shape == (4, 3, 8, 8)
    assert reds(made) == expected


def test_frames_of_different_sizes_and_modes_are_squashed_one_by_one(tmp_path):
    clip(tmp_path, [9, 9])
    frame(9, (31, 5)).save(tmp_path / "2.png")
    Image.new("L", (4, 4), 9).save(tmp_path / "3.png")
    assert reds(decode_clip(tmp_path, 4, 8, "bicubic")) == [9] * 4


# -- what a split of clips is


def test_the_hash_of_clips_is_that_of_their_frames_in_order_and_of_nothing_else(tmp_path):
    def stamp() -> str:
        return split_hash(VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0).load().train)

    tree(tmp_path)
    whole = stamp()
    (tmp_path / "a" / "c0" / ".DS_Store").write_text("x")
    assert stamp() == whole
    first, last = tmp_path / "a" / "c0" / "0.png", tmp_path / "a" / "c0" / "2.png"
    one, two = first.read_bytes(), last.read_bytes()
    first.write_bytes(two), last.write_bytes(one)
    assert stamp() != whole
    first.write_bytes(one), last.write_bytes(two)
    assert stamp() == whole
    clip(tmp_path / "a" / "c0", [77], "{}.png")
    assert stamp() != whole


# -- loading


@pytest.fixture
def split(tmp_path) -> Split:
    """Ten clips of three frames, of which two are read."""
    return VideoFolder(str(tree(tmp_path)), val_fraction=0, test_fraction=0, frames=2).load().train


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("augment", ["none", "flip", "crop", "rrc", "trivial"])
def test_a_batch_is_clips_and_augmentation_is_the_same_for_all_frames(tmp_path, augment, memory_gb):
    rng = np.random.default_rng(0)
    for label in "ab":
        pixels = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        (tmp_path / label / "c").mkdir(parents=True)
        for i in range(3):
            pixels.save(tmp_path / label / "c" / f"{i}.png")
    still = VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0, frames=3).load().train
    made = images(still, augment, memory_gb)
    seen = set()
    for seed in range(6):
        batch = made.__getitems__(Indices([0, 1, 0], seed))
        assert (batch.images.shape, batch.images.dtype) == ((3, 3, 3, 8, 8), torch.uint8)
        assert batch.targets.tolist() == [0, 1, 0]
        assert torch.equal(batch.images, batch.images[:, :1].expand_as(batch.images))
        seen.add(batch.images.numpy().tobytes())
    assert (len(seen) == 1) == (augment == "none")


def test_fixed_views_of_a_clip_are_whole_clips(split):
    made = images(split, "crop", views=2)
    assert made.rows == 20
    pictures = made.pictures(torch.arange(4))
    assert pictures.shape == (4, 2, 3, 8, 8)
    assert torch.equal(pictures, images(split, "crop", 0.0, 2).pictures(torch.arange(4)))


def test_clips_of_which_taps_are_stored_leave_their_shape(split):
    made = images(split)
    made.stored = lambda rows: [torch.zeros(len(rows), 2, 5, 7)]
    batch = made.__getitems__(Indices([3, 1, 2], None))
    assert batch.images.shape == (3, 2, 3, 0, 0)
    assert batch.taps[0].shape == (6, 5, 7)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_workers_and_ranks_share_the_same_clips(split, memory_gb):
    transform = Transform(8, "nearest", (0.5,) * 3, (0.5,) * 3, "flip")
    given_ = {"batch_size": 4, "eval_batch_size": 4, "seed": 0, "memory_gb": memory_gb}
    whole, apart = (loaders((split, split, None), transform, workers=n, **given_) for n in (0, 1))
    for a, b in zip(whole.train, apart.train, strict=True):
        assert torch.equal(a.images, b.images)
    parts = [loaders((split, split.take([0]), None), transform, rank=r, world=2, **given_) for r in (0, 1)]
    assert [next(iter(p.val)).images.shape[1:] for p in parts] == [(2, 3, 8, 8)] * 2  # the second has no clip at all
    assert sorted(t for p in parts for b in p.train for t in b.targets.tolist()) == sorted(split.labels.tolist())


def test_memory_counts_every_frame(split):
    size = 10 * 2 * 3 * 8 * 8 / 2**30
    assert images(split, memory_gb=size).fits
    assert not images(split, memory_gb=size * 0.99).fits


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_damaged_and_empty_clips_are_named_with_the_frame_or_left_out(tmp_path, memory_gb):
    tree(tmp_path)
    broken = tmp_path / "a" / "c1"
    (broken / "0.png").write_bytes((broken / "0.png").read_bytes()[:40])
    (tmp_path / "b" / "empty").mkdir()
    split = VideoFolder(str(tmp_path), val_fraction=0, test_fraction=0, frames=3).load().train
    for at, what in ((1, "cannot be read as a clip (0.png: "), (-1, "cannot be read as a clip (it holds no frames)")):
        with pytest.raises(UserError) as refusal:
            images(split, memory_gb=0.0).pictures(torch.tensor([range(len(split))[at]]))
        assert str(refusal.value).startswith(f"{split.images[at]}: {what}")
        assert "leave such clips out with data.on_error=skip" in str(refusal.value)
    made = images(split, memory_gb=memory_gb, on_error="skip")
    assert made.skipped == [str(broken), str(tmp_path / "b" / "empty")]
    assert made.split.frames == 3
    assert made.pictures(torch.arange(len(made))).shape == (9, 3, 3, 8, 8)


# -- models


@pytest.fixture(scope="module")
def backbone() -> backbones.Backbone:
    torch.manual_seed(0)
    return backbones.build(peftbench.compose("backbone=vit_nano", "backbone.pretrained=false").backbone)


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
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def words(root: Path, folder: Path, *more: str) -> list[str]:
    few = ["trainer.epochs=1", "trainer.max_batches=2", "data.batch_size=4", "trainer.progress=false", "logger=none"]
    return ["data=video_folder", f"data.root={root}", "data.frames=3", *few, f"output_dir={folder}", *more]


def test_the_frames_of_a_direction_are_those_of_the_other_the_other_way_round(moving):
    for one, other in (("left", "right"), ("up", "down")):
        for clip_ in (moving / "train" / one).iterdir():
            back = frame_files(moving / "train" / other / clip_.name)
            assert [f.read_bytes() for f in frame_files(clip_)] == [f.read_bytes() for f in reversed(back)]
    left, up = (decode(moving / "train" / d / clip_.name / "2.jpg", 64, "nearest") for d in ("left", "up"))
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


@pytest.fixture(scope="module")
def av():
    return pytest.importorskip("av")


def film(
    av, path: Path, values: Sequence[int], codec: str = "ffv1", pix_fmt: str = "bgr0", size=(64, 48), title=""
) -> Path:
    """A video of one-coloured frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        for value in values:
            container.mux(stream.encode(av.VideoFrame.from_image(frame(value, size))))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("c.mkv", "ffv1", "bgr0"),
        ("c.avi", "mpeg4", "yuv420p"),
        ("c.mp4", "mpeg4", "yuv420p"),
        ("c.mov", "mjpeg", "yuvj420p"),
        ("c.webm", "libvpx-vp9", "yuv420p"),
    ],
)
@pytest.mark.parametrize(("count", "expected"), [(12, [1, 4, 7, 10]), (2, [0, 0, 1, 1])])
def test_a_video_file_is_read_as_its_frames_would_be(av, tmp_path, name, codec, pix_fmt, count, expected):
    path = film(av, tmp_path / "odd: %d name" / name, [20 * i for i in range(count)], codec, pix_fmt)
    made = decode_clip(path, 4, 8, "nearest")
    assert made.shape == (4, 3, 8, 8)
    assert np.abs(np.array(reds(made)) - 20 * np.array(expected)).max() <= (0 if codec == "ffv1" else 9)


def test_a_video_is_turned_as_it_says(av, tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = (255, 0, 0)
    path = tmp_path / "c.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    content = path.read_bytes()
    one = (1 << 16).to_bytes(4, "big", signed=True)
    straight = one + bytes(12) + one
    quarter = bytes(4) + one + bytes(4) + (-(1 << 16)).to_bytes(4, "big", signed=True) + bytes(4)  # clockwise
    at = content.index(straight, content.index(b"tkhd"))
    path.write_bytes(content[:at] + quarter + content[at + len(quarter) :])
    (made,) = decode_clip(path, 1, 8, "nearest")
    assert (made[0, :, 7] > 200).all()  # the red top is on the right now
    assert (made[0, :, 0] < 50).all()


@pytest.mark.parametrize("name", ["c.mkv", "c.mp4"])
def test_a_damaged_video_is_read_or_refused_by_name(av, tmp_path, name):
    whole = film(av, tmp_path / name, range(0, 200, 10), "mpeg4", "yuv420p").read_bytes()
    split = Split([tmp_path / name], np.zeros(1, dtype=np.int64), [name], frames=4)
    for cut in (0, 1, 60):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(UserError) as refusal:
            images(split).pictures(torch.arange(1))
        assert str(refusal.value).startswith(f"{tmp_path / name}: cannot be read as a clip (")
        assert "\n" not in str(refusal.value)
    for cut in (len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:cut])
        with suppress(UserError):
            assert images(split).pictures(torch.arange(1)).shape == (1, 4, 3, 8, 8)


def test_a_list_of_other_files_is_no_video(av, tmp_path):
    film(av, tmp_path / "c.mp4", [1, 2], "mpeg4", "yuv420p")
    for text in ("ffconcat version 1.0\nfile c.mp4\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nc.mp4\n"):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(ValueError, match="Invalid"):
            decode_clip(tmp_path / "list.mp4", 2, 8, "nearest")


def test_a_title_in_another_encoding_is_no_damage(av, tmp_path):
    path = film(av, tmp_path / "c.mkv", [1, 2], title="QQQQ")
    content = path.read_bytes()
    assert content.count(b"QQQQ") == 1
    path.write_bytes(content.replace(b"QQQQ", b"caf\xe9"))
    assert reds(decode_clip(path, 2, 8, "nearest")) == [1, 2]


def test_a_file_with_sound_alone_is_no_clip(av, tmp_path):
    with av.open(str(tmp_path / "c.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="it holds no pictures"):
        decode_clip(tmp_path / "c.mkv", 2, 8, "nearest")


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


def test_without_the_library_a_video_file_is_told_and_folders_need_none(cli, tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name, *rest):
        if name == "av":
            raise ImportError("No module named 'av'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    tree(tmp_path / "clips")
    assert VideoFolder(str(tmp_path / "clips")).load().train.frames == 8
    video = tmp_path / "clips" / "b" / "x.mp4"
    video.write_bytes(b"")
    status, _, err = cli(*words(tmp_path / "clips", tmp_path, "method=linear", "data.on_error=skip"))
    assert status == 2
    assert err == (
        f"peftbench: {video}: reading video files needs PyAV (No module named 'av'); pip install 'peftbench[video]', "
        f"or give each clip as a folder of its frames.\n"
    )
