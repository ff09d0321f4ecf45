"""Which test images a run has right: a file in its folder, a bit an image, that its record binds by a hash.

Two runs are so compared image by image (`pairwise.py`). The task decides whether its runs leave the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.common.atomic_files import replacing
from peftbench.common.regular_files import content_of

if TYPE_CHECKING:
    import numpy as np

FILE = "test_right.bits"
"""The bits in the order of the test images, the first image in the highest bit of the first byte; the rest is 0."""
OF_GROUP = "test_group.bits"
"""Likewise, whether the class that was said is in the right group of classes, of runs of `data.class_groups`."""


@dataclass(frozen=True, slots=True)
class PerImage:
    """What a record says of the file: the metric whose mean the bits are, how many images, and the file's sha256.

    `skipped` are the damaged images that the run left out.
    """

    metric: str
    images: int
    sha256: str
    skipped: tuple[str, ...] = ()


def write_right(right: Sequence[bool] | np.ndarray, metric: str, folder: Path, name: str = FILE) -> dict[str, Any]:
    """Writes the file into a run's folder, whole or not at all; returns what the record says of it.

    Args:
        right: of each test image, in the order of the split, whether the run has it right.
        metric: what their mean is called, such as `accuracy`.
        name: of the file.

    Raises:
        UserError: it cannot be written.
    """
    import numpy as np

    content = np.packbits(np.asarray(right, dtype=bool)).tobytes()
    with replacing(folder / name) as part:
        part.write_bytes(content)
    return {"metric": metric, "images": len(right), "sha256": hashlib.sha256(content).hexdigest()}


def stamped(stamps: Mapping[str, Any], key: str = "right") -> PerImage | None:
    """What a record's stamps say of the file, under a key; None where they say nothing of use."""
    stamp = stamps.get(key)
    if not isinstance(stamp, Mapping):
        return None
    metric, images, sha256 = (stamp.get(key) for key in ("metric", "images", "sha256"))
    whole = isinstance(metric, str) and type(images) is int and images > 0 and isinstance(sha256, str)
    skipped = tuple(map(str, (stamps.get("data") or {}).get("skipped") or ()))
    return PerImage(metric, images, sha256, skipped) if whole else None  # type: ignore[arg-type]


@lru_cache(256)
def read_right(folder: str, stamp: PerImage, name: str = FILE) -> np.ndarray | None:
    """Of each test image whether the run has it right, bool (images,); None where the file is not that of the record.

    Args:
        folder: the run's.
        name: of the file.
    """
    import numpy as np

    path = Path(folder) / name
    try:
        if not path.is_file() or path.stat().st_size != -(-stamp.images // 8):
            return None
        content = content_of(path)
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != stamp.sha256:
        return None
    return np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=stamp.images).astype(bool)
