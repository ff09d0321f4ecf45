"""SUN397: SUN397/<letter>/<class>[/<subclass>]/sun_*.jpg, split by TFDS's three lists of such paths.

One image of the lists is left out, as TFDS does: its decoding is not the same everywhere. Some files are PNG, GIF or
BMP under the name of a jpg, and get the suffix that they deserve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import shortened
from peftbench.common.regular_files import text_in
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base

_LISTS = {"train": "sun397_tfds_tr.txt", "validation": "sun397_tfds_va.txt", "test": "sun397_tfds_te.txt"}
_LEFT_OUT = {"/c/church/outdoor/sun_bhenjvsvrtumjuri.jpg", "/t/track/outdoor/sun_aophkoiosslinihb.jpg"}


class Reader(base.Reader):
    """Reads SUN397."""

    def splits(self) -> dict[str, list[Entry]]:
        names = {}
        for split, file in _LISTS.items():
            path = self.files.path(file)
            try:
                names[split] = [line.strip() for line in text_in(path).splitlines() if line.strip()]
            except UnicodeDecodeError:
                raise UserError(
                    f"{path}: is no text; expected lines such as /a/abbey/sun_aaalbzqrimafwbiv.jpg."
                ) from None
            if wrong := [n for n in names[split] if not n.startswith("/") or n.count("/") < 3]:
                raise UserError(
                    f"{path}: '{shortened(wrong[0], 80)}' is no line such as /a/abbey/sun_aaalbzqrimafwbiv.jpg."
                )
        self.classes = tuple(sorted({name.rpartition("/")[0] for listed in names.values() for name in listed}))
        label = {name: i for i, name in enumerate(self.classes)}
        return {
            split: [Entry(n, label[n.rpartition("/")[0]], n) for n in listed if n not in _LEFT_OUT]
            for split, listed in names.items()
        }

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        return base.pictures_from_tree(
            self.files.tree("SUN397.tar.gz"), entries, lambda n: "/" + n.removeprefix("SUN397/")
        )
