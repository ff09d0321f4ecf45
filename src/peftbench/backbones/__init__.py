"""Backbones: any timm model, cut into taps and a tail, with weights from wherever they lie."""

from peftbench.backbones import layouts
from peftbench.backbones.backbone import Backbone
from peftbench.backbones.build import build_on_meta, build_with_weights, with_classifier
from peftbench.backbones.checkpointing import KEY as CHECKPOINTING
from peftbench.backbones.checkpointing import checkpoint_blocks
from peftbench.backbones.facts import Block, Facts, Size, Tap
from peftbench.backbones.prompting import add_tokens, patch_pixels, takes_tokens
from peftbench.backbones.quantize import bytes_of_weights, coded_by_torchao, dequantize, quantize
from peftbench.backbones.window_prompts import add_window_tokens, block_widths

__all__ = [
    "CHECKPOINTING",
    "Backbone",
    "Block",
    "Facts",
    "Size",
    "Tap",
    "add_tokens",
    "add_window_tokens",
    "block_widths",
    "build_on_meta",
    "build_with_weights",
    "bytes_of_weights",
    "checkpoint_blocks",
    "coded_by_torchao",
    "dequantize",
    "layouts",
    "patch_pixels",
    "quantize",
    "takes_tokens",
    "with_classifier",
]
