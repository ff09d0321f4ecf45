"""What changes training images one by one: torchvision's transforms of version 2, drawn from torch's random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from peftbench.common.errors import UserError

MARGIN = {"crop": 8 / 7, "rrc": 2.0}
"""How much larger than the input an image is kept, for augmentations that cut from it."""
Change = Callable[[Tensor], Tensor]


class Changes(Protocol):
    """The fields of a transform that say how training images are changed."""

    @property
    def size(self) -> int: ...

    @property
    def augment(self) -> str: ...

    @property
    def jitter(self) -> float: ...

    @property
    def erase(self) -> float: ...

    @property
    def colour(self) -> tuple[int, int, int]: ...


def augmentation(changes: Changes) -> Change | None:
    """A function of one uint8 image (3, H, W), or one clip (T, 3, H, W), all of whose frames change alike.

    First what `augment` names, then colours by `jitter`, then `erase`. None where nothing changes.

    Raises:
        UserError: an augmentation that is of boxes.
    """
    from torchvision.transforms import v2

    steps: dict[str, list[Any]] = {
        "none": [],
        "flip": [v2.RandomHorizontalFlip()],
        "crop": [v2.RandomCrop(changes.size), v2.RandomHorizontalFlip()],
        "rrc": [v2.RandomResizedCrop(changes.size, scale=(0.3, 1.0), antialias=True), v2.RandomHorizontalFlip()],
        "trivial": [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
        "randaugment": [v2.RandomHorizontalFlip(), v2.RandAugment()],
    }
    if changes.augment not in steps:
        _, *named = steps
        raise UserError(
            f"data.augment={changes.augment}: is for detection; for classification give none, {', '.join(named)}."
        )
    chosen = [*steps[changes.augment], *colour_jitter(changes.jitter)]
    if changes.erase:
        chosen.append(v2.RandomErasing(changes.erase, value=_numbers(changes.colour)))
    return v2.Compose(chosen) if chosen else None


def colour_jitter(strength: float) -> list[Change]:
    """Brightness, contrast and saturation, each by a factor from 1 - strength to 1 + strength; none where that is 0."""
    from torchvision.transforms import v2

    return [v2.ColorJitter(strength, strength, strength)] if strength else []


def _numbers(colour: Sequence[int]) -> list[float]:
    return [float(value) for value in colour]
