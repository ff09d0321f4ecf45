"""Clips: which are found, and which of their frames are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import peftbench
from peftbench.common.errors import UserError
from peftbench.data.base import split_hash
from peftbench.data.decoding import decode_clip
from peftbench.data.media import frame_files, spread_frames
from peftbench.data.video_folder import VideoFolder
from support.clips import clip, frame, reds, refuses, tree

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
    root = tmp_path / "set"
    clip(root / "a" / "c0", [1])
    clip(root / "b" / "c", [2])
    (root / "a" / "back").symlink_to(root / "a")
    (root / "a" / "linked").symlink_to(clip(tmp_path / "elsewhere" / "c", [3]))
    (root / "b" / "day").symlink_to(clip(tmp_path / "more" / "c2", [4]).parent)
    splits = VideoFolder(str(root), val_fraction=0, test_fraction=0).load()
    assert splits.train.names == ["a/c0", "a/linked", "b/c", "b/day/c2"]
    assert [
        note for note in splits.notes if note.startswith("left out, 1 link to") and str(root / "a" / "back") in note
    ]


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
    wanted = spread_frames(count, frames)
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
