"""Data sets: one file a family. `base.py` is the contract, `loading.py` makes loaders of any of them.

Nothing is imported here: the options of a data set are read without importing torch.
"""
