"""A step of detection: CST against full fine-tuning and LoRA of the same detector; time and memory."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cache
from typing import Any

from bench.tables import NOTHING, Row
from bench.timing import GIVES_MEMORY_BACK, in_own_process, seconds_of


@dataclass(frozen=True)
class Setting:
    """Faster R-CNN over ResNet-50 on square images of `side` pixels."""

    shown: str
    side: int
    batch: int
    device: str


SETTINGS = {
    "cpu": Setting("ResNet-50, 512 px, batch 2", 512, 2, "cpu"),
    "cuda": Setting("ResNet-50, 800 px, batch 8, bf16", 800, 8, "cuda"),
}
TRAINED = {
    "predictor": "of the detector the predictor trains",
    "all": "neck, RPN and head train",
}
"""What trains of the detector, as the option and in words."""


@dataclass(frozen=True)
class Case:
    """CST against a peer; limits are of the ratios of time and of memory."""

    ours: str
    peer: str
    peer_method: str
    time_limit: float | None = None
    memory_limit: float | None = None

    def what(self, measure: str, setting: Setting) -> str:
        ours, peer = f"cst ({TRAINED[self.ours]})", f"{self.peer_method} ({TRAINED[self.peer]})"
        return f"detection {measure}, {setting.shown}: {ours}, {peer}"


CASES = (
    Case("predictor", "all", "full", 0.6, 0.5),
    Case("predictor", "predictor", "lora"),
    Case("all", "all", "full"),
)
MEASURES = ("step", "peak memory")


def names() -> list[str]:
    return [
        case.what(measure, setting) for setting in SETTINGS.values() for case in CASES for measure in MEASURES
    ]  # fmt: skip


def measure(quick: bool = False) -> list[Row]:
    """On a GPU larger images, more of them, and bf16."""
    import torch

    setting = SETTINGS["cuda" if torch.cuda.is_available() else "cpu"]
    rounds = 1 if quick else 3
    rows = []
    for case in CASES:
        ours = _costs("cst", case.ours, rounds, setting.device)
        peer = _costs(case.peer_method, case.peer, rounds, setting.device)
        for name, a, b, limit, shown in (
            ("step", ours["seconds"], peer["seconds"], case.time_limit, "{:.2f} s"),
            ("peak memory", ours["bytes"] / 1e6, peer["bytes"] / 1e6, case.memory_limit, "{:.0f} MB"),
        ):
            kept = None if limit is None else a <= limit * b
            at_most = NOTHING if limit is None else f"{limit:.2f}"
            what = case.what(name, setting)
            rows.append(Row(what, shown.format(a), shown.format(b), f"{a / b:.2f}", at_most, kept))
    return rows


@cache
def _costs(method: str, trained: str, rounds: int, device: str) -> dict[str, float]:
    """Median seconds of a step and the peak of memory above set-up in bytes, each in a process of its own."""
    peak = in_own_process(
        "bench.detection", "step_costs", method, trained, 1, device, environment=GIVES_MEMORY_BACK
    )  # fmt: skip
    timed = in_own_process("bench.detection", "step_costs", method, trained, rounds, device)
    return {"seconds": timed["seconds"], "bytes": peak["bytes"]}


def step_costs(method: str, trained: str, rounds: int, device_name: str) -> dict[str, float]:
    """The costs of a training step in this process: `seconds`, the median after a first one, and `bytes`."""
    import torch

    from bench.models import adapted_model, random_config
    from peftbench.costs import PeakMemory

    setting, device = SETTINGS[device_name], torch.device(device_name)
    side, batch, gpu = setting.side, setting.batch, device_name == "cuda"
    whole = str(trained == "all").lower()
    words = [f"method={method}", "backbone=resnet50", "data=coco_folder", "data.root=.", f"data.size=[{side},{side}]"]
    words += [f"task.neck={whole}", f"task.rpn={whole}", f"task.head={trained}"]
    model = adapted_model(random_config(*words), [str(i) for i in range(20)])
    model.to(device).train()
    optimizer = torch.optim.SGD([p for _, p in model.trainable()], 1e-3, momentum=0.9)
    batch_of_scenes = _random_scenes(batch, side, device)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            loss = model.loss(batch_of_scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    meter = PeakMemory(device)
    meter.start()
    times = [seconds_of(step) for _ in range(rounds + 1)]
    peak = meter.read()["total" if gpu else "above"]
    return {"seconds": statistics.median(times[1:]), "bytes": peak}


def _random_scenes(batch: int, side: int, device: Any) -> Any:
    """Images (B, 3, side, side) with seven objects each."""
    import torch

    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    corners = torch.rand(batch, 7, 2) * side * 0.6
    boxes = torch.cat([corners, corners + 20 + torch.rand(batch, 7, 2) * side * 0.3], 2).to(device)
    targets = [
        {"boxes": b, "labels": torch.arange(7, device=device), "size": torch.tensor([side, side])} for b in boxes
    ]
    return images, targets
