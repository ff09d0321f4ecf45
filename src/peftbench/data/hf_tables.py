"""The tables of a Hugging Face data set on disk, read row by row: no code of theirs runs, and nothing is fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.common.errors import UserError
from peftbench.common.foreign_text import first_sentence
from peftbench.data.layout import ALL, role_of
from peftbench.data.listing import read_tree

_AT_ONCE = 64  # rows that are in memory at a time
_IMAGES = ("image", "img", "picture", "pixels")
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "y")
_SHARD = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class Table:
    """Rows of one split.

    Attributes:
        split: its name, or `all` where there is none.
        file: where the rows are, for messages.
        features: column -> its type, in the library's words.
        rows: the rows with these columns alone, none decoded.
    """

    split: str
    file: Path
    features: Mapping[str, Any]
    rows: Callable[[Sequence[str]], Iterator[dict[str, Any]]]


def read_tables(root: Path) -> list[Table]:
    """The tables in a folder of `save_to_disk`, in a Parquet file, or in a folder of Parquet files.

    Raises:
        UserError: the library is missing, or it is none of these.
    """
    try:
        import datasets
        import pyarrow as pa
    except ImportError as problem:
        raise UserError(
            f"data=hf: needs the library datasets ({first_sentence(problem)}); pip install 'peftbench[hf]'."
        ) from None
    try:
        if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
            loaded = datasets.load_from_disk(os.path.abspath(root))
            parts = loaded.items() if isinstance(loaded, dict) else [(ALL, loaded)]
            return [_of_arrow(name, root, part) for name, part in parts]
        files = [root] if root.is_file() else [f for f in read_tree([root]).below(root) if f.suffix == ".parquet"]
        if not files:
            raise UserError(
                f"data.root={root}: holds neither what save_to_disk writes (dataset_dict.json or state.json) nor "
                f"a .parquet file."
            )
        return [_of_parquet(file) for file in sorted(files)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as problem:
        raise UserError(f"data.root={root}: cannot be read as a data set ({first_sentence(problem)}).") from None


def _of_arrow(name: str, root: Path, part: Any) -> Table:
    def rows(columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        chosen = part.select_columns(list(columns)).with_format("arrow")
        for batch in chosen.iter(batch_size=_AT_ONCE):
            yield from batch.to_pylist()

    return Table(name, root / name if name != ALL else root, part.features, rows)


def _of_parquet(file: Path) -> Table:
    import datasets
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(file)

    def rows(columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_AT_ONCE, columns=list(columns)):
                yield from batch.to_pylist()

    name = _SHARD.sub("", file.stem)
    word = next((part for part in re.split(r"[-_.]", name) if role_of(part)), None)
    return Table(word or ALL, file, datasets.Features.from_arrow_schema(schema), rows)


def find_image(table: Table, wanted: str | None) -> str:
    """The column of the images. Raises UserError."""
    if wanted is not None:
        return _named(table, "image", wanted)
    import datasets

    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    images = images or [name for name, kind in table.features.items() if _holds_bytes(kind)]
    return _only(table, "image", images, _IMAGES, "column of images (the library's Image, or bytes)")


def find_label(table: Table, wanted: str | None) -> str:
    """The column of the classes. Raises UserError."""
    if wanted is not None:
        return _named(table, "label", wanted)
    import datasets

    labels = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in table.features if name.lower() in _LABELS]
    return _only(table, "label", labels, _LABELS, "column of classes (the library's ClassLabel, or one called label)")


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        return "bytes" in kind
    return getattr(kind, "dtype", None) in ("binary", "large_binary")


def _named(table: Table, key: str, column: str) -> str:
    if column not in table.features:
        raise UserError(f"data.{key}={column}: {table.file} has no such column; it has {', '.join(table.features)}.")
    return column


def _only(table: Table, key: str, columns: Sequence[str], usual: Sequence[str], what: str) -> str:
    best = [name for name in columns if name.lower() == usual[0]] or list(columns)
    if len(best) == 1:
        return best[0]
    having = ", ".join(best or table.features) or "nothing"
    problem = f"holds several columns that may be it, {having}" if best else f"has no {what}; it has {having}"
    raise UserError(f"{table.file}: {problem}; name it, such as data.{key}={(best or [usual[0]])[0]}.")
