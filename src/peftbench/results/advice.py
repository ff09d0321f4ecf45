"""What to tell beside results: a method that is below the probe on the same data, a run that learned by heart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from peftbench.common.amounts import plural
from peftbench.common.errors import UserError
from peftbench.results.board import Board, Row
from peftbench.results.overfitting import Overfit
from peftbench.results.record import Record
from peftbench.results.stats import half_width
from peftbench.results.summary import Run, Shared, summarise
from peftbench.results.task_results import less_is_better
from peftbench.results.telling import tell

_POINT = 0.01
_SOONER = "which begins from the probe's head"
REMEDY = f"lower the learning rate, take layer decay, or method=lp_ft, {_SOONER}"
OUTSIDE = "lower the learning rate, or look for it with optimizer.find_lr=true"
"""The remedy of what trains nothing of the backbone: it has no layers to decay by, and is no fine-tuning."""
UNKNOWN = f"lower the learning rate or, where it trains the backbone, take layer decay or method=lp_ft, {_SOONER}"
_FEW_EPOCHS = 2
"""So many, and fewer, are too few to blame the learning rate: our reading."""
CURE = "give trainer.keep=best, fewer epochs or augmentation"


@dataclass(frozen=True)
class Reached:
    """What a method reached on the data set `place`: its runs there are those of `row`, judged by `metric`."""

    name: str
    place: str
    row: Row
    metric: str

    @property
    def runs(self) -> list[Run]:
        """At least one."""
        return self.row.runs[self.place]

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return fmean(self.row.values(self.place, self.metric))

    @property
    def half(self) -> float:
        """Half of its interval over seeds; 0 where there is one seed."""
        return half_width(self.row.values(self.place, self.metric)) or 0.0

    def count(self, cost: str) -> float | None:
        """The cost of that name that all runs share; None where they differ, or records do not say it."""
        counts = {getattr(run.costs, cost) for run in self.runs}
        return counts.pop() if len(counts) == 1 else None

    @property
    def epochs(self) -> int:
        """How many the longest of its runs took; 0 where no record says it."""
        return max((int(run.curve[0][-1]) for run in self.runs if len(run.curve[0])), default=0)

    @property
    def solved(self) -> bool:
        """Whether its head was solved, not trained."""
        return any(run.solved for run in self.runs)


def below_probe(figures: Iterable[Reached]) -> list[str]:
    """A sentence for each method more than a point, and than noise, below the probe of its place.

    The noise is that of seeds or, where they are few, of which images were tested. Where nothing says it, as of a
    metric that counts no images in one seed, there is no sentence. The probe is the best one whose head was trained,
    or else the best one whose head was solved.
    """
    figures = list(figures)
    notes = []
    for place in dict.fromkeys(figure.place for figure in figures):
        here = [figure for figure in figures if figure.place == place]
        probes = [figure for figure in here if figure.count("parameters") == 0]
        if not probes:
            continue
        probe = max(probes, key=lambda figure: (not figure.solved, figure.value))
        kind = "the solved head" if probe.solved else "the probe"
        for other in here:
            if other.count("parameters") and _is_below(other, probe):
                notes.append(
                    f"{place}: {other.name} reached {100 * other.value:.1f} %, {kind} ({probe.name}) "
                    f"{100 * probe.value:.1f} %: {_remedy(other)}."
                )
    return notes


def _is_below(other: Reached, probe: Reached) -> bool:
    if probe.value - other.value <= max(_POINT, probe.half + other.half):
        return False
    return tell(probe.row, other.row, (other.place,), other.metric).apart


def _remedy(figure: Reached) -> str:
    if 0 < (epochs := figure.epochs) <= _FEW_EPOCHS:
        return f"{plural(epochs, 'epoch')} may be too few: give more (trainer.epochs) before another learning rate"
    inside = figure.count("inside")
    return UNKNOWN if inside is None else REMEDY if inside else OUTSIDE


def below_probe_on(board: Board) -> list[str]:
    """As `below_probe`, of a board's rows."""
    if less_is_better(board.metric):
        return []
    return below_probe(
        Reached(row.label, task, row, board.metric) for row in board.rows for task in board.tasks if row.runs.get(task)
    )


def below_probe_of(named: Iterable[tuple[str, Record]]) -> list[str]:
    """As `below_probe`, of single records with their names: each is compared with those on its data, of its backbone
    and its seed, by what their task is judged by on test images. Records that are not whole are left out.
    """
    figures: dict[tuple[object, ...], list[Reached]] = defaultdict(list)
    shared = Shared()
    for name, record in named:
        try:
            run = summarise(record, shared)
        except UserError:
            continue
        metric = f"test/{run.primary}"
        if metric in run.metrics:
            stamps = [record.stamps.get(part) or {} for part in ("data", "backbone")]
            same = run.task, metric, stamps[0].get("hash"), stamps[1].get("fingerprint"), run.seed
            row = Row(run.method, run.setting, run.tuned, run.times, name, name)
            row.runs[run.task].append(run)
            figures[same].append(Reached(name, run.task, row, metric))
    return [note for of_same in figures.values() for note in below_probe(of_same)]


def overfitted(name: str, overfits: Overfit | None) -> str:
    """The sentence on a run that overfits; nothing of one that does not."""
    return "" if overfits is None else f"{name}: overfits: {overfits}: {CURE}."


def overfitted_on(board: Board) -> list[str]:
    """A sentence for each row and data set of a board of which at least half of the runs overfit, by one of them."""
    notes = []
    for row in board.rows:
        for task in board.tasks:
            runs = row.runs.get(task, [])
            overfits = [run.overfits for run in runs if run.overfits is not None]
            if not overfits or 2 * len(overfits) < len(runs):
                continue
            number = f" in {len(overfits)} of {len(runs)} runs" if len(runs) > 1 else ""
            such = "of one, the" if len(overfits) > 1 else "the"
            notes.append(
                f"{task}: {row.label} overfits{number}: {such} {str(overfits[0]).removeprefix('its ')}: {CURE}."
            )
    return notes
