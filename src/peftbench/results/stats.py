"""Means, intervals over seeds, and paired differences. All intervals are at 95 %."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """A paired difference: `mean` and the half width of its t-interval, over `n` pairs.

    `p` is of the two-sided paired t-test, `wilcoxon` of the signed-rank test (from six pairs on), `holm` is `p`
    corrected for all comparisons made beside it. None where it cannot be told: one pair, or pairs without spread.
    """

    mean: float
    n: int
    half: float | None = None
    p: float | None = None
    wilcoxon: float | None = None
    holm: float | None = None

    @property
    def verdict(self) -> str:
        """better, worse, equal, inside the noise, or no telling; of the first of the two."""
        p = self.p if self.holm is None else self.holm
        if p is None:
            return "equal" if self.mean == 0 and self.n > 1 else "no telling"
        if p >= ALPHA:
            return "inside the noise"
        return "better" if self.mean > 0 else "worse"


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


def paired(differences: Sequence[float]) -> Difference:
    """The mean of paired differences, and whether it is more than chance; at least one is needed."""
    mean, n = fmean(differences), len(differences)
    spread = variance(differences) if n > 1 else 0.0
    if spread <= 1e-24:
        return Difference(mean if abs(mean) > 1e-12 else 0.0, n)
    from scipy.special import stdtr

    error = math.sqrt(spread / n)
    p = float(2 * stdtr(n - 1, -abs(mean) / error))
    return Difference(mean, n, _t(n - 1) * error, p, _wilcoxon(differences))


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p-values corrected for their number (Holm, 1979)."""
    by_p = sorted((d.p, i) for i, d in enumerate(differences) if d.p is not None)
    corrected, least = list(differences), 0.0
    for smaller, (p, i) in enumerate(by_p):
        least = min(1.0, max(least, p * (len(by_p) - smaller)))
        corrected[i] = replace(differences[i], holm=least)
    return corrected


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - ALPHA / 2))


def _wilcoxon(differences: Sequence[float]) -> float | None:
    if len(differences) < 6 or not any(differences):
        return None
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue)
