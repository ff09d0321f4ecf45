"""Records and what is made of them: reads JSON, imports no torch."""

from peftbench.results.layers import render_layers
from peftbench.results.primary import PRIMARY, primary
from peftbench.results.record import FILE, SCHEMA, Record, find, read
from peftbench.results.table import render

__all__ = ["FILE", "PRIMARY", "SCHEMA", "Record", "find", "primary", "read", "render", "render_layers"]
