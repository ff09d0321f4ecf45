"""A step of segmentation: side methods and FTP against full fine-tuning; mIoU against the reading of masks; windows."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.tables import Row
from bench.timing import GIVES_MEMORY_BACK, in_own_process, interleaved_row, seconds_of

SHOWN = "ResNet-50, 256 px, batch 8, 11 classes"
LIBRARY = "segmentation_models_pytorch"
CLASSES, SIDE = 150, 512
SLIDING = "sliding windows, ResNet-50, 512 px, 9 windows of 256 px, 11 classes: looking, its windows alone"


@dataclass(frozen=True)
class Case:
    """A method against full fine-tuning with the same decoder; limits are of the ratios of time and of memory."""

    method: str
    decoder: str
    time_limit: float
    memory_limit: float | None = None
    from_taps: bool = False

    @property
    def ours(self) -> str:
        """The method in words."""
        return f"{self.method} from kept taps" if self.from_taps else self.method

    def what(self, measure: str) -> str:
        """The name of a row."""
        return f"segmentation {measure}, {SHOWN}, {self.decoder}: {self.ours}, full"


CASES = (
    Case("losa", "linear", 0.5, 0.5),
    Case("cst", "linear", 0.5, 0.5),
    Case("losa", "linear", 0.1, from_taps=True),
    Case("ftp", "linear", 1.1),
    Case("losa", "fpn", 0.65, 0.5),
    Case("cst", "fpn", 0.65, 0.5),
)


def names() -> list[str]:
    rows = [case.what("step") for case in CASES]
    rows += [case.what("peak memory") for case in CASES if case.memory_limit is not None]
    return [*rows, _counting(2000), SLIDING]


def _counting(images: int) -> str:
    return f"mIoU of {images:,} masks of {SIDE} x {SIDE} pixels, {CLASSES} classes: counting, reading"


def measure(quick: bool = False) -> list[Row]:
    """The decoders of segmentation-models-pytorch where it is installed."""
    rows, rounds = [], 1 if quick else 3
    for case in CASES:
        if case.decoder != "linear" and importlib.util.find_spec(LIBRARY) is None:
            continue
        ours, peer = (
            _costs(case.method, case.decoder, case.from_taps, rounds),
            _costs("full", case.decoder, False, rounds),
        )
        figures = [("step", ours["seconds"], peer["seconds"], case.time_limit, "{:.2f} s")]
        if case.memory_limit is not None:
            figures.append(("peak memory", ours["bytes"] / 1e6, peer["bytes"] / 1e6, case.memory_limit, "{:.0f} MB"))
        for name, a, b, limit, shown in figures:
            kept = a <= limit * b
            rows.append(Row(case.what(name), shown.format(a), shown.format(b), f"{a / b:.2f}", f"{limit:.2f}", kept))
    return [*rows, _masks(50 if quick else 2000), _sliding(rounds)]


@cache
def _costs(method: str, decoder: str, from_taps: bool, rounds: int) -> dict[str, float]:
    """Median seconds of a step and the peak of memory above set-up in bytes, each in a process of its own."""
    words = ("bench.segmentation", "step_costs", method, decoder, int(from_taps))
    peak = in_own_process(*words, 1, environment=GIVES_MEMORY_BACK)
    return {"seconds": in_own_process(*words, rounds)["seconds"], "bytes": peak["bytes"]}


def step_costs(method: str, decoder: str, from_taps: int, rounds: int) -> dict[str, float]:
    """The costs of a training step in this process: `seconds`, the median after a first one, and `bytes`."""
    import torch

    from bench.models import adapted_model, random_config
    from peftbench.costs import PeakMemory
    from peftbench.runs.build import instantiate

    words = [
        f"method={method}",
        "backbone=resnet50",
        "data=digits_seg",
        "data.size=[256,256]",
        f"task.decoder={decoder}",
    ]
    config = random_config(*words, "task.width=256")
    model = adapted_model(config, [str(i) for i in range(11)]).train()
    named = model.trainable()
    inner = torch.optim.AdamW(named, 1e-3, fused=True)
    anchors = {n: p.detach().clone() for n, p in named}
    optimizer = instantiate(config.method).optimizer(named, anchors, inner)
    images = torch.randint(0, 256, (8, 3, 256, 256), dtype=torch.uint8)
    targets = [{"mask": torch.randint(0, 11, (256, 256), dtype=torch.uint8)} for _ in range(8)]
    cached = model.frozen(images) if from_taps else None

    def step() -> None:
        loss = model.loss((images, targets), cached)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    meter = PeakMemory(torch.device("cpu"))
    meter.start()
    times = [seconds_of(step) for _ in range(rounds + 1)]
    return {"seconds": statistics.median(times[1:]), "bytes": meter.read()["above"]}


def _sliding(rounds: int) -> Row:
    """Seconds of the logits of an image in windows, and of those of the same windows one by one, each at its pixels."""
    import torch

    from bench.models import adapted_model, random_config

    words = ["method=linear", "backbone=resnet50", "data=digits_seg", "data.size=[512,512]", "data.augment=crop"]
    words += ["task.window=256", "task.stride=128"]
    model = adapted_model(random_config(*words), [str(i) for i in range(11)]).eval()
    image = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8)
    places = [(top, left) for top in (0, 128, 256) for left in (0, 128, 256)]
    windows = [image[..., top : top + 256, left : left + 256].contiguous() for top, left in places]
    looks = model.task.looks
    whole = type(looks)()

    @torch.no_grad()
    def alone() -> None:
        model.task.looks = whole
        for window in windows:
            model(window)

    @torch.no_grad()
    def sliding() -> None:
        model.task.looks = looks
        model(image)

    return interleaved_row(SLIDING, sliding, alone, 5 * rounds, 1.1)


def _masks(images: int) -> Row:
    """Seconds of counting pixels and of reading the masks, image by image in turn."""
    import numpy as np
    import torch
    from PIL import Image

    from peftbench.data.class_list import coding_of_values
    from peftbench.data.masks import MaskFile
    from peftbench.tasks.segmentation.confusion import Confusion

    names = [str(i) for i in range(CLASSES)]
    metric, coding, rng = Confusion(names), coding_of_values(names), np.random.default_rng(0)
    reading = counting = 0.0
    with tempfile.TemporaryDirectory() as folder:
        masks = []
        for i in range(20):  # as scenes are: regions of one class each
            regions = Image.fromarray(rng.integers(0, CLASSES, (16, 16)).astype(np.uint8))
            file = Path(folder) / f"{i}.png"
            regions.resize((SIDE, SIDE), Image.Resampling.NEAREST).rotate(7 * i).save(file)
            masks.append(MaskFile(file, coding))
        predicted = torch.from_numpy(rng.integers(0, CLASSES, (SIDE, SIDE)).astype(np.uint8))
        for i in range(images):
            mask, whole = masks[i % len(masks)], []
            reading += seconds_of(lambda mask=mask, whole=whole: whole.append(torch.from_numpy(mask.read())))
            counting += seconds_of(lambda whole=whole: metric.update([predicted], whole))
    kept = counting <= 1.5 * reading
    what = _counting(images)
    return Row(what, f"{counting:.2f} s", f"{reading:.2f} s", f"{counting / reading:.2f}", "1.50", kept)
