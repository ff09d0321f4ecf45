"""Which files are images, frames and clips, which way up, and how the frames that stand for a clip are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from peftbench.common.errors import UserError
from peftbench.common.regular_files import refuse_irregular
from peftbench.data.heif import register_heif
from peftbench.data.listing import Tree

IMAGES = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    *(".jfif", ".jpe", ".jp2", ".avif", ".tga", ".heic"),
}
# Pillow's readers of these. Without EPS, to read which it runs a program, and without others that nobody means: Pillow
# goes by what a file holds, whatever it is called.
_READERS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "HEIF")
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
DAMAGED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises for a broken image
# The readers of these; FFmpeg's others include playlists, which make it open whatever else a file names.
_FORMATS = "avi,mov,matroska,mpeg,mpegts,asf"
_MOST_PIXELS = 178_956_970  # in one picture of a video: from there on Pillow refuses an image


def open_image(source: Any) -> Image.Image:
    """An image that is opened and not read yet, to be closed by the caller.

    Raises:
        OSError, ValueError: it is none of the forms that we read (`DAMAGED`).
    """
    if isinstance(source, str | Path):
        refuse_irregular(source)
    return Image.open(source, formats=_READERS)


def load_upright(image: Image.Image, annotated: tuple[int, int] | None = None) -> Image.Image:
    """The image with its pixels read, turned as its EXIF says, where that can be read.

    (PIL's own way fails where any other tag is damaged.)

    Args:
        image: as it was opened.
        annotated: (height, width) that its annotations say. Where that is the size of the pixels as they lie in the
            file, and not of the upright image, they were annotated without regard to EXIF: then they are left so.

    Raises:
        OSError, ValueError: it is damaged (`DAMAGED`).
    """
    turns_itself = isinstance(image, TiffImageFile)  # Pillow turns a TIFF while it reads the pixels, and forgets how
    turn = _turn(image) if turns_itself else None
    image.load()
    if not turns_itself:
        turn = _turn(image)  # now, since some files keep their EXIF behind the pixels
    if turn is None:
        return image
    upright = image if turns_itself else image.transpose(turn)
    if annotated is None or annotated == (upright.height, upright.width):
        return upright
    lying = image.transpose(_BACK.get(turn, turn)) if turns_itself else image
    return lying if annotated == (lying.height, lying.width) else upright


def decode_no_more_than(image: Image.Image, needed: tuple[int, int]) -> None:
    """Has a JPEG decoded, later, in the smallest of its own sizes (all, 1/2, 1/4, 1/8) that is not below `needed`.

    Args:
        image: as it was opened; one of another form stays as it is.
        needed: (height, width) of the image once it stands upright.
    """
    if image.format == "JPEG":
        height, width = needed[::-1] if _turn(image) in _ON_ITS_SIDE else needed
        image.draft(None, (width, height))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image once it stands upright; needs no pixels."""
    if _turn(image) not in _ON_ITS_SIDE:
        return image.height, image.width
    if isinstance(image, TiffImageFile):  # whose size Pillow may give upright before it reads the pixels
        return int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    return image.width, image.height


def size_in_file(image: Path, needed: str) -> tuple[int, int]:
    """(height, width) of the image in a file as it stands upright.

    Raises UserError: it cannot be read; `needed` says what the size is needed for, and what to do.
    """
    try:
        with open_image(image) as opened:
            return upright_size(opened)
    except DAMAGED as problem:
        raise UserError(f"{image}: cannot be read as an image ({problem}), and {needed}.") from None


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF beside whole pixels: the image counts as upright
        return None


# What stands an image upright, by its EXIF orientation; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
# What undoes a turn; the others undo themselves.
_BACK = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its name."""
    return path.suffix.lower() in IMAGES


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEOS


def find_clips(tree: Tree, folder: Path) -> Iterator[Path]:
    """The clips at any depth below a folder: video files, folders with frames, and folders with nothing at all."""
    for path in sorted([*tree.files[folder], *tree.folders[folder]]):
        if path not in tree.files:
            if is_video(path):
                yield path
        elif any(map(is_image, tree.files[path])):
            yield path
        else:
            yield from list(find_clips(tree, path)) or [path]


def frame_files(clip: Path) -> list[Path]:
    """The frames in a clip's folder, in the order of the numbers in their names: `f2.jpg` before `f10.jpg`."""
    frames = (p for p in clip.iterdir() if is_image(p) and not p.name.startswith("."))
    return sorted(frames, key=lambda p: _numbered(p.name))


def spread_frames(count: int, frames: int) -> list[int]:
    """`frames` indices below `count`: the middle of each of as many equal stretches; they repeat where count is less.

    >>> spread(16, 4), spread(2, 4)
    ([2, 6, 10, 14], [0, 0, 1, 1])
    """
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def read_clip(clip: Path, frames: int, read: Callable[[Path | np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """`frames` frames spread over a clip in order of time, each as `read` gives it for a file or (H, W, 3) pixels.

    Raises:
        ValueError, OSError: it cannot be read, or holds no frames.
    """
    if clip.is_file():
        wanted, frame_at = _from_video(clip, frames, read)
    else:
        files = frame_files(clip)
        wanted = spread_frames(len(files), frames)
        frame_at = {i: read(files[i]) for i in set(wanted)} if files else {}
    if not frame_at:
        raise ValueError("it holds no frames")
    return [frame_at[i] for i in wanted]


def require_reader(video: Path) -> None:
    """Refuses a video file where the library that reads it is not installed.

    Raises:
        UserError: how to install it.
    """
    try:
        import av  # noqa: F401
    except ImportError as problem:
        raise UserError(
            f"{video}: reading video files needs PyAV ({problem}); pip install 'peftbench[video]', or give each clip "
            f"as a folder of its frames."
        ) from None


def _from_video(
    path: Path, frames: int, read: Callable[[Path | np.ndarray], np.ndarray]
) -> tuple[list[int], dict[int, np.ndarray]]:
    """The indices wanted, and the pictures at them. Only wanted pictures are ever held."""
    with _opened(path) as (container, stream):
        count = sum(1 for packet in container.demux(stream) if packet.size)
    wanted = spread_frames(count, frames)
    frame_at, seen = _pictures(path, set(wanted), read)
    if len(frame_at) < len(set(wanted)):  # fewer pictures than packets, as an edited or broken file may have
        wanted = spread_frames(seen, frames)
        frame_at, _ = _pictures(path, set(wanted), read)
    return wanted, frame_at


def _pictures(
    path: Path, wanted: set[int], read: Callable[[Path | np.ndarray], np.ndarray]
) -> tuple[dict[int, np.ndarray], int]:
    frame_at: dict[int, np.ndarray] = {}
    seen = 0
    with _opened(path) as (container, stream):
        for picture in container.decode(stream):
            if seen in wanted:
                upright = np.rot90(picture.to_ndarray(format="rgb24"), round(picture.rotation / 90))
                frame_at[seen] = read(np.ascontiguousarray(upright))
            seen += 1
            if len(frame_at) == len(wanted):
                break
    return frame_at, seen


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    # A title in another encoding than UTF-8 is no damage. PyAV 19 knows that by itself and has no such option.
    options: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    refuse_irregular(path)
    try:
        with av.open(str(path.absolute()), options={"format_whitelist": _FORMATS}, **options) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError("it holds no pictures")
            stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}
            yield container, stream
    except av.FFmpegError as problem:
        raise ValueError(problem.strerror) from None


def _numbered(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers within names as numbers; words and numbers take turns, so that like meets like."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


Image.init()  # has all readers there: a list of them must name none that is not
register_heif()
