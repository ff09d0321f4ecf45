"""Shifted test sets: corruptions that repeat, folders that fit, and figures side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.data.corruptions import CORRUPTIONS, corrupt
from peftbench.data.ood import average_over_shifts
from peftbench.results import print_table
from peftbench.runs.run import run
from support.runs import SMALL

QUICK = [*SMALL, "trainer.epochs=1", "trainer.max_batches=2", "data.batch_size=20", "method=linear"]


def smooth(n=2, size=48):
    """Images with edges, gradients and colour, uint8 (n, 3, size, size)."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.stack([x, y, (np.hypot(x - 0.5, y - 0.5) < 0.3).astype(float)])
    return torch.from_numpy((40 + 160 * image).astype(np.uint8)).expand(n, -1, -1, -1).clone()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_and_grows_with_its_severity(name):
    images = smooth()
    kept = images.clone()
    far = []
    for severity in range(1, 6):
        once, twice = (corrupt(images, name, severity, [3, 4]) for _ in range(2))
        assert once.dtype == torch.uint8
        assert once.shape == images.shape
        assert torch.equal(once, twice)
        assert torch.equal(once[1:], corrupt(images[1:], name, severity, [4])), "whatever batch an image is in"
        far.append((once.float() - images.float()).abs().mean().item())
    assert far[0] > 0.05
    assert far[4] > far[2] > far[0]
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_padded_image_is_corrupted_as_it_is_alone_and_its_padding_stays(name):
    (alone,) = images = smooth(1)
    canvas = torch.full((1, 3, 64, 80), 7, dtype=torch.uint8)
    canvas[0, :, :48, :40] = alone[:, :, :40]
    padded = corrupt(canvas, name, 4, [3], [(48, 40)])
    assert torch.equal(padded[:, :, :48, :40], corrupt(images[:, :, :, :40], name, 4, [3]))
    padded[0, :, :48, :40] = 7
    assert (padded == 7).all()


def test_noise_is_another_for_every_image_and_severity():
    images = smooth(3)
    a = corrupt(images, "noise", 1, [0, 1, 1]).int()
    assert not torch.equal(a[0], a[1])
    assert torch.equal(a[1], a[2])
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    assert corrupt(grey, "noise", 1, [0]).float().std() == pytest.approx(0.08 * 255, rel=0.1)
    assert corrupt(grey, "contrast", 5, [0]).float().std() == 0
    assert corrupt(grey, "brightness", 1, [0]).float().mean() == pytest.approx(128 + 25.5, abs=1)


def test_means_count_every_corruption_and_folder_once():
    rows = {"noise:1": {"accuracy": 0.8, "loss": 1.0}, "noise:5": {"accuracy": 0.2}, "jpeg:2": {"accuracy": 0.7}}
    found = average_over_shifts(rows | {"my/folder": {"accuracy": 0.9}}, "accuracy")
    assert found["ood/noise/accuracy"] == pytest.approx(0.5)
    assert found["ood/accuracy"] == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert found["ood/noise:1/loss"] == 1.0
    assert average_over_shifts({}, "accuracy") == {}


def digits_folder(root: Path, labels="0379", seed=0) -> Path:
    rng = np.random.default_rng(seed)
    for label in labels:
        (root / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)).save(root / label / f"{i}.png")
    return root


def test_a_run_is_tested_on_its_shifts_and_shows_both(tmp_path, capsys):
    folder = digits_folder(tmp_path / "other" / "test").parent
    words = [f"data.ood=[noise:2,pixelate,{folder}]", f"output_dir={tmp_path / 'out'}"]
    record = run(peftbench.compose(*QUICK, *words))
    plain = run(peftbench.compose(*QUICK, f"output_dir={tmp_path / 'out'}"))
    assert {n: v for n, v in record.metrics.items() if not n.startswith("ood/")} == plain.metrics
    assert record.stamps["right"] == plain.stamps["right"], "of the test images, not of shifted ones"
    numbers = record.stamps["data"]["images"]
    assert numbers[f"ood/{folder}"] == 12
    assert numbers["ood/noise:2"] == numbers["test"] == record.stamps["right"]["images"]
    assert record.id != plain.id
    sets = ["noise:2", *(f"pixelate:{i}" for i in range(1, 6)), str(folder)]
    assert all(0 <= record.metrics[f"ood/{s}/accuracy"] <= 1 for s in sets)
    kinds = [record.metrics[f"ood/{k}/accuracy"] for k in ("noise", "pixelate", str(folder))]
    assert record.metrics["ood/accuracy"] == pytest.approx(sum(kinds) / 3)
    stamp = record.stamps["data"]["ood"][str(folder)]
    assert (stamp["images"], stamp["classes"], len(stamp["hash"])) == (12, 4, 64)
    stored = json.loads((Path(record.folder) / "result.json").read_text())
    assert stored["metrics"]["ood/accuracy"] == record.metrics["ood/accuracy"]
    print_table([record, plain])
    shown = capsys.readouterr().out
    assert "ood %" in shown
    print_table([plain])
    assert "ood %" not in capsys.readouterr().out


def test_taps_are_kept_for_training_only_and_a_sweep_with_shifts_runs_apart(cli, tmp_path):
    words = [w for w in QUICK if not w.startswith("method")]
    words += ["method=losa", "optimizer=ftp,adamw", "optimizer.lr=1e-2", "sweep.together=2", "logger=none"]
    shifts = "data.ood=[noise:2,contrast:5]"
    assert cli("-m", *words, "taps=memory", shifts, f"output_dir={tmp_path / 'kept'}")[0] == 0
    assert cli("-m", *words, "taps=off", shifts, f"output_dir={tmp_path / 'off'}")[0] == 0
    found = {}
    for folder in ("kept", "off"):
        records = [json.loads(p.read_text()) for p in (tmp_path / folder).glob("*/result.json")]
        assert [r["costs"]["taps"]["mode"] for r in records] == ["memory" if folder == "kept" else "off"] * 2
        assert not any("together" in r["costs"] for r in records)
        found[folder] = {r["config"]["optimizer"]["name"]: r["metrics"] for r in records}
    assert set(found["kept"]) == {"ftp", "adamw"}
    for name, metrics in found["kept"].items():
        assert "ood/contrast:5/accuracy" in metrics
        assert metrics == pytest.approx(found["off"][name], rel=1e-3)


def test_clips_cannot_be_shifted(tmp_path):
    for at, label in enumerate("ab"):
        for i in range(4):
            digits_folder(tmp_path / "clips" / label / f"clip{i}", "0", seed=4 * at + i)
    words = ["data=video_folder", f"data.root={tmp_path / 'clips'}", "backbone=resnet_nano", "data.ood=[noise]"]
    with pytest.raises(peftbench.UserError, match=r"data\.ood: .* holds clips, and only images can be shifted"):
        run(peftbench.compose("method=linear", *words, f"output_dir={tmp_path / 'out'}"))


def test_a_damaged_shifted_image_is_found_before_training(tmp_path):
    folder = digits_folder(tmp_path / "other")
    (folder / "0" / "0.png").write_bytes(b"no image")
    words = [f"data.ood=[{folder}]", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(peftbench.UserError, match=r"0\.png: cannot be read as an image"):
        run(peftbench.compose(*QUICK, *words))
    (record,) = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("*/result.json")]
    assert (record["status"], record["history"]) == ("failed", [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.ood=[nois]"], r"data\.ood=nois: is neither a folder nor a corruption \(did you mean 'noise'\?\)"),
        (["data.ood=[noise:6]"], "data.ood=noise:6: expected a severity from 1 to 5"),
        (["data.ood=[noise]", "data.stage=tune"], "data.ood: is tested, and data.stage=tune leaves test images alone"),
        (["data.ood=[FOLDER]"], "is of class 'x', which digits-v1 has not; expected folders named as its 10"),
        (["data.ood=[EMPTY]"], "holds no class folders with images"),
        (["data.ood=noise"], "data.ood='noise': expected a list"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, words, told):
    digits_folder(tmp_path / "folder", "0x")
    (tmp_path / "empty").mkdir()
    words = [w.replace("FOLDER", str(tmp_path / "folder")).replace("EMPTY", str(tmp_path / "empty")) for w in words]
    with pytest.raises(peftbench.UserError, match=told):
        run(peftbench.compose(*QUICK, *words, f"output_dir={tmp_path / 'out'}"))
    assert not list((tmp_path / "out").glob("*/result.json"))
