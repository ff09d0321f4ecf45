"""The benchmarks (`make bench`): ratios against a peer measured in the same run; `--write` puts them in the docs.

python scripts/bench.py [help|step|quickstart …] [--write]
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
from datetime import date
from pathlib import Path

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
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        records = [json.loads(p.read_text()) for p in Path(folder).glob("*/result.json")]
        print(done.stdout)
    top1 = {r["config"]["method"]["name"]: 100 * r["metrics"]["test/accuracy"] for r in records}
    what = f"quickstart (top-1: bitfit {top1['bitfit']:.1f} %, linear probe {top1['linear']:.1f} %)"
    return [(what, f"{seconds:.0f} s", "–", "–", "90 s", verdict(seconds <= 90))]


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


BENCHES = {"help": bench_help, "step": bench_step, "quickstart": bench_quickstart}


def table(rows: list[Row]) -> str:
    head = ("what, against", "peftbench", "peer", "ratio", "limit", "kept")
    lines = [head, ("---",) * 6, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    import torch

    from peftbench.pipeline import _processor

    threads, python = torch.get_num_threads(), platform.python_version()
    return f"{_processor()}, {threads} threads, torch {torch.__version__}, Python {python}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    given = parser.parse_args()
    rows = [row for name in given.which or BENCHES for row in BENCHES[name]()]
    text = table(rows)
    print(text)
    if given.write:
        PAGE.write_text(
            "# Benchmarks\n\n`make bench` measures these on your machine. Ratios are against a peer measured in the "
            "same run, rounds\ninterleaved, medians; absolute times are of the machine below. The peer of the training "
            "step is timm with\ntorch's default AdamW on images ready in memory; peftbench's AdamW steps fused. "
            "A ViT-g/14 that streams from its\nfile has [a page of its own](streaming.md).\n\n"
            f"{machine()}; {date.today()}\n\n{text}\n"
        )
    sys.exit(any("**no**" in row for row in rows))


if __name__ == "__main__":
    main()
