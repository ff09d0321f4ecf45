"""The benchmarks: a module a topic, each with `names()`, what its rows are called, and `measure(quick)`, the rows."""
