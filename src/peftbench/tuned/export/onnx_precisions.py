"""ONNX in fp16 and int8, by onnxruntime's own tools, from a graph in fp32."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.tuned.runtimes.base import library

_AT_ONCE = 8  # images of a calibration step, whose every activation is kept


def to_half(whole: Path, path: Path) -> None:
    """Writes a graph in fp16 that takes and gives fp32."""
    onnx, float16 = library("onnx", "onnx"), library("onnxruntime.transformers.float16", "onnx")
    with _quiet():
        made = float16.convert_float_to_float16(onnx.load(str(whole)), keep_io_types=True)
    models = library("onnxruntime.transformers.onnx_model", "onnx")
    sorted_ = models.OnnxModel(made)  # the casts of what goes in and out were put at the end
    sorted_.topological_sort()
    onnx.save(sorted_.model, str(path))


def to_int8(whole: Path, path: Path, images: np.ndarray) -> None:
    """Writes a graph in int8: static, per channel, between pairs of QuantizeLinear and DequantizeLinear.

    In a transformer the layers with weights alone are quantized, in a net of convolutions every operator that can be.

    Args:
        whole: the graph in fp32.
        path: the file.
        images: to calibrate on, float32 (N, 3, H, W) in [0, 1].
    """
    onnx = library("onnx", "onnx")
    tools: Any = library("onnxruntime.quantization", "onnx")
    prepare: Any = library("onnxruntime.quantization.shape_inference", "onnx")
    fused = path.with_name("fused.onnx")
    with _quiet():
        prepare.quant_pre_process(str(whole), str(fused), skip_symbolic_shape=True)
        attends = any(node.op_type == "Softmax" for node in onnx.load(str(fused)).graph.node)

        class Reader(tools.CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(range(0, len(images), _AT_ONCE))

            def get_next(self) -> Mapping[str, np.ndarray] | None:
                at = next(self.left, None)
                return None if at is None else {"images": images[at : at + _AT_ONCE]}

        tools.quantize_static(
            str(fused),
            str(path),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"] if attends else None,
            extra_options={"MatMulConstBOnly": True},
        )
    fused.unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the tools log of each node that they leave alone."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
