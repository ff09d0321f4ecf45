"""What an ONNX file says of itself, read and written in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peftbench.tuned.runtimes.base import library


def tell(path: Path, told: Mapping[str, str]) -> None:
    """Gives a file exactly these metadata, takes the notes off its nodes, and checks its graph."""
    onnx = library("onnx", "onnx")
    model = onnx.load(str(path))
    for node in [*model.graph.node, *(n for function in model.functions for n in function.node)]:
        del node.metadata_props[:]  # stacks, with paths of this machine; half of a small file
    del model.metadata_props[:]
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def told_by(path: Path) -> dict[str, str]:
    """The metadata of a file, without its weights."""
    model = library("onnx", "onnx").load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}
