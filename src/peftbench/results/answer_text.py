"""The answer to "which method?" in sentences, for the terminal, Markdown, LaTeX and the page alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from peftbench.common.amounts import agreeing, count, plural, seconds, size
from peftbench.results.answers import Answer
from peftbench.results.cheapest import LESS, MEMORY, PARAMETERS, TIME, Cheapest
from peftbench.results.chosen import ON_TEST
from peftbench.results.questions import Contender
from peftbench.results.row_names import cut
from peftbench.results.stats import LEAST_PAIRS
from peftbench.results.task_results import images_of, percent, short
from peftbench.results.telling import IMAGES, SAME_IMAGES, SEEDS, SPREAD
from peftbench.results.text_table import listed, some

IN_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    TIME: ("time", seconds),
    MEMORY: ("peak memory", size),
    PARAMETERS: ("trainable parameters", count),
}
"""A cost as a reader calls it, and how its figures are written."""
TIME_IN_WORDS = "Time is that of training, validation and filling taps; where taps were there, filling is not in it."
_NAMED = 4  # contenders that are named before the rest is counted


def title_of(answer: Answer) -> str:
    """`digits, accuracy on 360 test images, 1 seed`."""
    seeds = in_seeds(answer.seeds)
    where = "" if answer.images is None else f" on {plural(f'{answer.images:,}', images_of(answer.metric))}"
    where = where if len(answer.tasks) == 1 else f" on {len(answer.tasks)} tasks"
    metric = short(answer.metric) if answer.metric.startswith("test/") else answer.metric
    return f"{answer.name.removeprefix('vtab/')}: {metric}{where}, {seeds}"


def in_seeds(numbers: Sequence[int]) -> str:
    """`3 seeds`, or `1–3 seeds` where the numbers differ."""
    fewest, most = min(numbers), max(numbers)
    return plural(most if fewest == most else f"{fewest}–{most}", "seed")


def sentences(answer: Answer) -> list[str]:
    """The highest and what is not told apart, the cheapest of these, what a figure is worth, and what was left out."""
    return [_highest(answer), *beside_the_highest(answer)]


def beside_the_highest(answer: Answer) -> list[str]:
    """The cheapest of what is not told apart from it, what a figure is worth, and what was left out."""
    return [*_cheapest(answer), *_worth(answer), *left_out_of(answer)]


def reached(contender: Contender) -> str:
    """`98.3 %`, with `± 0.4` where seeds give an interval."""
    half = "" if contender.half is None else f" ± {100 * contender.half:.1f}"
    return f"{100 * contender.value:.1f}{half} {percent(contender.board.metric)}"


def rank(answer: Answer) -> str:
    """`Best` where seeds tell the highest from each of the others, corrected for their number, else `Highest`."""
    return "Best" if answer.sure and {telling.by for telling in answer.known} == {SEEDS} else "Highest"


def _highest(answer: Answer) -> str:
    highest = answer.highest
    first = f"{rank(answer)}: {_with_figure(highest)}{_if_optimistic(answer, highest)}."
    return f"{first} {verdict(answer)}".strip()


def verdict(answer: Answer) -> str:
    """Which are inside the noise of the highest, and how many are lower; empty where nothing tells."""
    lower = len(answer.behind)
    but = _but(answer)
    if answer.level:
        rest = f"; {plural(lower, 'other')} {agreeing(lower)} lower by more than that{but}" if lower else ""
        return f"Inside its noise: {_named(answer, answer.level)}{rest}."
    if not lower:
        return "" if answer.untold else "It was compared with no other."
    by_images = {telling.by for telling in answer.known} <= {IMAGES, SAME_IMAGES}
    noise = f"the noise of its {images_of(answer.metric)}s" if by_images else "the noise"
    following = _with_figure(answer.behind[0])
    if lower == 1:
        whom = "One other" if answer.untold else "The other"
        return f"{whom} is lower by more than {noise}{but}: {following}."
    whom = f"{'' if answer.untold else 'The '}{lower} others"
    return f"{whom} are lower by more than {noise}{but}; the next is {following}."


def _with_figure(contender: Contender) -> str:
    """`lora, 98.4 %`; a name that has a comma is told from its figure by a word."""
    return f"{contender.name}{' with' if ',' in contender.name else ','} {reached(contender)}"


def _but(answer: Answer) -> str:
    """How many are lower only as long as the number of comparisons does not count."""
    number = len(answer.not_corrected)
    if not number:
        return ""
    whom = "" if number == len(answer.behind) else f"{number} of them "
    return f", but {whom}not after correction for so many comparisons (Holm)"


def _if_optimistic(answer: Answer, contender: Contender) -> str:
    return f", {ON_TEST}" if answer.is_optimistic(contender) else ""


def _named(answer: Answer, contenders: Sequence[Contender]) -> str:
    """`full (98.1), linear (98.0) and 3 more`."""
    names = [f"{c.name} ({100 * c.value:.1f}{_if_optimistic(answer, c)})" for c in contenders]
    return listed(names, _NAMED)


def _cheapest(answer: Answer) -> list[str]:
    """By which cost which is the cheapest of those that are not told apart, costs of one winner together."""
    if not answer.level:
        return []
    by_winner: dict[str, list[str]] = defaultdict(list)
    by_equals: dict[str, list[str]] = defaultdict(list)
    for cost, least in answer.cheapest.items():
        if not answer.has_cheapest(cost):
            continue
        if not answer.cost_the_same(cost):
            by_winner[listed(answer.names(least.rows), _NAMED)].append(_cost(cost, least))
        elif least.uncompared:
            by_equals[listed(answer.names(least.rows), _NAMED)].append(_cost(cost, least))
        else:
            by_equals[f"These {len(answer.alike)}"].append(_cost(cost, least))
    parts = [f"{name} by {listed(costs)}" for name, costs in by_winner.items()]
    lines = [f"Cheapest of these {len(answer.alike)}: {'; '.join(parts)}."] if parts else []
    lines += [f"{names} cost the same within a tenth: {listed(costs)}." for names, costs in by_equals.items()]
    return [*lines, *uncompared(answer)]


def uncompared(answer: Answer) -> list[str]:
    """What is not compared by which costs; costs that leave out the same stand together."""
    if not answer.level:
        return []
    costs_by_reasons: dict[str, list[str]] = defaultdict(list)
    costs_by_runs: dict[str, list[str]] = defaultdict(list)
    for cost, least in answer.cheapest.items():
        by_reason: dict[str, list[str]] = defaultdict(list)
        for (_, reason), name in zip(least.uncompared, answer.names([r for r, _ in least.uncompared]), strict=True):
            by_reason[reason].append(name)
        if by_reason:
            reasons = "; ".join(f"{some(names)} ({reason})" for reason, names in by_reason.items())
            costs_by_reasons[reasons].append(IN_WORDS[cost][0])
        if least.partly and answer.has_cheapest(cost):
            names = answer.names([row for row, _ in least.partly])
            runs = some([f"{number} of {name}" for (_, number), name in zip(least.partly, names, strict=True)])
            costs_by_runs[runs].append(IN_WORDS[cost][0])
    lines = [f"Not compared by {listed(costs)}: {reasons}." for reasons, costs in costs_by_reasons.items()]
    lines += [f"Runs left out by {listed(costs)}, of another machine: {runs}." for runs, costs in costs_by_runs.items()]
    return lines


def _cost(cost: str, least: Cheapest) -> str:
    """`time (0.3 s, not 45.0 s)`, against the highest where that costs more by a tenth."""
    name, form = IN_WORDS[cost]
    value = least.value or 0.0
    against = "" if least.of_first is None or value >= LESS * least.of_first else f", not {form(least.of_first)}"
    return f"{name} ({form(value)}{against})"


def of_few_seeds(answer: Answer) -> list[Contender]:
    """Those that share too few seeds with the highest for these to tell them apart."""
    return [c for c in (*answer.level, *answer.behind) if answer.tellings[c.name].by != SEEDS]


def _worth(answer: Answer) -> list[str]:
    """What a figure of few seeds is worth: what an image counts, how large a difference has to be, and by what."""
    few = of_few_seeds(answer)
    if not few:
        return []
    lines = [*_worth_of_images(answer, few)]
    by_image = [contender for contender in few if answer.tellings[contender.name].by == SAME_IMAGES]
    if len(by_image) == len(answer.known):
        lines.append("Methods are compared image by image (McNemar).")
    elif by_image:
        lines.append(f"{_plain(by_image)} {agreeing(len(by_image))} compared image by image (McNemar).")
    by_spread = [contender for contender in few if answer.tellings[contender.name].by == SPREAD]
    if by_spread:
        lines.append(f"Against {_plain(by_spread)} the spread of seeds decides, wider than that of counting images.")
    seeds = [len(c.row.runs[task]) for c in (answer.highest, *few) for task in answer.tasks]
    if len(few) == len(answer.known) and max(seeds) < LEAST_PAIRS:
        lines.append(f"Fewer than {LEAST_PAIRS} seeds do not say what another seed changes.")
    else:
        share = f"{agreeing(len(few), 'shares', 'share')} fewer than {LEAST_PAIRS} seeds with the highest"
        lines.append(f"{_plain(few)} {share}, which does not say what another seed changes.")
    return [" ".join(lines)]


def _worth_of_images(answer: Answer, few: Sequence[Contender]) -> list[str]:
    images, least = answer.images, answer.least
    if images is None or least is None:
        return []
    if images == 1:
        return [f"There is 1 {images_of(answer.metric)}, which tells no two methods apart."]
    image = f"One of the {images:,} {images_of(answer.metric)}s is {points(1 / images)}"
    if not any(answer.tellings[contender.name].by == IMAGES for contender in few):
        return [f"{image}."]
    return [f"{image}; so many do not tell apart two methods that differ by less than about {points(least)}."]


def _plain(contenders: Sequence[Contender]) -> str:
    """The names without their figures."""
    return listed([contender.name for contender in contenders], _NAMED)


def points(share: float) -> str:
    """`0.4 points`, with a second digit below 0.1."""
    points = 100 * share
    return f"{points:.1f} points" if points >= 0.1 else f"{points:.2g} points"


def left_out_of(answer: Answer) -> list[str]:
    """What has no figure that compares, and why."""
    untold: dict[str, list[Contender]] = defaultdict(list)
    for contender in answer.untold:
        untold[answer.tellings[contender.name].untold].append(contender)
    parts = [f"{_named(answer, contenders)}, since {reason}" for reason, contenders in untold.items()]
    parts += [f"{some([cut(name) for name in left_out.names])} ({left_out.reason})" for left_out in answer.left_out]
    return [f"Not compared: {'; '.join(parts)}."] if parts else []
