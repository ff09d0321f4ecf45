"""What the tests of mistakes share: one sentence, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image


def refused(told: tuple[int, str, str], *parts: str) -> str:
    """Checks that a command ended with one sentence that holds `parts`, and returns it."""
    status, out, err = told
    assert status not in (0, None)
    assert "Traceback" not in out + err
    assert err.startswith("peftbench: ")
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err
    return err


def files(folder: Path) -> list[str]:
    """Every file below `folder`, but for the locks."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts)


def run_folder(output: Path) -> Path:
    """The one run folder in `output`."""
    (record,) = output.glob("*/result.json")
    return record.parent


def record(output: Path) -> dict:
    return json.loads((run_folder(output) / "result.json").read_text())


def pictures(root: Path, counts: dict[str, int]) -> Path:
    """`root/<class>/<number>.png` of random pixels."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)
