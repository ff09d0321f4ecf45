"""The segments of a file's annotations, checked against the sizes of their images."""

from __future__ import annotations

import numpy as np

from peftbench.common.amounts import agreeing, plural
from peftbench.common.errors import UserError
from peftbench.data.annotations import Annotations
from peftbench.data.segment_forms import Segment, beyond, read_segment


def segments_of(listed: Annotations, sizes: np.ndarray, notes: list[str]) -> tuple[list[Segment | None], np.ndarray]:
    """(the segment of each of N annotations, bool (N,): which have polygons wholly outside of their image).

    An annotation of an image that is not there has none. What of polygons reaches beyond their image is cut off where
    they are drawn, and `notes` says so.

    Args:
        listed: with segments.
        sizes: (M, 2), height and width of each image, 0 where they are not known.
        notes: sentences for the user.

    Raises:
        UserError: an annotation has no segment, or one that is none of COCO's forms; the first is named.
    """
    assert listed.segments is not None
    assert listed.object_ids is not None
    there = (listed.image >= 0) & (sizes[listed.image, 0] > 0)
    lacking = [at for at, form in enumerate(listed.segments) if not form and there[at]]
    if lacking:
        raise UserError(
            f"{listed.file}: {len(lacking):,} of {plural(len(listed.segments), 'annotation')} "
            f"{agreeing(len(lacking), 'has', 'have')} no segmentation, such as {_name(listed, lacking[0])}; "
            f"task.masks=true needs polygons or run lengths of each object, so add them, or leave task.masks out to "
            f"train on boxes alone."
        )
    segments: list[Segment | None] = [None] * len(listed.segments)
    outside, partly = np.zeros(len(segments), dtype=bool), []
    for at in np.flatnonzero(there).tolist():
        size = (int(sizes[listed.image[at], 0]), int(sizes[listed.image[at], 1]))
        form = listed.segments[at]
        segments[at] = read_segment(form, size, f"{listed.file}: {_name(listed, at)}")
        if isinstance(form, tuple):
            where = beyond(form, size)
            outside[at] = where == "outside"
            partly += [at] if where == "part" else []
    if partly:
        height, width = sizes[listed.image[partly[0]]]
        notes.append(
            f"{listed.file.name}: polygons of {plural(len(partly), 'annotation')} reach beyond their "
            f"{agreeing(len(partly), 'image', 'images')}, such as those of {_name(listed, partly[0])} ({width} x "
            f"{height}); what lies outside is cut off"
        )
    return segments, outside


def _name(listed: Annotations, at: int) -> str:
    assert listed.object_ids is not None
    return f"annotation {listed.object_ids[at]} of {listed.names[listed.image[at]]}"
