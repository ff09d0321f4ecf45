"""Runs of segmentation from the command line: training, kept taps, flips, pictures, masks, evaluation."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from peftbench.cli.main import main
from peftbench.data.images import Indices
from peftbench.results.settings import basis_of
from peftbench.runs.build import instantiate
from peftbench.runs.data_sets import load_splits
from peftbench.tasks.segmentation.confusion import confusion
from peftbench.tasks.segmentation.masked_images import MaskedTransform
from support.mistakes import refused
from support.places import SHARED
from support.runs import told_by
from support.segmentation import seg_folder, write_mask

QUICK = [
    *("data=digits_seg", "data.images=[8,4,4]", "data.canvas=64", "data.batch_size=4", "backbone=resnet_nano"),
    *("trainer.epochs=1", "trainer.progress=false", "trainer.accelerator=cpu", "logger=none"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder and the record of a run of LoSA that looks at an image many times to test it."""
    output = tmp_path_factory.mktemp("segmentation")
    words = ["method=losa", "data.tta=flip", "page=true", "task.window=[32,48]", "data.augment=crop"]
    words += ["task.scales=[1,0.5]", "task.boundary=0.05", "data.ood=[contrast:5]"]
    assert main([*QUICK, *words, f"output_dir={output}"]) == 0
    (file,) = output.glob("*/result.json")
    return file.parent, json.loads(file.read_text())


def images_of(folder):
    config = peftbench.compose(*QUICK, "method=losa")
    return load_splits(config).test


def test_the_record_has_every_figure_and_the_counts_lie_beside_it(ended):
    folder, record = ended
    metrics = {name.partition("/")[2]: value for name, value in record["metrics"].items() if name.startswith("test/")}
    with (folder / "test_confusion.csv").open() as file:
        header, *rows = list(csv.reader(file))
    counts = torch.tensor([[int(n) for n in row[1:]] for row in rows]).double()
    assert counts.sum() == 4 * 64 * 64
    either = counts.sum(1) + counts.sum(0) - counts.diag()
    overlaps = dict(zip(header[1:], (counts.diag() / either).tolist(), strict=True))
    known = {name: value for name, value in overlaps.items() if value == value}
    assert {name: metrics[f"IoU/{name}"] for name in known} == pytest.approx(known)
    assert metrics["mIoU"] == pytest.approx(np.mean(list(known.values())))
    assert metrics["pixel_accuracy"] == pytest.approx((counts.diag().sum() / counts.sum()).item())
    absent = [name for name in overlaps if name not in known]
    assert record["stamps"].get("absent_classes", []) == absent
    assert record["stamps"]["judged_by"] == "mIoU"
    near = [value for name, value in metrics.items() if name.startswith("boundary_IoU/")]
    assert metrics["boundary_mIoU"] == pytest.approx(np.mean(near))


def test_the_record_says_how_images_were_looked_at(ended):
    stamps = ended[1]["stamps"]
    looks = {"tta": "flip", "window": [32, 48], "stride": [21, 32], "scales": [1.0, 0.5]}
    assert {name: stamps["data"][name] for name in looks} == looks
    assert stamps["backbone"]["input_size"] == [32, 48]
    assert stamps["data"]["transform"]["size"] == 64
    basis = dict(basis_of(ended[1]["config"], stamps))
    assert basis["input"].endswith(", with mirror images, windows of 32x48 every 21x32, scales 1/0.5")


def test_a_loaded_run_says_what_its_test_said_with_flips(ended):
    folder, _ = ended
    tuned = peftbench.load(folder)
    split, total = images_of(folder), 0
    for path, mask in zip(split.images, split.labels, strict=True):
        found = tuned.segment(path)
        pixels = tuned.transform(path)[None]
        logits = tuned(pixels)
        assert logits.shape == (1, 11, 64, 64)
        assert torch.equal(logits[0].argmax(0).to(torch.uint8), found), "an image of the input's size is not resized"
        total = total + confusion(found, torch.from_numpy(mask.read()), 11)
    with (folder / "test_confusion.csv").open() as file:
        assert total.tolist() == [[int(n) for n in row[1:]] for row in list(csv.reader(file))[1:]]
    mirrored = tuned(pixels.flip(-1))
    assert torch.allclose(mirrored.flip(-1), logits, atol=1e-5), "the mean over both is the same for both"


def test_masks_and_pictures_are_written_in_each_images_own_size(ended, tmp_path, capsys):
    folder, _ = ended
    shots = tmp_path / "shots" / "inner"
    shots.mkdir(parents=True)
    (source, *_) = images_of(folder).images
    Image.open(source).resize((50, 30)).save(shots / "wide.jpg")
    Image.open(source).save(shots / "square.png")
    (tmp_path / "shots" / "broken.jpg").write_bytes(b"no image")
    words = ["predict", f"run={folder}", f"images={tmp_path / 'shots'}", "device=cpu"]
    (tmp_path / "masks").mkdir()
    one = [f"out={tmp_path / 'masks'}", f"draw={tmp_path / 'shots' / '..' / 'masks'}"]
    refused(told_by(capsys, *words, *one), "its pictures would replace the masks")
    done = told_by(capsys, *words, f"out={tmp_path / 'masks.v1'}/", f"draw={tmp_path / 'drawn'}")
    assert done[0] == 0, done[2]
    assert "broken.jpg" in done[2]
    (tmp_path / "masks").rmdir()
    (tmp_path / "masks.v1").rename(tmp_path / "masks")
    tuned = peftbench.load(folder)
    for name, size in (("wide", (50, 30)), ("square", (64, 64))):
        with Image.open(tmp_path / "masks" / "inner" / f"{name}.png") as mask:
            assert (mask.mode, mask.size) == ("P", size)
            (file,) = shots.glob(f"{name}.*")
            assert np.array_equal(np.asarray(mask), tuned.segment(file).numpy())
        (drawn,) = (tmp_path / "drawn" / "inner").glob(f"{name}.*")
        with Image.open(drawn) as picture:
            assert picture.size == size
    assert not (tmp_path / "masks" / "broken.png").exists()
    refused(told_by(capsys, *words, f"out={tmp_path / 'masks'}"), "exists already")
    (shots / "wide.png").write_bytes((shots / "square.png").read_bytes())
    refused(told_by(capsys, *words, f"out={tmp_path / 'more'}"), "would both be wide.png")
    assert not (tmp_path / "more").exists()
    status, table, _ = told_by(capsys, *words)
    header, *rows = list(csv.reader(table.splitlines()))
    assert (status, header[:2], len(rows)) == (0, ["image", "share_background"], 3)
    assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=1e-4) for row in rows)


def test_new_images_with_masks_are_judged_as_the_test_was(ended, tmp_path, capsys):
    folder, record = ended
    split = images_of(folder)
    for kind in ("images", "masks"):
        (tmp_path / "new" / kind).mkdir(parents=True)
    for i, (path, mask) in enumerate(zip(split.images, split.labels, strict=True)):
        shutil.copy(path, tmp_path / "new" / "images" / f"{i}.jpg")
        shutil.copy(mask.path, tmp_path / "new" / "masks" / f"{i}.png")
    told = told_by(capsys, "evaluate", f"run={folder}", f"images={tmp_path / 'new'}", "device=cpu", "ood=contrast:5")
    assert told[0] == 0, told[2]
    (file,) = folder.glob("evaluation-new-*.json")
    figures = json.loads(file.read_text())["figures"]
    shifted = figures["shifted"]
    assert {"ood/contrast:5/mIoU", "ood/contrast/mIoU", "ood/mIoU"} <= shifted.keys()
    assert shifted == pytest.approx({name: record["metrics"][name] for name in shifted})
    near = {row["name"]: row["boundary IoU"] for row in figures["classes"] if row["boundary IoU"] is not None}
    assert near == pytest.approx({name: record["metrics"][f"test/boundary_IoU/{name}"] for name in near})
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "boundary_mIoU"):
        assert figures[name] == pytest.approx(record["metrics"][f"test/{name}"])
        assert figures["intervals"][name][0] <= figures[name] <= figures["intervals"][name][1]
    (tmp_path / "new" / "classes.txt").write_text("\n".join(["background", *map(str, range(1, 10)), "zero"]))
    refused(
        told_by(capsys, "evaluate", f"run={folder}", f"images={tmp_path / 'new'}"), "that the run does not know: 'zero'"
    )


def test_its_page_shows_pictures_and_the_classes(ended):
    page = (ended[0] / "page.html").read_text()
    assert "The truth, and what was found" in page
    assert "IoU of each class" in page
    assert page.count("of the pixels are wrong") == 4


@pytest.mark.slow
def test_what_is_learned_from_kept_taps_is_what_is_learned_from_images(tmp_path):
    values = []
    for taps in ("memory", "off"):
        assert main([*QUICK, "method=losa", f"taps={taps}", f"output_dir={tmp_path / taps}"]) == 0
        (file,) = (tmp_path / taps).glob("*/result.json")
        record = json.loads(file.read_text())
        assert record["config"]["taps"]["mode"] == taps
        values.append(record["metrics"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.fixture
def several(tmp_path):
    """Splits of images of one size with masks of three classes and 255."""
    return seg_folder(tmp_path / "set")


def scenes(several, augment, size=(24, 32), jitter=0.0):
    """The batch of two training images at one place of a run."""
    spec = peftbench.compose("method=linear", "data=seg_folder", f"data.root={several}")
    split = instantiate(spec.data).load().train
    transform = MaskedTransform(size, "bilinear", (0.5,) * 3, (0.5,) * 3, augment=augment, jitter=jitter)
    return split, transform.over(split, "refuse", 1.0, lambda done, of: None)


@pytest.mark.parametrize("augment", ["flip", "crop", "rrc", "scale"])
def test_images_and_masks_are_changed_together(several, augment):
    """Each class has one colour in the image, so that the mask can be read off the changed image."""
    colours = np.array([[20, 20, 20], [230, 40, 40], [40, 40, 230]], dtype=np.uint8)
    for number in range(2):
        mask = np.zeros((24, 32), dtype=np.uint8)
        mask[4:20, 3 : 14 + number] = 1
        mask[8:24, 18:] = 2
        write_mask(several / "masks" / "train" / f"0{number}.png", mask)
        Image.fromarray(colours[mask]).save(several / "images" / "train" / f"0{number}.png")
    split, images = scenes(several, augment)
    changed = 0
    for seed in range(8):
        batch = images.__getitems__(Indices([0, 1], seed))
        again = images.__getitems__(Indices([0, 1], seed))
        assert torch.equal(batch.images, again.images)
        assert all(torch.equal(a["mask"], b["mask"]) for a, b in zip(batch.targets, again.targets, strict=True))
        for image, target, whole in zip(batch.images, batch.targets, split.labels, strict=True):
            assert image.shape[1:] == target["mask"].shape == (24, 32)
            known = target["mask"] != 255
            distance = (image.float()[None] - torch.from_numpy(colours).float()[:, :, None, None]).square().sum(1)
            assert (distance.argmin(0)[known] == target["mask"][known]).float().mean() > 0.8
            changed += not np.array_equal(target["mask"].numpy(), whole.read())
    assert changed
    still = images.__getitems__(Indices([0, 1], None))
    assert [t["true"].shape for t in still.targets] == [(24, 32)] * 2


def test_colours_are_jittered_and_masks_are_not(several):
    split, images = scenes(several, "none", jitter=0.5)
    batch, still = images.__getitems__(Indices([0, 1], 1)), images.__getitems__(Indices([0, 1], None))
    assert not torch.equal(batch.images, still.images)
    assert all(np.array_equal(t["mask"].numpy(), m.read()) for t, m in zip(batch.targets, split.labels, strict=True))


def damaged(root, what):
    mask, image = root / "masks" / "train" / "00.png", root / "images" / "train" / "00.png"
    if what == "size":
        Image.open(mask).resize((8, 8)).save(mask)
    elif what == "value":
        write_mask(mask, np.full((24, 32), 9, dtype=np.uint8))
    elif what == "mask":
        mask.write_bytes(b"no image")
    elif what == "image":
        image.write_bytes(b"no image")
    (root / "classes.txt").write_text("a\nb\nc\n")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("size", "is 32 x 24 pixels (width x height), and its mask"),
        ("value", "holds the value 9; expected 0 to 2 (3 classes), and 255"),
        ("mask", "masks/train/00.png: cannot be read as a mask"),
        ("image", "images/train/00.png: cannot be read as an image"),
    ],
)
def test_a_damaged_pair_stops_the_run_or_is_left_out(several, what, told):
    damaged(several, what)
    with pytest.raises(peftbench.UserError) as raised:
        scenes(several, "none")[1].load()
    assert told in str(raised.value)
    split = scenes(several, "none")[0]
    left = MaskedTransform((24, 32), "bilinear", (0.5,) * 3, (0.5,) * 3).over(split, "skip", 1.0, lambda done, of: None)
    assert len(left) == 1
    assert "00.png" in left.skipped[0]
    assert np.array_equal(left.__getitems__(Indices([0], None)).targets[0]["mask"].numpy(), split.labels[1].read())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.ood=[nois]"], "data.ood=nois: is no corruption (did you mean 'noise'?), and a folder of classes does"),
        (["task.class_weights=[1,2]"], "task.class_weights=[1.0, 2.0]: 2 numbers, and there are 11 classes"),
        (["task.class_weights=[0]"], "leaves nothing to learn"),
        (["data.augment=lsj"], "data.augment=lsj: is not for task=segmentation; expected none, flip, crop, rrc, scale"),
        (["data.mixup=0.2"], "data.mixup=0.2: is not for task=segmentation"),
        (["trainer=fsdp"], "with task=segmentation, a decoder is not sharded"),
        (["method=knn"], "method=knn"),
        (["method=mlp"], "needs the backbone's feature maps"),
        (["method=pace"], "compares two predictions for an image, number by number, and task=segmentation has none"),
        (["task=detection"], "task=detection: data=digits_seg is made for task=segmentation"),
    ],
)
def test_what_goes_with_no_masks_is_refused(words, told, capsys):
    given = [word for word in QUICK if not any(word.startswith(w.split("=")[0] + "=") for w in words)]
    method = [] if any(word.startswith("method=") for word in words) else ["method=linear"]
    status, _, err = told_by(capsys, *given, *method, *words)
    assert status == 2
    assert told in err


def test_a_class_that_no_training_pixel_has_is_told(several, tmp_path, capsys):
    (several / "classes.txt").write_text("a\nb\nc\nrare\n")
    words = [f"data.root={several}", "data=seg_folder", "data.size=64", "data.augment=none", "backbone=resnet_nano"]
    quick = [word for word in QUICK if not word.startswith(("data", "backbone"))]
    status, out, err = told_by(capsys, *quick, *words, "method=linear", f"output_dir={tmp_path}")
    assert status == 0, err
    assert "no training pixel is of the class rare, which cannot be learned" in " ".join((out + err).split())
    (file,) = tmp_path.glob("*/result.json")
    assert "rare" not in json.loads(file.read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "least"), [("coffee-leaf-seg", 0.6), ("dubai-landcover-seg", 0.35)])
def test_a_linear_decoder_learns_real_masks(folder, least, tmp_path):
    """The majority class alone has 0.22 and 0.11."""
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is not there")
    words = ["method=linear", "backbone=efficientnet_lite0", "data=seg_folder", f"data.root={SHARED / folder}"]
    words += ["data.size=96", "task.maps=3", "data.augment=none", "trainer.epochs=4", "optimizer.lr=0.01"]
    words += ["logger=none", "trainer.progress=false", "trainer.accelerator=cpu", f"output_dir={tmp_path}"]
    assert main(words) == 0
    (file,) = tmp_path.glob("*/result.json")
    assert json.loads(file.read_text())["metrics"]["test/mIoU"] > least


def test_its_steps_are_timed_before_a_run(cli):
    words = ("method=linear", "backbone=resnet_nano", "data=digits_seg", "data.images=[2,2,2]", "data.size=32")
    status, out, error = cli("plan", *words, "data.batch_size=2", "time=true")
    assert status == 0, error
    assert "time of a step, measured" in out
