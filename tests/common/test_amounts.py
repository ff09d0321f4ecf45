"""Numbers as a reader sees them."""

import pytest

from peftbench.common.amounts import agreeing, count, milliseconds, plain, plural, rate, seconds, size


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1234), "1,234"),
        (count(1234567), "1.23 M"),
        (size(999), "999 B"),
        (size(1500), "2 kB"),
        (size(2.34e9), "2.3 GB"),
        (seconds(119.96), "120.0 s"),
        (seconds(120), "2.0 min"),
        (seconds(7199), "120.0 min"),
        (seconds(7200), "2.0 h"),
        (seconds(4320.1 * 60), "72.0 h"),
        (plural(0, "seed"), "0 seeds"),
        (plural(1, "seed"), "1 seed"),
        (plural("1", "seed"), "1 seed"),
        (plural("2–3", "seed"), "2–3 seeds"),
        (plural(2, "entry"), "2 entries"),
        (plural(2, "day"), "2 days"),
        (plural(1000, "class"), "1,000 classes"),
        (plural(2, "box"), "2 boxes"),
        (plural(2, "batch"), "2 batches"),
        (plural(2, "epoch"), "2 epochs"),
        (agreeing(1), "is"),
        (agreeing(2, "has", "have"), "have"),
        (rate(0.031), "0.031"),
        (rate(3.14), "3.1"),
        (rate(720.1), "720"),
        (milliseconds(1.2e-5), "0.012 ms"),
        (milliseconds(0.0123), "12.3 ms"),
        (milliseconds(0.99994), "999.9 ms"),
        (milliseconds(0.99996), "1.00 s"),
        (milliseconds(1.0391), "1.04 s"),
        (milliseconds(30.24), "30.2 s"),
        (milliseconds(600), "10.0 min"),
        (seconds(0.0123), "12.3 ms"),
        (seconds(0.1), "0.1 s"),
        (seconds(0), "0.0 s"),
        (plain(250), "250"),
        (plain(0), "0"),
    ],
)
def test_amounts(shown, expected):
    assert shown == expected
