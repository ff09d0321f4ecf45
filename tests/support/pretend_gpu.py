"""A pretended GPU: tensors whose numbers lie on the CPU and whose device is another, with no GPU at hand.

Operations are checked as CUDA checks them: tensors of the pretended device and of the CPU do not mix, and each point
where the host would wait for the device is counted, with the line that asks. Values are those of the CPU. Mixed
precision, streams and memory are not pretended: autocast changes nothing here.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

NAME = "pretend"
LATE = "copy that nobody waits for"
"""What does not make the host wait: a copy that was asked for with `non_blocking`."""
_aten = torch.ops.aten
_ASKS = {
    "_local_scalar_dense": "a number",
    "equal": "equal",
    **dict.fromkeys(("nonzero", "masked_select", "nms", "bincount", "repeat_interleave"), "a size"),
    **dict.fromkeys(("_unique2", "unique_dim", "unique_consecutive"), "a size"),
    "_linalg_check_errors": "a check of errors",
}
"""Operators whose answer the host needs before it can go on, and for what. Boxes are kept by `nms` of torchvision."""
_INDEXES = {"index", "index_put_", "index_put", "_index_put_impl_"}
_RESIZED = (
    "arange",
    "arange.start",
    "arange.start_step",
    "range",
    "range.step",
    "tril_indices",
    "triu_indices",
    "eye",
    "eye.m",
)
"""Factories that torch makes of an empty tensor and its resizing, which a tensor that wraps another cannot do."""


class Mismatch(RuntimeError):
    """An operation mixes tensors of the pretended device with such of the CPU, as CUDA would not."""


class Wait(NamedTuple):
    """Why the host waits, and the line that makes it."""

    what: str
    where: str


Waits = Counter[Wait]
_listening: list[Waits] = []
_generators: set[int] = set()


def why_not() -> str:
    """Why the installed torch cannot pretend; the empty string where it can."""
    from torch.utils import backend_registration

    hook = "_setup_privateuseone_for_python_backend"
    lacks = not hasattr(backend_registration, hook) or not hasattr(torch._C, "_set_only_lift_cpu_tensors")
    return f"torch {torch.__version__} has no {hook}, which lets Python stand for a device" if lacks else ""


class Pretended(Tensor):
    """A tensor of the pretended device; `elem` has its numbers."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> Pretended:
        layout: dict[str, Any] = {"strides": elem.stride(), "storage_offset": elem.storage_offset()}
        made = Tensor._make_wrapper_subclass(
            cls, elem.size(), **layout, dtype=elem.dtype, layout=elem.layout, device=torch.device(NAME, 0)
        )
        made.elem = elem
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.elem})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """It is saved as the tensor of the CPU that it stands for."""
        _note("copy to the host")
        return self.elem.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """Which torch does not do for a class of its tensors."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy: at {_where()}")
        return self.cpu().numpy()

    @property
    def is_cuda(self) -> bool:
        """What code asks that has a way of its own for CUDA: see `_cuda`."""
        return True

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.elem = value.elem  # type: ignore[attr-defined]

    # With these two `nn.Module.to` swaps a parameter's content, as if it were assigned: the parameter stays the same.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["elem"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> Pretended:
        return Pretended(inner["elem"])

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carry_out(func, args, kwargs or {})


def _carry_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator on the CPU's numbers, its result on the device where its arguments are."""
    name = func._schema.name.partition("::")[2]
    given: list[Tensor] = []
    plain = _each(args, lambda t: _noted(t, given))
    options = {key: _each(value, lambda t: _noted(t, given)) for key, value in kwargs.items()}
    ours = [t for t in given if isinstance(t, Pretended)]
    target = kwargs.get("device")
    stays = target is None or torch.device(target).type == NAME
    if name == "copy_":
        stays = isinstance(args[0], Pretended)
        if stays != isinstance(args[1], Pretended):
            _note_copy(stays, bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2])))
    elif name == "_to_copy" and not stays:
        _note_copy(False, bool(kwargs.get("non_blocking")))
    else:
        _refuse_mixture(name, args, kwargs, given)
        if name in _ASKS and (name != "repeat_interleave" or kwargs.get("output_size") is None):
            _note(_ASKS[name])
        elif name in _INDEXES and _selects_by_flags(args):
            _note("a size")
    if target is not None:
        options["device"] = torch.device("cpu")
    result = func(*plain, **options)
    for tensor in ours:
        if tensor.shape != tensor.elem.shape:
            raise RuntimeError(f"{func} changes the shape of a tensor in place, which is not pretended")
    same = {id(t.elem): t for t in ours}
    return _each(result, lambda t: same.get(id(t), Pretended(t) if stays else t))


def _each(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An argument or a result of an operator, with its tensors changed."""
    if isinstance(values, Tensor):
        return change(values)
    return type(values)(_each(v, change) for v in values) if type(values) in (list, tuple) else values


def _noted(tensor: Tensor, given: list[Tensor]) -> Tensor:
    """Adds a tensor to those given; returns its numbers."""
    given.append(tensor)
    return tensor.elem if isinstance(tensor, Pretended) else tensor


def _refuse_mixture(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], given: Sequence[Tensor]) -> None:
    """Raises Mismatch; numbers on the CPU may go anywhere, and CUDA copies indices by itself."""
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in _generators:
        raise Mismatch(f"{name}: a random generator of the CPU for a tensor on {NAME} at {_where()}")
    strangers = [t for t in given if not isinstance(t, Pretended) and t.dim()]
    if not strangers:
        return
    indices = args[1] if name in _INDEXES else []
    if isinstance(args[0], Pretended) and all(any(t is i for i in indices) for t in strangers):
        _note_copy(True, False)
        return
    raise Mismatch(f"{name}: mixes {NAME} and cpu, {[tuple(t.shape) for t in strangers]}, at {_where()}")


def _selects_by_flags(args: tuple[Any, ...]) -> bool:
    """Whether it depends on the values of flags how many elements are read, or written by more than one number."""
    flags = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return flags and (len(args) < 3 or args[2].numel() != 1)


def _note_copy(to_device: bool, late: bool) -> None:
    _note(LATE if late else "copy to the device" if to_device else "copy to the host")


def _note(what: str) -> None:
    if _listening:
        wait = Wait(what, _where())
        for waits in _listening:
            waits[wait] += 1


def _where() -> str:
    """The innermost line outside of torch and of this file, from its package on."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and "/site-packages/torch/" not in file:
            short = file.rpartition("/site-packages/")[2].rpartition("/src/")[2]
            return f"{short}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class _Module:
    """What `torch.pretend` is."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None: ...

    def synchronize(self) -> None:
        """No wait that counts: a run's clock asks for it here, where it has CUDA record an event."""

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.get_rng_state()  # the one generator that there is

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@functools.cache
def device() -> torch.device:
    """The pretended device; torch knows of it from the first call on, and for the rest of the process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", functools.partial(_made, torch.empty), "PrivateUse1")
    library.impl("empty_strided", functools.partial(_made, torch.empty_strided), "PrivateUse1")
    for name in _RESIZED:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(_aten, packet), overload or "default")
        library.impl(name, functools.partial(_made, operator), "PrivateUse1")
    _kept_alive.append(library)
    return torch.device(NAME, 0)


_kept_alive: list[Any] = []


def _made(factory: Any, *args: Any, **given: Any) -> Pretended:
    options = {k: v for k, v in given.items() if v is not None and k not in ("device", "layout", "pin_memory")}
    return Pretended(factory(*args, **options, device="cpu"))


class _Event:
    """Of `torch.cuda`: nothing is late here."""

    def __init__(self, **_: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Any) -> float:
        return 1.0


class _Generator(torch.Generator):
    """One that may say it is of the pretended device."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        if torch.device(device).type == NAME:
            _generators.add(made._cdata)  # operators are given another object of it
        return made


def _swap(first: Tensor, second: Tensor) -> None:
    """Gives the first tensor what the second is, as assigning `.data` does: its hooks and whoever holds it stay."""
    hooks = first._backward_hooks
    first.__class__, second.__class__ = second.__class__, first.__class__
    first.__dict__, second.__dict__ = second.__dict__, first.__dict__
    torch._C._swap_tensor_impl(first, second)
    first._backward_hooks = hooks


@contextlib.contextmanager
def pretending() -> Iterator[torch.device]:
    """Within it tensors and modules go to the device that it gives, and come back.

    The events that code takes for tensors that say `is_cuda` are there, and waiting for all of a device is counted.
    """
    place = device()
    apply, empty = nn.Module._apply, torch.empty

    def apply_by_swapping(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(module, fn, recurse)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    def empty_unpinned(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return empty(*args, **options)

    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor(…, device=…) is a copy that nobody sees
    with contextlib.ExitStack() as stack:
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # so that frames of backward are seen
        patches = [
            (torch.utils, "swap_tensors", _swap),
            (nn.Module, "_apply", apply_by_swapping),
            (torch, "empty", empty_unpinned),
            (torch, "Generator", _Generator),
            (Tensor, "pin_memory", lambda tensor, *_: tensor),
            (torch.cuda, "Event", _Event),
            (torch.cuda, "synchronize", lambda *_: _note("all of the device")),
        ]
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield place


@contextlib.contextmanager
def counting() -> Iterator[Waits]:
    """Counts what the host waits for within it, and copies to the device that do not make it wait."""
    waits: Waits = Counter()
    _listening.append(waits)
    try:
        yield waits
    finally:
        _listening[:] = [other for other in _listening if other is not waits]


def total(waits: Waits) -> int:
    """How often the host waited."""
    return sum(number for wait, number in waits.items() if wait.what != LATE)
