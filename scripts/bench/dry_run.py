"""The memory that `peftbench plan` says, against the peak resident set of the run above its set-up."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.tables import Row, megabytes
from bench.timing import COMMAND, GIVES_MEMORY_BACK


@dataclass(frozen=True)
class Case:
    method: str
    pruning: str
    backbone: str

    @property
    def what(self) -> str:
        pruning = "" if self.pruning == "none" else f" ({self.pruning})"
        return f"memory of a step, {self.method}{pruning} on {self.backbone}, batch 16: plan, run"


_EVERY = [(method, "none") for method in ("full", "bitfit", "lora", "petah", "losa", "cst", "lst")]
_EVERY += [("petah", "unstructured"), ("petah", "structured")]
_SOME = [("full", "none"), ("petah", "unstructured"), ("losa", "none"), ("cst", "none")]
CASES = [
    Case(method, pruning, backbone)
    for backbone, arms in {"vit_s": _EVERY, "efficientformer_l1": _EVERY, "resnet50": _SOME}.items()
    for method, pruning in arms
]


def names() -> list[str]:
    return [case.what for case in CASES]


def measure(quick: bool = False) -> list[Row]:
    """`quick` measures the first two."""
    rows = []
    for case in CASES[: 2 if quick else None]:
        planned, measured = _peaks(case)
        kept = abs(planned - measured) <= 0.15 * measured
        ratio = f"{planned / measured:.2f}"
        rows.append(Row(case.what, megabytes(planned), megabytes(measured), ratio, "0.85 to 1.15", kept))
    return rows


def _peaks(case: Case) -> tuple[float, float]:
    """Bytes at the peak of a step, as planned and as the run's record says."""
    import peftbench
    from peftbench.runs.dry_run import plan_run

    with tempfile.TemporaryDirectory() as folder:
        words = [f"method={case.method}", f"pruning={case.pruning}", f"backbone={case.backbone}"]
        words += ["backbone.pretrained=false", "data=photos", "data.batch_size=16", "data.eval_batch_size=16"]
        words += ["taps=off", "trainer.epochs=1", "trainer.max_batches=2", "trainer.progress=false", "logger=none"]
        words += [f"output_dir={folder}"]
        environment = {**os.environ, **GIVES_MEMORY_BACK}
        subprocess.run([COMMAND, *words], env=environment, check=True, capture_output=True)
        record = json.loads(next(Path(folder).glob("*/result.json")).read_text(encoding="utf-8"))
        step = plan_run(peftbench.compose(*words)).step
    assert step is not None
    return step.peak, record["costs"]["memory"]["peak"]["above"]
