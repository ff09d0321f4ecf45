"""ExecuTorch's programs, lowered to XNNPACK by its own tools; int8 by XNNPACK's quantizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftbench.tuned.export.graph import Sample
from peftbench.tuned.export.lacking import lacks
from peftbench.tuned.export.traced import answers_of, batch_axes, described, quiet, traced
from peftbench.tuned.load import Tuned
from peftbench.tuned.runtimes.base import beside, library
from peftbench.tuned.runtimes.executorch_program import largest_batch

LARGEST_BATCH = 32
"""ExecuTorch plans a program's memory ahead, for the largest batch that it may get."""


def to_executorch(tuned: Tuned, sample: Sample, path: Path, told: Mapping[str, str]) -> float:
    """Writes a `.pte` and its metadata beside it, runs it on photos and returns the largest difference.

    Raises:
        UserError: executorch is missing, or the file computes something else.
        Refusal: the model cannot be traced, or holds an operator that ExecuTorch has not.
    """
    require()
    program, _ = traced(tuned, sample, "executorch", most=LARGEST_BATCH)
    tell(path, told, write_program(tuned, program, path))
    return sample.difference(answers_of(path), "format=executorch")


def require() -> None:
    """Raises UserError where a library is missing."""
    for name in ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.runtime"):
        library(name, "executorch")


def write_program(tuned: Tuned, program: torch.export.ExportedProgram, path: Path) -> int:
    """Lowers a program, writes it, and returns the largest batch that it takes. Raises Refusal."""
    exir = library("executorch.exir", "executorch")
    partition = library("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    with quiet():
        try:
            taken = partition.XnnpackPartitioner(configs=_taken_by_xnnpack())
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[taken])
            made = lowered.to_executorch()
        except Exception as problem:  # whatever an operator lacks there: a decomposition, an out variant
            raise lacks("executorch", described(tuned), program, problem) from None
    with path.open("wb") as file:
        made.write_to_file(file)
    return largest_batch(
        library("executorch.runtime", "executorch").Runtime.get().load_program(path).load_method("forward")
    )


def _taken_by_xnnpack() -> list[type]:
    """Which operators go to XNNPACK: all that its partitioner knows, less each `addmm` that it would compute otherwise.

    ExecuTorch gives XNNPACK b·X + a·AB as a linear layer whose bias is X: of an X with more rows than one that reads
    the first alone, and a and b are dropped. ExecuTorch's own operator computes all of them.
    """
    known = library("executorch.backends.xnnpack.partition.config", "executorch").ALL_PARTITIONER_CONFIGS
    gemm: Any = library("executorch.backends.xnnpack.partition.config.gemm_configs", "executorch")

    class Addmm(gemm.AddmmConfig):
        def check_constraints(self, node: torch.fx.Node, program: torch.export.ExportedProgram) -> bool:
            bias, columns = node.args[0].meta["val"].shape, node.meta["val"].shape[-1]  # type: ignore[union-attr]
            plain = all(node.kwargs.get(factor, 1) == 1 for factor in ("alpha", "beta"))
            vector = bias[-1:] == (columns,) and bias.numel() == columns
            return bool(plain and vector and super().check_constraints(node, program))

    return [Addmm if config is gemm.AddmmConfig else config for config in known]


def tell(path: Path, told: Mapping[str, str], most: int) -> None:
    """Writes what the file says of itself beside it; `most` is the largest batch that it takes."""
    content = {**told, "largest_batch": str(most)}
    beside(path).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def quantized(tuned: Tuned, sample: Sample, images: Tensor) -> torch.export.ExportedProgram:
    """The program with int8 between its operators, per channel, calibrated on float32 images in [0, 1]."""
    quantizers: Any = library("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch")
    pt2e: Any = library("torchao.quantization.pt2e.quantize_pt2e", "executorch")
    program, _ = traced(tuned, sample, "executorch", most=LARGEST_BATCH)
    config = quantizers.get_symmetric_quantization_config(is_per_channel=True)
    with torch.no_grad(), quiet():
        prepared = pt2e.prepare_pt2e(program.module(), quantizers.XNNPACKQuantizer().set_global(config))
        for part in images.split(LARGEST_BATCH // 2):
            prepared(part)
        made = pt2e.convert_pt2e(prepared)
        return torch.export.export(made, (images[:2],), dynamic_shapes=(batch_axes(LARGEST_BATCH),), strict=False)
