"""What a task that joins the others is tried on: runs that train together, and files for elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import peftbench
from peftbench.results import Record
from peftbench.runs.run import run, run_jointly
from support.mistakes import refused
from support.runs import QUICK, told_by


def joint_and_alone(folder: Path, task: Sequence[str], names: Sequence[str]) -> list[tuple[Record, Record]]:
    """Two LoSA runs in one pass, each with the same run alone; their metrics are equal to a thousandth."""

    def configs(place: str) -> list[peftbench.Config]:
        words = [*QUICK, *task, "method=losa", f"output_dir={folder / place}"]
        return [peftbench.compose(*words, f"method.rank={rank}") for rank in (2, 4)]

    together = run_jointly(configs("together"))
    pairs = [(joint, run(config)) for joint, config in zip(together, configs("alone"), strict=True)]
    for joint, alone in pairs:
        assert joint.status == "complete", joint.reason
        assert joint.costs["together"] == 2
        for name in names:
            assert joint.metrics[name] == pytest.approx(alone.metrics[name], abs=1e-3)
    return pairs


def exported(folder: Path, capsys: Any, task: Sequence[str], format: str, refusal: str) -> None:
    """A LoRA run is exported; PEFT's format, which has no place for what the task keeps, is refused so."""
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    record = run(peftbench.compose(*QUICK, *task, "method=lora", "backbone=vit_nano", f"output_dir={folder}"))
    out = folder / ("adapter" if format == "peft" else f"file.{format}")
    told = told_by(capsys, "export", f"run={record.folder}", f"format={format}", f"out={out}")
    if format == "peft":
        refused(told, refusal)
    else:
        assert told[0] == 0, told[2]
