"""Disks that are full: a sentence, a status that is not 0, and nothing half-written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from peftbench.cli.main import main
from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from support.disk import disk_full_beyond
from support.mistakes import files, pictures, run_folder

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")


@full
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "run={run}", "images={images}", "device=cpu"],
        ["report", "{run}"],
        ["report", "{run}", "format=csv"],
        ["method=linear", "backbone=vit_nano", "data=digits", "--cfg", "job"],
        ["list", "methods"],
        ["--version"],
    ],
)
def test_output_that_goes_to_a_full_disk_is_no_success(capsys, monkeypatch, finished, tmp_path, words):
    images = pictures(tmp_path / "images", {"a": 1})
    words = [word.format(run=run_folder(finished), images=images) for word in words]
    with FULL.open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        status = main(words)
        monkeypatch.setattr(out, "flush", lambda: None, raising=False)
    assert status == 2
    assert "peftbench: the standard output: could not be written (No space left on device)." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 704 vs 602"), "it may be full"),
        (RuntimeError("basic_ios::clear: iostream error while it writes"), "it may be full"),
        (OSError(28, "No space left on device", "/x/.part"), "(No space left on device)"),
    ],
)
def test_a_library_that_cannot_write_is_told_in_our_words(tmp_path, problem, why):
    with pytest.raises(UserError) as told, replacing(tmp_path / "a"):
        raise problem
    assert why in str(told.value)
    assert "enforce" not in str(told.value)
    assert files(tmp_path) == []


@pytest.mark.slow
def test_an_exported_program_that_finds_no_room_ends_no_process(capsys, finished, tmp_path):
    with disk_full_beyond(4000):
        status = main(["export", f"run={run_folder(finished)}", "format=torch_export", f"out={tmp_path / 'm.pt2'}"])
    assert status == 2
    assert "m.pt2: could not be written (File too large)." in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
