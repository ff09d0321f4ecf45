"""What is said where a batch norm that learns sees one value a channel, which has no variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peftbench.backbones.facts import Facts
from peftbench.common.amounts import plural
from peftbench.common.errors import Refusal


@contextmanager
def variance_needed(facts: Facts, images: Callable[[], int]) -> Iterator[None]:
    """Within this block, torch's error about a map of 1 x 1 of one image is a refusal.

    Args:
        facts: of the backbone.
        images: gives how many images the step is on.

    Raises:
        Refusal: names the keys that help.
    """
    try:
        yield
    except ValueError as problem:
        if not str(problem).startswith("Expected more than 1 value per channel"):
            raise
        size = "x".join(map(str, facts.canvas))
        raise Refusal(
            f"data.batch_size: a step on {plural(images(), 'image')} of {size} px has a map of 1 x 1 where a batch "
            f"norm learns, and one value has no variance; give a data.batch_size (and trainer.micro_batch) of 2 or "
            f"more, or a larger data.size."
        ) from None
