"""A frozen backbone whose convolution and linear weights are kept in int8 or 4 bits, and the way back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from peftbench.backbones.backbone import Backbone
from peftbench.backbones.coded_weights import (
    Coder,
    OfTorchao,
    PerChannel,
    bytes_of,
    coded_layers,
    decode_weight,
    encode_weight,
)
from peftbench.backbones.layers import layers
from peftbench.common.digests import digests
from peftbench.common.errors import Refusal, UserError

BLOCK = 64
"""Weights that share a scale under NF4 (Dettmers et al., 2305.14314, section 3)."""
MOST_SCALES = 256
"""Scales that share one of their own under NF4."""


def quantize(backbone: Backbone, form: str) -> Backbone:
    """The same backbone, changed in place: its weights as codes, with a start and a fingerprint of their own.

    Under `int8` every weight has a scale for each output channel: torchao's codes of linear layers, our own of
    convolutions, for which torchao has none. Under `nf4` linear layers have torchao's NF4; convolutions, and the few
    linear layers that NF4's blocks do not fit, stay in int8. Norms, biases and embeddings are left as they are.

    Args:
        backbone: before any method; it may be on the meta device, where only shapes change.
        form: `int8` or `nf4`.

    Raises:
        Refusal: it was pruned, or has no layers that `form` is for.
        UserError: torchao is missing, and there are linear layers.
    """
    key = f"backbone.quantize={form}"
    if backbone.masks or backbone.kept:
        raise Refusal(f"{key}: the weights given are of a pruned backbone, which stays as it is; leave it out.")
    chosen = [(x.name, x.module) for x in layers(backbone) if x.module._parameters.get("weight") is not None]
    linear = [module for _, module in chosen if isinstance(module, nn.Linear)]
    if form == "nf4" and not linear:
        raise Refusal(f"{key}: {backbone.facts.name} has no linear layers, which alone have 4 bits; give int8.")
    if not chosen:
        raise Refusal(f"{key}: {backbone.facts.name} has no convolutions and no linear layers; leave it out.")
    make_int8 = _int8_of_torchao(key) if linear else None
    origin = "" if backbone.on_meta else backbone.fingerprint
    for _, layer in chosen:
        encode_weight(layer, _coder(layer, form, make_int8, key))
    backbone.quantized, backbone.origin = form, origin
    if not backbone.on_meta:
        backbone.start = digests(backbone.state_dict())
    return backbone


def dequantize(backbone: Backbone) -> Backbone:
    """The same backbone, changed in place: each weight is the plain tensor that its codes stand for.

    `quantized` says what it was; start and fingerprint are those of what it is now.
    """
    for _, layer, _, _ in list(coded_layers(backbone.net)):
        decode_weight(layer)
    backbone.start = digests(backbone.state_dict())
    return backbone


def bytes_of_weights(backbone: Backbone) -> tuple[int, int]:
    """Bytes of the codes, scales counted, and of the weights that they stand for."""
    pairs = [(bytes_of(codes), math.prod(c.shape) * c.dtype.itemsize) for _, _, c, codes in coded_layers(backbone.net)]
    return sum(few for few, _ in pairs), sum(whole for _, whole in pairs)


def coded_by_torchao(backbone: Backbone) -> bool:
    """Whether torchao made some of its codes."""
    return any(isinstance(coder, OfTorchao) for _, _, coder, _ in coded_layers(backbone.net))


def _coder(layer: nn.Module, form: str, make_int8: Callable[[Tensor], Any] | None, key: str) -> Coder:
    if not isinstance(layer, nn.Linear) or make_int8 is None:
        return PerChannel()
    if form == "nf4" and (make := _nf4_of_torchao(layer, key)) is not None:
        return OfTorchao(make)
    return OfTorchao(make_int8)


def _int8_of_torchao(key: str) -> Callable[[Tensor], Any]:
    """From a weight (O, I) to torchao's int8 tensor with a scale for each row."""
    quantization = _torchao(key).quantization

    def make(weight: Tensor) -> Any:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        quantization.quantize_(layer, quantization.Int8WeightOnlyConfig(set_inductor_config=False))
        return layer.weight.detach()

    return make


def _nf4_of_torchao(layer: nn.Linear, key: str) -> Callable[[Tensor], Any] | None:
    """From a weight (O, I) to torchao's NF4 tensor; None where the blocks do not fit, or the scales are all one."""
    to_nf4, weight = _torchao(key).quantization.to_nf4, layer._parameters["weight"]
    assert weight is not None
    scales, rest = divmod(weight.numel(), BLOCK)
    if rest:
        return None

    def make(values: Tensor) -> Any:
        return to_nf4(values.contiguous(), BLOCK, math.gcd(scales, MOST_SCALES))

    if not weight.is_meta and not make(weight.detach()).get_original_weight().isfinite().all():
        return None  # it divides by how far the scales are from their mean
    return make


def _torchao(key: str) -> Any:
    """The library, which warns at length as it is imported. Raises UserError without it."""
    log = logging.getLogger("torch.utils._pytree")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        import torchao.quantization
    except ImportError:
        raise UserError(
            f"{key}: linear layers are coded by torchao, which is missing; pip install 'peftbench[quantize]'."
        ) from None
    finally:
        log.setLevel(before)
    return torchao
