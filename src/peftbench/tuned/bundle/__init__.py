"""Bundles: one exported backbone in a file of its own, and a small graph for each task that can be put in its place."""

from peftbench.tuned.bundle.loading import Bundle, BundledTask, open_bundle
from peftbench.tuned.bundle.writing import Bundled, bundle_runs, roll_back

__all__ = ["Bundle", "Bundled", "BundledTask", "bundle_runs", "open_bundle", "roll_back"]
