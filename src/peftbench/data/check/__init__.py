"""What may be wrong with a data set: files that cannot be read, near-duplicates, classes that are missing or rare.

Needs no torch.
"""
