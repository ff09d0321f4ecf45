"""Tasks: a folder each. Nothing is imported here, so that a schema can be asked without torch."""
