"""Published VTAB-1k means of methods that peftbench has, to stand beside its own; never copied into a board's means.

All are of ViT-B/16, supervised on ImageNet-21k (`orig_in21k`), in per cent; the mean is of the three groups before
they were rounded. What could not be verified is not here, such as group means of LoSA.
"""

from __future__ import annotations

from dataclasses import dataclass

OFFICIAL = ("as listed", "tfds-order")  # adopted lists, and TFDS's order computed again
BACKBONE = "vit_base_patch16_224.orig_in21k"
VPETL = "V-PETL Bench, README; ImageNet normalisation, the best of the epochs on test"
OSU = "ViT_PEFT_Vision, released results; not normalised, tuned on val, last epoch, one seed"
SNELL = "SNELL, table 1, as printed; the budget was tuned for every task"


@dataclass(frozen=True)
class Published:
    """`parameters` in millions, without the head; None where the source gives a range."""

    method: str
    parameters: float | None
    natural: float
    specialized: float
    structured: float
    mean: float
    source: str


TABLE = (
    Published("full", 85.8, 75.9, 83.4, 47.6, 69.0, VPETL),
    Published("full", 85.8, 59.70, 78.36, 47.50, 61.85, OSU),
    Published("linear", 0.0, 68.9, 77.2, 26.9, 57.6, VPETL),
    Published("linear", 0.0, 68.94, 80.54, 32.07, 60.52, OSU),
    Published("bitfit", 0.10, 73.3, 78.3, 44.1, 65.2, VPETL),
    Published("bitfit", 0.103, 81.33, 84.06, 58.23, 74.54, OSU),
    Published("lora", 0.29, 79.5, 84.6, 59.8, 74.6, VPETL),
    Published("lora", 0.553, 80.45, 85.01, 60.27, 75.24, OSU),
    Published("lst", 2.38, 77.6, 85.6, 59.6, 74.3, VPETL),
    Published("spt_lora", None, 81.9, 85.9, 61.3, 76.4, SNELL),
    Published("spt_adapter", None, 82.0, 85.8, 61.4, 76.4, SNELL),
)


def beside(backbone: str, weights: str, split: str) -> tuple[tuple[Published, ...], str]:
    """The rows that may stand beside runs of this backbone on this split, and why there are none.

    Args:
        backbone: its name in timm.
        weights: where they came from, as a record stamps it: `hub`, a file, `random`.
        split: what made the split, as in a board's basis.
    """
    if split not in OFFICIAL:
        return (), f"the split is {split}, and published numbers use the official one"
    if backbone != BACKBONE or weights != "hub":
        return (), f"published numbers use {BACKBONE} with its own weights"
    return TABLE, ""
