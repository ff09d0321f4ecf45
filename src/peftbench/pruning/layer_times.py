"""The table of layer times: how long each part of a backbone takes by how many channels, or heads, it keeps.

A part is timed alone, once a machine; what was measured is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.backbones.channels import Channels, Heads, attention_heads, hidden_channels, part_alone
from peftbench.common.atomic_files import replacing
from peftbench.common.cache_folder import cache
from peftbench.common.machine import processor_name
from peftbench.pruning.runtimes import Call, call_of, quickest, runtime_in_words, times_of

_STEPS = 8  # so many counts of channels are tried in a part
_ROUNDS = 12
_TOGETHER = 40  # modules in memory at a time


@dataclass(frozen=True)
class Part:
    """A group of hidden channels, or the heads of an attention.

    `name` is that of its first layer, or of the attention; `counts` are those that it may keep, from all to few.
    """

    name: str
    what: Channels | Heads
    counts: tuple[int, ...]


def parts_of(backbone: Backbone, round_to: int) -> list[Part]:
    """All parts of a backbone that may lose something: channels in multiples of `round_to`, and heads."""
    channels = [Part(g.first, g, _counts(g.count, round_to)) for g in hidden_channels(backbone)]
    heads = [Part(h.module, h, _counts(h.count, 1)) for h in attention_heads(backbone)]
    return [part for part in (*channels, *heads) if len(part.counts) > 1]


def _counts(count: int, round_to: int) -> tuple[int, ...]:
    steps = (max(round_to, round(count * k / _STEPS / round_to) * round_to) for k in range(_STEPS, 0, -1))
    return tuple(dict.fromkeys([count, *(n for n in steps if n < count)]))


def layer_times(backbone: Backbone, parts: Sequence[Part], runtime: str) -> dict[str, dict[int, float]]:
    """Seconds of each part with each of its counts, by name; measured where the cache does not hold them.

    A part that keeps less never counts as slower: that would be noise.

    Raises:
        Refusal: as `call_of`.
        UserError: the cache folder cannot be written.
    """
    place = _place(runtime)
    known = _read(place)
    inputs = _inputs(backbone, parts)
    keys = {(p.name, n): _key(backbone.net, p, n, inputs[p.name]) for p in parts for n in p.counts}
    missing = {keys[p.name, n]: (p, n) for p in parts for n in p.counts if keys[p.name, n] not in known}
    if missing:
        todo = list(missing.items())
        for begin in range(0, len(todo), _TOGETHER):
            calls: dict[str, Call] = {
                key: call_of(part_alone(backbone.net, p.what, n), inputs[p.name], runtime)
                for key, (p, n) in todo[begin : begin + _TOGETHER]
            }
            known |= quickest(times_of(calls, _ROUNDS))
        _write(place, known)
    table: dict[str, dict[int, float]] = {}
    for part in parts:
        least = float("inf")
        table[part.name] = {n: (least := min(least, known[keys[part.name, n]])) for n in part.counts}
    return table


def _inputs(backbone: Backbone, parts: Sequence[Part]) -> dict[str, Tensor]:
    """What each part takes of one image, in random numbers."""
    shapes: dict[str, torch.Size] = {}
    handles = [
        backbone.net.get_submodule(p.name).register_forward_pre_hook(
            lambda module, args, name=p.name: shapes.setdefault(name, args[0].shape) and None
        )
        for p in parts
    ]
    try:
        with torch.no_grad():
            backbone.net.forward_features(torch.zeros(1, 3, *backbone.facts.canvas))
    finally:
        for handle in handles:
            handle.remove()
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _key(net: nn.Module, part: Part, count: int, given: Tensor) -> str:
    """The same for parts that compute the same way: their layers and shapes, and not their weights."""
    names = part.what.modules if isinstance(part.what, Channels) else (part.name,)
    layers = [repr(net.get_submodule(n)) for n in names]
    heads = part.what.count if isinstance(part.what, Heads) else 0
    told = json.dumps([layers, heads, count, list(given.shape)])
    return hashlib.sha256(told.encode()).hexdigest()[:20]


def _place(runtime: str) -> Path:
    machine = [platform.machine(), processor_name(), runtime_in_words(runtime), torch.__version__]
    digest = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:12]
    return cache() / "latency" / f"{runtime}-{digest}.json"


def _read(place: Path) -> dict[str, float]:
    """What was measured before; a file that is damaged is measured anew."""
    try:
        content: Any = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    times = content.get("seconds") if isinstance(content, Mapping) else None
    if not isinstance(times, Mapping):
        return {}
    return {str(k): float(v) for k, v in times.items() if isinstance(v, int | float) and 0 < v < 1e3}


def _write(place: Path, times: Mapping[str, float]) -> None:
    with replacing(place, lambda why: f"{place}: could not be written ({why}).") as part:
        part.write_text(json.dumps({"seconds": dict(sorted(times.items()))}, indent=1) + "\n", encoding="utf-8")
