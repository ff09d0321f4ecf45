"""Exported programs by torch.

torch unpickles parts of such an archive and evaluates the expressions of its sizes. A file that holds a pickle, an
object or an expression with other words than those of sizes is refused before torch sees it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.common.errors import Refusal
from peftbench.common.foreign_text import first_sentence
from peftbench.tuned.runtimes.base import Runtime, not_of

ABOUT = "peftbench.json"
"""The extra file of an archive that holds what it says of itself."""
_WORD = re.compile(r"[A-Za-z_]\w*")
_PLAIN = re.compile(r"[\w\s'=,()+*/<>-]*")
_CALLS = ("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod")
_DIVISIONS = ("FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing")
_SIGNS = ("positive", "integer", "nonnegative", "nonzero", "True", "False")
_RELATIONS = ("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "oo", "int_oo")
_OF_SIZES = frozenset((*_CALLS, *_DIVISIONS, *_SIGNS, *_RELATIONS))
_SYMBOL = re.compile(r"[su]\d+")


class TorchProgram(Runtime):
    """A program of `torch.export`, run as a module in eager mode."""

    format = "torch_export"
    library = "torch"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import torch

        refuse_code(path)
        if threads is not None:
            torch.set_num_threads(threads)  # torch has one number of them for the whole process
        extra = {ABOUT: ""}
        try:
            program = torch.export.load(path, extra_files=extra)
            self.module = program.module()
        except Exception as problem:  # whatever another version of torch wrote
            raise not_of(path, self.format, f"torch {torch.__version__}: {first_sentence(problem)}") from None
        super().__init__(path, json.loads(extra[ABOUT] or "{}"))

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        with torch.no_grad():
            return {"logits": self.module(torch.from_numpy(images)).numpy()}


def refuse_code(path: Path) -> None:
    """Raises Refusal where torch would run what a file holds while it reads it."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            named = {name.partition("/")[2]: name for name in archive.namelist()}  # behind the archive's own name
            for inner, name in named.items():
                if inner.startswith("data/sample_inputs/"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                elif inner.endswith("_config.json"):
                    _refuse_objects(path, json.loads(archive.read(name)))
                elif inner.startswith("models/"):
                    _refuse_expressions(path, json.loads(archive.read(name)))
            whole = any(inner.startswith("models/") for inner in named)
    except Refusal:
        raise
    except Exception as problem:  # no zip, no JSON, a pickle of another kind
        raise not_of(path, TorchProgram.format, first_sentence(problem)) from None
    if not whole:
        raise not_of(path, TorchProgram.format, "the archive holds no program of this version of torch's format")


def _refuse_objects(path: Path, content: Any) -> None:
    for name, entry in content["config"].items():
        if entry["use_pickle"] or entry.get("tensor_meta") is None:
            raise not_of(path, TorchProgram.format, f"{name} is a pickled object, which is not read")


def _refuse_expressions(path: Path, content: Any) -> None:
    for text in _expressions(content):
        strange = [w for w in _WORD.findall(text) if w not in _OF_SIZES and not _SYMBOL.fullmatch(w)]
        if strange or not _PLAIN.fullmatch(text):
            raise not_of(
                path, TorchProgram.format, f"a size of it is an expression with {strange[0] if strange else text}"
            )


def _expressions(node: Any) -> Iterator[str]:
    """All that torch would evaluate as an expression."""
    if isinstance(node, dict):
        if isinstance(text := node.get("expr_str"), str):
            yield text
        for inner in node.values():
            yield from _expressions(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _expressions(inner)
