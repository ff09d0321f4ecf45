"""Detectors: torchvision's own as the measure, exact counts, the pyramid of each family, sizes of the input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchvision.models import detection as theirs
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from peftbench import backbones, config
from peftbench.backbones.weights import BODY
from peftbench.common.errors import Refusal
from peftbench.costs import parameters
from peftbench.methods.base import Plan
from peftbench.models.model import Model
from peftbench.runs import starting_backbone
from peftbench.runs.build import instantiate
from peftbench.runs.compatibility import refuse_incompatible
from peftbench.tasks.base import begin_task, task_class
from peftbench.tasks.levels import choose_levels
from support.detection import DETECTORS, composed, make, scenes


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
    net = starting_backbone.build_on_meta(spec, instantiate(spec.method))
    with torch.device("meta"):
        model = Model(net, task_class(spec.task).build(spec.task, net, [str(i) for i in range(20)]))
        model.adapted(instantiate(spec.method).adapt(net, Plan()))
    counts = parameters(model)
    assert sum(counts["parts"].values()) == counts["head"] == whole
    assert counts["parts"]["neck"] == sum(p.numel() for p in peer.backbone.fpn.parameters())
    assert counts["method"] == 1_536_256
    little = dataclasses.replace(spec.task, neck=False, rpn=False, head="predictor")
    with torch.device("meta"):
        parts = task_class(little).build(little, net, [str(i) for i in range(20)]).parts()
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
    net = starting_backbone.build_starting_backbone(spec, instantiate(spec.method))
    classes = tuple(n for n in _categories() if n not in ("N/A", "__background__"))
    task = task_class(spec.task).build(spec.task, net, classes)
    assert "knows all classes by name" in begin_task(task, spec.task, spec.backbone)
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
