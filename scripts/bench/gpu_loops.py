"""What `gpu.py` times: whole runs, by their records, and bare loops."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.timing import ROOT


@dataclass(frozen=True)
class Setting:
    """What differs between a GPU and a trial without one.

    Attributes:
        kind: the device of bare loops.
        backbone, giant, detector: what is measured; `timm` is the backbone's architecture.
        side: pixels.
        batch: images of a step.
        batches: of a run.
        methods: these alone; None is all.
        half: the precision of runs that are measured; the pretended device knows no autocast.
        product: the side of the matrices whose product stands for the chip's peak.
    """

    kind: str
    backbone: str
    timm: str
    giant: str
    detector: str
    side: int
    batch: int
    batches: int
    methods: tuple[str, ...] | None
    half: str
    product: int

    @property
    def words(self) -> list[str]:
        """Of a run that is measured."""
        return [
            f"backbone={self.backbone}",
            "backbone.pretrained=false",
            *self.of_all,
            f"trainer.precision={self.half}",
        ]

    @property
    def of_all(self) -> list[str]:
        accelerator = "gpu" if self.kind == "cuda" else "cpu"
        short = ["trainer.epochs=1", f"trainer.max_batches={self.batches}", "trainer.trial=true", "logger=none"]
        quiet = ["trainer.progress=false", f"data.batch_size={self.batch}", f"trainer.accelerator={accelerator}"]
        return ["data=digits", *short, *quiet]


REAL = Setting(
    *("cuda", "vit_b", "vit_base_patch16_224", "vit_g", "resnet50", 224, 64, 12, None, "bf16", 8192),
)
PRETENDED = Setting(
    *("cpu", "vit_nano", "vit_tiny_patch16_224", "vit_nano", "resnet_nano", 32, 4, 2),
    *(("bitfit", "losa", "ftp"), "32", 64),
)


def record_of(*words: str) -> Any:
    """The record of a run that is carried out anew."""
    import peftbench

    with tempfile.TemporaryDirectory() as folder:
        return peftbench.run(peftbench.compose(*words, f"output_dir={folder}", f"taps.dir={folder}/taps"))


def step_of(*words: str) -> float:
    """Seconds of a run's step: the median of its record."""
    return float(record_of(*words).costs["time"]["step"]["median"])


def images_of_step(setting: Setting, side: Any) -> Any:
    import torch

    return torch.randint(0, 256, (setting.batch, 3, side, side), dtype=torch.uint8, device=setting.kind)


def labels_of_step(setting: Setting) -> Any:
    import torch

    return torch.arange(setting.batch, device=setting.kind) % 10


def timed(setting: Setting, work: Callable[[], Any], rounds: int = 5) -> float:
    """Median seconds of a call; on a GPU until it has computed."""
    import torch

    def once() -> float:
        begun = time.perf_counter()
        work()
        if setting.kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    for _ in range(3 if setting.kind == "cuda" else 1):
        once()
    return sorted(once() for _ in range(rounds))[rounds // 2]


def product_rate(setting: Setting, kind: Any) -> float:
    """Floating-point operations a second of a large product of matrices of this type."""
    import torch

    a = torch.randn(setting.product, setting.product, device=setting.kind, dtype=kind)
    return 2 * setting.product**3 / timed(setting, lambda: a @ a)


def operations_of(model: Any, images: Any) -> int:
    """Of the frozen forward pass of these images; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.frozen(images)
    return int(counter.get_total_flops())


def plain_step(setting: Setting, model: Any, side: Any) -> Callable[[], None]:
    """A step of a bare loop under bf16 autocast, of images that are normalised in it."""
    import torch
    from torch.nn import functional as F

    images, labels = images_of_step(setting, side), labels_of_step(setting)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(setting.kind, torch.bfloat16):
            loss = F.cross_entropy(model(images.float().sub_(127.5).div_(127.5)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peft_step(setting: Setting, side: Any) -> float | None:
    """Seconds of a step of HF peft's LoRA on timm's model; None where it is not installed."""
    import timm

    try:
        import peft
    except ImportError:
        return None
    model = timm.create_model(setting.timm, num_classes=10, img_size=side)
    model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["qkv", "proj"], modules_to_save=["head"]))
    return timed(setting, plain_step(setting, model.to(setting.kind), side))


def graphed(setting: Setting, model: Any, step: Callable[[], None]) -> float:
    """Seconds of the step replayed from a CUDA graph; its optimizer is one that can be captured."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch asks: a few steps on a side stream before capturing
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return timed(setting, graph.replay)


def further_taps() -> list[str]:
    """Where else this version keeps taps: on the GPU."""
    return [p.stem for p in (ROOT / "configs" / "taps").glob("*.yaml") if p.stem in ("gpu", "device")]


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Within it products of fp32 matrices are in TF32, or exact."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    places = [matmul, cudnn.conv] if hasattr(matmul, "fp32_precision") else []
    before = [place.fp32_precision for place in places] if places else [matmul.allow_tf32, cudnn.allow_tf32]

    def put(values: list[Any]) -> None:
        if places:
            for place, value in zip(places, values, strict=True):
                place.fp32_precision = value
        else:
            matmul.allow_tf32, cudnn.allow_tf32 = values

    put(["tf32" if tf32 else "ieee"] * 2 if places else [tf32] * 2)
    try:
        yield
    finally:
        put(before)


def exact_products() -> Any:
    return products(False)
