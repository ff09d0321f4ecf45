"""A backbone in, a smaller backbone out: before any task, so that tasks share it."""

from peftbench.pruning.masks import hold, mask_hash, sparsity
from peftbench.pruning.prune import check, prune, save, saved

__all__ = ["check", "hold", "mask_hash", "prune", "save", "saved", "sparsity"]
