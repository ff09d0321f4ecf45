"""VTAB-1k: its tasks as lists of files, what is known of their origin, and a check of what is on disk."""

from peftbench.data.vtab.dataset import Vtab

__all__ = ["Vtab"]
