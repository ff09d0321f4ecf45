"""Weights that are missing, damaged, dangerous or of another model: one sentence each."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from support.mistakes import Bomb, files, refused

NANO = {"channels": [32, 48, 96, 192], "num_classes": 0}  # of backbone=resnet_nano


def weights(cli: Callable, tiny: list[str], path: Path | str) -> tuple[int, str, str]:
    return cli(*tiny, "method=linear", "backbone.pretrained=true", f"backbone.weights={path}")


def nano() -> dict[str, torch.Tensor]:
    return timm.create_model("resnet18", **NANO).state_dict()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_that_fit_are_loaded_from_a_file(cli, tiny, tmp_path, name):
    state = nano()
    if name.endswith("pth"):
        torch.save({"state_dict": state}, tmp_path / name)
    else:
        safetensors.torch.save_file(state, tmp_path / name)
    assert weights(cli, tiny, tmp_path / name)[0] == 0


def test_weights_that_are_not_there_are_told(cli, tiny, tmp_path):
    refused(weights(cli, tiny, tmp_path / "none.pth"), str(tmp_path / "none.pth"), "there is no such file")
    refused(weights(cli, tiny, "package:none"), "package:none", "resnet_nano")
    assert files(tmp_path) == []


def test_weights_that_cannot_be_fetched_are_told_with_what_works_offline(cli, tmp_path):
    told = cli("method=linear", "data=digits", "backbone=timm", "backbone.name=resnet10t.c3_in1k")
    refused(told, "backbone.name=resnet10t.c3_in1k", "could not be fetched", "backbone.weights=", "resnet_nano")
    assert files(tmp_path) == []


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("writer", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj, 2))])
def test_a_pickle_offered_as_weights_is_refused_and_its_code_does_not_run(cli, tiny, tmp_path, writer, wrapped):
    bomb = Bomb(tmp_path / "ran")
    writer({"state_dict": {"conv1.weight": bomb}} if wrapped else bomb, tmp_path / "w.pth")
    refused(weights(cli, tiny, tmp_path / "w.pth"), str(tmp_path / "w.pth"), "safetensors")
    assert files(tmp_path) == ["w.pth"]
    assert not (tmp_path / "ran").exists()


def test_a_pickle_called_safetensors_is_refused(cli, tiny, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refused(weights(cli, tiny, tmp_path / "w.safetensors"), "not a readable weights file")
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_in_a_pickle_is_refused(cli, tiny, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    refused(weights(cli, tiny, tmp_path / "w.pt"), "state dict")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_truncated_weights_file_is_refused(cli, tiny, tmp_path, name, share):
    path = tmp_path / name
    torch.save(nano(), path) if name.endswith("pth") else safetensors.torch.save_file(nano(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(weights(cli, tiny, path), str(path), "not a readable weights file")
    assert files(tmp_path) == [name]


def test_a_state_dict_whose_names_are_numbers_is_refused(cli, tiny, tmp_path):
    torch.save({3: torch.zeros(2)}, tmp_path / "w.pth")
    refused(weights(cli, tiny, tmp_path / "w.pth"), "w.pth: expected a state dict (names to tensors), found the name 3")


def test_a_text_file_offered_as_weights_is_not_called_a_pickle(cli, tiny, tmp_path):
    (tmp_path / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    told = refused(weights(cli, tiny, tmp_path / "w.pth"), str(tmp_path / "w.pth"))
    assert "holds Python objects" not in told


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_file_that_is_no_state_dict_is_refused(cli, tiny, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refused(weights(cli, tiny, tmp_path / "w.pth"), str(tmp_path / "w.pth"), "state dict")


def test_weights_of_another_model_are_refused_with_the_names_that_do_not_fit(cli, tiny, tmp_path):
    safetensors.torch.save_file({"blocks.0.attn.qkv.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    told = weights(cli, tiny, tmp_path / "w.safetensors")
    refused(
        told, f"backbone.weights={tmp_path / 'w.safetensors'}", "resnet18", "conv1.weight", "blocks.0.attn.qkv.weight"
    )
    assert files(tmp_path) == ["w.safetensors"]


def test_weights_of_another_shape_are_refused_with_both_shapes(cli, tiny, tmp_path):
    state = nano()
    state["layer4.0.conv1.weight"] = torch.zeros(7, 96, 3, 3)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    told = weights(cli, tiny, tmp_path / "w.safetensors")
    refused(told, "layer4.0.conv1.weight", "[7, 96, 3, 3] in the file", "[192, 96, 3, 3] expected")


def test_weights_that_lack_a_tensor_are_refused_with_its_name(cli, tiny, tmp_path):
    state = nano()
    del state["layer4.0.bn1.running_var"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    refused(weights(cli, tiny, tmp_path / "w.safetensors"), "1 missing key", "layer4.0.bn1.running_var")
