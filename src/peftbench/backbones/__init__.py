"""Backbones: any timm model, cut into taps and a tail, with weights from wherever they lie."""

from peftbench.backbones import layouts
from peftbench.backbones.backbone import Backbone
from peftbench.backbones.build import build, meta, with_classifier
from peftbench.backbones.facts import Facts, Size, Tap

__all__ = ["Backbone", "Facts", "Size", "Tap", "build", "layouts", "meta", "with_classifier"]
