"""What a server takes at most, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import readable


@dataclass(frozen=True)
class Limits:
    """Of one request, and of all that wait.

    Attributes:
        body: bytes of a request's body.
        pixels: of one image, as its file says.
        images: in one request.
        seconds: in which a request must have come, and in which it must then be answered.
        queue: images that wait, or are being answered, at once.
        batch: images that go through the backbone at once.
    """

    body: int = 20_000_000
    pixels: int = 50_000_000
    images: int = 32
    seconds: float = 30.0
    queue: int = 256
    batch: int = 32

    def __post_init__(self) -> None:
        """Raises UserError where one is no positive number, or they do not go together."""
        for name in ("body", "pixels", "images", "seconds", "queue", "batch"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)}: expected a number above 0.")
        if self.queue < self.images:
            raise UserError(
                f"queue={self.queue}: a request may hold {self.images} images, and all of them wait at once; give "
                f"queue={self.images} or more."
            )


class Refused(Exception):
    """A request that is not answered: the status of HTTP, and one sentence that says why and what would work."""

    def __init__(self, status: int, sentence: str, retry: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, readable(sentence)
        self.headers = {"Retry-After": "1"} if retry else {}
