"""`peftbench data prepare|check|sources|convert`: data on disk."""

from __future__ import annotations

from peftbench.cli import data_check, data_convert, data_prepare, data_sources
from peftbench.cli.arguments import CommandGroup

COMMAND = CommandGroup(
    "data",
    "data on disk: VTAB-1k's tasks made and checked, annotations converted",
    (data_prepare.COMMAND, data_check.COMMAND, data_sources.COMMAND, data_convert.COMMAND),
)
