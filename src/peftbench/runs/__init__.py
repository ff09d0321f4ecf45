"""One run, from config to record; a run's folder, stamps and files."""
