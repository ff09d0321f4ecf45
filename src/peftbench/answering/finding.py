"""The whole of it: from a question to the model that answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.answering.answer import give_answer
from peftbench.answering.asked import Asked, refuse_words
from peftbench.answering.candidates import Candidate, find_candidates, ordered_names
from peftbench.answering.choices import choices
from peftbench.answering.folds import choose_folds
from peftbench.answering.learning_curve import draw_curve
from peftbench.answering.look import Looked, look_at_data, validation_words
from peftbench.answering.prior import read_prior
from peftbench.answering.probes import probe_backbones
from peftbench.answering.rungs import train_sides
from peftbench.answering.search import OUT_OF_TIME, Search
from peftbench.answering.state import State, Tried, read_state
from peftbench.answering.time_left import Clock
from peftbench.answering.weight_methods import train_weights
from peftbench.common.errors import UserError, nearest
from peftbench.common.status_line import doing, doing_import
from peftbench.common.stopping import endings_as_interrupts
from peftbench.config import Config
from peftbench.config.compose import compose
from peftbench.data.base import split_hash
from peftbench.runs.data_sets import load_splits
from peftbench.runs.folder import owned_folder, set_aside


@dataclass(frozen=True)
class Answered:
    """What came of a question: the model's run, its figures, and how they were come to.

    Attributes:
        folder: of the answer.
        state: all that is remembered.
        stopped: whether the user ended the search.
        was_there: whether it was answered before.
        asked: the question.
    """

    folder: Path
    state: State
    asked: Asked
    stopped: bool = False
    was_there: bool = False

    @property
    def answer(self) -> dict[str, Any] | None:
        """The model and its figures; None where the user stopped it early, or no training on all images ended well."""
        return self.state.answer

    @property
    def run(self) -> Path | None:
        """The folder of the model's run, which `peftbench.load` and `peftbench.evaluate` take."""
        return None if self.answer is None else self.folder / "runs" / str(self.answer["run"])

    @property
    def metric(self) -> str:
        """What the task is judged by; empty where nothing was judged."""
        return "" if self.answer is None else str(self.answer["metric"])

    @property
    def test(self) -> float | None:
        """The metric on the test images, which were put aside; None where there was no time to test."""
        return None if self.answer is None else self.answer["test"]

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval; None where the metric counts no images."""
        return self._interval("test")

    @property
    def validation(self) -> float | None:
        """The metric on the validation images, by which the model was chosen."""
        return None if self.answer is None else self.answer["val"]

    @property
    def validation_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, which knows nothing of the choice."""
        return self._interval("val")

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """The path of decisions: `step`, `at` (seconds) and `says` of each."""
        return self.state.decisions

    @property
    def tried(self) -> list[Tried]:
        """Every run of the search, in order."""
        return self.state.tried

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / "page.html"

    def __repr__(self) -> str:
        test = "untested" if self.test is None else f"{100 * self.test:.1f} % {self.metric} on test images"
        return f"<Answered {self.folder}: {'nothing yet' if self.answer is None else self.answer['name']}, {test}>"

    def _interval(self, role: str) -> tuple[float, float] | None:
        found = None if self.answer is None else self.answer[f"{role}_interval"]
        return None if found is None else (float(found[0]), float(found[1]))


def find_model(asked: Asked, begun: float, tell: Callable[[str], None]) -> Answered:
    """Looks at the data, tries what there is time for, and answers; or goes on where an earlier command was.

    Args:
        asked: the question.
        begun: when the command began, by `time.monotonic`.
        tell: is given each decision, as a line.

    Raises:
        UserError: a question that cannot be answered, or data that changed since an earlier command.
    """
    refuse_words(asked.words)
    _refuse_unknown_methods(asked)
    first = (ordered_names(asked.backbones, asked.words) or [""])[0]
    base = compose(f"method={choices().timed_by}", f"backbone={first}", *asked.words)
    words = validation_words(base, asked.words)
    if words:
        try:
            cut = compose(f"method={choices().timed_by}", f"backbone={first}", *asked.words, *words)
            load_splits(cut)
            base = cut
        except UserError:  # a data set whose YAML offers no share, or that has validation images of its own
            words = ()
    folder = Path(base.output_dir).expanduser() / asked.id(base)
    with owned_folder(folder, 0, None):
        if asked.force and folder.exists():
            tell(f"force: the answer that was there is kept in {set_aside(folder)}")
        state = read_state(folder)
        clock = Clock(asked.minutes, 0.0 if state is None else state.spent, begun)
        doing("reading the images")
        looked = look_at_data(base, words, asked.minutes)
        if state is None:
            state = State(looked.hash)
        _refuse_other_data(base, state, looked, folder)
        if state.answer is not None and asked.minutes <= state.minutes:
            return Answered(folder, state, asked, was_there=True)
        search = Search(asked, base, folder.absolute(), looked, state, clock, tell)
        return Answered(folder, state, asked, stopped=_answer(search))


def _answer(search: Search) -> bool:
    """Searches and answers; returns whether the user stopped it."""
    state, stopped = search.state, False
    state.minutes, state.commands = search.asked.minutes, state.commands + 1
    state.tried = [one for one in state.tried if one.status != OUT_OF_TIME]  # they have another chance
    search.folder.mkdir(parents=True, exist_ok=True)
    search.keep()
    for note in search.looked.notes:
        search.decide("look", note)
    doing_import("torch")
    from peftbench.runs import run  # noqa: F401  which takes seconds

    with endings_as_interrupts():
        try:
            _search(search)
        except KeyboardInterrupt:
            stopped = True
            search.decide("stopped", "by the user; the answer is the best so far")
        doing("choosing the answer")
        answer = give_answer(search)
    if stopped or (answer is not None and not answer["whole"]):
        state.minutes = min(state.minutes, search.clock.spent / 60)  # so that the same command goes on
        search.keep()
    return stopped


def _search(search: Search) -> None:
    """The steps between the look and the answer. Raises KeyboardInterrupt, UserError."""
    search.clock.open()
    _hear_prior(search)
    candidates = find_candidates(search)
    choose_folds(search, candidates)
    best: list[Candidate] = probe_backbones(search, candidates)
    train_sides(search, best)
    train_weights(search, best[0])
    draw_curve(search, best[0])


def _hear_prior(search: Search) -> None:
    """Reads what earlier runs tell, and says so."""
    looked, base = search.looked, search.base
    if not search.asked.prior:
        search.decide("prior", "none, as asked; the order is that of the list")
        return
    doing("reading earlier records")
    splits = looked.splits
    tuned = split_hash(looked.train, looked.val), split_hash(looked.train, looked.val, None)
    search.prior = read_prior(
        base,
        search.folder.parent,
        len(looked.train),
        len(splits.classes),
        frozenset((looked.hash, *tuned)),
        search.asked.minutes,
    )
    search.decide("prior", search.prior.says)


def _refuse_unknown_methods(asked: Asked) -> None:
    for name in asked.methods:
        if name not in choices().methods:
            known = sorted(choices().methods)
            raise UserError(
                f"methods: auto does not try '{name}'{nearest(name, known)}; it tries {', '.join(known)}, and "
                f"any other is a run of its own: peftbench method={name} …"
            )


def _refuse_other_data(config: Config, state: State, looked: Looked, folder: Path) -> None:
    if state.data != looked.hash:
        raise UserError(
            f"data={config.data.name}: its images or labels are others than when {folder} was begun (hash "
            f"{state.data[:12]} then, {looked.hash[:12]} now), and what was learned from different data cannot be "
            f"compared; put them back, or give force=true to begin anew."
        )
