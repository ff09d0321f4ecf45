"""`peftbench list methods|backbones|data`: what there is to choose."""

from __future__ import annotations

from peftbench.cli.arguments import CONFIG_DIR, Argument, Command, Words
from peftbench.common.config_files import PLURAL, describe, names, roots
from peftbench.common.terminal import visible


def print_choices(words: Words) -> int:
    """Prints the names of a config group, a line each with what they are. Raises UserError."""
    added = [f"--config-dir={words['config_dir']}"] if words["config_dir"] else []
    added += [f"hydra.searchpath={words['hydra.searchpath']}"] if words["hydra.searchpath"] else []
    choices = names(PLURAL.get(words["group"], words["group"]), roots(added))
    width = max(len(name) for name in choices)
    for name, path in choices.items():
        print(visible(f"{name:<{width}}  {describe(path)}"))
    return 0


COMMAND = Command(
    "list",
    "what there is, one line each",
    print_choices,
    (
        Argument("group", "what to list", place=True, needed=True, choices=tuple(PLURAL), also=tuple(PLURAL.values())),
        CONFIG_DIR,
        Argument("hydra.searchpath", "the same, as Hydra says it", hidden=True),
    ),
    expected="methods, backbones or data",
    examples=("peftbench list backbones", "peftbench list methods --config-dir DIR"),
)
