"""Where Hydra looks for sweepers: it takes plugins from this namespace only."""

from peftbench.cli.search import Search


class OptunaSweeper(Search):
    """`hydra/sweeper=optuna`."""
