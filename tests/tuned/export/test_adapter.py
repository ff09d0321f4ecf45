"""Adapters to and from HF peft."""

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
from support.finished_runs import finish, logits_of, same

VIT = ["backbone.pretrained=false", "backbone.args.depth=1", "backbone.args.embed_dim=48"]


def beside(update, scale):
    """A forward hook that adds what PEFT puts beside a call."""
    low, high = update
    return lambda module, given, output: output + scale * given[0] @ low.T @ high.T


@pytest.mark.slow
def test_layers_of_an_attention_pool_are_called_and_exported(data, tmp_path):
    record = finish(tmp_path, data, "lora", "vit_nano", "backbone.name=vit_base_patch16_siglip_224", *VIT)
    folder = export(record.folder, "peft", tmp_path / "adapter").path
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    net = timm.create_model(**json.loads(metadata(folder / "adapter_model.safetensors")["create"])).eval()
    ours = peftbench.load(record.folder, merge=False)
    start = {n.removeprefix("net."): t for n, t in ours.model.backbone.state_dict().items() if "lora_" not in n}
    head = {n.removeprefix("base_model.model."): t for n, t in tensors.items() if ".head." in n}
    net.load_state_dict(start | head)
    layers = {n.removeprefix("base_model.model.").partition(".lora_")[0] for n in tensors if ".lora_" in n}
    assert {"attn_pool.kv", "attn_pool.q", "attn_pool.mlp.fc1"} <= layers
    for layer in layers:  # PEFT is not always installed: a hook does what its layers do
        update = [tensors[f"base_model.model.{layer}.lora_{x}.weight"] for x in "AB"]
        assert update[1].any(), f"{layer} has not trained"
        net.get_submodule(layer).register_forward_hook(beside(update, 1.0))
    right, _ = logits_of(data, ours)
    files = [p for c in ours.classes for p in sorted((data / "test" / c).iterdir())]
    with torch.no_grad():
        found = net(ours.model.normalize(torch.stack([ours.transform(p) for p in files])))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    merged, _ = logits_of(data, peftbench.load(record.folder))
    torch.testing.assert_close(merged, right, rtol=1e-4, atol=1e-5)
    assert export(record.folder, "safetensors", tmp_path / "whole.safetensors").difference < 1e-4


def test_a_weight_that_is_read_instead_of_called_is_no_adapter_of_pefts(data, tmp_path):
    record = finish(tmp_path, data, "lora", "vit_nano", "backbone.name=beit_base_patch16_224", *VIT)
    why = (
        "reads the weight of blocks.0.attn.qkv instead of calling the layer, and PEFT adapts calls; format=safetensors"
    )
    with pytest.raises(peftbench.Refusal, match=why):
        export(record.folder, "peft", tmp_path / "adapter")
    assert export(record.folder, "safetensors", tmp_path / "whole.safetensors").difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "efficientvit_m0"])
def test_a_classifier_with_a_norm_is_no_linear_head_in_either_format(name, data, tmp_path):
    """PEFT would put the head behind a norm that was trained for other classes."""
    words = [f"backbone.name={name}", "backbone.pretrained=false", "data.size=null", "trainer.max_batches=1"]
    record = finish(tmp_path, data, "lora", "resnet50", *words)
    for format_ in ("peft", "safetensors"):
        with pytest.raises(peftbench.Refusal, match=r"is no single linear layer \(head\.bn.*format=onnx"):
            export(record.folder, format_, tmp_path / f"a.{format_}")


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


FORMS = {
    "dora": ["method=dora"],
    "rslora": ["method=rslora"],
    "pissa": ["method=pissa"],
    "olora": ["method=olora", "method.rslora=true"],
    "dora of pissa": ["method=dora", "method.init=pissa"],
}
OWN = {  # of adapters that PEFT makes
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
}


def started(ours, folder):
    """timm's model of an adapter, as it is before anything is added."""
    net = timm.create_model(**json.loads(metadata(folder / "adapter_model.safetensors")["create"]))
    state = {n.removeprefix("net."): t for n, t in ours.model.backbone.state_dict().items()}
    net.load_state_dict({n: t for n, t in state.items() if not n.rpartition(".")[2].startswith("lora_")}, strict=False)
    return net


def of_test_images(data, ours):
    """The normalised test images, in the order of the classes."""
    files = [p for c in ours.classes for p in sorted((data / "test" / c).iterdir())]
    return ours.model.normalize(torch.stack([ours.transform(p) for p in files]))


@pytest.mark.parametrize("form", [f if f == "dora" else pytest.param(f, marks=pytest.mark.slow) for f in FORMS])
def test_a_form_of_lora_goes_to_peft_and_comes_back(form, data, tmp_path):
    peft = pytest.importorskip("peft", reason="HF peft is not installed: pip install 'peftbench[bench]'")
    method, *words = FORMS[form]
    more = [*words, "data.normalize=imagenet", "optimizer.lr=1e-2"]
    record = finish(tmp_path, data, method.removeprefix("method="), "vit_nano", *more)
    made = export(record.folder, "peft", tmp_path / "adapter")
    folder, difference = made.path, made.difference
    assert difference < 1e-5
    ours = peftbench.load(record.folder, merge=False)
    images = of_test_images(data, ours)
    theirs = peft.PeftModel.from_pretrained(started(ours, folder), folder).eval()
    right, _ = logits_of(data, ours)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), right, rtol=1e-5, atol=1e-5)
        for name, parameter in theirs.named_parameters():  # as after more training there
            if "lora_" in name:
                parameter.mul_(1.1)
        changed = theirs(images)
    theirs.save_pretrained(tmp_path / "back")
    back, _ = logits_of(data, peftbench.load(record.folder, adapter=tmp_path / "back"))
    torch.testing.assert_close(back, changed, rtol=1e-5, atol=1e-5)
    assert (changed - right).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("form", OWN)
def test_a_form_that_peft_made_is_read(form, lora, data, tmp_path):
    """Of PiSSA what PEFT saves as plain LoRA of twice the rank, in which it leaves the head out."""
    peft = pytest.importorskip("peft", reason="HF peft is not installed: pip install 'peftbench[bench]'")
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    ours = peftbench.load(lora.folder, merge=False)
    images, net = of_test_images(data, ours), started(ours, folder)
    file = folder / "adapter_model.safetensors"
    heads = {n: t for n, t in safetensors.torch.load_file(file).items() if "lora_" not in n}
    net.load_state_dict({n.removeprefix("base_model.model."): t for n, t in heads.items()}, strict=False)
    layers = r"blocks.*(qkv|proj|fc1|fc2)"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=layers, modules_to_save=["head"], **OWN[form])
    torch.manual_seed(0)
    made = peft.get_peft_model(net, config).eval()
    made.peft_config["default"].init_lora_weights = True
    made.save_pretrained(tmp_path / "initial")
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape))
        wanted = made(images)
    if form == "pissa":
        made.save_pretrained(tmp_path / "made", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
        saved = tmp_path / "made" / file.name
        safetensors.torch.save_file(safetensors.torch.load_file(saved) | heads, saved, {"format": "pt"})
    else:
        made.save_pretrained(tmp_path / "made")
    found, _ = logits_of(data, peftbench.load(lora.folder, adapter=tmp_path / "made"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_an_adapter_that_we_wrote_is_the_delta(lora, tmp_path, capsys, data):
    made = export(lora.folder, "peft", tmp_path / "adapter")
    folder, difference = made.path, made.difference
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
        ({"use_dora": True}, ["lacks backbone.net.", "lora_magnitude"]),
        ({"use_qalora": True}, ["use_qalora=True", "plain LoRA"]),
        ({"peft_type": "LOHA"}, ["peft_type='LOHA'"]),
        ({"rank_pattern": {"x": 3}}, ["rank_pattern"]),
        ({"r": 4}, ["lora_a", "[8, 128]", "[4, 128]"]),
        ({"r": "many"}, ["adapter_config.json: is not the configuration"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights='pissa'", "path_initial_model_for_weight_conversion"]),
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


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_an_adapter_in_half_precision_is_read_as_what_it_holds(kind, lora, data, tmp_path):
    """Each such number is one of float32 too."""
    folder = export(lora.folder, "peft", tmp_path / "adapter").path
    file = folder / "adapter_model.safetensors"
    halves = {n: t.to(kind) for n, t in safetensors.torch.load_file(file).items()}
    logits = []
    for tensors in (halves, {n: t.float() for n, t in halves.items()}):
        safetensors.torch.save_file(tensors, file, {"format": "pt"})
        logits.append(logits_of(data, peftbench.load(lora.folder, adapter=folder))[0])
    assert torch.equal(*logits)
