"""The training step inside peftbench against a bare PyTorch loop."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass

from bench.tables import Row, seconds
from bench.timing import seconds_of


@dataclass(frozen=True)
class Case:
    name: str
    words: tuple[str, ...]
    batch: int
    steps: int
    rounds: int

    @property
    def what(self) -> str:
        return f"training step, {self.name}, batch {self.batch}, fp32, bare PyTorch"

    def config_words(self) -> list[str]:
        more = [f"data.batch_size={self.batch}", "logger=none", "trainer.progress=false"]
        return [*self.words, "method=full", "data=digits", *more]


CASES = (
    Case("vit_nano", ("backbone=vit_nano",), 32, 25, 5),
    Case("ViT-S/16", ("backbone=vit_s", "backbone.pretrained=false"), 16, 8, 3),
)


def names() -> list[str]:
    return [case.what for case in CASES]


def measure(quick: bool = False) -> list[Row]:
    """Both train the same model on the same batch size in the same precision."""
    rows = []
    for case in CASES:
        ours, peer = [], []
        for seed in range(1 if quick else case.rounds):  # interleaved, so that a busy moment of the machine meets both
            ours.append(_step_inside(case, 7 if quick else case.steps, seed))
            peer.append(_step_bare(case, 7 if quick else case.steps))
        a, b = statistics.median(ours), statistics.median(peer)
        kept = a <= max(1.05 * b, b + 0.002)
        rows.append(Row(case.what, seconds(a), seconds(b), f"{a / b:.2f}", "1.05 or +2 ms", kept))
    return rows


def _step_inside(case: Case, steps: int, seed: int) -> float:
    """Median seconds of a step, as the run's record says it."""
    import peftbench

    with tempfile.TemporaryDirectory() as folder:
        more = [f"trainer.max_batches={steps}", "trainer.epochs=1", f"output_dir={folder}", f"seed={seed}"]
        record = peftbench.run(peftbench.compose(*case.config_words(), *more, "data.stage=tune"))
    return record.costs["time"]["step"]["median"]


def _step_bare(case: Case, steps: int) -> float:
    """Median seconds of timm, AdamW and nothing else, on images that are ready in memory."""
    import timm
    import torch

    import peftbench

    backbone = peftbench.compose(*case.config_words()).backbone
    net = timm.create_model(backbone.name, num_classes=10, pretrained_cfg_overlay=backbone.cfg, **backbone.args).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-4)
    size = backbone.cfg.get("input_size", [3, 224, 224])[-1]
    images, labels = torch.randn(case.batch, 3, size, size), torch.randint(0, 10, (case.batch,))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return statistics.median([seconds_of(step) for _ in range(steps)][5:])
