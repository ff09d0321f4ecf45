"""`peftbench data check data=…`: what may be wrong with the images and labels of any data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.cli.arguments import Command, Words
from peftbench.common import terminal
from peftbench.common.errors import UserError
from peftbench.common.status_line import doing, doing_import

if TYPE_CHECKING:
    from peftbench.config import Config
    from peftbench.data.check.findings import Findings
    from peftbench.results.data_page import Shown
    from peftbench.runs.label_doubts import Doubt

_KEYS = ("data", "backbone", "task", "seed", "taps", "data_dir")
_FILES = ("page.html", "doubts.csv", "near_duplicates.csv")
_MOST = 40  # pairs that the page shows


def check_set(words: Words, overrides: Sequence[str], command: Command) -> int:
    """Prints what was found, and writes the page and tables where `out` says; 1 where something is wrong."""
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in _KEYS:
            raise command.refusal(word, f"takes only keys of {', '.join(_KEYS[:-1])}")
    out = _folder(words["out"], words["force"])
    doing("reading the configuration")

    from peftbench.common.progress import counted
    from peftbench.config.compose import compose
    from peftbench.data.check.findings import examine
    from peftbench.runs.data_sets import load_splits, targets_of

    probed = any(word.partition("=")[0].partition(".")[0] == "backbone" for word in overrides)
    if probed:
        doing_import("cleanlab")
        from peftbench.data.check.cleanlab_library import require_cleanlab

        require_cleanlab()
    config = compose("method=linear", *overrides)
    console = terminal.console(soft_wrap=True, highlight=False, markup=False)
    doing(f"reading the lists of data={config.choices.get('data') or config.data.name}")
    splits = load_splits(config)
    with counted(console, "reading images") as watch:
        findings = examine(splits, targets_of(config), config.data.range, watch)
    lines = list(findings.lines())
    doubts = _doubts(config, findings, lines, console) if probed else []
    for line in (f"{findings.name}:", *lines):
        console.print(line)
    if doubts:
        console.print(_table(_DOUBTS, _rows_of_doubts(findings, doubts)).rstrip())
    if out is not None:
        _write(out, findings, lines, doubts, config.data.range)
        console.print(f"wrote {out}/{_FILES[0]} and its tables")
    return 1 if findings.wrong else 0


def _doubts(config: Config, findings: Findings, lines: list[str], console: Any) -> list[Doubt]:
    from peftbench.common.progress import counted
    from peftbench.data.check.findings import SHIFTED
    from peftbench.runs.label_doubts import doubt_labels

    with counted(console, "computing features") as watch:
        own = {role: split for role, split in findings.splits.items() if not role.startswith(SHIFTED)}
        broken = {role: images for role, images in findings.broken.items() if role in own}
        seen = (own, findings.classes, broken)
        doubts, notes = doubt_labels(config, *seen, watch, console.print)
    lines += [f"note: {note}" for note in notes]
    issues = sum(doubt.issue for doubt in doubts)
    lines.append(
        f"labels that a probe on {config.backbone.name} doubts most: {len(doubts)}, of which confident learning takes "
        f"{issues} for wrong"
    )
    return doubts


def _folder(word: str | None, force: bool) -> Path | None:
    """The folder to write into. Raises UserError where files of ours are in it."""
    if word is None:
        return None
    out = Path(word).expanduser()
    if there := [name for name in _FILES if (out / name).exists()]:
        if not force:
            raise UserError(f"out={word}: holds {there[0]} already; give another folder, or force=true.")
    elif out.exists() and not out.is_dir():
        raise UserError(f"out={word}: is a file; expected a folder.")
    return out


_DOUBTS = ("split", "image", "label", "guess", "confidence", "issue")
_TWINS = ("split", "image", "other_split", "other_image", "same_label")


def _rows_of_doubts(findings: Findings, doubts: Sequence[Doubt]) -> list[tuple[Any, ...]]:
    return [
        (
            *(doubt.role, findings.splits[doubt.role].names[doubt.at]),
            *(findings.classes[doubt.given], findings.classes[doubt.guess]),
            *(f"{doubt.confidence:.4f}", int(doubt.issue)),
        )
        for doubt in doubts
    ]


def _write(out: Path, findings: Findings, lines: Sequence[str], doubts: Sequence[Doubt], values: Any) -> None:
    from peftbench.common.atomic_files import replacing
    from peftbench.common.readable_names import HANDLER
    from peftbench.results.data_page import data_page

    twins = [
        (t.role, findings.splits[t.role].names[t.at], t.other, findings.splits[t.other].names[t.there], int(t.same))
        for t in findings.twins
    ]
    page = data_page(f"data check: {findings.name}", lines, _sections(findings, doubts, values))
    texts = (page, _table(_DOUBTS, _rows_of_doubts(findings, doubts)), _table(_TWINS, twins))
    for name, text in zip(_FILES, texts, strict=True):
        with replacing(out / name) as part:
            part.write_text(text, encoding="utf-8", newline="", errors=HANDLER)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    with io.StringIO(newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([columns, *rows])
        return text.getvalue()


def _sections(findings: Findings, doubts: Sequence[Doubt], values: Any) -> list[tuple[str, str, list[Shown]]]:
    from peftbench.data.check.pictures import thumbnail
    from peftbench.data.check.targets import COMPARED
    from peftbench.results.data_page import Shown

    splits = findings.splits
    doubted = [
        Shown(
            (thumbnail(splits[doubt.role], doubt.at, values),),
            (name, f"{label}? rather {guess}", f"{role}, {float(confidence):.1%} for its label"),
            doubt.issue,
        )
        for doubt, (role, name, label, guess, confidence, _) in zip(
            doubts, _rows_of_doubts(findings, doubts), strict=True
        )
    ]
    alike = [
        Shown(
            (thumbnail(splits[t.role], t.at, values), thumbnail(splits[t.other], t.there, values)),
            (
                f"{t.role}: {splits[t.role].names[t.at]}",
                f"{t.other}: {splits[t.other].names[t.there]}",
                COMPARED[findings.noun][not t.same],
            ),
            not t.same,
        )
        for t in findings.twins[:_MOST]
    ]
    return [
        (
            "Labels under suspicion",
            "By a cross-validated probe; those marked are wrong by confident learning.",
            doubted,
        ),
        ("Near-duplicates across splits", f"{len(findings.twins):,} found, at most {_MOST} shown.", alike),
    ]
