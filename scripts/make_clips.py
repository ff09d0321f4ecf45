"""Make a small set of clips whose classes only time tells apart, from the photos that the package ships.

A window of 64 px slides over the middle of a photo: left, right, up or down. Every photo gives one clip of each
class, and the frames of `left` are those of `right` in the other order (`up` and `down` likewise). So no frame, nor
any mean over frames, can tell them: a head on averaged features stays near chance, and a method that mixes frames
over time has something to learn. Training, validation and test clips come from different photos: a photo whose
clips were shared out would tell a probe which classes of it are left.

    python scripts/make_clips.py --out data/clips                 # folders of frames
    python scripts/make_clips.py --out data/clips_mp4 --video     # video files (needs PyAV)
    peftbench method=linear data=video_folder data.root=data/clips

The same arguments make the same files, with the same versions of Pillow and PyAV.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from PIL import Image

PHOTOS = Path(__file__).resolve().parents[1] / "src/peftbench/data/photos"
SIDE = 64
PATH = 64  # pixels that the window travels
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
RATE = 12  # frames a second of video files


def photos(split: str) -> list[Path]:
    """The photos of a split: the first of every class, then the second, and so on."""
    folders = (sorted(folder.glob("*.jpg")) for folder in sorted((PHOTOS / split).iterdir()) if folder.is_dir())
    return list(chain.from_iterable(zip(*folders, strict=True)))


def slide(photo: Image.Image, direction: tuple[int, int], frames: int) -> list[Image.Image]:
    """What a window sees that slides through the middle of the photo, RGB, SIDE x SIDE each."""
    made = []
    for i in range(frames):
        way = round(PATH * (i / (frames - 1) - 0.5))
        x, y = ((length - SIDE) // 2 + way * step for length, step in zip(photo.size, direction, strict=True))
        made.append(photo.crop((x, y, x + SIDE, y + SIDE)))
    return made


def write_frames(folder: Path, frames: Sequence[Image.Image]) -> None:
    """A folder of JPEG files, numbered without leading zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        frame.save(folder / f"{i}.jpg", quality=90)


def write_video(file: Path, frames: Sequence[Image.Image]) -> None:
    """An MPEG-4 file; one thread and no version strings, so that it is the same every time."""
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=RATE, options={"flags": "+bitexact", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = SIDE, SIDE, "yuv420p", 1_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def build(out: Path, number: int, frames: int, video: bool) -> int:
    """Writes `<out>/<split>/<direction>/<photo>`, a folder or an .mp4 file each; returns how many clips."""
    count = 0
    held_out = max(number // 5, 1)
    known, new = photos("train"), photos("test")
    splits = {"train": known[:number], "val": known[number : number + held_out], "test": new[:number]}
    if number < 1 or len(splits["val"]) < held_out:
        raise SystemExit(f"--photos {number}: expected 1 to {len(known) * 5 // 6}")
    for split, paths in splits.items():
        for path in paths:
            name = f"{path.parent.name}-{path.stem}"
            with Image.open(path) as photo:
                for direction, step in DIRECTIONS.items():
                    place = out / split / direction / name
                    made = slide(photo, step, frames)
                    write_video(place.with_suffix(".mp4"), made) if video else write_frames(place, made)
                    count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=100, help="to train and to test; a fifth as many for val")
    parser.add_argument("--frames", type=int, default=12, help="of each clip")
    parser.add_argument("--video", action="store_true", help="video files instead of folders of frames")
    args = parser.parse_args()
    if args.frames < 2:
        raise SystemExit(f"--frames {args.frames}: expected at least 2")
    if args.out.exists():
        raise SystemExit(f"{args.out}: is there already; name a new folder")
    print(f"{build(args.out, args.photos, args.frames, args.video)} clips in {args.out}")


if __name__ == "__main__":
    main()
