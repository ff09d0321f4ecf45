"""Hydra for a moment, beside whatever else in the process uses it: its state is global."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra

from peftbench.common.config_files import CONFIGS

_TURN = threading.RLock()


@contextmanager
def own_hydra() -> Iterator[None]:
    """While it lasts, `hydra.compose` reads peftbench's configs; threads take turns.

    The Hydra of an application that is running in the same thread, and the version that it asked for, come back after.
    """
    with _TURN:
        before, base = GlobalHydra.instance().hydra, version.getbase()
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = before
            version.VersionBase.instance().version_base = base
