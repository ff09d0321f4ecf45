"""What the tests of clips share."""

from __future__ import annotations

import pytest

from peftbench.data.base import Split
from peftbench.data.video_folder import VideoFolder
from support.clips import tree


@pytest.fixture
def split(tmp_path) -> Split:
    """Ten clips of three frames, of which two are read."""
    return VideoFolder(str(tree(tmp_path)), val_fraction=0, test_fraction=0, frames=2).load().train


@pytest.fixture(scope="session")
def av():
    return pytest.importorskip("av")
