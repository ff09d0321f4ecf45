"""The command line: `main.py` dispatches, one short file a verb. Only here is Hydra known."""
