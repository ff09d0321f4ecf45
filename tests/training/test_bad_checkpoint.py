"""Damaged checkpoints are set aside; those that are dangerous, edited or of another run are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from peftbench.training.resuming import damage
from support.finished_runs import same
from support.mistakes import Bomb, record, refused


def spoil(folder: Path, change: Callable[[dict], object]) -> Path:
    """Writes the checkpoint anew as what `change` makes of it, or as it is after `change` when that returns None."""
    path = folder / "checkpoint.ckpt"
    content = torch.load(path, weights_only=True)
    made = change(content)
    torch.save(content if made is None else made, path)
    return path


def refused_checkpoint(told: tuple[int, str, str], path: Path, *parts: str) -> None:
    """The command refused the checkpoint and said what to do; the record says the same."""
    sentence = refused(told, str(path), "remove it, or give force=true", *parts)
    assert "is kept in" not in sentence
    assert path.is_file()
    stored = json.loads((path.parent / "result.json").read_text())
    assert stored["status"] == "failed"
    assert stored["reason"] in sentence


def test_a_checkpoint_with_a_pickle_inside_is_refused_and_its_code_does_not_run(stopped, tmp_path):
    command, folder = stopped
    path = spoil(folder, lambda content: content | {"callbacks": Bomb(tmp_path / "ran")})
    refused_checkpoint(command(), path, "Python objects")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_run_is_refused(stopped, tmp_path):
    command, folder = stopped
    assert command("seed=7")[0] == 0
    (other,) = tmp_path.glob("*-s7-*")
    path = folder / "checkpoint.ckpt"
    path.write_bytes((other / "checkpoint.ckpt").read_bytes())
    refused_checkpoint(command(), path, f"belongs to run {other.name}, not to {folder.name}")


def test_a_checkpoint_of_another_model_is_refused_with_the_tensor_that_does_not_fit(stopped):
    command, folder = stopped

    def widen(content: dict) -> None:
        content["state_dict"]["model.task.head.weight"] = torch.zeros(11, 192)

    path = spoil(folder, widen)
    refused_checkpoint(command(), path, "model.task.head.weight", "[11, 192]")


def test_a_checkpoint_with_a_tensor_that_the_model_has_not_is_refused(stopped):
    command, folder = stopped

    def add(content: dict) -> None:
        content["state_dict"]["model.side.weight"] = torch.zeros(3)

    path = spoil(folder, add)
    refused_checkpoint(command(), path, "model.side.weight")


def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_anew(stopped, finished):
    """A flipped bit of a weight, and a truncated file: both are kept, and the weights are those of the first run."""
    command, folder = stopped
    path = folder / "checkpoint.ckpt"
    sound = path.read_bytes()
    weight = torch.load(path, weights_only=True)["state_dict"]["model.task.head.weight"][3, 50].item()
    flipped = bytearray(sound)
    flipped[sound.index(struct.pack("<f", weight))] ^= 1
    for aside, content in {"checkpoint.ckpt.damaged": flipped, "checkpoint.ckpt.damaged-2": sound[:-100]}.items():
        path.write_bytes(content)
        (folder / "result.json").unlink(missing_ok=True)
        status, _, err = command()
        assert status == 0
        assert err.startswith(f"{path}: is damaged (")
        assert err.endswith(f"it is kept as {aside}, and the run starts anew\n")
        assert err.count("\n") == 1
        assert (folder / aside).read_bytes() == content
        assert json.loads((folder / "result.json").read_text())["costs"]["time"]["sessions"] == 1
        (delta,) = finished.glob("*/delta.safetensors")
        assert same(load_file(folder / delta.name), load_file(delta))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_damaged(stopped, share):
    path = stopped[1] / "checkpoint.ckpt"
    content = path.read_bytes()
    assert not damage(path)
    path.write_bytes(content[: int(share * len(content))])
    assert damage(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: torch.zeros(3),
        lambda content: {"state_dict": {}},
        lambda content: content | {"peftbench": {}},
        lambda content: content | {"peftbench": None},
        lambda content: {k: v for k, v in content.items() if k != "state_dict"},
        lambda content: content | {"state_dict": {"model.task.head.weight": 3}},
        lambda content: content | {"peftbench": {"id": content["peftbench"]["id"]}},
    ],
)
def test_a_file_that_is_no_checkpoint_of_ours_is_refused(stopped, change):
    command, folder = stopped
    path = spoil(folder, change)
    refused_checkpoint(command(), path)


def test_a_refused_checkpoint_is_put_aside_by_force(stopped, tmp_path):
    command, folder = stopped
    (folder / "checkpoint.ckpt").write_bytes(b"PK damaged")
    assert command("force=true")[0] == 0
    assert record(tmp_path)["status"] == "complete"
    (old,) = tmp_path.glob(".*.previous")
    assert (old / "checkpoint.ckpt").read_bytes() == b"PK damaged"
