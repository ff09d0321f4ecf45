"""The process of one format: it opens the file, is told when it is its turn, and answers in lines of JSON.

It reads a line at a time from its standard input and ends with it. What libraries print goes to the standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_IMPORTED = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch.runtime", "torch_export": "torch"}
BATCHES = (1, 32)


class Worker:
    """What the lines ask for; each method takes the line's values and returns the answer's."""

    answer: Callable[[np.ndarray], np.ndarray]

    def open(self, format: str, place: str, threads: int, images: str, config_dir: str | None) -> dict[str, Any]:
        """Opens the file, or makes the model of the run's folder; returns the seconds that it took, and its library."""
        self.images = np.load(images, mmap_mode="r")
        if format == "torch":
            import torch

            torch.set_num_threads(threads)
            importlib.import_module("peftbench.tuned.export.graph")
            begun = time.perf_counter()
            self.answer, size = _model(place, config_dir)
            library = f"torch {torch.__version__}"
        else:
            from importlib.metadata import PackageNotFoundError, version

            from peftbench.tuned.runtimes import open_exported

            importlib.import_module(_IMPORTED.get(format, format))
            begun, size = time.perf_counter(), 0
            runtime = open_exported(Path(place), threads)
            self.answer = runtime
            try:
                library = f"{runtime.library} {version(runtime.library)}"
            except PackageNotFoundError:
                library = runtime.library
        self.answer(self._batch(1))
        return {"load": time.perf_counter() - begun, "library": library, "size": size}

    def turn(self, batch: int, seconds: float) -> dict[str, Any]:
        """Milliseconds of several answers, the first of which is left out."""
        images = self._batch(batch)
        self.answer(images)
        times: list[float] = []
        ends = time.perf_counter() + seconds
        while not times or time.perf_counter() < ends:
            begun = time.perf_counter()
            self.answer(images)
            times.append(1000 * (time.perf_counter() - begun))
        return {"ms": times}

    def memory(self) -> dict[str, Any]:
        """Bytes of this process at its peak so far."""
        try:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"bytes": peak}

    def logits(self, out: str) -> dict[str, Any]:
        """Writes the logits of all images."""
        parts = [self.answer(self._scaled(self.images[at : at + 32])) for at in range(0, len(self.images), 32)]
        np.save(out, np.concatenate(parts))
        return {}

    def _batch(self, size: int) -> np.ndarray:
        return self._scaled(self.images[np.arange(size) % len(self.images)])

    @staticmethod
    def _scaled(images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32) / 255


def _model(folder: str, config_dir: str | None) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """The merged model of a run in eager mode, and the bytes of its tensors."""
    import torch

    from peftbench.tuned.export.files import of_one_pass
    from peftbench.tuned.export.graph import Graph
    from peftbench.tuned.finished_run import open_run
    from peftbench.tuned.load import load

    graph = Graph(load(of_one_pass(open_run(folder, config_dir)), dequantize=True))
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits: np.ndarray = graph(torch.from_numpy(images)).numpy()
            return logits

    return answer, size


def main() -> None:
    """Answers line by line until there are no more."""
    from peftbench.common.errors import UserError
    from peftbench.common.foreign_text import first_sentence

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked.pop("do"))(**asked)
        except UserError as problem:
            answer = {"refused": str(problem)}
        except Exception as problem:  # of any library: the one process that hears of it tells it
            answer = {"failed": f"{type(problem).__name__}: {first_sentence(problem, 200)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
