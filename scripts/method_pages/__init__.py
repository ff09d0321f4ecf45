"""A page for each method, `docs/methods/<name>.md` with a figure, made from its class, its YAML and its counts."""
