"""Images to evaluate on that are trained on too, told of sets whose splits are given."""

from __future__ import annotations

from pathlib import Path

from peftbench.common.amounts import agreeing
from peftbench.data.base import Split
from peftbench.data.copies import first_copies


def notes_of_shared(train: Split, val: Split | None, test: Split | None) -> list[str]:
    """A sentence where images to evaluate on, or copies of them, are trained on too."""
    parts = [("training", train), ("validation", val), ("test", test)]
    splits = [(role, split) for role, split in parts if split is not None]
    first = first_copies([path for _, split in splits for path in split.images if isinstance(path, Path)])
    trained, sentences, at = set(first[: len(train)].tolist()), [], len(train)
    for role, split in splits[1:]:
        copies, at = first[at : at + len(split)].tolist(), at + len(split)
        if twice := [name for name, copy in zip(split.names, copies, strict=True) if copy in trained]:
            too = agreeing(len(twice), "is a training image", "are training images")
            sentences.append(f"{len(twice):,} of the {role} images {too} too, such as {twice[0]}")
    return sentences
