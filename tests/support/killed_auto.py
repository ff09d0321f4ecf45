"""`peftbench auto` in a process of its own, killed at a given moment, with few choices so that it is soon there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

FEW: dict[str, Any] = {"most_epochs": 1, "least_epochs": 1, "enough_epochs": 1}


@contextlib.contextmanager
def few_choices() -> Iterator[None]:
    """Within this block each step has one thing to try: a probe, a side net, and the last block."""
    from peftbench.answering.choices import choices

    whole = choices()
    before = dict(vars(whole))
    few = {"sides": whole.sides[:1], "weights": tuple(w for w in whole.weights if w.method == "partial")}
    vars(whole).update(FEW | few)
    try:
        yield
    finally:
        vars(whole).update(before)


def killed(words: Sequence[str], at: str) -> int:
    """The exit code of the command, whose process is killed in the midst of a step.

    Args:
        words: of the command line.
        at: `look`, `backbones`, or the method of a run that has learned and not yet said so; `final` for the answer's.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peftbench.runs.run", "peftbench.cli.auto"])
    process = context.Process(target=_carry_out, args=(list(words), at))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _carry_out(words: list[str], at: str) -> None:
    from peftbench.answering import candidates, look
    from peftbench.cli.main import main
    from peftbench.runs.single_run import SingleRun

    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    conclude = SingleRun.conclude

    def concluded(self: SingleRun, outcome: Any) -> None:
        if at in (self.context.config.method.name, self.context.config.data.stage):
            end()
        conclude(self, outcome)

    if at == "look":
        look.examine = end  # type: ignore[assignment]
    if at == "backbones":
        candidates._timed = end  # type: ignore[assignment]
    SingleRun.conclude = concluded  # type: ignore[method-assign]
    with few_choices():
        raise SystemExit(main(words))
