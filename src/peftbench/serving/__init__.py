"""Finished runs behind HTTP: one backbone, many tasks, requests answered together."""
