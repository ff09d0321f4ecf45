"""A campaign against peftbench: damaged files, hostile words, kills, full disks. `__main__` says how it is run."""
