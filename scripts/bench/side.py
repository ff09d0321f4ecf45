"""Side methods on ViT-S/16, and CST on ResNet-50, at 224 pixels, batch 16, bf16 autocast.

Their peers are HF peft's LoRA and the frozen forward pass alone, which is run as `Model.frozen` runs it: in fp32 where
the processor only emulates bf16.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from bench.tables import Row, memory_row, time_row
from bench.timing import in_own_process, seconds_of

BATCH = 16
NORMS = {"none": "norm=none (default)", "ln_noaffine": "norm=ln_noaffine"}
EIGHT = "eight LoSA runs together from kept taps, one alone"
MEMORY = "peak memory above set-up, LoSA without kept taps, HF peft LoRA"
CST = "CST step, ResNet-50, frozen forward alone"


def _losa(norm: str) -> tuple[str, str, str]:
    """The names of three rows: against the frozen forward pass, against LoRA, and against LoRA from kept taps."""
    what = f"LoSA step, ViT-S/16, {NORMS[norm]}"
    return (
        f"{what}, frozen forward alone",
        f"{what}, HF peft LoRA's step",
        f"{what}, from kept taps, HF peft LoRA's step",
    )


def names() -> list[str]:
    return [*(what for norm in NORMS for what in _losa(norm)), EIGHT, MEMORY, CST]


def measure(quick: bool = False) -> list[Row]:
    """`quick` takes batches of two."""
    rounds, batch = (1, 2) if quick else (3, BATCH)
    return [*_losa_rows(rounds, batch), _memory_row(), _cst_row(rounds, batch)]


def _losa_rows(rounds: int, batch_size: int) -> list[Row]:
    import torch

    from peftbench.models.joint import JointModel

    lora = _lora_step()
    losa = {norm: _Stepped(_side_model("vit_s", "losa", f"method.norm={norm}")) for norm in NORMS}
    eight = _Stepped(JointModel([_side_model("vit_s", "losa") for _ in range(8)]))
    images, labels = batch = _images(batch_size)
    frozen = losa["none"].model.frozen
    # taps of many images, so that each step reads its own from memory, as a run does
    kept_taps = [torch.cat([tap] * 4) for tap in _autocast(frozen, images)]
    orders = (torch.randint(4 * batch_size, (batch_size,)) for _ in itertools.count())

    def from_kept_taps(stepped: _Stepped) -> Callable[[], None]:
        def step() -> None:
            order = next(orders)
            stepped.step(batch, [tap.index_select(0, order) for tap in kept_taps])

        return step

    works: dict[str, tuple[Callable[[], Any], int]] = {
        "frozen": (lambda: _autocast(frozen, images), 1),
        "lora": (lambda: lora(images, labels), 1),
    }
    for norm, stepped in losa.items():
        works[f"{norm} live"] = (lambda stepped=stepped: stepped.step(batch)), 1
        works[f"{norm} kept"] = from_kept_taps(stepped), 7
    works["eight"] = from_kept_taps(eight), 5
    times = defaultdict(list)
    for i in range(rounds + 1):  # interleaved; the first round warms up
        for name, (work, repeats) in works.items():
            median = statistics.median(seconds_of(work) for _ in range(repeats))
            if i > 0:
                times[name].append(median)
    middle = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for norm in NORMS:
        live, kept = middle[f"{norm} live"], middle[f"{norm} kept"]
        against_frozen, against_lora, kept_against_lora = _losa(norm)
        rows.append(time_row(against_frozen, live, middle["frozen"], 1.25, digits=3))
        rows.append(time_row(against_lora, live, middle["lora"], 0.30, digits=3))
        rows.append(time_row(kept_against_lora, kept, middle["lora"], 0.05, digits=3))
    rows.append(time_row(EIGHT, middle["eight"], middle["none kept"], 2.5, digits=3))
    return rows


def _memory_row() -> Row:
    """Peak resident memory of two steps above set-up, each in a process of its own."""
    ours, peer = (in_own_process("bench.side", "peak_memory", method) for method in ("losa", "lora"))
    return memory_row(MEMORY, ours, peer, 0.35)


def peak_memory(method: str) -> int:
    """Bytes above set-up at the peak of two training steps of `losa`, or of HF peft's `lora`, in this process."""
    import torch

    from peftbench.costs import PeakMemory

    if method == "losa":
        losa = _Stepped(_side_model("vit_s", "losa")).step

        def step(images: Any, labels: Any) -> None:
            losa((images, labels))
    else:
        step = _lora_step()
    meter = PeakMemory(torch.device("cpu"))
    images, labels = _images()
    meter.start()
    for _ in range(2):
        step(images, labels)
    return meter.read()["above"]


def _cst_row(rounds: int, batch_size: int) -> Row:
    cst = _Stepped(_side_model("resnet50", "cst"))
    images, labels = _images(batch_size)
    pairs = [
        (seconds_of(lambda: _autocast(cst.model.frozen, images)), seconds_of(lambda: cst.step((images, labels))))
        for _ in range(rounds + 1)
    ]
    frozen, step = (statistics.median(times[1:]) for times in zip(*pairs, strict=True))
    return time_row(CST, step, frozen, 1.25, digits=3)


def _images(count: int = BATCH) -> tuple[Any, Any]:
    """Images (count, 3, 224, 224) of bytes, and their labels."""
    import torch

    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8), torch.randint(0, 10, (count,))


def _autocast(work: Callable[..., Any], *arguments: Any) -> Any:
    import torch

    with torch.autocast("cpu", torch.bfloat16):
        return work(*arguments)


class _Stepped:
    """A model with its optimizer: forward, backward and step under bf16 autocast."""

    def __init__(self, model: Any) -> None:
        from bench.models import fused_adamw

        self.model = model.train()
        self.optimizer = fused_adamw([p for _, p in model.trainable()])

    def step(self, batch: Any, cached: Any = None) -> None:
        loss = _autocast(self.model.loss, batch, cached)
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()


def _side_model(backbone: str, method: str, *words: str) -> Any:
    from bench.models import adapted_model, random_config

    return adapted_model(random_config(f"backbone={backbone}", f"method={method}", *words))


def _lora_step() -> Callable[[Any, Any], None]:
    """A training step of HF peft's LoRA, r=8 on every linear layer, on timm's ViT-S/16."""
    import timm
    import torch

    from bench.models import hf_peft

    peft = hf_peft("side")
    net = timm.create_model("vit_small_patch16_224", num_classes=10)
    options = peft.LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", modules_to_save=["head"])
    wrapped = peft.get_peft_model(net, options)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-3)

    def step(images: Any, labels: Any) -> None:
        pixels = images.float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(wrapped.train()(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
