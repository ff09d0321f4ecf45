"""What to try next on a data set, by what did better on others: a suggestion by validation images, no judgement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.common.errors import UserError
from peftbench.results.answers import Answer
from peftbench.results.earlier_runs import (
    Prior,
    Ranked,
    Seen,
    Source,
    section_of,
    seen_in,
    source_of_record,
)
from peftbench.results.questions import Question
from peftbench.results.record import Record, read_record
from peftbench.results.summary import Run
from peftbench.results.text_table import listed

MOST_SECONDS = 3.0
"""Reading ends after that; what ended last is read first."""
MOST = 2
"""So many methods, and so many backbones, are suggested."""
HALF = 0.5
"""What is suggested beat at least this share of the others elsewhere."""
CLOSING = "What to try next is suggested by runs on other data sets, and changes no answer; prior=none leaves it out."


@dataclass(frozen=True)
class _Known:
    """A complete run: its task, where its images come from, its numbers of them and of classes, and what it reached."""

    task: str
    source: Source
    images: int
    classes: int
    names: tuple[str, str]
    seen: Seen | None


class Elsewhere:
    """What all runs that were read say of data sets other than the one that is asked about.

    Args:
        runs: of a report.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._known: dict[str, _Known] = {}
        end = time.monotonic() + MOST_SECONDS
        complete = [run for run in runs if run.status == "complete"]
        if len({(run.task, run.split) for run in complete}) < 2:
            return
        for run in sorted(complete, key=lambda run: run.ended, reverse=True):
            if time.monotonic() > end:
                break
            try:
                record = read_record(Path(run.folder))
            except UserError:  # it has changed since
                continue
            if record is not None:
                self._known[run.id] = _known_of(record)

    def suggested(self, question: Question, answer: Answer | None = None) -> list[str]:
        """Sentences on what to try next on the data set of a question, and which of those that are level is higher
        elsewhere; none where nothing is known, or several data sets are asked about.

        Args:
            answer: to the question; None where nothing fits.
        """
        if len(question.tasks) > 1:
            return []
        ids = {run.id for board in question.boards for run in board.all_runs() if run.task == question.tasks[0]}
        ours = [self._known[run] for run in ids if run in self._known]
        if not ours:
            return []
        prior = self._prior_for(ours)
        probe = max((one.seen.value for one in ours if one.seen is not None and one.seen.solved), default=None)
        ranked = [_ranked(prior, kind, probe) for kind in ("method", "backbone")]
        sentences: list[str] = []
        parts: list[str] = []
        places: list[str] = []
        for at, (kind, order) in enumerate(zip(("method", "backbone"), ranked, strict=True)):
            tried = {one.names[at] for one in ours}
            new = [name for name in order.names if name not in tried and order.scores[name] >= HALF][:MOST]
            if new:
                parts.append(f"{kind}={' or '.join(new)}")
                places += [place for place in order.places if place not in places]
        if parts:
            told, of = ", ".join(parts), listed(places)
            were = "were" if "," in told or " or " in told else "was"
            sentences.append(f"To try next: {told}, which {were} above most others on validation images of {of}.")
        if answer is not None and (level := self._told_of_level(answer, ranked[0])):
            sentences.append(level)
        return sentences

    def first(self) -> str:
        """What to try first on data of which nothing is known, as the end of a sentence; empty where nothing is."""
        tasks = [one.task for one in self._known.values()]
        if not tasks:
            return ""
        most = max(dict.fromkeys(tasks), key=tasks.count)
        seen = tuple(one.seen for one in self._known.values() if one.seen is not None and one.task == most)
        ranked = _ranked(Prior(seen, None), "method", None)
        if not ranked.names:
            return ""
        best = " or ".join(f"method={name}" for name in ranked.names[:MOST])
        return f"to try first, runs on {listed(list(ranked.places))} suggest {best} (prior=none leaves that out)"

    def _prior_for(self, ours: Sequence[_Known]) -> Prior:
        """The runs of the same task on data sets that share no image with these."""
        seen = tuple(
            one.seen
            for one in self._known.values()
            if one.seen is not None
            and one.task == ours[0].task
            and not any(mine.source.may_share(one.source) for mine in ours)
        )
        return Prior(seen, max(one.images for one in ours), ours[0].classes)

    def _told_of_level(self, answer: Answer, ranked: Ranked) -> str:
        """Which of the methods inside the noise was higher elsewhere, where that differs."""
        runs = [run for contender in answer.alike for run in contender.row.all_runs()]
        methods = {self._known[run.id].names[0] for run in runs if run.id in self._known}
        level = [name for name in ranked.names if name in methods]
        if len(level) < 2 or ranked.scores[level[0]] == ranked.scores[level[1]]:
            return ""
        places = listed(list(ranked.places))
        return f"Of those inside the noise {level[0]} was above {level[1]} on validation images of {places}."


def _known_of(record: Record) -> _Known:
    stamp, choices = record.stamps.get("data") or {}, section_of(record, "choices")
    images = stamp.get("images")
    return _Known(
        task=str(section_of(record, "task").get("name")),
        source=source_of_record(record),
        images=int((images.get("train") if isinstance(images, dict) else 0) or 0),
        classes=int(stamp.get("classes") or 0),
        names=(str(choices.get("method")), str(choices.get("backbone"))),
        seen=seen_in(record),
    )


def _ranked(prior: Prior, kind: str, probe: float | None) -> Ranked:
    names = sorted({str(getattr(one, kind)) for one in prior.seen})
    return prior.ranked(names, kind, probe)
