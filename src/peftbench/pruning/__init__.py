"""A backbone in, a smaller backbone out: before any task, so that tasks share it."""

from peftbench.pruning.masks import hold_zeros, mask_hash, sparsity
from peftbench.pruning.prune import is_saved, prune, refuse_unprunable, save_pruned
from peftbench.pruning.rounds import prune_to_latency

__all__ = [
    "hold_zeros",
    "is_saved",
    "mask_hash",
    "prune",
    "prune_to_latency",
    "refuse_unprunable",
    "save_pruned",
    "sparsity",
]
