"""Weights from every source, and the fingerprint of what was loaded."""

import pickle

import pytest
import safetensors.torch
import torch

from peftbench import backbones, config
from peftbench.common.errors import UserError
from support.backbones import spec


def test_the_fingerprint_is_of_names_shapes_and_bytes():
    torch.manual_seed(0)
    a = backbones.build_with_weights(spec("resnet18"))
    torch.manual_seed(0)
    assert backbones.build_with_weights(spec("resnet18")).fingerprint == a.fingerprint
    torch.manual_seed(1)
    assert backbones.build_with_weights(spec("resnet18")).fingerprint != a.fingerprint


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("classes", [0, 7])
def test_a_local_file_is_loaded_whole_with_or_without_a_classifier(tmp_path, suffix, classes):
    import timm

    net = timm.create_model("resnet18", num_classes=classes)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    backbone = backbones.build_with_weights(config.Backbone(name="resnet18", weights=str(path)))
    for name, tensor in backbone.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
    assert backbone.net.pretrained_cfg["state_dict"] is None


def test_mismatching_keys_and_shapes_are_reported(tmp_path):
    import timm

    state = timm.create_model("resnet18", num_classes=0).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    state["new.weight"] = torch.zeros(1)
    del state["layer2.0.conv1.weight"]
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(UserError) as mistake:
        backbones.build_with_weights(config.Backbone(name="resnet18", weights=str(path)))
    for part in (str(path), "layer2.0.conv1.weight", "new.weight", "layer1.0.conv1.weight", "[3, 3]"):
        assert part in str(mistake.value)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_pickle_is_refused_and_does_not_run(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"w": Payload()}, path)
    else:
        path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="Python objects"):
        backbones.build_with_weights(config.Backbone(name="resnet18", weights=str(path)))


def test_weights_from_the_hub_are_read_from_its_file(tmp_path, monkeypatch):
    import timm

    net = timm.create_model("resnet18")
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: asked.append(a) or str(path))
    backbone = backbones.build_with_weights(config.Backbone(name="resnet18.a1_in1k"))
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]
    assert torch.equal(backbone.net.conv1.weight, net.conv1.weight)


def test_without_a_network_the_message_says_what_works(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(UserError, match=r"could not be fetched from timm/resnet18\.a1_in1k .*backbone\.weights=<file>"):
        backbones.build_with_weights(config.Backbone(name="resnet18.a1_in1k"))


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        ("offline", "HF_HUB_OFFLINE is set, so that the hub was not asked, and the cache /some/cache holds none"),
        ("unreachable", "not reached: [Errno -2] Name or service not known; the cache /some/cache holds none either"),
        ("unknown", "has no such repository, or none that the token in HF_TOKEN may read"),
        ("long", " and words and …)"),
    ],
)
def test_the_hubs_reason_is_one_sentence_of_whole_words(monkeypatch, problem, why):
    import httpx
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    refusal = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co"))
    about = "An error happened while trying to locate the file on the Hub. Please check your connection and try again."

    def fail(*args, **kwargs):
        if problem == "offline":
            raise LocalEntryNotFoundError(about) from OfflineModeIsEnabled("Cannot reach it: offline mode is enabled.")
        if problem == "unreachable":
            try:
                raise OSError("[Errno -2] Name or service not known")
            except OSError as cause:
                raise LocalEntryNotFoundError(about) from cause
        if problem == "unknown":
            raise RepositoryNotFoundError("401 Client Error.\nSee more", response=refusal)
        raise OSError("because of " + "a reason of many words" + " and words" * 30 + ". And more.")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/some/cache")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(UserError) as refused:
        backbones.build_with_weights(config.Backbone(name="resnet18.a1_in1k"))
    told = str(refused.value)
    assert told.startswith(
        "backbone.name=resnet18.a1_in1k: its weights could not be fetched from timm/resnet18.a1_in1k"
    )
    assert why in told
    assert "download them elsewhere and give backbone.weights=<file>" in told
    assert ". " not in told
    assert told.count("(") == told.count(")")
