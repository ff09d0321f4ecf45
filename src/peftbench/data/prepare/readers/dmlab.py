"""DMLab: TFRecord files dmlab-<split>.tfrecord-…; records have `image` (jpg), `filename` (the key) and `label`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftbench.common.errors import UserError
from peftbench.data.prepare.drawing import Entry
from peftbench.data.prepare.readers import base
from peftbench.data.prepare.readers.tfrecord import parse_example, read_records

_SPLITS = ("train", "validation", "test")


class Reader(base.Reader):
    """Reads DMLab."""

    def splits(self) -> dict[str, list[Entry]]:
        entries: dict[str, list[Entry]] = {split: [] for split in _SPLITS}
        for name, number, fields in self._records():
            split = next(s for s in _SPLITS if f"dmlab-{s}.tfrecord" in name)
            try:
                (key,), (label,), (_,) = fields["filename"], fields["label"], fields["image"]
                entries[split].append(Entry(key.decode(), int(label), (name, number)))
            except (KeyError, ValueError, AttributeError):
                raise UserError(
                    f"dmlab: record {number + 1} of {name} has not the fields image, filename, label."
                ) from None
        return entries

    def pictures(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        index = {entry.place: at for at, entry in enumerate(entries)}
        for name, number, fields in self._records({name for name, _ in index}) if index else ():
            if (name, number) in index:
                image = fields["image"][0]
                assert isinstance(image, bytes)
                yield index[name, number], image

    def _records(self, files: set[str] | None = None) -> Iterator[tuple[str, int, dict]]:
        """(file, number, features) of every record, or of those in `files`."""
        tree = self.files.tree("dmlab.tar.gz")

        def wanted(name: str) -> bool:
            return any(f"dmlab-{s}.tfrecord" in name for s in _SPLITS) and (files is None or name in files)

        for name, file in tree.walk(wanted):
            if file is not None:
                title = f"{tree.title}/{name}"
                with tree.guarded():
                    for number, record in enumerate(read_records(file, title)):
                        yield name, number, parse_example(record, title)
