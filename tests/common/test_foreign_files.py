"""Only what peftbench wrote is ever removed: files of others stay where they are, whatever cleans beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from peftbench import UserError
from peftbench.cli.main import main
from peftbench.data.digits_det import DigitsDet
from peftbench.data.prepare.task_folder import building_folder
from peftbench.runs.run import run_jointly
from peftbench.runs.shared_checkpoint import shared_folder
from peftbench.taps.store import taps_on_disk
from support.runs import compose

KEY = "0123456789abcdef0123"
links = pytest.mark.skipif(os.name == "nt", reason="Windows makes no links without a right")


def filled(root: Path, name: str) -> Path:
    """The folder of a new entry of the tap cache."""
    taps = taps_on_disk(root, {"data": name}, 48, 2**20, lambda: iter([[torch.zeros(3, 4)]]), print)
    return root / taps.key


def mine(folder: Path, *names: str) -> dict[Path, bytes]:
    """Files of somebody else's in a folder, by path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"my {name}")
    return {folder / name: f"my {name}".encode() for name in names}


def unharmed(files: dict[Path, bytes]) -> bool:
    return all(path.read_bytes() == content for path, content in files.items())


def clean(root: Path) -> None:
    """All that cleans a tap cache: another entry, for which there is only room without the others, and the command."""
    filled(root, "first")
    taps_on_disk(root, {"data": "second"}, 2**20, 2**20, lambda: iter([[torch.zeros(3, 4)]]), print)
    assert main(["taps", "clear", f"taps.dir={root}"]) == 0


def test_a_folder_named_parts_that_is_somebodys_own_is_kept(tmp_path):
    files = mine(tmp_path / ".parts", "wheel.step") | mine(tmp_path / ".parts" / "engine", "piston.step")
    files |= mine(tmp_path / ".parts" / f"{KEY}.77", "tap-00.bin", "notes.txt")
    clean(tmp_path)
    assert unharmed(files)


@links
def test_what_a_link_named_parts_leads_to_is_kept(tmp_path):
    files = mine(tmp_path / "mine", "a.txt") | mine(tmp_path / "mine" / f"{KEY}.77", "tap-00.bin")
    (tmp_path / "taps").mkdir()
    (tmp_path / "taps" / ".parts").symlink_to(tmp_path / "mine")
    clean(tmp_path / "taps")
    assert unharmed(files)


@links
def test_what_a_link_among_the_parts_leads_to_is_kept(tmp_path):
    files = mine(tmp_path / "mine", "about.json", "tap-00.bin")
    (tmp_path / "taps" / ".parts").mkdir(parents=True)
    (tmp_path / "taps" / ".parts" / f"{KEY}.77").symlink_to(tmp_path / "mine")
    clean(tmp_path / "taps")
    assert unharmed(files)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    mine(tmp_path / ".parts" / f"{KEY}.77", "tap-00.bin", "about.json")
    mine(tmp_path / ".parts" / f"{KEY}.78.removed", "tap-00.bin")
    clean(tmp_path)
    assert not list((tmp_path / ".parts").iterdir())


def test_an_entry_in_which_somebody_keeps_files_is_kept(tmp_path, capsys):
    entry = filled(tmp_path, "mine")
    files = mine(entry, "notes.txt")
    clean(tmp_path)
    assert unharmed(files)
    assert (entry / "tap-00.bin").is_file()
    assert "holds other files, and is kept" in capsys.readouterr().out
    (entry / "tap-00.bin").write_bytes(b"damaged")
    with pytest.raises(UserError, match="holds files that are not of peftbench; move it away"):
        filled(tmp_path, "mine")
    assert "computed again" not in capsys.readouterr().out, "which it is not"
    assert unharmed(files)


@links
def test_an_entry_that_is_a_link_is_kept(tmp_path):
    entry = filled(tmp_path / "taps", "mine")
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    clean(tmp_path / "taps")
    assert entry.is_symlink()
    assert (tmp_path / "elsewhere" / "tap-00.bin").is_file()


def test_a_folder_in_which_a_task_would_be_made_is_kept_where_it_is_somebodys_own(tmp_path):
    files = mine(tmp_path / ".svhn.preparing", "mine.txt")
    with (
        pytest.raises(UserError, match="was not begun by peftbench; move it away"),
        building_folder(tmp_path / "svhn", "plan"),
    ):
        pass
    assert unharmed(files)


def test_drawn_digits_that_somebody_changed_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    digits = DigitsDet(images=(2, 1, 1), canvas=64)
    before = digits.load()
    (stamp,) = tmp_path.glob("digits_det/*/stamp.json")
    mine(stamp.parent, "mine.txt")
    assert digits.load().train.content == before.train.content
    assert [p.read_text() for p in tmp_path.glob("digits_det/*/*/mine.txt")] == ["my mine.txt"]


@pytest.mark.slow
def test_the_shared_folder_of_runs_together_is_kept_where_files_of_others_are_in_it(tmp_path, monkeypatch):
    made = []

    def noted(runs: list) -> Path:
        made.append(shared_folder(runs))
        mine(made[0], "notes.txt")
        return made[0]

    monkeypatch.setattr("peftbench.runs.run.shared_folder", noted)
    words = ["method=linear", "taps=memory", "trainer.epochs=1"]
    run_jointly([compose(tmp_path, *words, f"optimizer.lr={rate}") for rate in (0.01, 0.1)])
    assert [p.name for p in made[0].iterdir()] == ["notes.txt"]
