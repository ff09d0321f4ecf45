"""The tap cache: computed once, bit-equal to computing always, shared, checked, limited, listed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.taps import entries, store
from peftbench.taps.entries import make_room
from peftbench.taps.store import Taps, entry_key, taps_on_disk

RUN = ["method=losa", "backbone=resnet_nano", "data=folder", "trainer.epochs=2", "trainer.max_batches=4", "logger=none"]
RUN += ["data.val_fraction=0.25", "data.test_fraction=0.25"]


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


def record(folder: Path) -> dict:
    (found,) = folder.glob("[!.]*/result.json")
    return json.loads(found.read_text())


def history(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "train_seconds"} for row in record(folder)["history"]]


def tensors(n: int = 6) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 4, generator=g), torch.randn(n, 5, generator=g).bfloat16()]


def chunks(given: list[torch.Tensor], size: int = 4):
    for at in range(0, len(given[0]), size):
        yield [t[at : at + size] for t in given]


def cached(root: Path, n: int = 6, told: list[str] | None = None, about: str = "a", limit: int = 2**30) -> Taps:
    values = tensors(n)
    tell = [].append if told is None else told.append
    return taps_on_disk(root, {"what": about}, store.size_of_taps(values), limit, lambda: chunks(values), tell)


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


# -- runs


SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("hybrid_nano", "efficientnet_lite0")]


@pytest.mark.parametrize("backbone", ["vit_nano", "resnet_nano", *SLOWLY])
def test_training_from_the_cache_is_training_without_it(cli, tmp_path, backbone):
    words = [w if not w.startswith("backbone") else f"backbone={backbone}" for w in RUN]
    words += ["data.batch_size=7", "data.stage=tune", "data.eval_batch_size=11"]
    for mode in ("off", "disk", "memory"):
        assert cli(*words, f"taps={mode}", f"output_dir={tmp_path / mode}")[0] == 0
    assert history(tmp_path / "off") == history(tmp_path / "disk") == history(tmp_path / "memory")
    assert record(tmp_path / "off")["metrics"] == record(tmp_path / "disk")["metrics"]


def test_a_second_run_computes_no_taps_and_the_record_says_so(cli, tmp_path):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    status, out, _ = cli(*RUN, "optimizer.lr=0.01", f"output_dir={tmp_path / 'b'}")
    assert status == 0
    first, second = (record(tmp_path / n)["costs"]["taps"] for n in "ab")
    assert first["mode"] == second["mode"] == "disk"
    assert first["computed"] == first["rows"] == second["rows"] > 0
    assert second["computed"] == 0
    assert second["seconds"] == 0
    assert "disk, filled" in out


def test_other_weights_seeds_and_methods_have_taps_of_their_own(cli, tmp_path, cache):
    random = [*RUN, "backbone.pretrained=false"]  # the same name, other weights
    for i, words in enumerate(([*RUN], random, [*random, "seed=1"], ["method=linear", *RUN[1:]])):
        assert cli(*words, f"output_dir={tmp_path / str(i)}")[0] == 0
        assert record(tmp_path / str(i))["costs"]["taps"]["computed"] > 0
    assert len(entries.entries(cache)) == 8  # training and validation images of each


def test_a_damaged_entry_is_noticed_and_computed_again(cli, tmp_path, cache, monkeypatch):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    monkeypatch.setattr(store, "_VERIFIED", set())  # as in another process
    for entry in entries.entries(cache):
        path = entry.folder / "tap-02.bin"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    status, _, err = cli(*RUN, "force=true", f"output_dir={tmp_path / 'a'}")
    assert status == 0
    assert err.count("a checksum differs") == 2
    whole = record(tmp_path / "a")
    assert whole["costs"]["taps"]["computed"] == whole["costs"]["taps"]["rows"]
    assert cli(*RUN, "taps=off", f"output_dir={tmp_path / 'b'}")[0] == 0
    assert history(tmp_path / "a") == history(tmp_path / "b")


def test_random_augmentation_is_not_cached_and_fixed_views_are(cli, tmp_path):
    status, _, err = cli(*RUN, "data.augment=flip", f"output_dir={tmp_path / 'a'}")
    assert status == 0
    assert "not kept" in err
    assert "taps.views=4" in err
    assert record(tmp_path / "a")["costs"]["taps"]["mode"] == "off"
    views = [*RUN, "data.augment=flip", "taps.views=2"]
    assert cli(*views, f"output_dir={tmp_path / 'b'}")[0] == 0
    kept = record(tmp_path / "b")["costs"]["taps"]
    assert kept["views"] == 2
    assert kept["rows"] > record(tmp_path / "b")["stamps"]["data"].get("rows", 0)
    assert cli(*views, "taps=off", f"output_dir={tmp_path / 'c'}")[0] == 0
    assert history(tmp_path / "b") == history(tmp_path / "c") != history(tmp_path / "a")


def test_a_method_that_changes_the_backbone_has_no_taps(cli, tmp_path, cache, tiny):
    status, _, err = cli("method=bitfit", "taps=disk", *[w for w in tiny if "progress" not in w])
    assert status == 0
    assert "method=bitfit changes the backbone" in err
    assert "taps" not in record(tmp_path)["costs"]
    assert not cache.exists()


def test_validation_is_cached_and_test_images_never_are(cli, tmp_path, cache):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    rows = sorted(e.about["rows"] for e in entries.entries(cache))
    assert len(rows) == 2
    assert sum(rows) == record(tmp_path / "a")["costs"]["taps"]["rows"] == 36


def test_an_order_seed_of_its_own_keeps_the_batches_while_the_seed_changes(cli, tmp_path):
    def first_loss(*words: str) -> float:
        folder = tmp_path / "-".join(words).replace("=", "")
        assert cli("method=linear", *RUN[1:], *words, f"output_dir={folder}")[0] == 0
        return record(folder)["config"]["data"]["order_seed"]

    assert first_loss("seed=1", "data.order_seed=7") == 7
    assert first_loss("seed=1") is None


# -- limits


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
    written = store._Checked.write

    def full(file, tap):
        if len(tap) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file, tap)

    with monkeypatch.context() as patched:
        patched.setattr(store._Checked, "write", full)
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


# -- entries


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

    monkeypatch.setattr(store, "BLOCK", 64)
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
    assert f"{tmp_path}: 1 entries" in (out := capsys.readouterr().out)
    assert ("damaged" in out) == ("description" in DAMAGE[damage])
    told: list[str] = []
    second = cached(tmp_path, told=told)
    assert told == [f"{folder}: {DAMAGE[damage]}; its taps are computed again"]
    assert second.filled == 6
    assert all(torch.equal(a, b) for a, b in zip(second(torch.arange(6)), tensors(), strict=True))
    assert cached(tmp_path).filled == 0


def test_two_processes_fill_an_entry_once(tmp_path):
    code = """
import sys, time, torch
from pathlib import Path
from peftbench.taps.store import on_disk

def fill():
    time.sleep(1.0)
    yield [torch.arange(12.0).view(3, 4)]

told = []
taps = on_disk(Path(sys.argv[1]), {"what": "shared"}, 48, 2**30, fill, told.append)
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


# -- the command


def test_taps_are_listed_and_cleared(cli, tmp_path, cache):
    assert cli(*RUN, f"output_dir={tmp_path / 'a'}")[0] == 0
    status, out, _ = cli("taps", "list", "output_dir=x")
    assert status == 2 or "digits" in out
    from peftbench.cli.main import main

    assert main(["taps", "list"]) == 0
    found = entries.entries(cache)
    assert main(["taps", "clear", found[0].key[:8]]) == 0
    assert len(entries.entries(cache)) == 1
    assert main(["taps", "clear"]) == 0
    assert entries.entries(cache) == []
    assert (tmp_path / "a").exists()


def test_damaged_entries_are_cleared_and_what_is_none_is_left_alone(tmp_path):
    from peftbench.cli.main import main

    (tmp_path / cached(tmp_path).key / "about.json").write_text("{")
    for name in ("0" * 20, "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    assert main(["taps", "clear", f"taps.dir={tmp_path}"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {".locks", ".parts", "0" * 20, "mine"}


def test_what_is_being_read_is_not_cleared(cache, capsys):
    from peftbench.cli.main import main

    taps = cached(cache)
    assert main(["taps", "clear"]) == 0
    assert "is being read by a run" in capsys.readouterr().out
    assert len(entries.entries(cache)) == 1
    np.testing.assert_array_equal(taps(torch.arange(6))[0].numpy(), tensors()[0].numpy())


@pytest.mark.parametrize("words", [["taps", "lst"], ["taps", "clear", "zzzz"], ["taps", "list", "x"]])
def test_mistakes_at_the_command_are_one_sentence(words, capsys):
    from peftbench.cli.main import main

    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
