"""Video files: read as their frames would be, turned as they say, damaged, and without the library."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from peftbench.common.errors import UserError
from peftbench.data.base import Split
from peftbench.data.decoding import decode_clip
from peftbench.data.video_folder import VideoFolder
from support.clips import frame, images, reds, tree, words


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
