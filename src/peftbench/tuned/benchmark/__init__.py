"""`peftbench benchmark`: the files of a run on this machine, each in a process of its own."""
