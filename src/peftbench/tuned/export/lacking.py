"""Which operator of a program a converter lacks, and in which layer it stands."""

from __future__ import annotations

import re
from typing import Any

import torch

from peftbench.common.errors import Refusal
from peftbench.common.foreign_text import first_sentence

_OTHERS = ("onnx", "torch_export")


def lacks(format_: str, model: str, program: torch.export.ExportedProgram | None, problem: Exception) -> Refusal:
    """The answer where a converter stops.

    Args:
        format_: the format.
        model: in words.
        program: what was converted, to find the layer of the operator that the converter names; None if unknown.
        problem: what the converter raised.
    """
    others = " or ".join(f"format={other}" for other in _OTHERS if other != format_)
    instead = f"try {others}; peftbench.load gives the model itself"
    found = None if program is None else _named_operator(program, str(problem))
    if found is None:
        return Refusal(
            f"format={format_}: {model} cannot be converted ({type(problem).__name__}: "
            f"{first_sentence(problem, 200)}); {instead}."
        )
    operator, layer = found
    return Refusal(
        f"format={format_}: has no {operator}, which {model} computes in {layer or 'no layer of its own'}; {instead}."
    )


def _named_operator(program: torch.export.ExportedProgram, text: str) -> tuple[str, str] | None:
    """(an operator of the program that the text names, the layer that calls it first)."""
    found: list[tuple[int, str, str]] = []
    for node in program.graph.nodes:
        if node.op == "call_function" and (name := _name(node.target)):
            at = re.search(rf"(?<![\w]){re.escape(name.split('::')[-1])}(?![\w])", text)
            if at:
                found.append((-len(name), name, _layer(node)))
    return min(found, key=lambda one: one[0])[1:] if found else None


def _name(target: Any) -> str:
    """aten::add of torch's operator add; empty of what is none."""
    return target.name().split(".")[0] if isinstance(target, torch._ops.OpOverload) else ""


def _layer(node: Any) -> str:
    """The innermost module that calls it, as `layers` names them."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return re.sub(r"^L\['self'\]\.?", "", path).removeprefix("backbone.net.")
