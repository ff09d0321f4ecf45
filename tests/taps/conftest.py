"""Images to train on, and a cache of its own for every test of taps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.taps import RUN


@pytest.fixture(autouse=True, scope="session")
def images(tmp_path_factory) -> Path:
    """Three classes of sixteen small images."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "fly"):
        (root / name).mkdir()
        for i in range(16):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    RUN.append(f"data.root={root}")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "taps"
