"""Sealed files: equal content makes equal files, whatever it is called."""

from __future__ import annotations

import hashlib

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.common.sealed_file import read_tensors, sealed, write_tensors

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@given(metadata=st.dictionaries(NAMES, NAMES, max_size=12))
@settings(max_examples=40)
def test_equal_content_makes_equal_files_that_read_as_they_were(tmp_path_factory, metadata):
    folder = tmp_path_factory.mktemp("sealed")
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.int64), "ä": torch.zeros(0)}
    told = sealed(tensors, metadata)
    backwards = dict(reversed(told.items()))
    hashes = set()
    for number, order in enumerate((told, backwards, told, backwards)):
        write_tensors(folder / str(number), tensors, order)
        hashes.add(hashlib.sha256((folder / str(number)).read_bytes()).hexdigest())
    assert len(hashes) == 1
    read, again = read_tensors(folder / "0")
    assert again == told
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
