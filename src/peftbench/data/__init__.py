"""Data sets: one file a family. `base.py` is the contract, `loading.py` makes loaders of any of them."""

from peftbench.data.base import DataSet, Split, Splits
from peftbench.data.loading import Loaders, Transform, loaders

__all__ = ["DataSet", "Loaders", "Split", "Splits", "Transform", "loaders"]
