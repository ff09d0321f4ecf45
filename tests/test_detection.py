"""Detection: every method on every detector and family, exact counts, torchvision's own detectors as the measure."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision.models import detection as theirs
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import peftbench
from peftbench import backbones, config
from peftbench.backbones.weights import BODY
from peftbench.common.errors import Refusal, UserError
from peftbench.config import CONFIGS
from peftbench.config.groups import names
from peftbench.costs import SavedBytes, parameters
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.tasks import making as tasks
from peftbench.tasks.detection.pooling import Pooling
from peftbench.tasks.detection.pyramid import choose_levels
from peftbench.training.checkpoint import Checkpoints
from peftbench.tuned.export import export
from peftbench.tuned.multitask import MultiTask

DETECTORS = ("fasterrcnn", "retinanet", "fcos")
FAMILIES = {"cnn": "resnet_nano", "vit": "vit_nano", "hybrid": "hybrid_nano"}
METHODS = names("method", [CONFIGS])
SMALL = ["data=digits_det", "task.width=64", "task.hidden=16", "task.rois=16"]
CANVAS = (64, 96)
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def scenes(sizes=(CANVAS, (64, 48))):
    """Images on the canvas with targets: one with two objects, the others with none, valid to these sizes."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(sizes), 3, *CANVAS), dtype=torch.uint8, generator=g)
    some = {"boxes": torch.tensor([[4.0, 6, 40, 44], [20, 10, 90, 60]]), "labels": torch.tensor([0, 2])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    about = [{"size": torch.tensor(s), "scale": torch.tensor([0.5, 2.0])} for s in sizes]
    targets = [{**(none if i else some), **a} for i, a in enumerate(about)]
    for target in targets:
        height, width = target["size"].tolist()
        target["original"] = torch.tensor([height // 2, width * 2])
    return images, targets


def composed(method, backbone, *words, size=CANVAS):
    given = compose_words(method, backbone, words)
    spec = peftbench.compose(*given)
    return dataclasses.replace(spec, data=dataclasses.replace(spec.data, size=size))


def compose_words(method, backbone, words):
    return [f"method={method}", f"backbone={backbone}", *SMALL, *words]


def make(method, backbone, *words, size=CANVAS):
    spec = composed(method, backbone, *words, size=size)
    built = instantiate(spec.method)
    refuse_incompatible(spec, built)
    torch.manual_seed(0)
    net = starting_backbone.build(spec, built)
    torch.manual_seed(1)
    model = Model(net, tasks.make(spec.task, net, ("a", "b", "c")))
    with torch.random.fork_rng():
        plan = built.prepare(model, [scenes()])
    model.adapted(built.adapt(net, plan))
    model.method = built
    return model


def trained(model, count=2, kind=torch.optim.SGD, lr=0.05):
    """The losses of steps on one batch, with the same proposals drawn each time."""
    named = model.trainable()
    inner = kind(named, lr)
    optimizer = model.method.optimizer(named, {n: p.detach().clone() for n, p in named}, inner)
    optimizer.objective = lambda: model.loss(scenes())  # of TPGM
    losses = []
    for _ in range(count):
        model.train()
        torch.manual_seed(2)
        loss = model.loss(scenes())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def rotated():
    """Each method once, over families and detectors in turn."""
    pairs = [(f, d) for f in FAMILIES for d in DETECTORS]
    return [(m, *p) for m, p in zip(METHODS, cycle(pairs[i * 4 % 9] for i in range(9)), strict=False)]


def asked(method, family, detector):
    """What every one of them must do."""
    model = make(method, FAMILIES[family], f"task.detector={detector}")
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    losses = trained(model)
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(torch.tensor(losses)))
    after = model.state_dict()
    moved = {n for n, t in before.items() if not torch.equal(t, after[n])}
    assert not moved & frozen
    assert not [n for n in moved if "running_" in n or "num_batches" in n], "statistics of batch norms are fixed"
    if model.method.side:
        assert not [n for n in moved if n.startswith("backbone.")]
    assert not [n for n in moved if any(n.startswith(f"backbone.net.{t}.") for t in model.backbone.facts.tail)]
    missing = [n for n, p in model.trainable() if p.grad is None]
    assert not missing, "what trains without a gradient would stop several processes"
    model.eval()
    with torch.no_grad():
        found = model.evaluate(scenes())
    for one, target in zip(found, scenes()[1], strict=True):
        height, width = target["original"].tolist()
        assert len(one["boxes"]) == len(one["scores"]) == len(one["labels"]) <= 100
        assert (one["scores"].diff() <= 0).all()
        assert ((one["labels"] >= 0) & (one["labels"] < 3)).all()
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize(("method", "family", "detector"), rotated())
def test_every_method_trains_a_detector(method, family, detector):
    asked(method, family, detector)


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_detector_and_family(method, family, detector):
    asked(method, family, detector)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_methods_train_the_same(family):
    methods = ("full", "linear", "bitfit", "lora", "cst", "losa", "lst", "spt_sparse", "ftp", "petah")
    seen = {m: tuple(trained(make(m, FAMILIES[family]), 3, torch.optim.AdamW, 1e-2)) for m in methods}
    assert len(set(seen.values())) == len(seen)
    starts = {losses[0] for m, losses in seen.items() if m != "petah"}  # which prunes
    assert max(starts) - min(starts) < 1e-4, "every other method starts as the detector of the backbone as it is"


def _torchvision(detector, name="resnet18", classes=91):
    """torchvision's detector over its own ResNet, with random weights."""
    two = detector == "fasterrcnn"
    extra = {} if two else {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    body = resnet_fpn_backbone(backbone_name=name, weights=None, **extra)
    if two:
        return theirs.FasterRCNN(body, classes, box_score_thresh=0.0)
    if detector == "fcos":
        return theirs.FCOS(body, classes, score_thresh=0.0, nms_thresh=0.5)
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    anchors = theirs.retinanet.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    more = {"score_thresh": 0.0, "detections_per_img": 100, "anchor_generator": anchors}
    return theirs.RetinaNet(body, classes, **more)


@pytest.mark.parametrize("detector", DETECTORS)
def test_parts_have_as_many_parameters_as_torchvisions(detector):
    with torch.device("meta"):
        peer = _torchvision(detector, "resnet50", 21 if detector == "fasterrcnn" else 20)
    body = sum(p.numel() for p in peer.backbone.body.parameters())
    whole = sum(p.numel() for p in peer.parameters()) - body
    words = [f"task.detector={detector}", "task.width=256", "task.hidden=1024"]
    spec = composed("cst", "resnet50", *words, size=(512, 512))
    net = starting_backbone.meta(spec, instantiate(spec.method))
    with torch.device("meta"):
        model = Model(net, tasks.make(spec.task, net, [str(i) for i in range(20)]))
        model.adapted(instantiate(spec.method).adapt(net, Plan()))
    counts = parameters(model)
    assert sum(counts["parts"].values()) == counts["head"] == whole
    assert counts["parts"]["neck"] == sum(p.numel() for p in peer.backbone.fpn.parameters())
    assert counts["method"] == 1_536_256
    little = dataclasses.replace(spec.task, neck=False, rpn=False, head="predictor")
    with torch.device("meta"):
        parts = tasks.make(little, net, [str(i) for i in range(20)]).parts()
    predictors = {
        "fasterrcnn": 1025 * 21 * 5,
        "retinanet": (256 * 9 + 1) * 9 * 20 + (256 * 9 + 1) * 9 * 4,
        "fcos": (256 * 9 + 1) * (20 + 4 + 1),
    }
    assert parts == {"neck": 0, "rpn": 0, "head": predictors[detector]}


@pytest.mark.parametrize(("method", "count"), [("full", 1_613_472), ("linear", 0), ("petah", 115_096)])
def test_the_methods_own_parameters_are_counted_apart(method, count):
    assert parameters(make(method, "resnet_nano"))["method"] == count


def test_the_tail_is_frozen_and_not_counted():
    model = make("full", "efficientnet_lite0")
    whole = sum(p.numel() for p in model.backbone.parameters())
    assert parameters(model)["method"] == whole - 412_160


@pytest.mark.parametrize("detector", DETECTORS)
def test_it_computes_what_torchvisions_detector_of_the_same_weights_does(detector, tmp_path):
    torch.manual_seed(0)
    peer = _torchvision(detector).eval()
    unused = [i for i, n in enumerate(_categories()) if n in ("N/A", "__background__" * (detector != "fasterrcnn"))]
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "cls_logits.weight" in name:
                parameter.mul_(30)  # else all scores are nearly the same
            if name.endswith(("cls_score.bias", "cls_logits.bias")) and not name.startswith(
                "rpn"
            ):  # 91 numbers, of which 80 are classes
                parameter.view(-1, 91)[:, unused] = -50.0
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    words = [f"task.detector={detector}", "task.width=256", "task.hidden=1024", "task.score_threshold=0"]
    words += ["backbone.name=resnet18", f"task.weights={tmp_path / 'peer.pth'}"]
    spec = composed("linear", "timm", *words, size=(96, 128))
    net = starting_backbone.build(spec, instantiate(spec.method))
    classes = tuple(n for n in _categories() if n not in ("N/A", "__background__"))
    task = tasks.make(spec.task, net, classes)
    assert "knows all classes by name" in tasks.start(task, spec.task, spec.backbone)
    model = Model(net, task)
    model.adapted(instantiate(spec.method).adapt(net, Plan()))
    model.eval()
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(3))
    peer.transform.min_size, peer.transform.max_size = (96,), 128
    peer.transform.image_mean, peer.transform.image_std = [0.0] * 3, [1.0] * 3
    with torch.no_grad():
        want, found = peer([image])[0], model(image[None])[0]
    named = [_categories()[i] for i in want["labels"].tolist()]
    ours = [classes[i] for i in found["labels"].tolist()]
    want, found = _sorted(want["boxes"], want["scores"], named), _sorted(found["boxes"], found["scores"], ours)
    assert len(want) == len(found) > 20
    same = sum(a[0] == b[0] and torch.allclose(a[1], b[1], atol=1e-3) for a, b in zip(want, found, strict=True))
    assert same >= 0.95 * len(want)  # ties at the end of the hundred


def _sorted(boxes, scores, labels):
    rows = zip(labels, torch.cat([boxes, scores[:, None]], 1), strict=True)
    return sorted(rows, key=lambda r: (-round(float(r[1][4]), 4), r[0], *r[1][:4].round().tolist()))


def _categories():
    return theirs.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]


def test_a_backbone_can_be_taken_out_of_a_detectors_file(tmp_path):
    peer = _torchvision("fasterrcnn")
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    spec = config.Backbone("resnet18", weights=str(tmp_path / "peer.pth"))
    found = backbones.build_with_weights(spec, 64).net.state_dict()
    for name, tensor in peer.state_dict().items():
        if name.startswith(BODY):
            assert torch.equal(found[name.removeprefix(BODY)], tensor)


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (7, 14, 28)])
def test_pooling_equals_torchvisions_operator(strides):
    g = torch.Generator().manual_seed(0)
    side = strides[-1] * 8
    maps = {
        str(i): torch.randn(2, 5, side // s, side // s, generator=g, requires_grad=True) for i, s in enumerate(strides)
    }
    corners = torch.rand(2, 60, 2, generator=g) * side * 1.1 - 0.05 * side  # also outside, and empty
    boxes = list(torch.cat([corners, corners + torch.rand(2, 60, 2, generator=g) ** 3 * side], 2))
    boxes[0][0] = torch.tensor([5.0, 5, 5, 5])
    weights = torch.randn(120, 5, 7, 7, generator=g)
    found = []
    pooling = Pooling(strides)
    for pool in (pooling, super(Pooling, pooling)):
        pooled = pool.forward(maps, boxes, [(side, side)] * 2)
        found.append([pooled, *torch.autograd.grad((pooled * weights).sum(), list(maps.values()))])
    for ours, peers in zip(*found, strict=True):
        assert torch.allclose(ours, peers, atol=1e-3)
    assert found[0][0].abs().sum() > 0
    nothing = pooling(maps, [torch.zeros(0, 4)] * 2, [(side, side)] * 2)
    assert nothing.shape == (0, 5, 7, 7)


@pytest.mark.parametrize("backbone", FAMILIES.values())
@pytest.mark.parametrize("method", ["cst", *(pytest.param(m, marks=pytest.mark.slow) for m in ("losa", "lst"))])
def test_a_side_method_starts_as_the_frozen_detector(method, backbone):
    images = scenes()
    found = []
    for name in (method, "linear"):
        model = make(name, backbone).eval()
        with torch.no_grad():
            found.append(model.evaluate(images))
    for a, b in zip(*found, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in b)


def _saved(method, *words):
    model = make(method, "timm", "backbone.name=resnet26", "backbone.pretrained=false", *words)
    meter = SavedBytes(model)
    model.train()
    torch.manual_seed(0)
    with meter.counting():
        model.loss(scenes())
    return meter.total


def test_cst_keeps_autograd_out_of_the_backbone():
    wide = "+backbone.args.base_width=128"
    assert _saved("cst", "task.detector=retinanet") == _saved("cst", "task.detector=retinanet", wide)
    fed = ["task.detector=retinanet", "method.feedback=true"]
    assert _saved("cst", *fed) < _saved("cst", *fed, wide)
    assert _saved("cst", "task.detector=retinanet") < _saved("cst", *fed)


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_is_not_to_train_does_not_and_is_not_counted(detector):
    few = ["task.neck=false", "task.rpn=false", "task.head=predictor", f"task.detector={detector}"]
    model = make("cst", "resnet_nano", *few)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    trained(model, 3)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    predictors = tuple(f"task.detector.net.{p}." for p in model.task.detector.predictors)
    assert {n for n in moved if n.startswith("task.")} == {n for n in before if n.startswith(predictors)}
    assert any(n.startswith("side.") for n in moved)


@pytest.mark.parametrize(
    ("name", "size", "finest", "strides", "start"),
    [
        ("vit_base_patch16_224", 448, 4, (4, 8, 16, 32), 4),
        ("vit_base_patch16_224", 448, 8, (8, 16, 32), 2),
        ("vit_base_patch14_dinov2", 448, 4, (7, 14, 28, 56), 2),
        ("vit_base_patch32_224", 512, 8, (8, 16, 32), 4),
        ("resnet50", 224, 4, (4, 8, 16, 32), 0),
        ("resnet50", 224, 8, (8, 16, 32), 0),
        ("swin_tiny_patch4_window7_224", 224, 4, (4, 8, 16, 32), 0),
        ("mobilevit_xxs", 256, 4, (4, 8, 16, 32), 0),
        ("efficientformer_l1", 224, 4, (4, 8, 16, 32), 0),
    ],
)
def test_the_pyramid_of_each_family(name, size, finest, strides, start):
    facts = backbones.build_on_meta(config.Backbone(name, pretrained=False), size).facts
    made = choose_levels(facts, finest, 4 if finest == 4 else 3)
    assert (made.strides, made.start) == (strides, start)
    assert len(made.taps) == (1 if start else len(strides))


def test_a_plain_vit_reads_a_grid_that_is_no_square():
    model = make("cst", "vit_nano", size=(64, 128))
    images = torch.randint(0, 256, (1, 3, 64, 128), dtype=torch.uint8)
    (tap,) = model.extract(images)
    (map_,) = model.backbone.maps([tap], model.reads)
    assert map_.shape[2:] == (8, 16)
    tokens = tap[:, model.backbone.facts.prefix :]
    assert torch.equal(map_[0, :, 3, 5], tokens[0, 3 * 16 + 5])
    pyramid = model.task.detector.net.backbone([map_])
    assert [tuple(m.shape[2:]) for m in pyramid.values()] == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]


@pytest.mark.parametrize(
    ("words", "size", "told"),
    [
        (["method=losa", "backbone=resnet_nano"], None, "give data.size=[H,W]"),
        (["method=cst", "backbone=vit_nano"], None, "give data.size=[H,W]"),
        (["method=full", "backbone=resnet_nano"], (100, 64), "data.size=[96,64]"),
        (["method=full", "backbone=timm", "backbone.name=mixer_s16_224", "backbone.pretrained=false"], (224, 224), ""),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_loaded(words, size, told):
    method, backbone, *more = (w.partition("=")[2] if i < 2 else w for i, w in enumerate(words))
    spec = composed(method, backbone, "data.min_size=[64]", "data.max_size=96", *more, size=size)
    if not told:
        assert refuse_incompatible(spec, instantiate(spec.method))
        return
    with pytest.raises(Refusal) as refused:
        refuse_incompatible(spec, instantiate(spec.method))
    assert told in str(refused.value)


@pytest.mark.parametrize("backbone", ["resnet_nano", "hybrid_nano"])
def test_images_keep_their_sizes_where_the_backbone_takes_any(backbone):
    spec = composed("cst", backbone, "data.min_size=[64]", "data.max_size=96", size=None)
    assert refuse_incompatible(spec, instantiate(spec.method)).facts.input_size == (64, 96)
    model = make("cst", backbone, "data.min_size=[64]", "data.max_size=96", size=None)
    for height, width in ((64, 128), (96, 64)):
        images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        target = scenes()[1][0] | {"size": torch.tensor([height, width])}
        assert torch.isfinite(model.loss((images, [target])))


def _run(tmp_path, *words):
    quick = ["data.images=[16,4,6]", "data.canvas=64", "data.batch_size=4", "trainer.epochs=2", "logger=none"]
    spec = peftbench.compose(*SMALL, *quick, "trainer.progress=false", f"output_dir={tmp_path}", *words)
    return peftbench.run(spec)


def test_a_run_leaves_its_detections_and_loads_again(tmp_path):
    record = _run(tmp_path, "method=cst", "backbone=resnet_nano")
    folder = Path(tmp_path) / record.id
    rows = json.loads((folder / "detections.json").read_text())
    assert rows
    assert {*rows[0]} == {"image_id", "category_id", "bbox", "score"}
    assert {"test/AP", "test/AP50", "val/AP"} <= set(record.metrics)
    assert record.costs["time"]["test_image"] > 0
    assert set(record.costs["parameters"]["parts"]) == {"neck", "rpn", "head"}
    assert record.costs["taps"]["computed"] == 20
    tuned = peftbench.load(folder)
    spec = peftbench.compose(*SMALL, "data.images=[16,4,6]", "data.canvas=64", "method=cst")
    test = instantiate(spec.data).load().test
    best = {i: max((r["score"] for r in rows if r["image_id"] == i), default=0) for i in {r["image_id"] for r in rows}}
    for path, objects in zip(test.images, test.labels, strict=True):
        found = tuned.detect(path)
        if objects.id in best:
            assert float(found["scores"][0]) == pytest.approx(best[objects.id], abs=1e-5)


@pytest.mark.slow
def test_kept_taps_train_to_the_same_numbers(tmp_path):
    few = ["method=losa", "backbone=resnet_nano", "trainer.epochs=1"]  # which passes three taps on
    record, kept = (_run(tmp_path / kind, *few, f"taps={kind}") for kind in ("off", "disk"))
    assert [r["train_loss"] for r in record.history] == [r["train_loss"] for r in kept.history]
    assert record.metrics == kept.metrics


@pytest.mark.parametrize("augment", ["none", pytest.param("multiscale", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path, monkeypatch, augment):
    words = ["method=lora", "backbone=resnet_nano", f"data.augment={augment}", "data.images=[12,2,4]"]
    whole = _run(tmp_path / "a", *words)
    ended, seen = Checkpoints.on_train_batch_end, []

    def stop(self, *arguments):
        seen.append(1)
        self.stop = len(seen) >= 4  # in the second epoch
        ended(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        assert _run(tmp_path / "b", *words).status == "interrupted"
    resumed = _run(tmp_path / "b", *words)
    assert resumed.costs["time"]["sessions"] == 2
    assert resumed.metrics == whole.metrics
    assert [r["train_loss"] for r in resumed.history] == [r["train_loss"] for r in whole.history]
    files = [Path(r.folder) / "delta.safetensors" for r in (whole, resumed)]
    ours, theirs = (safetensors.torch.load_file(f) for f in files)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_to_what_one_does(tmp_path):
    """Every region is learned from, so none is drawn; sums are ordered otherwise, and losses averaged by process."""
    words = [
        "method=cst",
        "backbone=resnet_nano",
        "trainer.epochs=3",
        "task.detector=retinanet",
        "data.images=[16,5,7]",
    ]
    words += ["optimizer=sgd", "optimizer.lr=0.02", "trainer.accelerator=cpu", "trainer.threads=1", "data.canvas=64"]
    words += [*SMALL, "data.batch_size=4", "logger=none", "trainer.progress=false"]
    found = []
    for place, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        folder = tmp_path / place
        command = [sys.executable, "-m", "peftbench.cli.main", *words[:4], *more, *words[4:], f"output_dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(next(folder.glob("*/result.json")).read_text()))
    one, two = found
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4)
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["coco-mini", "bccd-coco"])
def test_real_sets_train_and_evaluate_with_every_method(folder, cli):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is not there")
    words = [f"method={','.join(METHODS)}", "backbone=resnet_nano", "data=coco_folder", f"data.root={SHARED / folder}"]
    words += ["data.size=[96,128]", "data.batch_size=2", "trainer.epochs=1", "trainer.max_batches=2", "taps=off"]
    words += ["task.width=64", "task.hidden=32", "task.rois=32", "logger=none", "trainer.progress=false"]
    status, out, err = cli("-m", *words)
    assert status == 0, err
    assert "refused" not in out
    assert "failed" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task=classification"], "leave task= out"),
        (["task.width=0"], "task.width=0: expected at least 1"),
        (["task.detector=fcos", "task.width=48"], "multiple of 32"),
        (["task.score_threshold=2"], "from 0 to 1"),
        (["task.detector=fcos", "task.anchor_scale=4"], "FCOS has points"),
        (["task.weights=nowhere.pth"], "there is no such file"),
        (["task.weights=package:nothing"], "no such detector in the package"),
        (["task.weights=coco"], "have a ResNet-50"),
        (["task.weights=coco", "backbone.pretrained=false"], "holds the backbone too"),
        (["data.augment=rrc"], "is not for task=detection"),
        (["trainer=fsdp"], "use trainer=ddp"),
        (["taps=disk", "data.size=null"], "give data.size=[H,W]"),
        (["taps.views=2", "data.augment=flip"], "taps.views"),
    ],
)
def test_bad_input_is_one_sentence(cli, words, told):
    few = ["data.images=[4,2,2]", "data.canvas=64", "backbone=resnet_nano", "method=linear", *SMALL]
    status, _, err = cli(*few, *words)
    assert status != 0
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_export_and_multitask_say_that_they_are_not_for_detectors(tmp_path):
    record = _run(tmp_path, "method=linear", "backbone=resnet_nano", "trainer.epochs=1", "trainer.max_batches=1")
    folder = Path(tmp_path) / record.id
    with pytest.raises(UserError, match="only classification is exported"):
        export(folder, "onnx")
    with pytest.raises(UserError, match="it serves classification alone"):
        MultiTask(None, [folder])
