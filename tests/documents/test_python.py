"""The Python of the documents: every name of peftbench's in it is there, and every block runs among stand-ins."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import peftbench
from support.documents import DOCUMENTS, EXAMPLES, TUTORIALS, blocks
from support.places import ROOT

BLOCKS = {block.place: block for block in blocks("python")}
WHOLE = {page.name for page in (ROOT / "CONTRIBUTING.md", *EXAMPLES, *TUTORIALS)}
"""Pages whose blocks are files, or follow from each other: they have tests of their own."""
RUN = {place: block for place, block in BLOCKS.items() if place.partition(":")[0] not in WHOLE}


def code_in_sentences() -> dict[str, str]:
    """Calls and names such as `peftbench.load(run)` within sentences, with where they stand."""
    found = {}
    for page in DOCUMENTS:
        if page in EXAMPLES:  # they name modules that you make there
            continue
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"(?<!`)`(peftbench(?:\.[A-Za-z_]\w*)+(?:\([^`]*)?)`(?!`)", text):
            code = " ".join(match[1].split())
            if not code.endswith((".json", ".yaml")):
                found.setdefault(code, f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}")
    return found


@pytest.mark.parametrize("code", [*code_in_sentences(), *(block.text for block in BLOCKS.values())])
def test_every_name_of_peftbench_is_there(code):
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peftbench"):
            module = importlib.import_module(node.module or "")  # config has a function of a module's name
            for alias in node.names:
                assert hasattr(module, alias.name) or resolved(f"{node.module}.{alias.name}")
        if (name := dotted(node)) and name.startswith("peftbench."):
            resolved(name)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute of names; empty for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if parts and isinstance(node, ast.Name) else ""


def resolved(name: str) -> Any:
    """What a dotted name is: modules are imported on the way."""
    at: Any = importlib.import_module("peftbench")
    path = "peftbench"
    for part in name.split(".")[1:]:
        path += f".{part}"
        at = getattr(at, part) if hasattr(at, part) else importlib.import_module(path)
    return at


def test_python_is_found_in_sentences():
    assert "peftbench.load(run)" in code_in_sentences()
    with pytest.raises(ModuleNotFoundError):
        resolved("peftbench.laod")


@pytest.mark.slow
@pytest.mark.parametrize("place", RUN)
def test_a_block_runs(place, world, tmp_path, monkeypatch, capsys):
    """Composed runs are cut short, and a backbone that is to be fetched has a small one in its place."""
    from support import document_world

    monkeypatch.chdir(document_world.settle(world, tmp_path, tasks=False))
    monkeypatch.setattr(peftbench, "compose", functools.partial(short, peftbench.compose))
    monkeypatch.setattr(peftbench, "auto", functools.partial(quick, peftbench.auto))
    monkeypatch.setenv("HOME", str(world / "home"))
    names = stand_ins(RUN[place].text)
    exec(compile(RUN[place].text, place, "exec"), names)
    assert all(name in names for name in re.findall(r"^(\w+) = ", RUN[place].text, re.MULTILINE))


def short(compose: Any, *words: str) -> peftbench.Config:
    """The config of a run of two batches, on a backbone that is at hand."""
    at_hand = [word.replace("backbone=vit_b", "backbone=vit_nano") for word in words]
    return compose(*at_hand, "trainer.epochs=1", "trainer.max_batches=2", "trainer.progress=false")


def quick(auto: Any, *words: str, minutes: float, **limits: Any) -> peftbench.Answered:
    """An answer of one probe on a small backbone."""
    return auto(*words, "data.size=32", minutes=0.001, **limits | {"backbones": ["resnet_nano"], "methods": ["ridge"]})


def stand_ins(code: str) -> dict[str, Any]:
    """The names that a block takes from outside, and the files that it reads."""
    import json

    import safetensors.torch
    import timm
    import torch
    from torch import nn

    from peftbench.backbones import build_with_weights
    from peftbench.cli.main import main

    if "weights.pth" in code:
        torch.save(build_with_weights(peftbench.compose("backbone=vit_b").backbone).net.state_dict(), "weights.pth")
    if "model.safetensors" in code:
        assert main(["export", "run=outputs/RUN", "format=safetensors", f"out={Path('model.safetensors')}"]) == 0
    if "open_bundle" in code:
        pytest.importorskip("onnxruntime")
        assert main(["bundle", "runs=[digits=outputs/RUN]", "out=bundle"]) == 0
    model = nn.Sequential(OrderedDict(body=nn.Linear(4, 4), head=nn.Linear(4, 2)))
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    modules = {"json": json, "safetensors": safetensors, "timm": timm, "torch": torch}
    return {**modules, "peftbench": peftbench, "model": model, "images": images}
