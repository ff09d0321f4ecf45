"""The convolution and linear layers of a backbone: what each is for, and whether its weight can be adapted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from peftbench.backbones.backbone import Backbone
from peftbench.backbones.coded_weights import own_weight

Kind = Literal["attn", "mlp", "conv1x1", "convkxk", "downsample", "stem", "depthwise"]
_STEMS = ("stem", "patch_embed", "conv_stem", "conv1")


@dataclass(frozen=True)
class Layer:
    """A layer with a weight of `rows` x `columns`: (O, I/g · k²), a convolution's flattened.

    Attributes:
        name: its name in the net.
        kind: `stem` before the stages, `downsample` between them; else `attn` for linear layers and 1 x 1 convolutions
            inside an attention, `mlp` for other linear layers, and for other convolutions what their kernel is.
        fixed: why its weight cannot be tuned, or empty.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    kind: Kind
    fixed: str = ""

    @property
    def weight(self) -> Tensor:
        """The layer's own, also where a method makes it read as another: a parameter, unless it is quantized."""
        return own_weight(self.module)

    @property
    def rows(self) -> int:
        """The rows of its weight: the channels that it gives."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """The columns of its weight, flattened: inputs of a group times positions of the kernel."""
        return self.weight[0].numel()


def layers(backbone: Backbone) -> list[Layer]:
    """Every linear layer and 2-d convolution of the backbone, in order."""
    modules = dict(backbone.net.named_modules())
    weighted = [(n, m) for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [Layer(n, m, _kind(n, m, modules), _fixed(m)) for n, m in weighted]


def _kind(name: str, module: nn.Linear | nn.Conv2d, modules: dict[str, nn.Module]) -> Kind:
    words = name.split(".")
    if words[0].startswith(_STEMS):
        return "stem"
    if any("downsample" in w for w in words):
        return "downsample"
    small = isinstance(module, nn.Linear) or module.kernel_size == (1, 1)
    if small and _in_attention(words, modules):
        return "attn"
    if isinstance(module, nn.Linear):
        return "mlp"
    if module.groups == module.in_channels > 1:
        return "depthwise"
    return "conv1x1" if small else "convkxk"


def _in_attention(words: list[str], modules: dict[str, nn.Module]) -> bool:
    """Whether the innermost of the modules around it that is an MLP or an attention is an attention."""
    for depth in range(len(words) - 1, 0, -1):
        kind = type(modules[".".join(words[:depth])]).__name__.lower()
        if "mlp" in kind or "ffn" in kind:
            return False
        if "attn" in kind or "attention" in kind:
            return True
    return False


def _fixed(module: nn.Module) -> str:
    if "StdConv" in type(module).__name__:
        return "its weight is standardised each time it is used, so that no update of it can be merged"
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "torch's attention reads its weight instead of calling it"
    return ""
