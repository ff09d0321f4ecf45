"""ONNX by onnxruntime, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from peftbench.common.foreign_text import first_sentence
from peftbench.tuned.runtimes.base import Runtime, library, not_of


class OnnxGraph(Runtime):
    """A graph in onnxruntime's CPU provider."""

    format = "onnx"
    library = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        onnxruntime = library("onnxruntime", self.format)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails raises all the same
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's own classes
            raise not_of(path, self.format, f"onnxruntime: {first_sentence(problem)}") from None
        super().__init__(path, session.get_modelmeta().custom_metadata_map)
        (entry,) = session.get_inputs()
        self.session, self.input = session, entry.name
        self.takes_one = len(entry.shape) == 3
        self.outputs = tuple(output.name for output in session.get_outputs())

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(None, {self.input: images}), strict=True))
