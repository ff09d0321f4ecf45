"""What structured pruning at a half gains in latency on one thread."""

from __future__ import annotations

from dataclasses import dataclass

from bench.tables import Row, row_name
from bench.timing import interleaved_row


@dataclass(frozen=True)
class Case:
    """`heads` is the share of attention heads that is taken out."""

    backbone: str
    heads: float
    batch: int

    def what(self, small: str = "", whole: str = "") -> str:
        """Its row's name, with the arithmetic of the pruned and the whole backbone where that is known."""
        parts = "hidden channels and heads" if self.heads else "hidden channels"
        taken = f"half of the {parts} taken out{small and f' ({small} multiply-adds)'}"
        return f"latency, one thread, {self.backbone}, batch {self.batch}: {taken}, the whole{whole and f' ({whole})'}"


CASES = (
    Case("efficientformer_l1", 0.0, 1),
    Case("efficientformer_l1", 0.0, 32),
    Case("hybrid_nano", 0.0, 32),
    Case("hybrid_nano", 0.5, 32),
    Case("hybrid_nano", 0.0, 1),
    Case("hybrid_nano", 0.5, 1),
)


def names() -> list[str]:
    return [case.what() for case in CASES]


def measure(quick: bool = False) -> list[Row]:
    import torch

    import peftbench
    from bench.models import random_config

    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for case in CASES:
        words = [f"backbone={case.backbone}", "method=full"]
        pruned = [*words, "pruning=structured", "pruning.ratio=0.5", f"pruning.heads={case.heads}"]
        whole, small = (peftbench.build_backbone(random_config(*choice)) for choice in (words, pruned))
        size = whole.facts.input_size
        image = torch.randn(case.batch, 3, size, size)
        what = case.what(_multiply_adds(small.net, image[:1]), _multiply_adds(whole.net, image[:1]))
        assert row_name(what) == case.what()
        with torch.inference_mode():
            calls = [lambda net=b.net, image=image: net(image) for b in (small, whole)]
            rows.append(interleaved_row(what, calls[0], calls[1], 1 if quick else 30, 0.8))
    torch.set_num_threads(threads)
    return rows


def _multiply_adds(net, image) -> str:
    """Multiply-adds of a forward pass, in millions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return f"{counter.get_total_flops() / 2e6:.0f} M"
