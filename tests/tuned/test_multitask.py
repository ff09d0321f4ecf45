"""`peftbench.MultiTask`: many tasks from one copy of a backbone."""

import shutil
from pathlib import Path

import pytest
import torch

import peftbench
from peftbench import deltas
from peftbench.cli.main import main
from peftbench.common.digests import digests
from support.finished_runs import finish, pictures

WEIGHT = ("lora", "bitfit", "full", "spt", "cst_feedback")
SIDE = ("linear", "losa", "losa_rank4", "losa_avg", "cst", "lst")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"), train=8, test=6)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Folders of runs on one backbone, by what they are."""
    words = {
        "lora": ["lora", "method.rank=4"],
        "bitfit": ["bitfit"],
        "full": ["full"],
        "spt": ["spt", "method.budget=20000"],
        "cst_feedback": ["cst", "method.feedback=true"],
        "linear": ["linear"],
        "losa": ["losa"],
        "losa_rank4": ["losa", "method.rank=4"],
        "losa_avg": ["losa", "method.pooling=avg", "method.tap_last=3"],
        "cst": ["cst"],
        "lst": ["lst"],
    }
    found = {}
    for name, (method, *more) in words.items():
        folder = tmp_path_factory.mktemp(name)
        record = finish(folder, data, method, "vit_nano", "optimizer.lr=1e-2", "trainer.max_batches=2", *more)
        found[name] = record.folder
    return found


@pytest.fixture(scope="module")
def tasks(runs):
    return peftbench.MultiTask(None, runs)


@pytest.fixture(scope="module")
def images(tasks, data):
    files = sorted((data / "test").rglob("*.png"))[::3]
    return torch.stack([tasks.transform(p) for p in files])


def test_every_task_answers_as_its_own_model(tasks, runs, images):
    found = tasks(images)
    assert list(found) == list(runs)
    for name, folder in runs.items():
        alone = peftbench.load(folder, merge=False)
        with torch.no_grad():
            torch.testing.assert_close(found[name], alone(images), rtol=1e-4, atol=1e-5)
        assert tasks.classes[name] == alone.classes
    spread = torch.stack(list(found.values())).std(0)
    assert spread.min() > 1e-4, "the tasks are different ones"


def test_there_and_back_again_is_bit_equal_and_the_backbone_untouched(tasks, images):
    before = digests(tasks.backbone.state_dict())
    for a in WEIGHT:
        first = tasks(images, [a])[a]
        for b in (*WEIGHT, *SIDE):
            tasks(images, [b])
            assert torch.equal(tasks(images, [a])[a], first), (a, b)
    assert digests(tasks.backbone.state_dict()) == before == tasks.backbone.start
    tasks.train()
    assert not any(m.training for m in tasks.modules())


def test_the_backbone_runs_once_for_all_side_methods(tasks, images):
    calls = []
    handles = [m.backbone.net.blocks[0].register_forward_hook(lambda *_: calls.append("own")) for m in tasks.models]
    handles.append(tasks.backbone.net.blocks[0].register_forward_hook(lambda *_: calls.append("shared")))
    try:
        tasks(images, SIDE)
        assert calls == ["shared"]
        calls.clear()
        tasks(images, ["lora", "losa", "full", "cst"])
        assert sorted(calls) == ["own", "own", "shared"]
    finally:
        for handle in handles:
            handle.remove()


def test_one_copy_of_the_backbone_is_in_memory(tasks, runs):
    report = tasks.report()
    shared = {t.data_ptr() for t in tasks.backbone.state_dict().values()}
    base = sum(t.nbytes for t in tasks.backbone.state_dict().values())
    own = 0
    for name, model in tasks.tasks.items():
        extra = {n: t for n, t in model.state_dict().items() if t.data_ptr() not in shared}
        tensors, _ = deltas.load_delta(Path(runs[name]) / "delta.safetensors")
        assert set(extra) == set(tensors), name
        own += sum(t.nbytes for t in extra.values())
    scales = sum(2 * 12 for _ in runs)  # mean and std of each
    assert report["memory"]["shared"] == base + own + scales
    files = [f for r in runs.values() for f in (Path(r) / "delta.safetensors", Path(r) / "plan.safetensors")]
    assert report["storage"]["shared"] == base + sum(f.stat().st_size for f in files if f.is_file())
    heads = 4 * (128 * 4 + 4)
    assert report["storage"]["copies"] == report["memory"]["copies"] == len(runs) * (base + heads)


@pytest.mark.parametrize("names", [["losa"], ["lora"]])
def test_images_of_another_size_or_shape_are_told_in_one_sentence(tasks, images, names):
    with pytest.raises(peftbench.UserError, match=r"are 48 x 48 pixels, and vit_tiny_patch16_224 is built for 32 x 32"):
        tasks(images.new_zeros(2, 3, 48, 48), names)
    for shape in ((3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3)):
        with pytest.raises(peftbench.UserError, match=r"expected \(B, 3, H, W\)") as told:
            tasks(images.new_zeros(shape), names)
        assert str(shape) in str(told.value)


def test_side_tasks_take_a_small_share_of_full_copies(runs):
    report = peftbench.MultiTask(None, {f"{i}": runs["losa"] for i in range(8)}).report()
    assert report["storage"]["shared"] < 0.25 * report["storage"]["copies"]
    assert report["memory"]["shared"] < 0.25 * report["memory"]["copies"]


def test_a_backbone_and_a_list_of_runs_may_be_given(runs, images, tasks):
    backbone = peftbench.build_backbone(peftbench.compose("backbone=vit_nano", "data.size=32"))
    given = peftbench.MultiTask(backbone, [runs["losa"], runs["bitfit"]])
    assert given.backbone is backbone
    found = given(images)
    assert [n.split("-")[0] for n in found] == ["losa", "bitfit"]
    assert torch.equal(list(found.values())[1], tasks(images, ["bitfit"])["bitfit"])


def test_batch_norm_statistics_of_one_task_are_not_anothers(data, tmp_path):
    words = ["optimizer.lr=1e-2", "trainer.max_batches=2"]
    names = ("full", "linear", "cst")
    folders = {m: finish(tmp_path, data, m, "resnet_nano", *words).folder for m in names}
    tasks = peftbench.MultiTask(None, folders)
    images = torch.stack([tasks.transform(p) for p in sorted((data / "test").rglob("*.png"))[::4]])
    found = tasks(images)
    with torch.no_grad():
        for name, folder in folders.items():
            assert torch.equal(found[name], peftbench.load(folder, merge=False)(images)), name
    moved = tasks.tasks["full"].backbone.net.bn1.running_mean
    assert not torch.equal(moved, tasks.backbone.net.bn1.running_mean)


def test_what_does_not_belong_together_is_refused(runs, data, tmp_path):
    with pytest.raises(peftbench.UserError, match="no deltas"):
        peftbench.MultiTask(None, [])
    with pytest.raises(peftbench.UserError, match="expected a list of folders, or a mapping"):
        peftbench.MultiTask(None, runs["losa"])
    with pytest.raises(peftbench.UserError, match="given twice"):
        peftbench.MultiTask(None, [runs["losa"], runs["losa"]])
    with pytest.raises(peftbench.UserError, match=r"holds no result\.json"):
        peftbench.MultiTask(None, [tmp_path])
    other = peftbench.build_backbone(
        peftbench.compose("backbone=vit_nano", "data.size=32", "backbone.pretrained=false")
    )
    with pytest.raises(peftbench.Refusal, match=r"fingerprint .*, and the backbone that was given is vit_tiny"):
        peftbench.MultiTask(other, [runs["losa"]])
    changed = peftbench.build_backbone(peftbench.compose("backbone=vit_nano", "data.size=32"))
    with torch.no_grad():
        changed.net.norm.bias += 1
    with pytest.raises(peftbench.UserError, match="has been changed since"):
        peftbench.MultiTask(changed, [runs["losa"]])
    words = ["data.normalize=imagenet", "trainer.max_batches=1"]
    scaled = finish(tmp_path, data, "linear", "vit_nano", *words).folder
    with pytest.raises(peftbench.Refusal, match="prepared otherwise"):
        peftbench.MultiTask(None, {"a": runs["losa"], "b": scaled})


def test_another_backbone_is_named_before_its_mask_or_weights(runs, data, tmp_path, capsys):
    """Architecture, pruning, image size, weights: the first that differs is the reason."""
    masked = finish(tmp_path, data, "linear", "resnet_nano", "pruning=unstructured", "trainer.max_batches=1").folder
    with pytest.raises(peftbench.Refusal, match=r"made on resnet18, and that of .*, given first, is vit_tiny") as told:
        peftbench.MultiTask(None, {"a": runs["lora"], "b": masked})
    assert "mask" not in str(told.value)
    assert main(["share", masked, runs["lora"]]) == 2
    assert f"made on vit_tiny_patch16_224, and that of {masked}, given first, is resnet18" in capsys.readouterr().err
    cnn = peftbench.build_backbone(peftbench.compose("backbone=resnet_nano", "data.size=32"))
    with pytest.raises(peftbench.Refusal, match="the backbone that was given is resnet18; a delta fits only"):
        peftbench.MultiTask(cnn, [runs["lora"]])
    smaller = finish(tmp_path, data, "linear", "resnet_nano", "pruning=structured", "trainer.max_batches=1").folder
    with pytest.raises(peftbench.Refusal, match=r"with pruning=structured, and .* has pruning=unstructured"):
        peftbench.MultiTask(None, [masked, smaller])
    larger = peftbench.build_backbone(peftbench.compose("backbone=vit_nano", "data.size=64"))
    with pytest.raises(peftbench.Refusal, match="for images of 32 pixels, and the backbone that was given is for 64"):
        peftbench.MultiTask(larger, [runs["lora"]])
    shutil.copytree(runs["lora"], tmp_path / "edited")
    config = tmp_path / "edited" / "config.yaml"
    config.write_text(config.read_text().replace("size: 32\n", "size: 64\n"))
    with pytest.raises(peftbench.Refusal, match=r"data\.size=32, and .*config\.yaml has data\.size=64"):
        peftbench.load(tmp_path / "edited")


def test_an_unknown_task_is_named(tasks, images):
    with pytest.raises(peftbench.UserError, match=r"is not served \(did you mean .losa.\?\)"):
        tasks(images, ["loza"])
    with pytest.raises(peftbench.UserError, match=r"tasks='losa': expected a list of names"):
        tasks(images, "losa")


def test_the_command_tells_what_tasks_take(runs, capsys):
    assert main(["share", runs["losa"], runs["cst"]]) == 0
    said = capsys.readouterr().out
    assert "2 tasks" in said
    assert "storage" in said
    assert "memory" in said
    assert main(["share"]) == 2
    assert "share: expected folders of finished runs" in capsys.readouterr().err
    assert main(["share", "/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err
