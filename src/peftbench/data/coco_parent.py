"""The category above all others, which Roboflow's exports list first: the name of the project, that no box has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from peftbench.common.amounts import agreeing
from peftbench.data.annotations import Annotations


def without_parent(annotations: Mapping[str, Annotations], notes: list[str]) -> dict[str, Annotations]:
    """The annotations of files of one set, by role, without a category that is only the heading of the others.

    That is one whose supercategory is `none`, that is the supercategory of all the others, and of which no file has
    an object. No other category is left out, whether it has objects or not.

    Args:
        annotations: of each file; the categories are the same in all.
        notes: takes a sentence on what is left out.
    """
    first = next(iter(annotations.values()))
    at = _heading(first)
    if at is None or any((listed.labels == at).any() for listed in annotations.values()):
        return dict(annotations)
    id_, name = first.categories[at]
    others = len(first.categories) - 1
    above = agreeing(others, "the other", f"the {others:,} others")
    notes.append(
        f"{first.file.name}: the category '{name}' (id {id_}) is the heading of {above} and has no objects; it is no "
        f"class"
    )
    return {role: _without(listed, at) for role, listed in annotations.items()}


def _heading(listed: Annotations) -> int | None:
    """The place of the one category that is above all others; None where there is none."""
    above = listed.supercategories
    tops = [at for at, name in enumerate(above) if name == "none"]
    if len(tops) != 1 or len(above) < 2:
        return None
    (top,) = tops
    name = listed.categories[top][1]
    return top if all(other == name for at, other in enumerate(above) if at != top) else None


def _without(listed: Annotations, at: int) -> Annotations:
    """Without the category at a place, which no object has."""
    kept = np.arange(len(listed.categories)) != at
    return replace(
        listed,
        categories=tuple(x for x, keep in zip(listed.categories, kept, strict=True) if keep),
        supercategories=tuple(x for x, keep in zip(listed.supercategories, kept, strict=True) if keep),
        labels=listed.labels - (listed.labels > at),
    )
