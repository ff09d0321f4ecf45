"""Entries of the tap cache: read bit for bit, damage found and mended, filled once by two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.common.errors import UserError
from peftbench.taps import entries, in_file, store
from peftbench.taps.store import entry_key, taps_on_disk
from support.taps import cached, chunks, tensors


def resident() -> int:
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_a_large_cache_takes_no_memory_of_its_size(tmp_path):
    rows, wide = 64, 2**18
    fill = lambda: ([torch.full((8, wide), float(at))] for at in range(0, rows, 8))  # noqa: E731
    taps = taps_on_disk(tmp_path, {"what": "large"}, 4 * rows * wide, 2**30, fill, [].append)
    before, most = resident(), 0
    for at in torch.randperm(rows).split(4):
        (found,) = taps(at)
        assert torch.equal(found[:, -1], (at // 8 * 8).float())
        most = max(most, resident())
    assert most - before < 2**24 < taps.bytes == 2**26


def test_a_cache_cut_short_while_it_is_read_is_one_sentence(tmp_path):
    taps = cached(tmp_path)
    file = next(tmp_path.glob("*/tap-01.bin"))
    os.truncate(file, 8)
    with pytest.raises(UserError, match=r"tap-01\.bin: has been cut short while it was read"):
        taps(torch.arange(6))


@given(st.integers(1, 40), st.integers(1, 17))
@settings(deadline=None, max_examples=20)
def test_rows_come_back_bit_for_bit(tmp_path_factory, n, size):
    root = tmp_path_factory.mktemp("taps")
    values = tensors(n)
    taps = taps_on_disk(root, {"n": n}, 0, 2**30, lambda: chunks(values, size), print)
    rows = torch.randint(n, (7,))
    for mine, theirs in zip(taps(rows), values, strict=True):
        assert torch.equal(mine.view(torch.int16), theirs[rows].view(torch.int16))
        assert mine.dtype == theirs.dtype
    assert taps.bytes == store.size_of_taps(values)


DAMAGE = {
    "flip": "a checksum differs",
    "cut": "tap-00.bin has 287 bytes, expected 288",
    "longer": "tap-00.bin has 289 bytes, expected 288",
    "gone": "tap-00.bin is missing",
    "about": "its description is damaged",
    "empty about": "its description is damaged",
    "no number": "its description is damaged",
    "no type": "its description is damaged",
    "no text": "its description is damaged",
    "no about": "its description is missing",
    "other about": "it is of another what (b, not a)",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_is_found_told_listed_and_mended(tmp_path, monkeypatch, damage, capsys):
    from peftbench.cli.main import main

    monkeypatch.setattr(in_file, "BLOCK", 64)
    first = cached(tmp_path)
    folder = tmp_path / first.key
    path = folder / "tap-00.bin"
    content = path.read_bytes()
    about = folder / "about.json"
    {
        "flip": lambda: path.write_bytes(content[:70] + bytes([content[70] ^ 1]) + content[71:]),
        "cut": lambda: path.write_bytes(content[:-1]),
        "longer": lambda: path.write_bytes(content + b"0"),
        "gone": path.unlink,
        "about": lambda: about.write_text("{"),
        "empty about": lambda: about.write_text('{"taps": 3, "about": {"what": "a"}}'),
        "no number": lambda: about.write_text(about.read_text().replace('"rows": 6', '"rows": "6"')),
        "no type": lambda: about.write_text(about.read_text().replace("float32", "__doc__")),
        "no text": lambda: about.write_bytes(b"\xff\xfe"),
        "no about": about.unlink,
        "other about": lambda: about.write_text(about.read_text().replace('"a"', '"b"')),
    }[damage]()
    monkeypatch.setattr(store, "_VERIFIED", set())
    assert main(["taps", "list", f"taps.dir={tmp_path}"]) == 0
    assert f"{tmp_path}: 1 entry, " in (out := capsys.readouterr().out)
    assert ("damaged" in out) == ("description" in DAMAGE[damage])
    told: list[str] = []
    second = cached(tmp_path, told=told)
    assert told == [f"{folder}: {DAMAGE[damage]}; its taps are computed again"]
    assert second.filled == 6
    assert all(torch.equal(a, b) for a, b in zip(second(torch.arange(6)), tensors(), strict=True))
    assert cached(tmp_path).filled == 0


@pytest.mark.slow
def test_two_processes_fill_an_entry_once(tmp_path):
    code = """
import sys, time, torch
from pathlib import Path
from peftbench.taps.store import taps_on_disk

def fill():
    time.sleep(1.0)
    yield [torch.arange(12.0).view(3, 4)]

told = []
taps = taps_on_disk(Path(sys.argv[1]), {"what": "shared"}, 48, 2**30, fill, told.append)
print(taps.filled, taps(torch.tensor([2]))[0].tolist(), len(told))
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = sorted(p.communicate(timeout=120)[0].split(" ", 1) for p in both)
    assert [f[0] for f in found] == ["0", "3"]
    assert all("[[8.0, 9.0, 10.0, 11.0]]" in f[1] for f in found)


def test_what_a_killed_run_left_is_listed_and_swept_away(tmp_path, capsys):
    left = tmp_path / ".parts" / f"{entry_key({'what': 'a'})}.123"
    left.mkdir(parents=True)
    (left / "tap-00.bin").write_bytes(b"x" * 1000)
    from peftbench.cli.main import main

    assert main(["taps", "list", f"taps.dir={tmp_path}"]) == 0
    assert "1 half-written by killed runs, 1 kB; peftbench taps clear removes them" in capsys.readouterr().out
    with entries.lock_for_filling(tmp_path, entry_key({"what": "a"})):  # by a run that lives
        assert main(["taps", "list", f"taps.dir={tmp_path}"]) == 0
    assert "half-written" not in capsys.readouterr().out
    cached(tmp_path)
    assert not left.exists()
