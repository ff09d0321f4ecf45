"""Numbers as a reader sees them."""

import pytest

from peftbench.common.amounts import count, plural, seconds, size


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
        (plural(0, "seed"), "0 seeds"),
        (plural(1, "seed"), "1 seed"),
        (plural("1", "seed"), "1 seed"),
        (plural("2–3", "seed"), "2–3 seeds"),
    ],
)
def test_amounts(shown, expected):
    assert shown == expected
