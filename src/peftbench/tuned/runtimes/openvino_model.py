"""OpenVINO's intermediate representation, an XML file beside its weights, on the CPU and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.tuned.runtimes.base import Runtime, library, not_of

ABOUT = "peftbench"
"""Under this name the XML holds what the file says of itself."""


class OpenvinoModel(Runtime):
    """A model compiled for the CPU; it computes in fp32 where its weights are kept in fp16."""

    format = "openvino"
    library = "openvino"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        openvino = library("openvino", self.format)
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise UserError(f"{path}: its weights, {weights.name}, must lie beside it.")
        try:
            core = openvino.Core()
            model = core.read_model(path, weights)
            told = {}
            if model.has_rt_info([ABOUT]):
                about = model.get_rt_info([ABOUT]).value
                told = {key: str(getattr(value, "value", value)) for key, value in about.items()}
            settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # its own choice is bf16 on some processors
            if threads is not None:
                settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as problem:  # openvino raises RuntimeError for all that it cannot read
            raise not_of(path, self.format, f"openvino: {first_sentence(problem)}") from None
        super().__init__(path, told)
        self.takes_one = self.compiled.inputs[0].partial_shape.rank.get_length() == 3
        self.outputs = tuple(output.any_name for output in self.compiled.outputs)

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        answers = self.compiled([images])
        return {name: np.array(answers[i]) for i, name in enumerate(self.outputs)}
