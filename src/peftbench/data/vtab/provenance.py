"""`split.json`, beside the lists of a task that `peftbench data prepare` made: which split they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.common.json_text import json_of
from peftbench.common.regular_files import text_in

FILE = "split.json"
ADOPTED = "adopted"  # lists that somebody else made: they keep the plain name of the task


@dataclass(frozen=True)
class Provenance:
    """How a task's split came about.

    Attributes:
        split: its name: adopted, tfds-order or peftbench-v1, with its sizes where it is smaller than VTAB-1k's.
        source: where the images were taken from.
        sizes: images of train, val and test.
        reduced: whether fewer images than VTAB-1k's were asked for.
        hash: as a record has it that trained on train and val together (data.stage=final).
    """

    task: str
    split: str
    source: str
    sizes: tuple[int, int, int]
    reduced: bool
    hash: str

    def text(self) -> str:
        """What `split.json` holds."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_provenance(folder: Path) -> Provenance | None:
    """What `split.json` in a task's folder says; None where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json_of(text_in(path))
        train, val, test = (int(size) for size in content["sizes"])
        words = {key: str(content[key]) for key in ("task", "split", "source", "hash")}
        return Provenance(**words, sizes=(train, val, test), reduced=bool(content["reduced"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: is not what peftbench data prepare wrote; remove it, or prepare the task again."
        ) from None
