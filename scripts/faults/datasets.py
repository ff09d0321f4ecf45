"""Annotations that nobody should write: COCO, CSV, YOLO and masks, drawn by Hypothesis and read by peftbench."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from faults.damage import VALUES
from faults.verdicts import Verdict, called, judged
from faults.world import World

ODD = st.one_of(
    st.sampled_from(VALUES),
    st.text(max_size=8),
    st.floats(),
    st.integers(),
    st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=6),
)
_NAMES = st.one_of(
    st.sampled_from(
        ["5.png", "7.png", "images/5.png", "..\\5.png", "../5.png", "a/b.png", "/etc/passwd", "x" * 300 + ".png"]
    ),
    st.text(min_size=1, max_size=6),
    ODD,
)


def _box(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just([1, 2, 10, 5]), st.lists(st.floats(-5, 50) | strategy, max_size=5), strategy)


def _entry(**parts: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=parts) | st.fixed_dictionaries(parts)


COCO = st.one_of(
    ODD,
    st.fixed_dictionaries(
        {
            "images": st.lists(
                _entry(
                    id=st.sampled_from([5, 7, 9]) | ODD,
                    file_name=_NAMES,
                    height=st.just(20) | ODD,
                    width=st.just(30) | ODD,
                ),
                max_size=3,
            )
            | ODD,
            "categories": st.lists(
                _entry(id=st.sampled_from([3, 90]) | ODD, name=st.sampled_from("ab") | ODD), max_size=3
            )
            | ODD,
            "annotations": st.lists(
                _entry(
                    id=st.integers(0, 3) | ODD,
                    image_id=st.sampled_from([5, 7, 9]) | ODD,
                    category_id=st.sampled_from([3, 90]) | ODD,
                    bbox=_box(ODD),
                    iscrowd=st.sampled_from([0, 1]) | ODD,
                    area=st.floats() | ODD,
                    segmentation=st.just([[1, 2, 3, 4, 5, 6]]) | st.just({"counts": [1, 2], "size": [20, 30]}) | ODD,
                ),
                max_size=3,
            )
            | ODD,
        }
    ),
)
_CELL = st.one_of(
    st.sampled_from(["a.png", "b.png", "sub/a.png", "../a.png", "cat", "dog", "train", "test", "", '"', "x" * 140_000]),
    st.text(max_size=6),
    st.floats().map(str),
)
CSV = st.tuples(
    st.sampled_from(
        ["path,label\n", "path,label,split\n", "path\n", "label,path,label\n", "\ufeffpath,label\n", "", "path;label\n"]
    )
    | st.text(max_size=12),
    st.lists(st.lists(_CELL, max_size=4).map(",".join), max_size=5).map("\n".join),
).map("".join)
YOLO = st.tuples(
    st.sampled_from(["train: images/train\nval: images/val\nnames: [apple, zebra]\n", "names: {0: a}\n", "nc: 3\n"])
    | st.text(max_size=20).map("train: images/train\n{}".format)
    | ODD.map(lambda value: json.dumps({"train": value, "names": value}, default=str)),
    st.lists(
        st.lists(st.sampled_from(["0", "1", "0.5", "-1", "nan", "1e99", "x", "9" * 5000, "2", ""]), max_size=7).map(
            " ".join
        ),
        max_size=4,
    ).map("\n".join),
)
MASK = st.tuples(
    st.sampled_from(["L", "P", "1", "I;16", "RGB", "RGBA", "LA", "F"]),
    st.sampled_from([(30, 20), (20, 30), (1, 1), (300, 200)]),
    st.sampled_from([0, 1, 2, 254, 255, 65535]),
    st.sampled_from(["PNG", "TIFF", "GIF", "JPEG", "junk"]),
)


def _read(work: Callable[[], Any]) -> int:
    import sys

    import peftbench
    from peftbench.common.terminal import visible

    try:
        splits = work()
    except peftbench.UserError as mistake:
        print(f"peftbench: {visible(str(mistake))}", file=sys.stderr)
        return 2
    assert len(splits.train) >= 0
    return 0


def _coco(place: Path, content: Any) -> Any:
    from peftbench.data.coco import CocoFolder

    (place / "images").mkdir(parents=True, exist_ok=True)
    for name in ("5.png", "7.png"):
        Image.new("RGB", (30, 20)).save(place / "images" / name)
    (place / "train.json").write_text(content if isinstance(content, str) else json.dumps(content, default=str))
    return CocoFolder(root=str(place), train="train.json", val=None, images="images").load()


def _csv(place: Path, content: str) -> Any:
    from peftbench.data.folder import Folder

    place.mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(place / name)
    (place / "labels.csv").write_bytes(content.encode("utf-8", "surrogatepass"))
    return Folder(root=str(place), labels=str(place / "labels.csv")).load()


def _yolo(place: Path, content: tuple[str, str]) -> Any:
    from peftbench.data.coco import CocoFolder

    for role in ("train", "val"):
        for folder in ("images", "labels"):
            (place / folder / role).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (len(role), 0, 0)).save(place / "images" / role / "a.png")
        (place / "labels" / role / "a.txt").write_bytes(content[1].encode("utf-8", "surrogatepass"))
    (place / "data.yaml").write_bytes(content[0].encode("utf-8", "surrogatepass"))
    return CocoFolder(root=str(place)).load()


def _mask(place: Path, content: tuple[str, tuple[int, int], int, str]) -> Any:
    from peftbench.data.seg_folder import SegFolder

    mode, size, value, form = content
    for folder in ("images", "masks"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    for i in range(4):
        Image.new("RGB", (30, 20), (i, 0, 0)).save(place / "images" / f"{i}.png")
        Image.fromarray(np.full((20, 30), i % 2, np.uint8)).save(place / "masks" / f"{i}.png")
    odd = place / "masks" / "0.png"
    if form == "junk":
        odd.write_bytes(b"\x89PNG" + bytes(30))
    else:
        color = (value % 256,) * 3 if mode == "RGB" else (value % 256,) * 4 if mode == "RGBA" else value
        try:
            Image.new(mode, size, color).save(odd, form)
        except (OSError, TypeError, ValueError):  # no such form holds that
            return _Nothing()
    return SegFolder(root=str(place)).load()


class _Nothing:
    train = ()


KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Path, Any], Any]]] = {
    "COCO": (COCO, _coco),
    "CSV": (CSV, _csv),
    "YOLO": (YOLO, _yolo),
    "masks": (MASK, _mask),
}
EXAMPLES = 12
"""Of one try, which is one strategy with one seed."""


def try_files(rng: random.Random, world: World) -> list[Verdict]:
    """Some files of one form, each read once."""
    kind = rng.choice(list(KINDS))
    strategy, read = KINDS[kind]
    verdicts: list[Verdict] = []

    @seed(rng.randrange(2**32))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(content: Any) -> None:
        place = world.begin()
        verdicts.append(judged(f"{kind}: {content!r:.200}", called(lambda: _read(lambda: read(place, content)))))

    draw()
    return verdicts
