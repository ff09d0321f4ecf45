"""A step of detection: CST against full fine-tuning and LoRA of the same detector (`bench.py detect`)."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = {"little": (False, False, "predictor"), "all": (True, True, "all")}
"""Which of neck, RPN and head train."""


def bench_detect(rounds: int = 3) -> list[tuple[str, ...]]:
    """Faster R-CNN over ResNet-50; 512 pixels at batch 2, on a GPU 800 pixels at batch 8 in bf16."""
    import torch

    gpu = torch.cuda.is_available()
    what = "ResNet-50, 800 px, batch 8, bf16" if gpu else "ResNet-50, 512 px, batch 2"
    rows = []
    for ours, parts, limits in (
        ("cst", "little", {"full": (0.6, 0.5), "lora": (None, None)}),
        ("cst", "all", {"full": (None, None)}),
    ):
        for peer, limit in limits.items():
            theirs = "all" if peer == "full" else parts
            pair = [_measured(ours, parts, rounds), _measured(peer, theirs, rounds)]
            about = f"{ours} ({_told(parts)}), {peer} ({_told(theirs)})"
            for key, most, text in (("seconds", limit[0], "step"), ("bytes", limit[1], "peak memory")):
                a, b = (p[key] for p in pair)
                show: Callable[[float], str] = _seconds if key == "seconds" else _megabytes
                verdict = "" if most is None else "yes" if a <= most * b else "**no**"
                shown = "" if most is None else f"{most:.2f}"
                rows.append((f"detection {text}, {what}: {about}", show(a), show(b), f"{a / b:.2f}", shown, verdict))
    return rows


def _told(parts: str) -> str:
    return "neck, RPN and head train" if parts == "all" else "of the detector the predictor trains"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


_KNOWN: dict[tuple[str, str], dict[str, float]] = {}


def _measured(method: str, parts: str, rounds: int) -> dict[str, float]:
    """Median seconds of a step and the peak of memory above set-up, in a process of its own."""
    if (method, parts) not in _KNOWN:
        # Freed blocks go back to the system at once, so that the peak is of what is in use.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
        words = [sys.executable, str(Path(__file__)), method, parts]
        peak = json.loads(subprocess.check_output([*words, "1"], env=environment).split(b"\n")[-2])
        timed = json.loads(subprocess.check_output([*words, str(rounds)]).split(b"\n")[-2])
        _KNOWN[method, parts] = {"seconds": timed["seconds"], "bytes": peak["bytes"]}
    return _KNOWN[method, parts]


def _inside(method: str, parts: str, rounds: int) -> dict[str, float]:
    import torch

    import peftbench
    from peftbench.costs import PeakMemory
    from peftbench.methods.base import Plan
    from peftbench.models.model import Model
    from peftbench.runs import starting_backbone
    from peftbench.runs.build import instantiate
    from peftbench.tasks.base import task_class

    gpu = torch.cuda.is_available()
    side, batch = (800, 8) if gpu else (512, 2)
    device = torch.device("cuda" if gpu else "cpu")
    neck, rpn, head = PARTS[parts]
    torch.manual_seed(0)
    words = [f"method={method}", "backbone=resnet50", "backbone.pretrained=false", "data=coco_folder", "data.root=."]
    words += [f"data.size=[{side},{side}]", f"task.neck={neck}", f"task.rpn={rpn}", f"task.head={head}"]
    config = peftbench.compose(*words)
    adapts: Any = instantiate(config.method)
    backbone = starting_backbone.build(config, adapts)
    model = Model(backbone, task_class(config.task).build(config.task, backbone, [str(i) for i in range(20)]))
    model.adapted(adapts.adapt(backbone, Plan()))
    model.to(device).train()
    optimizer = torch.optim.SGD([p for _, p in model.trainable()], 1e-3, momentum=0.9)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    corners = torch.rand(batch, 7, 2) * side * 0.6
    boxes = torch.cat([corners, corners + 20 + torch.rand(batch, 7, 2) * side * 0.3], 2).to(device)
    targets = [
        {"boxes": b, "labels": torch.arange(7, device=device), "size": torch.tensor([side, side])} for b in boxes
    ]

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            loss = model.loss((images, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    meter = PeakMemory(device)
    meter.start()
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    found = meter.read()
    return {"seconds": statistics.median(times[1:]), "bytes": found["allocated" if gpu else "resident"]}


if __name__ == "__main__":
    print(json.dumps(_inside(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
