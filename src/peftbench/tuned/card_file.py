"""The model card of an exported file, beside it: `model.onnx.card.md`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from peftbench.common.atomic_files import replacing
from peftbench.common.errors import UserError
from peftbench.results.model_card import CardFile, model_card
from peftbench.tuned.finished_run import FinishedRun
from peftbench.tuned.run_folder import PREPROCESS
from peftbench.tuned.without_places import without_places


def takes_of(path: Path) -> str:
    """What an exported file is given, as the file says that tells other programs; empty where nothing does."""
    try:
        told = json.loads(path.with_name(path.name + PREPROCESS).read_text(encoding="utf-8"))
        given, inside = told["input"], [word for word in ("resized", "normalised") if told[word] == "inside"]
        if not inside:
            return ""
        shape, (low, high) = ", ".join(map(str, given["shape"])), given["range"]
        return f"{given['dtype']} ({shape}) from {low} to {high}; {' and '.join(inside)} inside"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return ""


def card_of(path: Path) -> Path:
    """Where the card of an exported file, or folder, lies."""
    return path.with_name(f"{path.name}.card.md")


def refuse_card(path: Path, force: bool) -> None:
    """Raises UserError where something has the place of the card, and is not to be replaced."""
    card = card_of(path)
    if card.is_dir() or (card.exists() and not force):
        raise UserError(
            f"out={path}: its model card would be {card}, which exists already; move it, give another name, or "
            f"force=true."
        )


def write_card(run: FinishedRun, files: Sequence[CardFile], card: Path) -> None:
    """Writes the card of a run's files. Raises UserError where it cannot be written."""
    with replacing(card, lambda why: f"{card}: could not be written ({why}); the exported file is whole.") as part:
        part.write_text(card_text(run, files), encoding="utf-8")


def card_text(run: FinishedRun, files: Sequence[CardFile]) -> str:
    """The card, without places of this machine."""
    from peftbench.config.repeating import repeating_words  # composes by Hydra, which a loaded model does without

    shown = without_places(run.record, run.config)
    words = repeating_words(shown.config)
    return model_card(shown.record, run.classes, words, files, run.config.data.licence)
