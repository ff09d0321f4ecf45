"""Adapters to and from HF peft."""

import dataclasses
import json

import pytest
import safetensors
import safetensors.torch
import timm
import torch

import peftbench
from peftbench.backbones.weights import HERE
from peftbench.cli.main import main
from peftbench.common.sealed_file import read_tensors
from peftbench.tuned.export import export
from support.exports import metadata
from support.finished_runs import logits_of, same


def test_an_adapter_gives_the_same_logits_in_peft_and_comes_back(lora, data, tmp_path):
    peft = pytest.importorskip("peft", reason="HF peft is not installed: pip install 'peftbench[bench]'")
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    said = metadata(folder / "adapter_model.safetensors")
    base = timm.create_model(**json.loads(said["create"]))
    state = safetensors.torch.load_file(HERE / "vit_nano.safetensors")
    net = base.patch_embed, base.pos_embed  # of the run's own size
    assert net[1].shape[1] == 17
    ours = peftbench.load(lora.folder, merge=False)
    start = {n.removeprefix("net."): t for n, t in ours.model.backbone.state_dict().items() if "lora_" not in n}
    assert state.keys() >= start.keys()
    base.load_state_dict(start, strict=False)
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    right, _ = logits_of(data, ours)
    files = [p for c in ours.classes for p in sorted((data / "test" / c).iterdir())]
    pixels = torch.stack([ours.transform(p) for p in files])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ours.model.normalize(pixels)), right)

    with torch.no_grad():  # as after more training there
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.5)
        changed = theirs(ours.model.normalize(pixels))
    theirs.save_pretrained(tmp_path / "back")
    back = peftbench.load(lora.folder, adapter=tmp_path / "back")
    assert back.merged
    found, _ = logits_of(data, back)
    torch.testing.assert_close(found, changed, rtol=1e-4, atol=1e-5)
    assert (changed - right).abs().max() > 0.01


def test_an_adapter_that_we_wrote_is_the_delta(lora, tmp_path, capsys, data):
    folder, difference = dataclasses.astuple(export(lora.folder, "peft", tmp_path / "adapter"))
    assert difference < 1e-5
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    back = peftbench.load(lora.folder, adapter=folder, merge=False)
    assert same(back.state_dict(), peftbench.load(lora.folder, merge=False).state_dict())
    words = [f"run={lora.folder}", f"images={data / 'test' / 'one'}"]
    main(["predict", *words])
    plain = capsys.readouterr().out
    assert main(["predict", *words, f"adapter={folder}"]) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"use_dora": True}, ["use_dora=True", "plain LoRA"]),
        ({"peft_type": "LOHA"}, ["peft_type='LOHA'"]),
        ({"rank_pattern": {"x": 3}}, ["rank_pattern"]),
        ({"r": 4}, ["lora_a", "[8, 128]", "[4, 128]"]),
        ({"r": "many"}, ["adapter_config.json: is not the configuration"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights='pissa'"]),
        ({"lora_alpha": float("nan")}, ["adapter_config.json: is not the configuration"]),
    ],
    ids=str,
)
def test_an_adapter_that_is_not_plain_lora_is_refused(lora, tmp_path, change, parts):
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(peftbench.UserError) as problem:
        peftbench.load(lora.folder, adapter=folder)
    for part in parts:
        assert part in str(problem.value)


def test_an_adapter_that_is_missing_damaged_or_foreign_is_told(lora, tmp_path):
    with pytest.raises(peftbench.UserError, match=r"holds no adapter_config\.json"):
        peftbench.load(lora.folder, adapter=tmp_path)
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    file = folder / "adapter_model.safetensors"
    tensors, said = read_tensors(file)
    safetensors.torch.save_file({n: t for n, t in tensors.items() if "head" not in n}, file, said)
    with pytest.raises(peftbench.UserError, match=r"lacks task\.head\.weight"):
        peftbench.load(lora.folder, adapter=folder)
    name = next(iter(tensors))
    safetensors.torch.save_file(tensors | {name: tensors[name] * float("nan")}, file, said)
    with pytest.raises(peftbench.UserError, match="holds values that are not finite"):
        peftbench.load(lora.folder, adapter=folder)
    safetensors.torch.save_file(tensors, file, said | {"fingerprint": "0" * 64})
    with pytest.raises(peftbench.Refusal, match="on a backbone with fingerprint 000000000000"):
        peftbench.load(lora.folder, adapter=folder)
    safetensors.torch.save_file(tensors | {"base_model.model.x.lora_A.weight": torch.zeros(8, 3, 1, 1)}, file)
    with pytest.raises(peftbench.UserError, match="neither LoRA of a linear layer nor the classifier"):
        peftbench.load(lora.folder, adapter=folder)
    torch.save(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(peftbench.UserError, match="is a pickle or a torch file"):
        peftbench.load(lora.folder, adapter=folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        peftbench.UserError, match=r"adapter=.*: holds no adapter_model\.safetensors; give a folder that PEFT"
    ):
        peftbench.load(lora.folder, adapter=folder)
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(peftbench.UserError, match=r"adapter_model\.bin, a pickle.*; expected .*save_pretrained"):
        peftbench.load(lora.folder, adapter=folder)
