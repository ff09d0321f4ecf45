"""Means, intervals over seeds, and paired differences. All intervals are at 95 %."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

ALPHA = 0.05
LEAST_PAIRS = 3  # for a verdict: the spread of two differences says nothing
ONLY_ALONE = "not told apart after correction (Holm)"
"""Alone the comparison tells two apart, beside so many others it does not."""
_SAME = 1e-6  # figures are stored in single precision, which tells shares apart to 1e-7


@dataclass(frozen=True)
class Difference:
    """A paired difference: `mean` and the half width of its t-interval, over `n` pairs.

    `p` is of the two-sided paired t-test, `wilcoxon` of the signed-rank test (from six pairs on), `holm` is `p`
    corrected for all comparisons made beside it. None where it cannot be told, and then `untold` says why, unless
    the two are the same in every pair; `few` says that there are too few pairs for a verdict.
    """

    mean: float
    n: int
    half: float | None = None
    p: float | None = None
    wilcoxon: float | None = None
    holm: float | None = None
    untold: str = ""
    less_is_better: bool = False
    few: bool = False

    @property
    def verdict(self) -> str:
        """better, worse, equal, inside the noise, `ONLY_ALONE`, or no telling; of the first of the two."""
        p = self.p if self.holm is None else self.holm
        if p is None:
            return "no telling" if self.untold else "equal"
        if p >= ALPHA:
            return untold_words(self.p, p)
        return "better" if (self.mean > 0) != self.less_is_better else "worse"


def untold_words(alone: float | None, corrected: float) -> str:
    """Of a comparison that tells nothing after correction: whether alone it would."""
    return ONLY_ALONE if alone is not None and alone < ALPHA <= corrected else "inside the noise"


def half_width(values: Sequence[float]) -> float | None:
    """The half width of the mean's t-interval; None for a single value."""
    if len(values) < 2:
        return None
    return _t(len(values) - 1) * math.sqrt(variance(values) / len(values))


def weighted(cells: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> tuple[float, float | None]:
    """The weighted mean of cell means, and the half width of its interval over seeds.

    Cells count as independent, with the degrees of freedom of Welch and Satterthwaite. None where a cell has one value.
    """
    mean = sum(weights[name] * fmean(values) for name, values in cells.items())
    if any(len(values) < 2 for values in cells.values()):
        return mean, None
    parts = [(weights[n] ** 2 * variance(v) / len(v), len(v) - 1) for n, v in cells.items()]
    total = sum(part for part, _ in parts)
    if total == 0:
        return mean, 0.0
    freedom = total**2 / sum(part**2 / df for part, df in parts)
    return mean, _t(freedom) * math.sqrt(total)


def share_interval(share: float, images: int) -> tuple[float, float]:
    """(low, high) of a share counted on so many images (Wilson, 1927)."""
    z = 1.959964
    share = min(1.0, max(0.0, share))
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def binomial_floor(share: float, images: int, other: float, other_images: int) -> float:
    """The least variance of the difference of two shares of images, each counted on so many."""
    return _of_draws(share) / images + _of_draws(other) / other_images


def _of_draws(share: float) -> float:
    return max(0.0, share * (1 - share))  # figures from files may lie outside 0 to 1


def paired(differences: Sequence[float], floor: float | None = 0.0, ranks: bool = True) -> Difference:
    """The mean of paired differences, and whether it is more than chance; at least one is needed.

    Args:
        differences: one for each pair.
        floor: the least variance that a pair's difference has, whatever the spread of these few says: where both of
            two seeds differ by the same number of images, their spread is 0. None where it is not known.
        ranks: whether Wilcoxon's test is made too, which takes nearly all of the time.
    """
    mean, n = fmean(differences), len(differences)
    if n < LEAST_PAIRS:
        return Difference(mean, n, untold=f"too few pairs to tell: {n}, not {LEAST_PAIRS}", few=True)
    if max(map(abs, differences)) <= _SAME:
        return Difference(0.0, n)
    if floor is None:
        return Difference(mean, n, untold="no telling: a record has no number of images")
    spread = max(variance(differences), floor)
    if spread <= _SAME**2:
        return Difference(mean, n, untold="no telling: the pairs have no spread")
    from scipy.special import stdtr

    error = math.sqrt(spread / n)
    p = float(2 * stdtr(n - 1, -abs(mean) / error))
    return Difference(mean, n, _t(n - 1) * error, p, _wilcoxon(differences) if ranks else None)


def mean_difference(by_task: Sequence[Difference]) -> Difference:
    """The mean of the differences on several tasks, each alike, and whether it is more than chance on these tasks.

    Its standard error and degrees of freedom are those of Welch and Satterthwaite. It is untold where one of them is.
    """
    mean, n, weight = fmean(d.mean for d in by_task), sum(d.n for d in by_task), 1 / len(by_task)
    untold = next((d.untold for d in by_task if d.untold), "")
    if untold:
        return Difference(mean, n, untold=untold, few=any(d.few for d in by_task))
    errors = [((d.half or 0.0) / _t(d.n - 1), d.n - 1) for d in by_task]
    parts = [((weight * error) ** 2, freedom) for error, freedom in errors]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Difference(0.0, n)
    freedom = total**2 / sum(part**2 / df for part, df in parts)
    from scipy.special import stdtr

    error = math.sqrt(total)
    return Difference(mean, n, _t(freedom) * error, float(2 * stdtr(freedom, -abs(mean) / error)))


def exact_mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test: that of two models on the same images neither is better.

    Args:
        only_first: images that the first alone has right; likewise `only_second`.
    """
    if only_first == only_second:
        return 1.0
    from scipy.special import bdtr

    n = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), n, 0.5)))


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p-values corrected for their number."""
    told = [i for i, d in enumerate(differences) if d.p is not None]
    corrected = list(differences)
    p_values = [p for d in differences if (p := d.p) is not None]
    for i, p in zip(told, holm_corrected(p_values), strict=True):
        corrected[i] = replace(differences[i], holm=p)
    return corrected


def holm_corrected(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm, 1979), in their order."""
    corrected, least = list(p_values), 0.0
    for smaller, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = min(1.0, max(least, p_values[i] * (len(p_values) - smaller)))
        corrected[i] = least
    return corrected


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - ALPHA / 2))


def _wilcoxon(differences: Sequence[float]) -> float | None:
    if len(differences) < 6 or not any(differences):
        return None
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue)
