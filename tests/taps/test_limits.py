"""The tap cache where there is no room, no disk or no permission."""

from __future__ import annotations

import errno
import os
import shutil
import time

import pytest

from peftbench.common.errors import UserError
from peftbench.taps import entries, writing
from peftbench.taps.entries import make_room
from peftbench.taps.store import entry_key
from support.taps import RUN, cached, record


def test_no_room_is_one_sentence_before_anything_is_computed(cli, tmp_path, cache):
    status, _, err = cli(*RUN, "taps=disk", "taps.max_gb=0.0001")
    assert status == 2
    assert err.splitlines()[-1].startswith("peftbench: taps.max_gb=0.0001: these taps need ")
    assert not list(cache.glob("[0-9a-f]*"))
    status, _, err = cli(*RUN, "taps.max_gb=0.0001", f"output_dir={tmp_path / 'auto'}")
    assert status == 0
    assert err.count("these taps need") == err.count("keeps them in memory") == 1, "said of both splits at once"
    assert record(tmp_path / "auto")["costs"]["taps"]["mode"] == "memory"
    status, _, err = cli(*RUN, "taps.max_gb=0.0001", "taps.memory_gb=0", f"output_dir={tmp_path / 'off'}")
    assert status == 0
    assert "does without" in err
    assert record(tmp_path / "off")["costs"]["taps"]["mode"] == "off"


def test_a_disk_without_space_is_refused_before_filling(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * 2**20))
    with pytest.raises(UserError, match=r"need 3 MiB, and the disk has 20 MiB free, .* 64 MiB .*: 47 MiB too little"):
        make_room(tmp_path, 3 * 2**20, 2**30)
    with pytest.raises(UserError, match="too little"):
        cached(tmp_path)


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    written = writing.Checked.write

    def full(file, tap):
        if len(tap) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file, tap)

    with monkeypatch.context() as patched:
        patched.setattr(writing.Checked, "write", full)
        with pytest.raises(UserError, match="the disk is full"):
            cached(tmp_path)
    assert not list(tmp_path.glob("[0-9a-f]*"))
    assert not list((tmp_path / ".parts").glob("*"))
    assert cached(tmp_path).filled == 6  # and the next run fills it


def test_a_damaged_image_is_no_failure_of_the_cache(cli, tmp_path, images, cache):
    bad = shutil.copytree(images, tmp_path / "bad")
    for path in (bad / "bee").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    status, _, err = cli(*RUN, f"data.root={bad}")
    assert status == 2
    (line,) = [line for line in err.splitlines() if "cannot be read" in line]
    assert line.startswith(f"peftbench: {bad / 'bee'}")
    assert "taps=auto" not in err
    assert not list(cache.rglob("tap-*"))


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"taps\.dir=.*cannot be written"):
        cached(tmp_path / "file" / "taps")


def test_the_entry_used_longest_ago_makes_room_unless_it_is_being_read(tmp_path):
    held = cached(tmp_path, about="held")
    cached(tmp_path, about="old")
    cached(tmp_path, about="new")
    for age, name in ((300, "held"), (200, "old"), (100, "new")):
        os.utime(tmp_path / entry_key({"what": name}) / "about.json", (time.time() - age,) * 2)
    total = sum(e.bytes for e in entries.entries(tmp_path))
    make_room(tmp_path, 10, total)
    assert {e.key for e in entries.entries(tmp_path)} == {held.key, entry_key({"what": "new"})}
