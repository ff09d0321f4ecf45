"""Preparing that was interrupted, and a full disk: the same command goes on from there."""

from __future__ import annotations

import sys

import pytest
from filelock import FileLock

from support.disk import disk_full_beyond
from support.standins import WORDS
from support.vtab import one_line


def test_a_full_disk_is_told_and_the_same_command_goes_on_from_there(archives, prepared, data, tmp_path):
    words = ("prepare", "vtab/eurosat", f"archives={archives}", f"dir={tmp_path}", *WORDS)
    sizes = sorted(p.stat().st_size for p in (prepared[0] / "eurosat/images").rglob("*.jpg"))
    with disk_full_beyond(sizes[-1] - 1):
        one_line(data(*words), str(tmp_path / "eurosat"), "could not be written", "goes on from there")
    assert not (tmp_path / "eurosat").exists()
    begun = {p: p.stat().st_mtime_ns for p in (tmp_path / ".eurosat.preparing/images/train800").glob("*.jpg")}
    assert begun
    assert data(*words)[0] == 0
    for path, written in begun.items():
        kept = tmp_path / "eurosat" / path.relative_to(tmp_path / ".eurosat.preparing")
        assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "eurosat/split.json").read_bytes() == (prepared[0] / "eurosat/split.json").read_bytes()
    assert [p.name for p in tmp_path.glob("*euro*")] + [p.name for p in tmp_path.glob(".*")] == ["eurosat"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_command_that_is_killed_goes_on_where_it_was(archives, prepared, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    words = ["data", "prepare", "vtab/diabetic_retinopathy", f"archives={archives}", f"dir={tmp_path}", *WORDS]
    command = [sys.executable, "-c", f"import sys; from peftbench.cli.main import main; sys.exit(main({words!r}))"]
    begun, made = tmp_path / ".diabetic_retinopathy.preparing", tmp_path / "diabetic_retinopathy"
    with subprocess.Popen(command) as running:
        deadline = time.monotonic() + 60
        while not list(begun.glob("images/train800/*.png")) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert not made.exists()
    before = {p.relative_to(begun): p.stat().st_mtime_ns for p in begun.glob("images/*/*.png")}
    assert before
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert {name: (made / name).stat().st_mtime_ns for name in before} == before
    assert (made / "split.json").read_bytes() == (prepared[0] / made.name / "split.json").read_bytes()


def test_what_was_begun_for_another_split_is_begun_anew(archives, prepared, data, tmp_path):
    begun = tmp_path / ".svhn.preparing"
    (begun / "images/train800").mkdir(parents=True)
    (begun / "images/train800/000000.png").write_bytes(b"of another split")
    (begun / ".plan").write_text("another")
    assert data("prepare", "vtab/svhn", f"archives={archives}", f"dir={tmp_path}", *WORDS)[0] == 0
    assert (tmp_path / "svhn/split.json").read_bytes() == (prepared[0] / "svhn/split.json").read_bytes()


def test_two_at_a_time_do_not_write_one_folder(archives, data, tmp_path):
    with FileLock(tmp_path / ".svhn.preparing.lock"):
        told = data("prepare", "vtab/svhn", f"archives={archives}", f"dir={tmp_path}", *WORDS)
    one_line(told, "svhn", "another process")
