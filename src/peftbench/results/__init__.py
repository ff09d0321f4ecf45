"""Records and what is made of them: reads JSON, imports no torch."""

from peftbench.results.layers import print_layers
from peftbench.results.record import FILE, SCHEMA, Record, read_complete, read_record
from peftbench.results.table import print_table
from peftbench.results.task_results import results_of, results_of_record, results_of_task

__all__ = [
    "FILE",
    "SCHEMA",
    "Record",
    "print_layers",
    "print_table",
    "read_complete",
    "read_record",
    "results_of",
    "results_of_record",
    "results_of_task",
]
