"""ExecuTorch's programs, by the runtime in its wheel (the CPU, with XNNPACK). Its Python side needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.foreign_text import first_sentence
from peftbench.tuned.runtimes.base import Runtime, library, not_of, told_beside


class ExecutorchProgram(Runtime):
    """A `.pte`. What it says of itself lies beside it, as `<file>.json`."""

    format = "executorch"
    library = "executorch"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = library("executorch.runtime", self.format)
        told = told_beside(path)
        if threads is not None:
            bindings = library("executorch.extension.pybindings.portable_lib", self.format)
            bindings._unsafe_reset_threadpool(threads)  # as its own benchmarks do; one pool for the whole process
        try:
            self.program = runtime.Runtime.get().load_program(path)
            self.method = self.program.load_method("forward")
        except Exception as problem:  # RuntimeError for all that it cannot read
            raise not_of(path, self.format, f"executorch: {first_sentence(problem)}") from None
        if self.method is None:
            raise not_of(path, self.format, "it holds no method called forward")
        super().__init__(path, told)
        self.most = largest_batch(self.method)

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        (logits,) = self.method.execute([torch.from_numpy(images)])
        return {"logits": logits.numpy().copy()}  # its memory is planned, and the next answer takes it


def largest_batch(method: Any) -> int:
    """How many images a loaded method takes at once: its memory is planned for so many, which lowering may bound."""
    return int(method.metadata.input_tensor_meta(0).sizes()[0])
