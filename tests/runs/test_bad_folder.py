"""Damaged records, folders that cannot be written, and a full disk: what was there is left alone."""

from __future__ import annotations

import json
import os

import pytest
import torch
from filelock import FileLock

from peftbench import deltas
from peftbench.common.errors import UserError
from support.disk import disk_full_beyond
from support.mistakes import files, record, refused

# -- records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 99}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_record_is_refused_and_left_alone(stopped, content):
    command, folder = stopped
    (folder / "result.json").write_bytes(content)
    before = files(folder)
    refused(command(), str(folder / "result.json"))
    assert (folder / "result.json").read_bytes() == content
    assert files(folder) == before


def test_a_run_whose_record_was_removed_is_completed_from_its_checkpoint(stopped, tmp_path):
    command, folder = stopped
    learned, _ = deltas.load_delta(folder / "delta.safetensors")
    status, _, err = command()
    assert (status, err) == (0, "")
    assert record(tmp_path)["status"] == "complete"
    again, _ = deltas.load_delta(folder / "delta.safetensors")
    assert again.keys() == learned.keys()
    assert all(torch.equal(again[name], learned[name]) for name in learned)


# -- the output folder


def test_an_output_folder_that_is_a_file_is_told(cli, tiny, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for place in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        for mode in ([], ["-m"]):
            told = cli(*mode, *tiny, "method=linear", f"output_dir={place}")
            refused(told, str(tmp_path / "taken"), "cannot be written")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_permission_is_told(cli, tiny, tmp_path):
    tmp_path.chmod(0o555)
    try:
        refused(cli(*tiny, "method=linear"), str(tmp_path), "cannot be written")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", [".locks", "run"])
def test_a_file_where_a_folder_has_to_be_is_told(stopped, tmp_path, name):
    command, folder = stopped
    place = tmp_path / ".locks" if name == ".locks" else folder
    place.rename(tmp_path / "aside")
    place.write_text("mine")
    refused(command(), "cannot be written")
    assert place.read_text() == "mine"


def test_a_run_that_another_process_carries_out_is_told(stopped, tmp_path):
    command, folder = stopped
    with FileLock(tmp_path / ".locks" / folder.name):
        refused(command(), str(folder), "another process")


def test_no_space_for_a_delta_leaves_the_old_one(tmp_path):
    path = tmp_path / "delta.safetensors"
    deltas.save_delta(path, {"a": torch.zeros(3)}, {})
    before = path.read_bytes()
    with disk_full_beyond(4096), pytest.raises(UserError) as refusal:
        deltas.save_delta(path, {"a": torch.zeros(5000)}, {})
    assert str(path) in str(refusal.value)
    assert "what was there before is kept" in str(refusal.value)
    assert files(tmp_path) == ["delta.safetensors"]
    assert path.read_bytes() == before


def test_a_run_without_space_for_its_delta_fails_and_leaves_the_old_one(stopped, finished, tmp_path):
    command, folder = stopped
    before = {name: (folder / name).read_bytes() for name in ("delta.safetensors", "checkpoint.ckpt")}
    # the failed run's record, which tells its reason, still fits where the delta does not
    (finished_record,) = finished.glob("*/result.json")
    space = finished_record.stat().st_size
    assert len(before["delta.safetensors"]) > space
    with disk_full_beyond(space):
        told = command()
    refused(told, str(folder / "delta.safetensors"), "could not be written")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert record(tmp_path)["status"] == "failed"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("size", [0, 2000, 3000, 4000, 20000])
def test_a_disk_that_is_full_from_some_point_on_is_told_in_one_sentence(cli, tiny, tmp_path, size):
    with disk_full_beyond(size):
        told = cli(*tiny, "method=linear")
    refused(told, "could not be written")
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("delta.safetensors"))
    for path in tmp_path.glob("*/result.json"):
        assert json.loads(path.read_text())["status"] in ("running", "failed")
