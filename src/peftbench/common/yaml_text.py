"""YAML that somebody else wrote: read only where it is not nested or multiplied beyond all use.

What is wrong raises yaml.YAMLError, so that each reader says it in its own sentence.
"""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 64
"""Levels of lists and mappings in YAML; a config has about five."""
_FREE, _RATIO = 10_000, 20
"""Values that aliases may stand for in any file, and beyond those how many times more than are written in it."""

_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FAST_TEXT: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class NestedYaml(yaml.YAMLError):
    """YAML that is well-formed, and nothing that anybody would write."""


def yaml_of(text: str, as_text: bool = False) -> Any:
    """What a YAML text holds; with `as_text` every scalar stays text.

    Raises:
        yaml.YAMLError: it is no YAML, or is nested or multiplied by aliases without end.
    """
    refuse_nested_yaml(text)
    try:
        return yaml.load(text, Loader=_FAST_TEXT if as_text else _FAST)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as problem:
        # a date that is none, a number of 5,000 digits, a list as a key
        raise NestedYaml(f"a value in it cannot be read: {str(problem).splitlines()[0]}") from None


def refuse_nested_yaml(text: str) -> None:
    """Looks at a YAML text without making what it stands for. Raises yaml.YAMLError as `yaml_of`."""
    sizes: dict[str, int] = {}  # of what each anchor names, with all that its aliases stand for
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the values before it
    written = stood_for = 0
    for event in yaml.parse(text, Loader=_FAST):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:  # it is inside of itself
                raise NestedYaml(f"'*{event.anchor}' stands for something that holds it")
            stood_for += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            written, stood_for = written + 1, stood_for + 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, stood_for))
            written, stood_for = written + 1, stood_for + 1
            if len(open_nodes) > DEEPEST:
                raise NestedYaml(f"it is nested deeper than {DEEPEST} levels (line {_line(event)})")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = stood_for - before
        if stood_for > _FREE + _RATIO * written:
            raise NestedYaml(f"its aliases stand for far more values than are written (line {_line(event)})")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
