"""Linear probe of the small backbones: frozen features, pretrained against random weights (maintainers only).

Features are pooled (what timm's ``forward_head(pre_logits=True)`` gives), standardised and classified by
logistic regression; images are squashed to 64 px. The probe's images are disjoint from the pretraining images
but of the same classes.

    python scripts/probe_nano.py vit_nano resnet_nano hybrid_nano --data ../shared/data/caltech101-vtab1k-like
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pretrain_nano import NAMES, ROOT, STUDENT_PX, WEIGHTS, build_student, load_config, normalise, to_tensor
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

LISTS = {"train": "train800val200.txt", "test": "test.txt"}
MIN_TOP1, MIN_RATIO = 30.0, 2.0


def read_split(data: Path, list_name: str) -> tuple[Tensor, np.ndarray]:
    """Images as uint8 at the students' size, and labels."""
    images, labels = [], []
    for line in (data / list_name).read_text(encoding="utf-8").splitlines():
        name, label = line.rsplit(" ", 1)
        with Image.open(data / name) as opened:
            image = opened.convert("RGB")
        images.append(to_tensor(image, (0, 0, *image.size), STUDENT_PX))
        labels.append(int(label))
    return torch.stack(images), np.array(labels)


@torch.inference_mode()
def pooled_features(model: nn.Module, images: Tensor) -> np.ndarray:
    maps = (model.forward_features(normalise(batch)) for batch in images.split(100))
    return torch.cat([model.forward_head(m, pre_logits=True) for m in maps]).numpy()


def probe(model: nn.Module, splits: dict[str, tuple[Tensor, np.ndarray]]) -> float:
    """Top-1 in percent on the test images."""
    train, test = (pooled_features(model.eval(), splits[split][0]) for split in ("train", "test"))
    scaler = StandardScaler().fit(train)
    classifier = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(train), splits["train"][1])
    return 100.0 * classifier.score(scaler.transform(test), splits["test"][1])


def build(name: str, weights: Path | None, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = build_student(load_config(name))
    if weights is not None:
        state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()}
        model.load_state_dict(state, strict=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=list(NAMES), help=f"some of {', '.join(NAMES)} (all)")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/caltech101-vtab1k-like")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of <name>.safetensors")
    parser.add_argument("--seeds", type=int, default=3, help="random initialisations to compare with")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    splits = {split: read_split(args.data, list_name) for split, list_name in LISTS.items()}
    failed = []
    for name in args.names:
        pretrained = probe(build(name, args.weights / f"{name}.safetensors", 0), splits)
        random = [probe(build(name, None, seed), splits) for seed in range(args.seeds)]
        shown = ", ".join(f"{top1:.1f}" for top1 in random)
        print(f"{name}: pretrained {pretrained:.1f}, random {shown}", flush=True)
        if pretrained < max(MIN_TOP1, MIN_RATIO * max(random)):
            failed.append(name)
    if failed:
        raise SystemExit(f"below {MIN_TOP1:.0f} % or {MIN_RATIO:g} times random: {', '.join(failed)}")


if __name__ == "__main__":
    main()
