"""The sections of `gpu.py`: whole runs by their records, and bare loops beside them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.gpu_loops import (
    Setting,
    exact_products,
    further_taps,
    graphed,
    images_of_step,
    labels_of_step,
    operations_of,
    peft_step,
    plain_step,
    product_rate,
    products,
    record_of,
    step_of,
    timed,
)
from bench.tables import NOTHING, Row, megabytes, seconds
from bench.timing import ROOT

CLOSE = 1e-3
"""How much the loss of a step may differ between a GPU and a CPU, both in fp32: their sums are of other orders."""
_METHODS_FOR = 200.0  # seconds, of all sections


def losses(setting: Setting, end: float) -> Iterator[Row]:
    """The loss of three batches of every method, in fp32 without TF32, against the CPU's."""
    stop, left_out = min(end, time.monotonic() + _METHODS_FOR), []
    names = setting.methods or sorted(p.stem for p in (ROOT / "configs" / "method").glob("*.yaml"))
    for name in names:
        if time.monotonic() > stop:
            left_out.append(name)
            continue
        words = [f"method={name}", "backbone=vit_nano", *setting.of_all, "trainer.max_batches=3", "data.batch_size=16"]
        try:
            with exact_products():
                there, here = (record_of(*words, *more).metrics.get("train/loss") for more in ([], _ON_CPU))
        except Exception as problem:
            yield Row(f"loss of {name}, a CPU's: {(str(problem).splitlines() or ['?'])[0][:120]}", NOTHING, kept=False)
            continue
        if there is None or here is None:  # a head that is solved
            continue
        apart = abs(there - here) / max(abs(here), 1e-12)
        close = math.isfinite(there) and apart <= CLOSE
        yield Row(
            f"loss of {name}, a CPU's", f"{there:.6f}", f"{here:.6f}", f"{there / here:.6f}", f"±{CLOSE:g}", close
        )
    if left_out:
        yield Row(f"losses: left out for want of time: {', '.join(left_out)}", NOTHING)


def forward(setting: Setting, end: float) -> Iterator[Row]:
    """The frozen forward pass in each precision: images a second, and its share of what a large product reaches."""
    import torch

    from bench.models import adapted_model, random_config
    from peftbench.models.half_weights import half_weights

    model = adapted_model(random_config("method=losa", f"backbone={setting.backbone}")).to(setting.kind).eval()
    images = images_of_step(setting, model.backbone.facts.input_size)
    operations = operations_of(model, images)
    half = torch.autocast(setting.kind, torch.bfloat16)

    @contextlib.contextmanager
    def cast_once() -> Iterator[None]:
        with half, half_weights(model):
            yield

    ways: dict[str, tuple[Callable[[], Any], bool, Any]] = {
        "fp32": (contextlib.nullcontext, False, torch.float32),
        "bf16": (lambda: half, True, torch.bfloat16),
        "bf16, weights cast once": (cast_once, True, torch.bfloat16),
    }
    if setting.kind == "cuda":
        ways["fp32, TF32"] = (contextlib.nullcontext, True, torch.float32)
    for name, (context, tf32, kind) in ways.items():
        with products(tf32), context():
            took = timed(setting, lambda: model.frozen(images))
            peak = product_rate(setting, kind)
        yield _rate_row(f"frozen forward, {setting.backbone}, {name}", setting, took, operations, peak)
    if setting.kind == "cuda":
        compiled = torch.compile(model.backbone.net.forward_features, dynamic=False)
        normal = model.frames(images)
        with torch.no_grad(), half:
            took = timed(setting, lambda: compiled(normal))
            peak = product_rate(setting, torch.bfloat16)
        yield _rate_row(f"frozen forward, {setting.backbone}, bf16, compiled", setting, took, operations, peak)


def losa(setting: Setting, end: float) -> Iterator[Row]:
    """LoSA's step live and from kept taps, against the frozen forward pass and HF peft's LoRA."""
    import torch

    from bench.models import adapted_model, random_config

    half = torch.autocast(setting.kind, torch.bfloat16)
    model = adapted_model(random_config("method=losa", f"backbone={setting.backbone}")).to(setting.kind).train()
    images, labels = images_of_step(setting, model.backbone.facts.input_size), labels_of_step(setting)
    with half:
        frozen = timed(setting, lambda: model.frozen(images))
        taps = model.frozen(images)
    lora = peft_step(setting, model.backbone.facts.input_size)
    for kept in ("off", "disk", "memory", *further_taps()):
        step = step_of("method=losa", f"taps={kept}", *setting.words)
        name = "live" if kept == "off" else f"taps={kept}"
        yield _against(f"LoSA step, {name}, frozen forward alone", step, frozen)
        if lora is not None:
            yield _against(f"LoSA step, {name}, HF peft LoRA's step", step, lora)
    trained = [p for _, p in model.trainable()]
    # What a graph captures asks the host for nothing, not even for the number of the step.
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True, capturable=setting.kind == "cuda")

    def step_from_taps() -> None:
        with half:
            loss = model.loss((images, labels), taps)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()

    bare = timed(setting, step_from_taps)
    yield _against("LoSA step, bare, taps on the device, frozen forward alone", bare, frozen)
    if setting.kind == "cuda":
        yield _against(
            "LoSA step, a CUDA graph of that, the same without", graphed(setting, model, step_from_taps), bare
        )


def against_timm(setting: Setting, end: float) -> Iterator[Row]:
    """Steps of full, LoRA, FTP and TPGM against a bare timm loop that trains everything."""
    import timm
    import torch

    from bench.models import adapted_model, random_config

    size = adapted_model(random_config("method=full", f"backbone={setting.backbone}")).backbone.facts.input_size
    bare = timm.create_model(setting.timm, num_classes=10, img_size=size).to(setting.kind)
    peer = timed(setting, plain_step(setting, bare, size))
    del bare
    if setting.kind == "cuda":
        torch.cuda.empty_cache()
    for method in ("full", "lora", "ftp", "tpgm"):
        step = step_of(f"method={method}", *setting.words)
        yield _against(f"training step, {method}, {setting.backbone}, a bare timm loop", step, peer)


def reading(setting: Setting, end: float) -> Iterator[Row]:
    """Filling of taps, and training on images that are changed, on the host and on the device, per frozen forward."""
    record = record_of("method=losa", "taps=disk", *setting.words)
    filling = (record.costs.get("taps") or {}).get("seconds")
    if filling is not None:
        yield Row("filling of taps, LoSA, all training and validation images", seconds(float(filling)))
    plain = step_of("method=linear", "taps=off", *setting.words)
    for on in ("host", "device"):
        changed = step_of("method=linear", "taps=off", "data.augment=rrc", f"data.augment_on={on}", *setting.words)
        yield _against(f"linear step, data.augment=rrc on the {on}, without", changed, plain)


def giant(setting: Setting, end: float) -> Iterator[Row]:
    """The peak memory of LoSA on the largest backbone, against what `plan` says."""
    import peftbench
    from peftbench.runs.data_sets import load_splits
    from peftbench.runs.dry_run import plan_step

    words = [w for w in setting.words if not w.startswith("backbone=")] + [f"backbone={setting.giant}", "taps=off"]
    config = peftbench.compose("method=losa", *words)
    planned = plan_step(config, load_splits(config))
    assert planned is not None
    step, weights = planned
    peak = record_of("method=losa", *words).costs["memory"]["peak"]
    on_gpu = peak["measure"] == "allocated"
    read = float(peak["total" if on_gpu else "above"])
    expected = step.peak + (weights if on_gpu else 0)
    ratio = f"{read / expected:.2f}" if expected else NOTHING
    yield Row(f"peak memory of LoSA, {setting.giant}, plan", megabytes(read), megabytes(expected), ratio)


def detector(setting: Setting, end: float) -> Iterator[Row]:
    """A step of Faster R-CNN against torchvision's own detector on images of the same size."""
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    side, batch = (512, 4) if setting.kind == "cuda" else (64, 2)
    words = [w for w in setting.of_all if not w.startswith("data")]
    ours = step_of(
        *("method=full", "data=digits_det", f"data.size=[{side},{side}]", f"data.batch_size={batch}", *words),
        *("task.detector=fasterrcnn", f"backbone={setting.detector}", "backbone.pretrained=false"),
    )
    if setting.kind != "cuda":
        yield Row("Faster R-CNN step, torchvision's reference", seconds(ours))
        return
    peer = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=11, min_size=side, max_size=side)
    peer = peer.to(setting.kind).train()
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4, fused=True)
    images = [torch.rand(3, side, side, device=setting.kind) for _ in range(batch)]
    boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0], [80.0, 80.0, 200.0, 160.0]], device=setting.kind)
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2], device=setting.kind)} for _ in range(batch)]

    def step() -> None:
        loss = sum(peer(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    yield _against("Faster R-CNN step, torchvision's reference", ours, timed(setting, step))


SECTIONS: dict[str, Callable[[Setting, float], Iterator[Row]]] = {
    "losses": losses,
    "forward": forward,
    "losa": losa,
    "timm": against_timm,
    "reading": reading,
    "giant": giant,
    "detector": detector,
}
_ON_CPU = ["trainer.accelerator=cpu"]


def _against(what: str, ours: float, peer: float) -> Row:
    return Row(what, seconds(ours), seconds(peer), f"{ours / peer:.3f}")


def _rate_row(what: str, setting: Setting, took: float, flops: int, peak: float) -> Row:
    return Row(
        f"{what}, share of a large product's rate",
        f"{setting.batch / took:.0f} images/s",
        ratio=f"{flops / took / peak:.2f}",
    )
