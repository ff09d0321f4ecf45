"""The benchmarks (`make bench`): ratios against a peer measured in the same run; `--write` puts them in the docs.

python scripts/bench.py [help|step|side|quickstart|ftp|spt|petah|pruned|plan|serve|vtab|map|report|sweep …] [--write]

The side methods' peer is HF peft (pip install 'peftbench[bench]').
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_detection import bench_detect

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
Row = tuple[str, str, str, str, str, str]  # what, peftbench, peer, ratio, limit, kept?

BARE_HYDRA = """\
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass

main()
"""


# A process keeps the peak of the one it was forked from: this small one stands between.
WATCHED = """\
import os, subprocess, sys, time

begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(time.perf_counter() - begun, used.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def verdict(good: bool) -> str:
    return "yes" if good else "**no**"


def bench_help(repeats: int = 15) -> list[Row]:
    """`peftbench --help` against the `--help` of a bare Hydra application, both with compiled bytecode."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_HYDRA)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        commands = {
            "ours": [str(Path(sys.executable).parent / "peftbench"), "--help"],
            "peer": [sys.executable, str(bare), "--help"],
        }
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for i in range(repeats + 1):
            for name, command in commands.items():
                begun = time.perf_counter()
                subprocess.run(command, env=environment, check=True, capture_output=True)
                if i:  # the first one compiles
                    times[name].append(time.perf_counter() - begun)
    ours, peer = (statistics.median(times[n]) for n in ("ours", "peer"))
    return [("`--help`, bare Hydra", ms(ours), ms(peer), f"{ours / peer:.2f}", "1.20", verdict(ours <= 1.2 * peer))]


def bench_step() -> list[Row]:
    """The training step inside peftbench against a bare PyTorch loop of the same model, batch and precision."""
    rows = []
    cases = [
        ("vit_nano", ["backbone=vit_nano"], 32, 25, 5),
        ("ViT-S/16", ["backbone=vit_s", "backbone.pretrained=false"], 16, 8, 3),
    ]
    for name, words, batch, steps, rounds in cases:
        ours, peer = [], []
        for seed in range(rounds):  # interleaved, so that a busy moment of the machine meets both
            ours.append(_step_inside(words, batch, steps, seed))
            peer.append(_step_bare(words, batch, steps))
        a, b = statistics.median(ours), statistics.median(peer)
        kept = a <= max(1.05 * b, b + 0.002)
        what = f"training step, {name}, batch {batch}, fp32, bare PyTorch"
        rows.append((what, ms(a), ms(b), f"{a / b:.2f}", "1.05 or +2 ms", verdict(kept)))
    return rows


def _words(words: list[str], batch: int) -> list[str]:
    return [*words, "method=full", "data=digits", f"data.batch_size={batch}", "logger=none", "trainer.progress=false"]


def _step_inside(words: list[str], batch: int, steps: int, seed: int) -> float:
    import peftbench

    with tempfile.TemporaryDirectory() as folder:
        more = [f"trainer.max_batches={steps}", "trainer.epochs=1", f"output_dir={folder}", f"seed={seed}"]
        record = peftbench.run(peftbench.compose(*_words(words, batch), *more, "data.stage=tune"))
    return record.costs["time"]["step"]["median"]


def _step_bare(words: list[str], batch: int, steps: int) -> float:
    """timm, AdamW and nothing else, on images that are ready in memory."""
    import timm
    import torch

    import peftbench

    spec = peftbench.compose(*_words(words, batch)).backbone
    net = timm.create_model(spec.name, num_classes=10, pretrained_cfg_overlay=spec.cfg, **spec.args).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-4)
    size = spec.cfg.get("input_size", [3, 224, 224])[-1]
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[5:])


def bench_quickstart() -> list[Row]:
    """The quickstart's command, as a user types it."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [str(Path(sys.executable).parent / "peftbench"), "experiment=quickstart", f"output_dir={folder}"]
        fresh = {**os.environ, "PEFTBENCH_CACHE": folder}  # its taps are computed, as in a user's first run
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=fresh)
        seconds = time.perf_counter() - begun
        records = [json.loads(p.read_text()) for p in Path(folder).glob("*/result.json")]
        print(done.stdout)
    top1 = {r["config"]["method"]["name"]: 100 * r["metrics"]["test/accuracy"] for r in records}
    what = f"quickstart (top-1: bitfit {top1['bitfit']:.1f} %, linear probe {top1['linear']:.1f} %)"
    return [(what, f"{seconds:.0f} s", "–", "–", "90 s", verdict(seconds <= 90))]


def bench_side(rounds: int = 3) -> list[Row]:
    """Side methods on ViT-S/16 (and CST on ResNet-50) at 224, batch 16, bf16 autocast: against HF peft's LoRA and the
    frozen forward pass alone, which is run as `Model.frozen` runs it: in fp32 where the processor only emulates bf16.
    """
    import torch

    from peftbench.models.joint import JointModel

    rows: list[Row] = []
    lora = _peft_lora()
    nets = {norm: _side("vit_s", "losa", f"method.norm={norm}") for norm in ("none", "ln_noaffine")}
    eight = JointModel([_side("vit_s", "losa").model for _ in range(8)])
    images, labels = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.randint(0, 10, (16,))
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Any, repeats: int = 1) -> None:
        found = []
        for _ in range(repeats):
            begun = time.perf_counter()
            work()
            found.append(time.perf_counter() - begun)
        times.setdefault(name, []).append(statistics.median(found))

    with torch.autocast("cpu", torch.bfloat16):
        taps = nets["none"].model.frozen(images)
    # taps of many images, so that each step reads its own from memory, as a run does
    store = [torch.cat([t] * 4) for t in taps]
    order = iter(torch.randint(64, (16,)) for _ in iter(int, 1))

    def cached(net: Any) -> Any:
        return lambda: net.step((images, labels), [t.index_select(0, rows) for rows in [next(order)] for t in store])

    together = _Stepped(eight)
    plain = nets["none"].model
    for i in range(rounds + 1):  # interleaved; the first round warms up
        if i == 1:
            times.clear()
        timed("frozen", lambda: _autocast(plain.frozen, images))
        timed("lora", lambda: lora(images, labels))
        for norm, net in nets.items():
            timed(f"{norm} live", lambda net=net: net.step((images, labels)))
            timed(f"{norm} cached", cached(net), 7)
        timed("eight", cached(together), 5)
    middle = {name: statistics.median(found) for name, found in times.items()}
    for norm in nets:
        mark = " (default)" if norm == "none" else ""
        live, kept = middle[f"{norm} live"], middle[f"{norm} cached"]
        what = f"LoSA step, ViT-S/16, norm={norm}{mark}"
        for name, ours, peer, limit in (
            (f"{what}, frozen forward alone", live, "frozen", 1.25),
            (f"{what}, HF peft LoRA's step", live, "lora", 0.30),
            (f"{what}, from kept taps, HF peft LoRA's step", kept, "lora", 0.05),
        ):
            rows.append(_row(name, ours, middle[peer], limit))
    rows.append(_row("eight LoSA runs together from kept taps, one alone", middle["eight"], middle["none cached"], 2.5))
    rows.append(_memory_row())
    if "cst" in _methods():
        cst = _side("resnet50", "cst")
        frozen, step = [], []
        for _ in range(rounds + 1):
            for into, work in (
                (frozen, lambda: _autocast(cst.model.frozen, images)),
                (step, lambda: cst.step((images, labels))),
            ):
                begun = time.perf_counter()
                work()
                into.append(time.perf_counter() - begun)
        rows.append(
            _row("CST step, ResNet-50, frozen forward alone", *(statistics.median(t[1:]) for t in (step, frozen)), 1.25)
        )
    return rows


def _methods() -> list[str]:
    from peftbench.config import CONFIGS
    from peftbench.config.groups import names

    return list(names("method", [CONFIGS]))


def _row(what: str, ours: float, peer: float, limit: float) -> Row:
    return (what, ms(ours), ms(peer), f"{ours / peer:.3f}", f"{limit:.2f}", verdict(ours <= limit * peer))


def _autocast(work: Any, *given: Any) -> Any:
    import torch

    with torch.autocast("cpu", torch.bfloat16):
        return work(*given)


class _Stepped:
    """A model with its optimizer: forward, backward and step under bf16 autocast."""

    def __init__(self, model: Any) -> None:
        import torch

        self.model = model.train()
        self.optimizer = torch.optim.AdamW([p for _, p in model.trainable()], lr=1e-3, fused=True)

    def step(self, batch: Any, cached: Any = None) -> None:
        loss = _autocast(self.model.loss, batch, cached)
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()


def _side(backbone: str, method: str, *words: str) -> _Stepped:
    import torch

    import peftbench
    from peftbench import backbones
    from peftbench.methods.base import Plan
    from peftbench.models.model import Model
    from peftbench.runs.build import instantiate
    from peftbench.tasks.classification.task import Classification

    torch.manual_seed(0)
    config = peftbench.compose(f"backbone={backbone}", "backbone.pretrained=false", f"method={method}", *words)
    net = backbones.build_with_weights(config.backbone)
    model = Model(net, Classification(net, [str(i) for i in range(10)]))
    model.adapted(instantiate(config.method).adapt(net, Plan()))
    return _Stepped(model)


def _peft_lora() -> Any:
    """One training step of HF peft's LoRA, r=8 on every linear layer, on timm's ViT-S/16."""
    import timm
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        sys.exit("bench side: its peer is HF peft; pip install 'peftbench[bench]'.")
    net = timm.create_model("vit_small_patch16_224", num_classes=10)
    wrapped = get_peft_model(net, LoraConfig(r=8, lora_alpha=8, target_modules="all-linear", modules_to_save=["head"]))
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-3)

    def step(images: Any, labels: Any) -> None:
        pixels = images.float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(wrapped.train()(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _memory_row() -> Row:
    """Peak resident memory of two steps above set-up, each in a process of its own."""
    found = {}
    for name in ("losa", "lora"):
        code = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import bench; print(bench.peak({name!r}))"
        found[name] = int(subprocess.check_output([sys.executable, "-c", code]).split()[-1])
    ours, peer = found["losa"], found["lora"]
    what = "peak memory above set-up, LoSA without kept taps, HF peft LoRA"
    return (
        what,
        f"{ours / 1e6:.0f} MB",
        f"{peer / 1e6:.0f} MB",
        f"{ours / peer:.2f}",
        "0.35",
        verdict(ours <= 0.35 * peer),
    )


def peak(name: str) -> int:
    """Bytes above set-up at the peak of two training steps of `losa` or `lora`."""
    import torch

    from peftbench.costs import PeakMemory

    step: Any = _side("vit_s", "losa").step if name == "losa" else _peft_lora()
    meter = PeakMemory(torch.device("cpu"))
    images, labels = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8), torch.randint(0, 10, (16,))
    meter.start()
    for _ in range(2):
        step((images, labels)) if name == "losa" else step(images, labels)
    return meter.read()["resident"]


def interleaved(ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of both, called in turn, so that a busy moment of the machine meets both; the first is not one."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 1):
        for call, kept in zip((ours, peer), times, strict=True):
            begun = time.perf_counter()
            call()
            if i:
                kept.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def ratio_row(what: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int, limit: float) -> Row:
    a, b = interleaved(ours, peer, rounds)
    return what, ms(a), ms(b), f"{a / b:.2f}", f"{limit:.2f}", verdict(a <= limit * b)


def _trainer(model, optimizer, loss) -> Callable[[], object]:
    def step() -> None:
        value = loss(model)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def bench_ftp(rounds: int = 15) -> list[Row]:
    """Steps under FTP against plain AdamW and against TPGM, on random weights and images; its memory."""
    import timm
    import torch

    from peftbench.optim import FTP, TPGM

    def vit() -> torch.nn.Module:
        torch.manual_seed(0)
        return timm.create_model("vit_small_patch16_224", num_classes=10)

    def mlp() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(12)))

    def loss_of(inputs: torch.Tensor) -> Callable[[torch.nn.Module], torch.Tensor]:
        return lambda model: model(inputs).square().mean()

    images, vectors = torch.randn(16, 3, 224, 224), torch.randn(16, 1024)
    rows = []
    for name, make, inputs, limit in (
        ("ViT-S/16, batch 16", vit, images, 1.10),
        ("12 linear layers of 1024, batch 16", mlp, vectors, 1.30),
    ):
        # As peftbench runs it: around fused AdamW. The peers are torch's default AdamW, and the fused one alone.
        for kind, fused in (("AdamW", None), ("fused AdamW", True)):
            models, loss = [make(), make()], loss_of(inputs)
            ftp = FTP(torch.optim.AdamW(models[0].named_parameters(), lr=1e-4, fused=True))
            plain = torch.optim.AdamW(models[1].named_parameters(), lr=1e-4, fused=fused)
            ours, peer = _trainer(models[0], ftp, loss), _trainer(models[1], plain, loss)
            what = f"training step, {name}: FTP around fused AdamW, plain {kind}"
            rows.append(ratio_row(what, ours, peer, rounds if make is mlp else rounds // 2, limit))
    models = [vit(), vit()]
    ftp = FTP(torch.optim.AdamW(models[0].named_parameters(), fused=True))
    tpgm = TPGM(torch.optim.AdamW(models[1].named_parameters(), fused=True))
    tpgm.objective = lambda: models[1](images).square().mean()
    pair = [
        _trainer(m, o, lambda model: model(images).square().mean()) for m, o in zip(models, (ftp, tpgm), strict=True)
    ]
    rows.append(ratio_row("training step, ViT-S/16, batch 16: FTP, TPGM", *pair, rounds // 2, 0.75))
    held = sum(t.numel() for kept in ftp.own_state() for t in kept.values()) + sum(a.numel() for a in ftp.anchors)
    share = held / sum(p.numel() for p in models[0].parameters())
    rows.append(("memory of FTP, in sizes of the model", f"{share:.3f}", "–", "–", "2.01", verdict(share <= 2.01)))
    return rows


def bench_spt(rounds: int = 7) -> list[Row]:
    """Scoring against as many passes; steps and memory against LoRA of equal budget. Weights are random."""
    import torch

    import peftbench
    from peftbench import backbones
    from peftbench.costs import SavedBytes
    from peftbench.methods.base import Plan
    from peftbench.methods.spt import sensitivity
    from peftbench.models.model import Model
    from peftbench.runs.build import instantiate
    from peftbench.tasks.classification.task import Classification

    def model(*words: str, batches=None) -> Model:
        torch.manual_seed(0)
        config = peftbench.compose("backbone.pretrained=false", *words)
        backbone = backbones.build_with_weights(config.backbone)
        made = Model(backbone, Classification(backbone, ["x"] * 10))
        if batches is not None:
            method = instantiate(config.method)
            plan = method.prepare(made, batches) if "spt" in config.method.name else Plan()
            made.adapted(method.adapt(backbone, plan))
        return made.train()

    batch = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8), torch.arange(8)
    scored, passed = model("backbone=vit_s"), model("backbone=vit_s").eval()

    def passes() -> None:
        for _ in range(2):
            passed.zero_grad()
            passed.loss(batch).backward()

    def score() -> None:
        sensitivity(scored, [batch] * 2, lambda m, b: m.loss(b), unreached="skip")

    rows = [ratio_row("scoring, ViT-S/16, 2 batches of 8: as many passes", score, passes, rounds, 1.10)]
    # LoRA of rank 3 on every linear layer of ViT-B has 442,368 parameters: the nearest to 0.4 M.
    small = batch[0][:4], batch[1][:4]
    large = torch.cat([batch[0]] * 2), torch.cat([batch[1]] * 2)
    arms = {
        "spt": model("backbone=vit_b", "method=spt", "method.budget=442368", batches=[small] * 2),
        "sparse": model("backbone=vit_b", "method=spt_sparse", "method.budget=442368", batches=[small] * 2),
        "lora": model("backbone=vit_b", "method=lora", "method.rank=3", batches=[]),
    }
    steps, saved = {}, {}
    for name, arm in arms.items():
        named = arm.trainable()
        steps[name] = _trainer(arm, torch.optim.AdamW(named, lr=1e-3, fused=True), lambda m: m.loss(small))
        meter = SavedBytes(arm)
        with meter.counting():
            arm.loss(large)
        own = sum(t.numel() * t.element_size() for t in (*arm.parameters(), *arm.buffers()))
        saved[name] = meter.total + own + 3 * sum(4 * p.numel() for _, p in named)  # gradient and AdamW's moments
    for name, what, limit in (("spt", "SPT (LoRA and entries)", 1.10), ("sparse", "SPT, entries alone", 1.10)):
        label = f"training step, ViT-B/16, batch 4, 0.44 M: {what}, LoRA of rank 3"
        rows.append(ratio_row(label, steps[name], steps["lora"], rounds, limit))
        a, b = saved[name] / 1e6, saved["lora"] / 1e6
        label = f"memory of a step (weights, states, kept for backward), batch 16, same: {what}, LoRA of rank 3"
        kept = ("1.00", verdict(a <= b)) if name == "sparse" else ("–", "–")
        rows.append((label, f"{a:.0f} MB", f"{b:.0f} MB", f"{a / b:.3f}", *kept))
    return rows


def bench_petah(rounds: int = 5) -> list[Row]:
    """PETAH's update of the weight against HF peft's two branches, both in fp32."""
    import torch

    from peftbench import backbones, config
    from peftbench.methods.base import Plan
    from peftbench.methods.petah import PETAH
    from peftbench.models.model import Model
    from peftbench.tasks.classification.task import Classification

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        sys.exit("bench petah: its peer is HF peft; pip install 'peftbench[bench]'.")
    rows: list[Row] = []
    images, labels = torch.randn(8, 3, 224, 224), torch.arange(8)
    for what, name, targets, pattern, limit in (
        ("ViT-S/16, its linear layers", "vit_small_patch16_224", ("attn", "mlp"), "all-linear", 1.15),
        (
            "ResNet-50, its convolutions",
            "resnet50",
            ("conv1x1", "convkxk", "downsample", "stem"),
            r".*conv\d|.*downsample\.0",
            1.0,
        ),
    ):
        torch.manual_seed(0)
        backbone = backbones.build_with_weights(config.Backbone(name, pretrained=False))
        model = Model(backbone, Classification(backbone, [str(i) for i in range(10)]))
        model.adapted(PETAH(targets=targets).adapt(backbone, Plan()))
        head = {"vit_small_patch16_224": "head", "resnet50": "fc"}[name]
        theirs = backbones.build_with_weights(config.Backbone(name, pretrained=False)).net
        theirs.reset_classifier(10)
        options = LoraConfig(r=8, lora_alpha=8, target_modules=pattern, exclude_modules=[head], modules_to_save=[head])
        peer = get_peft_model(theirs, options)
        counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, peer)]
        assert counts[0] == counts[1], counts
        for module in peer.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as ours: frozen statistics
                module.train = lambda mode=True, m=module: m  # type: ignore[method-assign]
                module.training = False
        steps = [
            _trainer(
                m.train(),
                torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-3, fused=True),
                lambda m: torch.nn.functional.cross_entropy(m(images), labels),
            )
            for m in (model, peer)
        ]
        rows.append(
            ratio_row(f"training step, {what}, batch 8: PETAH, HF peft LoRA", steps[0], steps[1], rounds, limit)
        )
    return rows


def bench_pruned(rounds: int = 30) -> list[Row]:
    """What structured pruning at a half gains on one thread."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import peftbench
    from peftbench import backbones, config, pruning

    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cases = (("efficientformer_l1", 0.0, 1), ("efficientformer_l1", 0.0, 32), ("hybrid_nano", 0.0, 32))
    for choice, heads, batch in (*cases, ("hybrid_nano", 0.5, 32), ("hybrid_nano", 0.0, 1), ("hybrid_nano", 0.5, 1)):
        spec = config.Backbone(**{**vars(peftbench.compose(f"backbone={choice}").backbone), "pretrained": False})
        half = config.Pruning("structured", ratio=0.5, heads=heads)
        nets = [backbones.build_with_weights(spec), pruning.prune(backbones.build_with_weights(spec), half)]
        size, macs = nets[0].facts.input_size, []
        image = torch.randn(batch, 3, size, size)
        for net in nets:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net.net(image[:1])
            macs.append(f"{counter.get_total_flops() / 2e6:.0f} M")
        what = f"latency, one thread, {choice}, batch {batch}: half of the hidden channels"
        what += f"{' and heads' * bool(heads)} taken out ({macs[1]} multiply-adds), the whole ({macs[0]})"
        with torch.inference_mode():
            whole, small = (lambda net=net, image=image: net.net(image) for net in nets)
            rows.append(ratio_row(what, small, whole, rounds, 0.8))
    torch.set_num_threads(threads)
    return rows


def bench_plan() -> list[Row]:
    """The memory that `peftbench plan` says, against the peak resident set of the run above its set-up.

    glibc is told to give freed memory back, which it otherwise keeps in pieces, up to as much again.
    """
    import peftbench
    from peftbench.runs.dry_run import plan

    rows: list[Row] = []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    every = [(m, "none") for m in ("full", "bitfit", "lora", "petah", "losa", "cst", "lst")]
    every += [("petah", "unstructured"), ("petah", "structured")]
    some = [("full", "none"), ("petah", "unstructured"), ("losa", "none"), ("cst", "none")]
    for backbone, kinds in {"vit_s": every, "efficientformer_l1": every, "resnet50": some}.items():
        for method, pruning in kinds:
            with tempfile.TemporaryDirectory() as folder:
                words = [
                    f"method={method}",
                    f"pruning={pruning}",
                    f"backbone={backbone}",
                    "backbone.pretrained=false",
                    "data=photos",
                ]
                words += ["taps=off", "trainer.epochs=1", "trainer.max_batches=2", "data.batch_size=16", "logger=none"]
                words += ["data.eval_batch_size=16", f"output_dir={folder}", "trainer.progress=false"]
                command = [str(Path(sys.executable).parent / "peftbench"), *words]
                subprocess.run(command, env=environment, check=True, capture_output=True)
                record = json.loads(next(Path(folder).glob("*/result.json")).read_text())
            said = plan(peftbench.compose(*words)).step.peak
            found = record["costs"]["memory"]["peak"]["resident"]
            good = verdict(abs(said - found) <= 0.15 * found)
            what = f"{method}{f' ({pruning})' * (pruning != 'none')} on {backbone}"
            mb = (f"{said / 1e6:.0f} MB", f"{found / 1e6:.0f} MB")
            rows.append(
                (
                    f"memory of a step, {what}, batch 16: plan, run",
                    *mb,
                    f"{said / found:.2f}",
                    "0.85 to 1.15",
                    good,
                )
            )
    return rows


def bench_serve(rounds: int = 15) -> list[Row]:
    """Eight tasks from one backbone, and a merged update, against the plain backbone; one thread, random weights."""
    import torch

    import peftbench

    before = torch.get_num_threads()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        quick = ["data=digits", "trainer.max_batches=1", "trainer.epochs=1", "data.batch_size=4", "taps=off"]
        quick += ["data.eval_batch_size=4", "logger=none", "trainer.progress=false", f"output_dir={folder}"]
        images = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
        for name, shown in (("vit_s", "ViT-S/16"), ("resnet50", "ResNet-50")):
            spec = peftbench.compose(f"backbone={name}", "backbone.pretrained=false", *quick)
            plain = _plain(spec)
            cases = [("LoSA", "losa"), ("CST", "cst"), ("CST (reduction 16)", "cst", "method.reduction=16")]
            for kind, method, *options in cases:
                words = [f"backbone={name}", "backbone.pretrained=false", f"method={method}", *options, *quick]
                run = peftbench.run(peftbench.compose(*words)).folder
                eight = partial(peftbench.MultiTask(None, {str(i): run for i in range(8)}), images)
                torch.set_num_threads(1)
                label = f"eight {kind} tasks, {shown}, batch 8: one backbone forward"
                rows.append(ratio_row(label, eight, partial(plain, images), rounds, 1.3))
                torch.set_num_threads(before)
        lora = peftbench.compose("backbone=vit_s", "backbone.pretrained=false", "method=lora", *quick)
        merged = peftbench.load(peftbench.run(lora).folder)
        plain = _plain(lora)
        torch.set_num_threads(1)
        with torch.no_grad():
            label = "LoRA merged, ViT-S/16, batch 1: the plain backbone"
            one = images[:1]
            rows.append(ratio_row(label, lambda: merged(one), lambda: plain(one), 4 * rounds, 1.02))
        torch.set_num_threads(before)
    return rows


def _plain(spec: Any) -> Callable[[Any], Any]:
    """The forward pass of a backbone without a method, head included."""
    import torch

    import peftbench
    from peftbench.models.model import Model
    from peftbench.tasks.classification.task import Classification

    backbone = peftbench.build_backbone(spec)
    return torch.no_grad()(Model(backbone, Classification(backbone, [str(i) for i in range(10)])).eval().forward)


def bench_vtab(rounds: int = 5) -> list[Row]:
    """VTAB's 1000 images at 224 into memory against a plain Pillow loop; and that nothing is decoded after that."""
    import numpy as np
    import torch
    from PIL import Image

    from peftbench.data.images import IMAGENET, Images, Transform
    from peftbench.data.vtab.dataset import Vtab

    real = ROOT.parent / "shared" / "data" / "caltech101-vtab1k-like"
    if not real.is_dir():
        print(f"bench vtab: left out, for {real} is missing.", file=sys.stderr)
        return []
    split = Vtab("caltech101", 102, str(real)).load().trainval
    assert split is not None
    transform = Transform(224, "bicubic", *IMAGENET)

    def ours() -> Images:
        images = Images(split, transform, "refuse", 4.0, lambda done, of: None)
        images.load()
        return images

    def plain() -> np.ndarray:
        kept = np.empty((len(split), 224, 224, 3), dtype=np.uint8)
        for i, path in enumerate(split.images):
            with Image.open(path) as image:
                kept[i] = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        return kept

    rows = [ratio_row("1000 images at 224 into memory, a plain Pillow loop", ours, plain, rounds, 1.30)]
    images = ours()
    opened, count = Image.open, [0]

    def counted(*given: Any, **more: Any) -> Any:
        count[0] += 1
        return opened(*given, **more)

    Image.open = counted  # type: ignore[assignment]
    try:
        images.load()
        images.pictures(torch.arange(len(images)))
    finally:
        Image.open = opened
    rows.append(("images decoded in an epoch after that", str(count[0]), "–", "–", "0", verdict(count[0] == 0)))
    return rows


def bench_map(images: int = 5000, classes: int = 80) -> list[Row]:
    """AP of synthetic detections, 100 an image, with that of every class; pycocotools on the same, from its loading on.

    Of an image's 100, 60 lie near one of its truths (about 7, of all sizes) and have its class.
    """
    import contextlib
    import io

    import numpy as np
    import torch
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from peftbench.tasks.detection.average_precision import BoxAP

    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        side, corner = np.exp(rng.uniform(2, 5.5, (count, 2))), rng.uniform(0, 400, (count, 2))
        return np.concatenate([corner, corner + side], axis=1)

    predictions, targets, annotations = [], [], []
    for image in range(images):
        count = max(int(rng.poisson(7)), 1)
        true, labels, near = boxes(count), rng.integers(0, classes, count), rng.integers(0, count, 60)
        side = true[:, 2:] - true[:, :2]
        found = np.concatenate([true[near] + rng.normal(0, 0.08, (60, 4)) * np.tile(side[near], 2), boxes(40)])
        of = np.concatenate([labels[near], rng.integers(0, classes, 40)])
        scores = rng.random(100)
        predictions.append({"boxes": torch.tensor(found), "scores": torch.tensor(scores), "labels": torch.tensor(of)})
        target = {"true_boxes": true, "true_labels": labels, "true_area": side.prod(1), "true_crowd": np.zeros(count)}
        targets.append({n: torch.tensor(v) for n, v in target.items()} | {"image_id": torch.tensor(image)})
        annotations += [
            {"id": len(annotations) + i, "image_id": image, "category_id": int(label), "iscrowd": 0}
            | {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(area)}
            for i, (label, box, area) in enumerate(zip(labels, true, target["true_area"], strict=True), start=1)
        ]

    begun = time.perf_counter()
    metric = BoxAP([str(i) for i in range(classes)], range(classes))
    for at in range(0, images, 8):
        metric.update(predictions[at : at + 8], targets[at : at + 8])
    found = metric.compute()
    ours, results = time.perf_counter() - begun, metric.results()

    ids = [{"id": i} for i in range(images)], [{"id": i} for i in range(classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        begun, coco = time.perf_counter(), COCO()
        coco.dataset = {"info": {}, "images": ids[0], "categories": ids[1], "annotations": annotations}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        peer = time.perf_counter() - begun
    assert abs(found["AP"] - evaluation.stats[0]) < 1e-6
    what = f"AP of {images:,} images with 100 detections each, {classes} classes, pycocotools"
    return [(what, ms(ours), ms(peer), f"{ours / peer:.2f}", "20 s", verdict(ours < 20))]


def bench_together(count: int = 8) -> list[Row]:
    """Whole runs of LoSA on ViT-S/16, from the command to the table: `count` of them in one pass, against one alone."""
    words = ["-m", "method=losa", "backbone=vit_s", "backbone.pretrained=false", "data=photos", "logger=none"]
    words += ["trainer=cpu", "trainer.progress=false", "data.batch_size=16", f"sweep.together={count}"]

    def seconds(runs: int) -> float:
        with tempfile.TemporaryDirectory() as folder:  # a cache of their own: both compute the taps
            rates = ",".join(f"{0.001 * (i + 1):g}" for i in range(runs))
            command = [sys.executable, "-m", "peftbench.cli.main", *words, f"optimizer.lr={rates}"]
            begun = time.perf_counter()
            subprocess.run(
                [*command, f"output_dir={folder}/runs"],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PEFTBENCH_CACHE": folder},
            )
            found = time.perf_counter() - begun
            assert len(list(Path(folder).glob("runs/*/delta.safetensors"))) == runs
            return found

    one, several = seconds(1), seconds(count)
    what = f"{count} whole LoSA runs together (20 epochs, taps and test included), one run alone"
    return [(what, ms(several), ms(one), f"{several / one:.2f}", "2.50", verdict(several <= 2.5 * one))]


def bench_sweep(count: int = 64) -> list[Row]:
    """A sweep of small runs in one process: how much of its time, from the command to the table, is not training.

    Training is what the records say of training, validating and testing: three epochs over a thousand small digits.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["backbone=resnet_nano", "data=digits", "data.size=32", "trainer.epochs=3", "data.batch_size=32"]
        words += ["method=bitfit", f"seed=range({count})", "trainer.progress=false", "logger=none"]
        begun = time.perf_counter()
        command = [sys.executable, "-m", "peftbench.cli.main", "-m", *words, f"output_dir={folder}"]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - begun
        times = [json.loads(p.read_text())["costs"]["time"] for p in Path(folder).glob("[!.]*/result.json")]
    assert len(times) == count
    inside = sum(t[k] for t in times for k in ("train", "validate", "test"))
    share = 1 - inside / seconds
    what = f"a sweep of {count} runs of {inside / count:.1f} s in one process: share of its time outside training"
    return [(what, f"{share:.3f}", "–", "–", "0.20", verdict(share < 0.2))]


def bench_report(count: int = 10_000) -> list[Row]:
    """`peftbench report` over records as large as those of runs of 100 epochs, in the terminal and as a page."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _records(Path(folder), count)
        for form in ("terminal", "html"):
            command = [sys.executable, "-m", "peftbench.cli.main", "report", folder, f"--format={form}"]
            done = subprocess.run([sys.executable, "-c", WATCHED, *command], check=True, capture_output=True, text=True)
            seconds, peak = map(float, done.stdout.split())
            what = f"report over {count:,} records, {form}"
            rows.append((what, f"{seconds:.1f} s", "–", "–", "10 s", verdict(seconds < 10)))
            rows.append((f"{what}: peak memory", f"{peak / 1e6:.0f} MB", "–", "–", "1 GB", verdict(peak < 1e9)))
    return rows


def _records(folder: Path, count: int) -> None:
    """Records of nine methods in several settings on VTAB's tasks, with stamps, histories and, of some, plans."""
    import random

    import peftbench
    from peftbench.common.vtab_tasks import GROUPS

    tasks = [f"vtab/{t}" for group in GROUPS.values() for t in group]
    methods = ("full", "linear", "bitfit", "lora", "spt_lora", "losa", "lst", "ftp", "l2sp")
    draw = random.Random(0)
    configs = {m: peftbench.compose(f"method={m}", "backbone=vit_b", "data=vtab/cifar").to_dict() for m in methods}
    transform = {"size": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "augment": "none"}
    layers = [
        {"name": f"blocks.{b}.{n}.weight", "kind": "lora", "parameters": 6144} for b in range(12) for n in "abcdef"
    ]
    for i in range(count):
        seed, rest = i % 5, i // 5
        task, rest = tasks[rest % 19], rest // 19
        method, setting = methods[rest % 9], rest // 9
        own = json.loads(json.dumps(configs[method]))
        own["seed"], own["data"]["name"], own["choices"]["data"] = seed, task, task
        own["optimizer"]["lr"] = 1e-4 * (setting + 1)
        history = [
            {"epoch": e, "step": 16 * e, "train_loss": draw.random(), "lr": draw.random(), "train_seconds": 1.5 * e,
             "val_accuracy": draw.random(), "val_class_accuracy": draw.random(), "val_loss": draw.random()}
            for e in range(1, 101)
        ]  # fmt: skip
        name = f"{method}-vit_b-{task.replace('/', '_')}-s{seed}-{i:010x}"
        costs = {"parameters": {"method": 300_000, "head": 76_900}, "memory": {"peak": {"allocated": 4e9}},
                 "time": {"step": {"median": 0.1}, "train": 160 + draw.random(), "validate": 5.0}}  # fmt: skip
        stamps = {
            "backbone": {
                "name": own["backbone"]["name"],
                "weights": "hub",
                "pretrained": True,
                "fingerprint": "0" * 64,
            },
            "data": {"split": task, "stage": "final", "hash": f"{tasks.index(task):064x}", "transform": transform},
            "machine": {"processor": "-", "threads": 8, "devices": ["a GPU"]},
        }
        content = {"schema": 1, "id": name, "status": "complete", "reason": None, "config": own, "stamps": stamps,
                   "metrics": {"test/accuracy": draw.random(), "test/loss": draw.random()}, "costs": costs,
                   "history": history, "plan": {"layers": layers} if method == "spt_lora" else {}}  # fmt: skip
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(json.dumps(content, indent=2, sort_keys=True))


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


BENCHES = {
    "help": bench_help,
    "step": bench_step,
    "side": bench_side,
    "quickstart": bench_quickstart,
    "ftp": bench_ftp,
    "spt": bench_spt,
    "petah": bench_petah,
    "pruned": bench_pruned,
    "plan": bench_plan,
    "serve": bench_serve,
    "vtab": bench_vtab,
    "map": bench_map,
    "detect": bench_detect,
    "report": bench_report,
    "sweep": bench_sweep,
    "together": bench_together,
}


def table(rows: list[Row]) -> str:
    head = ("what, against", "peftbench", "peer", "ratio", "limit", "kept")
    lines = [head, ("---",) * 6, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    import torch

    from peftbench.common.machine import processor

    threads, python = torch.get_num_threads(), platform.python_version()
    return f"{processor()}, {threads} threads, torch {torch.__version__}, Python {python}"


def updated(page: str, measured: str, where: str) -> str:
    """The page with these rows in the place of those about the same; what it says besides stays."""
    before, head, rest = page.partition("| what, against |")
    lines = (head + rest).splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    rows = {_about(line): line for line in lines[2:count]} | {
        _about(line): f"{line}\n" for line in measured.splitlines()[2:]
    }
    intro, _, _ = before.rstrip().rpartition("\n\n")
    return f"{intro}\n\n{where}\n\n{''.join(lines[:2])}{''.join(rows.values())}{''.join(lines[count:])}"


def _about(row: str) -> str:
    return row.split("|")[1].partition("(top-1")[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    given = parser.parse_args()
    rows = [row for name in given.which or BENCHES for row in BENCHES[name]()]
    text = table(rows)
    print(text)
    if given.write:
        PAGE.write_text(updated(PAGE.read_text(), text, f"{machine()}; {date.today()}"))
    sys.exit(any("**no**" in row for row in rows))


if __name__ == "__main__":
    main()
