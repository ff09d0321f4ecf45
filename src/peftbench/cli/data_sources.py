"""`peftbench data sources`: where the tasks of VTAB-1k come from."""

from __future__ import annotations

from peftbench.cli.arguments import Command, Words


def print_sources(words: Words) -> int:
    """Prints every source: its tasks, licence, files, split, and what is to be done by hand."""
    from peftbench.data.prepare.sources import SOURCES

    for name, source in SOURCES.items():
        print(f"{', '.join(f'vtab/{task}' for task in source.tasks)}: {source.title}; licence: {source.licence}")
        print(f"  home   {source.home}")
        for file in source.files:
            stands = f" (or {file.other})" if file.other else ""
            print(f"  file   {name}/{file.name}{stands}  {file.url or 'by hand'}")
        print(f"  split  {'tfds-order' if source.known else 'peftbench-v1'}")
        for kind, text in (("steps", source.steps), ("note ", source.note)):
            if text:
                print(f"  {kind}  {text}")
    return 0


COMMAND = Command("data sources", "where the tasks of VTAB-1k come from, licences, what is by hand", print_sources)
