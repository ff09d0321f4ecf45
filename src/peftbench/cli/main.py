"""`peftbench`: help, verbs, and by default a run. Answers what it can without importing anything heavy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from peftbench.common.errors import UserError

VERBS = {
    "list": "peftbench.cli.listing",
    "plan": "peftbench.cli.plan",
    "predict": "peftbench.cli.predict",
    "export": "peftbench.cli.export",
    "share": "peftbench.cli.share",
    "layers": "peftbench.cli.layers",
    "report": "peftbench.cli.report",
    "choose": "peftbench.cli.choose",
    "taps": "peftbench.cli.taps",
    "data": "peftbench.cli.data",
}
"""Word -> the module whose `run` answers it, imported when it is asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, 1 a run failed, 2 the user's mistake, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _verb(arguments)(arguments)
    except UserError as mistake:
        print(f"peftbench: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npeftbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        return 0


_TAKES_VALUE = {"--config-dir", "-cd", "--cfg", "-c", "--package", "-p", "--info", "-i", "--config-name", "-cn"}
_TAKES_VALUE |= {"--config-path", "-cp", "--shell-completion", "-sc"}


def _words(arguments: list[str]) -> list[str]:
    """The arguments that are no options, nor the value of one."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [a for before, a in pairs if not a.startswith("-") and before not in _TAKES_VALUE]


def _verb(arguments: list[str]) -> Callable[[list[str]], int]:
    first = next(iter(_words(arguments)), arguments[0] if arguments else "--help")
    if {"--help", "-h"} & set(arguments) or first in ("--help", "help"):
        from peftbench.cli.help import show

        return show
    if first == "--version":
        from peftbench import __version__

        print(f"peftbench {__version__}")
        return lambda _: 0
    if first in VERBS:
        run: Callable[[list[str]], int] = importlib.import_module(VERBS[first]).run
        return run
    if not first.startswith("-") and "=" not in first and first[:1] not in "+~":
        from peftbench.common.errors import nearest

        raise UserError(
            f"'{first}': there is no such command{nearest(first, [*VERBS, 'help'])}; a run is given as key=value, "
            f"such as method=lora backbone=vit_nano data=digits."
        )
    from peftbench.cli.train import run as train

    return train


if __name__ == "__main__":
    sys.exit(main())
