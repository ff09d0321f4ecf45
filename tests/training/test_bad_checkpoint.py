"""Checkpoints that are damaged, dangerous or of another run are refused, and put aside by force."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(stopped, share):
    command, folder = stopped
    path = folder / "checkpoint.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused_checkpoint(command(), path, "is damaged")


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
