"""How a timm model is cut: taps where `feature_info` says, and the tail, which is replayed and checked to the bit."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.blocks import BlockWatch
from peftbench.backbones.facts import WHOLE, Facts, Grid, Size, Tap
from peftbench.common.errors import Refusal


def learn_facts(net: Any, name: str, family: str | None, size: Size, on_meta: bool) -> Facts:
    """What is known of a timm model, cut into taps and tail by watching one forward pass of one image.

    Args:
        net: the timm model, in eval mode; on the meta device only shapes are compared, else bits.
        name, family, size: see `Facts`.
        on_meta: whether `net` is on the meta device.

    Raises:
        Refusal: its features are not one tensor, or it cannot pool them.
    """
    cfg = net.pretrained_cfg
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.linspace(-50, 50, 3 * height * width).sin().reshape(1, 3, height, width)
    image = image.to("meta" if on_meta else "cpu")
    prefix = int(getattr(net, "num_prefix_tokens", 0) or 0)
    info = getattr(net, "feature_info", None) or []
    info = [dict(i) for i in getattr(info, "info", info)]
    watch = BlockWatch(net)
    with torch.no_grad():
        with watch.watching():
            taps, tail, reshaped, features, called = _cut(net, image, info)
        if not isinstance(features, Tensor):
            raise Refusal(
                f"backbone.name={name}: its features are not one tensor but several ({type(features).__name__}), "
                f"which no head here reads; take a model with a single branch."
            )
        with _calls(net) as pooling:
            pooled = _pooled(net, name, features)
    if not taps:  # no cut reproduces this model: its whole output is the only tap
        taps = [_whole(features, int(getattr(net, "num_features", 0)), prefix, (height, width))]
    return Facts(
        name=name,
        family=family,
        input_size=size,
        taps=tuple(taps),
        tail=tuple(tail),
        width=pooled.shape[-1],
        prefix=prefix,
        parameters=sum(p.numel() for p in net.parameters()),
        called=frozenset(called | pooling),
        pools=frozenset(pooling - called),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg.get("interpolation") or "bicubic",
        blocks=tuple(
            replace(b, grid=None) if _order(net, b.module, b.shape) else b for b in watch.blocks(taps, tail, prefix)
        ),
        reshaped=reshaped,
    )


def replay_tail(net: Any, tail: Sequence[str], reshaped: tuple[int, ...], tap: Tensor) -> Tensor:
    """The last tap (B, …) through the tail: what `forward_features` gives. See `Facts.tail` and `Facts.reshaped`."""
    for name in tail:
        tap = net.get_submodule(name)(tap)
    return tap.reshape(len(tap), *reshaped) if reshaped else tap


@contextmanager
def _calls(net: nn.Module) -> Iterator[set[str]]:
    """The names of the modules whose forward is called within it."""
    called: set[str] = set()
    named = [(name, module) for name, module in net.named_modules() if name]
    handles = [m.register_forward_pre_hook(lambda _, __, name=n: called.add(name)) for n, m in named]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _cut(
    net: Any, image: Tensor, info: list[dict[str, Any]]
) -> tuple[list[Tap], list[str], tuple[int, ...], Tensor, set[str]]:
    """Watches one forward pass: (taps, tail, `Facts.reshaped`, features (1, …), modules that were called).

    Taps and tail are empty where replaying the tail gives other bits than the features.
    """
    modules = dict(net.named_modules())
    names = [entry.get("module", "") for entry in info]
    usable = bool(names) and all(n in modules for n in names)
    tail: list[str] = []
    inside: list[str] = []
    outputs: dict[str, Tensor] = {}

    def enter(name: str):
        def hook(module: nn.Module, args: Any) -> None:
            if usable and names[-1] in outputs and not inside:
                tail.append(name)
                inside.append(name)

        return hook

    def leave(name: str):
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if inside and inside[-1] == name:
                inside.pop()
            if name in names and name not in outputs and isinstance(output, Tensor):
                outputs[name] = output

        return hook

    handles: list[Any] = []
    for name, module in modules.items():
        if name:
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave(name)))
    try:
        with _calls(net) as called:
            features = net.forward_features(image)
    finally:
        for handle in handles:
            handle.remove()
    if set(names) - set(outputs) or not usable:
        return [], [], (), features, called
    tail = [n for n in tail if _changes(modules[n])]
    reshaped = _replays(net, outputs[names[-1]], tail, features)
    if reshaped is None:
        return [], [], (), features, called
    prefix = int(getattr(net, "num_prefix_tokens", 0) or 0)
    found = [(n, i["num_chs"], i["reduction"], outputs[n]) for n, i in zip(names, info, strict=True)]
    # A map as high as it has channels fits both layouts: another tap tells.
    last = any(o.ndim == 4 and o.shape[1] != c == o.shape[3] for _, c, _, o in found)
    taps = [_tap(*each, last, prefix, image.shape[2:]) for each in found]
    orders = [_order(net, tap.module, tap.shape) for tap in taps]
    if orders[-1]:  # what pools reads this order
        taps = [replace(tap, grid=None if order else tap.grid) for tap, order in zip(taps, orders, strict=True)]
    else:
        taps = [replace(tap, order=order) for tap, order in zip(taps, orders, strict=True)]
    return taps, tail, reshaped, features, called


def _replays(net: Any, tap: Tensor, tail: list[str], expected: Tensor) -> tuple[int, ...] | None:
    """`Facts.reshaped`, where the tail replayed on the last tap gives the features; None where it does not."""
    try:
        tap = replay_tail(net, tail, (), tap)
    except Exception:  # a tail that takes more than one input, say: any failure means that it cannot be replayed
        return None
    reshaped = () if tap.shape == expected.shape else tuple(expected.shape[1:])
    if tap.numel() != expected.numel() or (reshaped and tap.shape[-1] != expected.shape[-1]):
        return None
    return reshaped if tap.is_meta or torch.equal(tap.reshape(expected.shape), expected) else None


def _pooled(net: Any, name: str, features: Tensor) -> Tensor:
    """timm's pooled features (1, width). Raises Refusal where it has none: the encoder of something larger."""
    head = getattr(net, "forward_head", None)
    if head is not None and "pre_logits" in inspect.signature(head).parameters:
        try:
            pooled: Tensor = head(features, pre_logits=True)
            return pooled
        except NotImplementedError as problem:
            if "aten::" in str(problem):  # an operator without a form for the meta device
                raise
    raise Refusal(
        f"backbone.name={name}: timm has no pooling for it, and so no features for a head; take a model that has one."
    )


def _order(net: Any, module: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`Tap.order` of a module's output: Hiera keeps the tokens of each window together, and tells how to undo that."""
    number = module.removeprefix("blocks.")
    if not isinstance(undo := getattr(net, "reroll", None), nn.Module) or not number.isdecimal() or len(shape) != 2:
        return ()
    places = undo(torch.arange(shape[0], device="cpu").view(1, -1, 1), int(number)).flatten().tolist()
    return () if places == sorted(places) else tuple(places)


def _whole(features: Tensor, width: int, prefix: int, image: Sequence[int]) -> Tap:
    """The whole output (1, …) of a model as its only tap; `width` is the number of its channels, 0 where unknown."""
    shape = tuple(features.shape[1:])
    layout = {2: "NLC", 3: "NCHW"}.get(len(shape), "NC")
    if layout == "NCHW" and shape[0] != width == shape[2]:
        layout = "NHWC"
    channels = shape[0] if layout in ("NCHW", "NC") else shape[-1]
    return Tap(WHOLE, channels, 0, shape, layout, _grid(shape, layout, prefix, 0, image))


def _changes(module: nn.Module) -> bool:
    return not isinstance(module, nn.Identity)


def _tap(
    name: str, channels: int, reduction: int, output: Tensor, last: bool, prefix: int, image: Sequence[int]
) -> Tap:
    shape, layout = tuple(output.shape[1:]), _layout(output, channels, last)
    return Tap(name, channels, reduction, shape, layout, _grid(shape, layout, prefix, reduction, image))


def _grid(shape: tuple[int, ...], layout: str, prefix: int, reduction: int, image: Sequence[int]) -> Grid | None:
    """Height and width of a map of `shape`, for an image (H, W); None where tokens lie on none."""
    if layout == "NC":
        return None
    if layout != "NLC":
        return (shape[1], shape[2]) if layout == "NCHW" else (shape[0], shape[1])
    tokens = max(shape[0] - prefix, 0)
    if reduction:
        rows, columns = (math.ceil(side / reduction) for side in image)
        if rows * columns == tokens:
            return rows, columns
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None


def _layout(tap: Tensor, channels: int, last: bool) -> str:
    """`last`: the channels of some map come last."""
    if tap.ndim == 3:
        return "NLC"
    return "NCHW" if tap.shape[1] == channels and not (last and tap.shape[3] == channels) else "NHWC"
