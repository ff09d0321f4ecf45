"""Branches on residual blocks: what a method adds to the residual stream beside, between and behind a block's parts.

A branch is a module that is one function of its input, and whose output is added: everything here computes
`base + branch(input)` and nothing else, so that what scales or drops a branch has one place, the branch.

A block that `has_middle` is m = x + attn(norm1 x), y = m + mlp(norm2 m), whatever gains and drops stand on its inner
branches. m is what `norm2` is given; something added to m reaches y by two ways, through norm2 and past it. So the norm
computes with m + b, leaves b, and the block adds it to its output: that is the block with m + b, of whatever class.

The block and its norms keep their objects, parameters and names, and change their class (`folding.layer_class`), which
deep copies, torch.compile, torch.export and gradient checkpointing take as any module's. What a norm leaves for its
block stands in the one `Stream` that they share, during a forward alone.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from peftbench.backbones import Backbone, Block
from peftbench.common.errors import Refusal
from peftbench.methods.base import Branch
from peftbench.methods.shared.branches import OutputOf
from peftbench.methods.shared.folding import layer_class, refuse_taken_names

Read = Literal["output", "middle", "first", "second"]
"""What a branch reads: the block's output y, m, norm1 x, or norm2 m."""
PART = "branch"
"""The name of a branch in the module that it is given to."""


class Stream:
    """What passes between a block, its norms and their branches during one forward.

    Attributes:
        shape: of the block's input, whose maps Swin's norm2 gets flattened.
        read: what a branch that comes later reads, by its `Read`.
        added: what was added to m.
    """

    def __init__(self) -> None:
        self.shape: Any = None
        self.read: Tensor | None = None
        self.added: Tensor | None = None

    def clear(self) -> None:
        """Nothing is kept beyond a forward."""
        self.shape = self.read = self.added = None


def refuse_containers(method: str, backbone: Backbone) -> None:
    """Raises Refusal where a block calls in turn whatever it holds (DenseNet, RDNet): it would call a branch, too."""
    for block in backbone.facts.blocks:
        if isinstance(backbone.net.get_submodule(block.module), nn.ModuleDict | nn.Sequential | nn.ModuleList):
            raise Refusal(
                f"method={method}: {block.module} of {backbone.facts.name} calls whatever it holds in turn, so that "
                f"nothing can be added to it; method=lora and method=linear work."
            )


def add_to_output(module: nn.Module, branch: nn.Module, name: str) -> None:
    """y + branch(y) in the place of a module's output y, which is one tensor.

    Raises:
        Refusal: it has an attribute of one of our names already.
    """
    refuse_taken_names(module, (PART, "plain_class"), name)
    module.add_module(PART, branch)
    _derive(module, "Followed", _followed)


def add_to_middle(net: nn.Module, block: Block, branch: nn.Module, read: Read) -> None:
    """m + branch(…) in the place of m, of what m itself or norm1 x is. Raises Refusal as `add_to_output`."""
    stream = _stream(net, block)
    norm2 = _norm(net, block, "norm2", stream)
    norm2.add_module(PART, branch)
    norm2.__dict__["branch_reads"] = read
    _derive(norm2, "Widened", _widened)
    if read == "first":
        _derive(_norm(net, block, "norm1", stream), "Shown", _shown_after)


def add_behind(net: nn.Module, block: Block, branch: nn.Module, read: Read) -> None:
    """y + branch(…) in the place of the block's output y, of what y itself, m or norm2 m is.

    Where something is added to m as well, that comes first. Raises Refusal as `add_to_output`.
    """
    if read == "output" and not _has_stream(net.get_submodule(block.module)):
        add_to_output(net.get_submodule(block.module), branch, block.module)
        return
    stream = _stream(net, block)
    module = net.get_submodule(block.module)
    module.add_module(PART, branch)
    module.__dict__["branch_reads"] = read
    if read != "output":
        norm2 = net.get_submodule(f"{block.module}.norm2")
        if PART in norm2._modules:
            norm2.__dict__["shows"] = read
        else:
            norm2 = _norm(net, block, "norm2", stream)
            _derive(norm2, "Shown", _shown_before if read == "middle" else _shown_after)


def branches_on_blocks(backbone: Backbone) -> list[Branch]:
    """All that `add_to_output`, `add_to_middle` and `add_behind` have added to the blocks of a backbone."""
    found: list[Branch] = []
    for block in backbone.facts.blocks:
        axis = 1 if block.layout == "NCHW" else -1
        for name, module in backbone.net.get_submodule(block.module).named_modules(prefix=block.module):
            if PART in module._modules and hasattr(type(module), "plain_class"):
                found.append(OutputOf(name, module.get_submodule(PART), axis))
    return found


def _has_stream(module: nn.Module) -> bool:
    return "stream" in module.__dict__


def _stream(net: nn.Module, block: Block) -> Stream:
    """The stream of a block, which is given one where it has none."""
    module = net.get_submodule(block.module)
    if not _has_stream(module):
        refuse_taken_names(module, (PART, "stream", "branch_reads", "plain_class"), block.module)
        module.__dict__["stream"] = Stream()
        _derive(module, "Branched", _branched)
    return module.__dict__["stream"]


def _norm(net: nn.Module, block: Block, name: str, stream: Stream) -> nn.Module:
    norm = net.get_submodule(f"{block.module}.{name}")
    refuse_taken_names(norm, (PART, "stream", "branch_reads", "shows", "plain_class"), f"{block.module}.{name}")
    norm.__dict__["stream"] = stream
    return norm


def _derive(module: nn.Module, prefix: str, forward: Any) -> None:
    kind: Any = type(module)
    module.__class__ = layer_class(kind, prefix, (("forward", forward),))


def _followed(self: Any, *inputs: Any, **named: Any) -> Tensor:
    y: Tensor = self.plain_class.forward(self, *inputs, **named)
    return y + self.branch(y)


def _shown_before(self: Any, m: Tensor) -> Tensor:
    self.stream.read = m
    return self.plain_class.forward(self, m)


def _shown_after(self: Any, x: Tensor) -> Tensor:
    y: Tensor = self.plain_class.forward(self, x)
    self.stream.read = y
    return y


def _widened(self: Any, m: Tensor) -> Tensor:
    stream = self.stream
    read = m if self.branch_reads == "middle" else stream.read
    # Swin flattens its maps before norm2
    added = self.branch(read.view(stream.shape)).view(m.shape) if m.ndim < len(stream.shape) else self.branch(read)
    stream.added = added
    y: Tensor = self.plain_class.forward(self, m + added)
    shows = self.__dict__.get("shows")
    stream.read = y if shows == "second" else m + added if shows == "middle" else None
    return y


def _branched(self: Any, x: Tensor, *inputs: Any, **named: Any) -> Tensor:
    stream = self.stream
    stream.shape = x.shape
    try:
        y: Tensor = self.plain_class.forward(self, x, *inputs, **named)
        if stream.added is not None:
            y = y + stream.added.view(y.shape)
        if PART in self._modules:
            y = y + self.branch(y if self.branch_reads == "output" else stream.read.view(y.shape))
        return y
    finally:
        stream.clear()
