"""Which layers of a backbone are norms."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_KINDS, _WORDS = (_NormBase, nn.LayerNorm, nn.GroupNorm), ("LayerNorm", "RmsNorm", "RMSNorm", "SimpleNorm")


def norm_layers(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of the batch, layer, group and RMS norms in `net`, in order."""
    return [(n, m) for n, m in net.named_modules() if isinstance(m, _KINDS) or type(m).__name__.startswith(_WORDS)]
