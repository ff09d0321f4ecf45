"""Whole detectors to start from: torchvision's of COCO, files in torchvision's form, and the ones that are shipped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import detection as theirs

from peftbench import config
from peftbench.backbones import Backbone
from peftbench.backbones.weights import BODY, read_state_dict
from peftbench.common.amounts import plural
from peftbench.common.digests import digests
from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence, shortened
from peftbench.common.regular_files import open_binary
from peftbench.tasks.detection import schema
from peftbench.tasks.detection.detectors import Detector

FORMAT = "peftbench-detector-1"
HERE = Path(__file__).parent / "weights"
COCO: dict[str, Any] = {
    "fasterrcnn": theirs.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "retinanet": theirs.RetinaNet_ResNet50_FPN_Weights.COCO_V1,
    "fcos": theirs.FCOS_ResNet50_FPN_Weights.COCO_V1,
}
COCO_MASKS: Any = theirs.MaskRCNN_ResNet50_FPN_Weights.COCO_V1
# torchvision evaluates these with an epsilon of zero in their batch norms.
_NO_EPSILON = (
    "fasterrcnn_resnet50_fpn_coco-258fb6c6",
    "retinanet_resnet50_fpn_coco-eeacb38b",
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e",
)
_MASK_HEAD = "roi_heads.mask_"


def detector_file(spec: schema.Detection, backbone: config.Backbone) -> Path | None:
    """The file of the detector that a run starts from, None where it starts anew.

    Raises:
        UserError: there is none, or it cannot be fetched, or it belongs to another backbone.
    """
    if spec.weights is None:
        return None
    if spec.weights == "coco":
        return _fetched(spec, backbone)
    name = spec.weights.removeprefix("package:")
    if name != spec.weights:
        path = HERE / f"{name}.safetensors"
        if not path.is_file():
            shipped = ", ".join(sorted(p.stem for p in HERE.glob("*.safetensors"))) or "none"
            raise UserError(f"task.weights={spec.weights}: there is no such detector in the package; it has {shipped}.")
    else:
        path = Path(spec.weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"task.weights={spec.weights}: there is no such file; give a .safetensors or .pth file of a whole "
                f"detector, package:<name> or coco."
            )
    about = _about(path)
    for key, of_file, of_run in (
        ("backbone.name", about.get("backbone"), backbone.name),
        ("task.detector", about.get("detector"), spec.detector),
    ):
        if (
            of_file is not None and of_file.partition(".")[0] != of_run.partition(".")[0]
        ):  # timm's tag says of other weights
            raise UserError(f"task.weights={spec.weights}: is of {key}={of_file}, and the run has {key}={of_run}.")
    return path


def stamp_of(spec: schema.Detection, file: Path | None) -> dict[str, str]:
    """What a number needs to be compared: where the detector comes from, and the sha256 of its file."""
    if file is None:
        return {}
    with open_binary(file) as opened:
        return {"weights": str(spec.weights), "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def settle_batch_norms(backbone: Backbone, file: Path) -> None:
    """Has the backbone compute as it does in torchvision's detector, whose batch norms are without epsilon."""
    with open_binary(file) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if any(digest.startswith(name.rpartition("-")[2]) for name in _NO_EPSILON):
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0


def begin_detector(detector: Detector, classes: Sequence[str], file: Path) -> tuple[dict[str, str], str]:
    """Has the detector start from the file.

    Returns the hashes of what it starts from, by the names of the task's tensors, and what the user should know of it.

    Layers that give classes keep the rows of the classes that the file knows by the same name; the others start anew.

    Raises:
        UserError: the file does not fit; says what differs.
    """
    state = {n: t for n, t in read_state_dict(file).items() if not n.startswith(BODY)}
    fresh = detector.net.state_dict()
    known = _classes(file, detector, state)
    kept = [c for c in classes if c in known]
    whole = set(fresh)
    other = _without_masks(state, fresh, whole)
    for layer, kind in detector.predictors.items():
        if kind is None or f"{layer}.weight" in fresh.keys() - whole:
            continue
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name not in state:
                raise UserError(f"{file}: is no {type(detector).__name__.removesuffix('Detector')}: it has no {name}.")
            if list(known) != list(classes):
                whole.discard(name)
            state[name] = _rows(fresh[name], state[name], kind, detector.first, classes, known)
    try:
        missing, foreign = detector.net.load_state_dict(state, strict=False)
    except RuntimeError as problem:
        raise UserError(
            f"{file}: does not fit this detector{_mismatch(str(problem))}; task.width and task.hidden must be those "
            f"that it was made with."
        ) from None
    if missing or foreign:
        what, names = ("has no", missing) if missing else ("has a foreign", foreign)
        raise UserError(f"{file}: does not fit this detector: it {what} {names[0]}.")
    start = {
        f"detector.net.{n}": digest
        for n, digest in digests({n: t for n, t in detector.net.state_dict().items() if n in whole}).items()
    }
    if len(kept) == len(classes):
        which = "it knows all classes by name"
    elif kept:
        which = f"it knows {len(kept)} of the {len(classes)} classes by name; the predictor starts anew for the rest"
    else:
        which = "its classes are others, for which the predictor starts anew"
    return start, f"task.weights: starts from {file.name}; {which}{other}"


def _without_masks(state: dict[str, Tensor], fresh: Mapping[str, Tensor], whole: set[str]) -> str:
    """Where only one of detector and file has a mask head: it starts anew, or is left out. Says so, or nothing."""
    ours, given = ({name for name in names if name.startswith(_MASK_HEAD)} for names in (fresh, state))
    if ours and not given:
        state.update({name: fresh[name] for name in ours})
        whole -= ours
        return "; it has no mask head, so that starts anew"
    if given and not ours:
        for name in given:
            del state[name]
        return "; its mask head is left out (task.masks=true takes it)"
    return ""


def taken_over(
    detector: Detector, classes: Sequence[str], learned: Mapping[str, Tensor], theirs: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """As `Task.taken_over`: all of it, but in layers that give classes the rows of the classes of the same name."""
    taken, fresh = dict(learned), detector.net.state_dict()
    known = {name: i + detector.first for i, name in enumerate(theirs)}
    for layer, kind in detector.predictors.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if kind is not None and (key := f"detector.net.{name}") in taken:
                taken[key] = _rows(fresh[name], taken[key], kind, detector.first, classes, known)
    kept = sum(name in known for name in classes)
    which = f"{kept} of {len(classes)} classes are known by name and keep their rows of the predictor"
    return taken, which if kept else "no class is of the same name, so that the predictor starts fresh"


def _mismatch(problem: str) -> str:
    """Which tensor differs in shape, of torch's message."""
    mismatch = re.search(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", problem, re.DOTALL)
    return f": its {mismatch[1]} is {mismatch[2]}, and {mismatch[3]} was expected" if mismatch else ""


def _rows(
    ours: Tensor, given: Tensor, kind: str, first: int, classes: Sequence[str], known: Mapping[str, int]
) -> Tensor:
    """Our rows with those of known classes from the file; the background's too, where there is one.

    `class`: rows lie class by class, as many for each; `anchor`: anchor by anchor, a row a class.
    """
    count = len(classes) + first
    total = len(known) and max(known.values()) + 1
    total = max(total, _total(ours, given, kind, count))
    if given.shape[1:] != ours.shape[1:] or len(given) % total:
        return given  # load_state_dict says what does not fit
    mine = ours.unflatten(0, (count, -1)) if kind == "class" else ours.unflatten(0, (-1, count)).transpose(0, 1)
    other = given.unflatten(0, (total, -1)) if kind == "class" else given.unflatten(0, (-1, total)).transpose(0, 1)
    if mine.shape[1:] != other.shape[1:]:
        return given
    mine = mine.clone()
    if first:
        mine[0] = other[0]
    for i, name in enumerate(classes):
        if name in known:
            mine[i + first] = other[known[name]]
    return (mine if kind == "class" else mine.transpose(0, 1)).flatten(0, 1)


def _total(ours: Tensor, given: Tensor, kind: str, count: int) -> int:
    """The number of classes that the rows of the file are of: as many rows for each as we have."""
    return max(len(given) // max(len(ours) // count, 1), 1)


def _classes(file: Path, detector: Detector, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Name -> the number of its rows, of the classes that the file knows; torchvision's are told by their number."""
    layer = next(layer for layer, kind in detector.predictors.items() if kind)
    each = 1 if detector.predictors[layer] == "class" else max(detector.net.anchor_generator.num_anchors_per_location())
    rows = state[f"{layer}.bias"].numel() if f"{layer}.bias" in state else 0
    about = _about(file)
    if "classes" in about:
        try:
            names = json.loads(about["classes"])
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(
                f"{file}: says of its classes {shortened(about['classes'], 40)!r}; expected a list of names."
            )
        if rows and rows != each * (len(names) + detector.first):
            raise UserError(
                f"{file}: names {plural(len(names), 'class')}, and its predictor has {rows // each - detector.first}."
            )
        return {name: i + detector.first for i, name in enumerate(names)}
    names = next(iter(COCO.values())).meta["categories"]
    if rows != each * len(names):
        return {}
    return {name: i for i, name in enumerate(names) if name not in ("N/A", "__background__")}


def _about(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError):  # reading it whole says what is wrong
        return {}


def _fetched(spec: schema.Detection, backbone: config.Backbone) -> Path:
    if backbone.name.partition(".")[0] != "resnet50":
        raise UserError(
            f"task.weights=coco: torchvision's detectors have a ResNet-50, and backbone.name is {backbone.name}; take "
            f"backbone=resnet50, or a detector of this backbone in a file."
        )
    url = (COCO_MASKS if spec.masks else COCO[spec.detector]).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2])
        except Exception as problem:  # network and file errors come as many classes
            raise UserError(
                f"task.weights=coco: {url} could not be fetched ({first_sentence(problem)}); download it elsewhere and "
                f"give task.weights=<file>, or leave task.weights out."
            ) from None
    return path
