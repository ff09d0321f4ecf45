"""Energy and price in reports, and as limits of `peftbench choose`."""

from __future__ import annotations

import pytest

from support.reports import call, columns, leaderboard, one, record, tell, write


def spent(joules, amount, measure="rapl", price=2.5, **share):
    """What a record says of its energy and price."""
    energy = {"train": joules, "test": 10.0, "measure": measure, "of": "all of it", **share}
    money = {"price": price, "seconds": 66.0, "amount": amount, **share}
    return {"costs__energy": energy, "costs__money": money}


def test_a_report_without_energy_and_price_has_no_word_of_them(tmp_path):
    out = tell("report", write(tmp_path, record("lora")))
    assert "energy" not in out.lower()
    assert "price" not in out.lower()


def test_energy_and_price_are_means_and_kinds_are_told(tmp_path):
    write(
        tmp_path,
        record("lora", **spent(1200, 0.0123)),
        record("lora", seed=1, **spent(1400, 0.0143)),
        record("bitfit", **spent(900, 0.02, "estimate", 3)),
        record("full", **spent(50, 0.5)),
        record("full", seed=1, **spent(50, 0.5, "estimate", 3)),
        record("linear"),
    )
    out = " ".join(tell("report", tmp_path).split())
    for part in (
        "live 1.31 kJ 0.0133 (at 2.5 an hour)",
        "live 910 J est. 0.0200 (at 3 an hour)",
        "Energy is of training and test, without filling taps: an estimate, costs.watts times seconds and measured by "
        "RAPL, of whole processor packages; figures of several ways do not compare.",
        "Price is at 2.5 and 3 an hour, each run at its own,",
        "No energy or price stands where a run has none, or where kinds or machines differ.",
    ):
        assert part in out
    assert out.count("live – –") == 2, "of runs of two kinds, and of a run without"
    lines = leaderboard(tmp_path)
    lora, full = one(lines, method="lora"), one(lines, method="full")
    assert (float(lora["energy_train"]), float(lora["energy_test"]), lora["energy_by"]) == (1300, 10, "rapl")
    assert (float(lora["price"]), float(lora["price_an_hour"])) == (pytest.approx(0.0133), 2.5)
    assert not any(full[key] for key in ("energy_train", "energy_by", "price", "price_an_hour"))
    assert "energy" in tell("report", tmp_path, "--format=latex")


def test_the_table_at_the_end_says_shares_and_estimates(capsys):
    lora = record("lora", **spent(90, 0.0125, "estimate", share_of=4))
    head, (first, second, *_) = columns(capsys, lora, record("linear"))
    assert "energy" in head
    assert "100 J est. (share of 4)" in first
    assert "0.0125 (at 2.5 an hour) (share of 4)" in first
    assert "–" in second


def test_choose_holds_to_joules_and_money_and_names_what_has_no_figure(tmp_path):
    write(
        tmp_path,
        record("lora", accuracy=0.9, **spent(1990, 0.5)),
        record("bitfit", accuracy=0.8, **spent(190, 0.05)),
        record("linear", accuracy=0.95),
    )
    out = tell("choose", tmp_path, "max_joules=0.5kJ")
    assert "digits: bitfit: 80.0 %" in out
    assert "200 J of energy at most" in out
    assert "max_joules: left out, since not all of their runs have a figure: linear." in out
    assert "do not compare" not in out
    assert "digits: lora: 90.0 %" in tell("choose", tmp_path, "max_joules=2kJ", "max_price=0.5")
    out = tell("choose", tmp_path, "max_price=0.1")
    assert "digits: bitfit: 80.0 %" in out
    assert "0.0500 of money at most" in out
    status, out, _ = call("choose", tmp_path, "max_price=0.01")
    assert status == 1
    assert "over max_price=0.01 (0.0500, 5 times)" in out


def test_choose_says_that_estimates_are_no_measures_and_prices_are_of_different_hours(tmp_path):
    write(tmp_path, record("lora", **spent(90, 0.1)), record("bitfit", **spent(190, 0.1, "estimate", 3)))
    out = tell("choose", tmp_path, "max_joules=1kJ", "max_price=1")
    assert "max_joules: the figures are of several kinds, which do not compare: " in out
    assert "an estimate, costs.watts times seconds (bitfit)" in out
    assert "max_price: the figures are of several kinds, which do not compare: " in out
    assert "at 3 an hour (bitfit)" in out


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("max_joules=0", "joules, such as 500, 20kJ or 0.1kWh"),
        ("max_joules=2watts", "joules, such as 500, 20kJ or 0.1kWh"),
        ("max_price=0", "an amount above 0, such as 0.5"),
        ("max_price=2eur", "an amount above 0, such as 0.5"),
    ],
)
def test_a_limit_that_is_no_amount_is_refused(tmp_path, word, expected):
    status, _, err = call("choose", write(tmp_path, record("lora")), word)
    assert (status, err) == (2, f"peftbench: {word}: expected {expected}.\n")


def test_the_page_of_a_run_names_how_its_energy_was_come_by(tmp_path):
    write(tmp_path, record("lora", **spent(90, 0.0125, "estimate", share_of=4)))
    tell("report", f"run={tmp_path / 'lora-x-digits-s0'}")
    page = next(tmp_path.rglob("page.html")).read_text()
    assert "energy of training, an estimate, costs.watts times seconds, an equal share of 4 runs" in page
    assert "price at 2.5 an hour, an equal share of 4 runs" in page
