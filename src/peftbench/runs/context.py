"""What every step of a run needs: its config, which process this is, and how to tell the user."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peftbench.common import terminal
from peftbench.common.progress import Watch, counted
from peftbench.common.status_line import doing
from peftbench.common.world import World
from peftbench.config import Config

_told: set[tuple[str | None, str]] = set()


@dataclass(frozen=True)
class Context:
    """Travels through a run.

    Attributes:
        config: of the run; of runs that train jointly, what they share is that of the first.
        world: the processes that carry out the run, and this one among them.
        group: the sweep that the run belongs to.
        retry: whether a run that failed before is tried again.
        settled: what was chosen for the run before it had an id, for its record's stamps.
    """

    config: Config
    world: World = field(default_factory=World)
    group: str | None = None
    retry: bool = True
    settled: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def begin(config: Config, group: str | None, retry: bool) -> Context:
        """The context of a run in this process, as the launcher of several processes says in the environment.

        Raises:
            UserError: several processes are asked for, and nothing says which this is; or several GPUs, of which this
                process sees fewer.
        """
        from peftbench.training import devices  # not above: reading a context's plan needs no Lightning

        devices.refuse_missing_devices(config.trainer)
        return Context(config, devices.world_of_process(config.trainer), group, retry)

    @property
    def process(self) -> int:
        """The number of this process, from 0."""
        return self.world.rank

    @property
    def processes(self) -> int:
        """How many carry out the run."""
        return self.world.size

    def of(self, config: Config) -> Context:
        """The same for another run of those that train jointly."""
        return dataclasses.replace(self, config=config)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what a run leaves."""
        return self.process == 0

    def tell(self, text: str) -> None:
        """Says something that the user should know, once, also where no progress is to be shown."""
        if self.first:
            terminal.console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)

    def tell_in_sweep(self, text: str) -> None:
        """Says what holds for the config of many runs: in a sweep once."""
        if (self.group, text) in _told:
            return
        if self.group is not None:
            _told.add((self.group, text))
        self.tell(text)

    def doing(self, what: str) -> None:
        """Says on a terminal what takes time now, where progress is to be shown."""
        if self.first and self.config.trainer.progress:
            doing(what)

    def progress(self, what: str, shown: bool = True) -> contextlib.AbstractContextManager[Watch]:
        """A bar for something countable, where somebody looks at a terminal."""
        return counted(terminal.console(), what, shown and self.config.trainer.progress and self.first)
