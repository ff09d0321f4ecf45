"""Energy and price in a report: shown where runs have them, and never mixed without a word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from peftbench.common.amounts import joules, plain, plural
from peftbench.results.board import Row
from peftbench.results.money import ESTIMATE
from peftbench.results.record import Record
from peftbench.results.summary import Costs, Run
from peftbench.results.text_table import listed

ENERGY, PRICE = "energy", "price"
SPENT = (ENERGY, PRICE)
WAYS: Mapping[str, str] = {
    "nvml": "measured by NVML, of whole GPUs",
    "rapl": "measured by RAPL, of whole processor packages",
    "apple": "measured by the chip, of all of it",
    ESTIMATE: "an estimate, costs.watts times seconds",
}
_VALUES: Mapping[str, Callable[[Costs], float | None]] = {ENERGY: lambda c: c.energy, PRICE: lambda c: c.amount}
_KINDS: Mapping[str, Callable[[Costs], Hashable]] = {ENERGY: lambda c: c.energy_by, PRICE: lambda c: c.price}


def spent_columns(rows: Iterable[Row]) -> list[str]:
    """Those of `SPENT` that any run has."""
    runs = [run for row in rows for run in row.all_runs()]
    return [name for name in SPENT if any(spent_by(run, name) is not None for run in runs)]


def spent_by(run: Run, name: str) -> float | None:
    """Joules or money of a run; of one of several that trained together its equal share."""
    return _VALUES[name](run.costs)


def spent(row: Row, name: str) -> float | None:
    """The mean, as of any cost; None where a run has no figure, or runs have it of several kinds or machines."""
    runs = list(row.all_runs())
    if len(row.machines) > 1 or len(kinds_of(runs, name)) != 1 or any(spent_by(run, name) is None for run in runs):
        return None
    return row.cost({ENERGY: "energy", PRICE: "amount"}[name])


def kinds_of(runs: Iterable[Run], name: str) -> list[Hashable]:
    """How the energy of those that have one was come by, or the hour's prices of those that have a price."""
    return sorted({_KINDS[name](run.costs) for run in runs if spent_by(run, name) is not None}, key=str)


def spent_cell(row: Row, name: str, several: bool = False) -> str:
    """`1.23 kJ`, `1.23 kJ est.`, `0.0125`; with `several` prices of an hour also at which."""
    value = spent(row, name)
    if value is None:
        return "–"
    (kind,) = kinds_of(row.all_runs(), name)
    return written(value, name, kind, several)


def written(value: float, name: str, kind: Hashable, several: bool = False) -> str:
    """As `spent_cell`, of a figure of this kind."""
    if name == ENERGY:
        return joules(value) + (" est." if kind == ESTIMATE else "")
    return plain(value, 3) + (f" (at {kind:g} an hour)" if several else "")


def spent_notes(rows: Sequence[Row]) -> list[str]:
    """What the columns hold, and what in them does not compare."""
    runs = [run for row in rows for run in row.all_runs()]
    notes = []
    columns = spent_columns(rows)
    if ENERGY in columns:
        ways = [f"{WAYS.get(str(kind), str(kind))}" for kind in kinds_of(runs, ENERGY)]
        but = "; figures of several ways do not compare" if len(ways) > 1 else ""
        notes.append(f"Energy is of training and test, without filling taps: {listed(ways)}{but}.")
    if PRICE in columns:
        prices = [f"{price:g}" for price in kinds_of(runs, PRICE)]
        but = ", each run at its own" if len(prices) > 1 else ""
        notes.append(
            f"Price is at {listed(prices)} an hour{but}, for training, validation, test and the taps that a run filled."
        )
    if any(spent(row, name) is None for row in rows for name in columns):
        notes.append("No energy or price stands where a run has none, or where kinds or machines differ.")
    return notes


def price_of_all(records: Sequence[Record]) -> list[str]:
    """What several complete runs cost together, by the price of an hour; nothing where fewer than two have a price."""
    amounts: dict[float, list[float]] = defaultdict(list)
    for record in records:
        if money := record.costs.get("money"):
            amounts[money["price"]].append(money["amount"])
    priced = sum(map(len, amounts.values()))
    if priced < 2:
        return []
    sums = [f"{plain(sum(each), 3)} at {price:g} an hour" for price, each in sorted(amounts.items())]
    without = len(records) - priced
    but = f"; {plural(without, 'complete run')} without a price" if without else ""
    return [f"Price of {plural(priced, 'complete run')} together: {listed(sums)}{but}."]
