"""One file a format; `base.py` is the contract. Each is imported only when its source is prepared."""
