import pytest

from planner.report import units


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (1.5, "1.50 s"), (0.00123, "1.23 ms"), (0.9999, "1.00 s"), (4.2e-5, "42.0 µs"), (3e-8, "30.0 ns"),
    (2393, "2,393 s"),
])
def test_seconds(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (999, "999 B"), (999.9, "1.00 kB"), (80e9, "80.0 GB"), (1.5e12, "1.50 TB"),
])
def test_size(value, text):
    assert units.size(value) == text


def test_small_shares_and_gaps_do_not_vanish():
    assert [units.share(x) for x in (0, 0.001, 0.12, 1)] == ["0 %", "<1 %", "12 %", "100 %"]
    assert [units.gap(x) for x in (0, 1e-4, 0.012)] == ["0", "<0.1 %", "1.2 %"]
    assert [units.plain(x) for x in (0, 1e-5, 0.25, 31.4159)] == ["0", "<0.001", "0.250", "31.4"]


def test_ranges():
    assert units.ranges([4, 0, 1, 2, 6, 7]) == "0–2, 4, 6–7"
    assert units.ranges([]) == "none"


def test_plural():
    assert [units.plural(1, "batch"), units.plural(2, "batch"), units.plural(1200, "stage")] == [
        "1 batch", "2 batches", "1,200 stages"]


def test_common_units_follow_the_largest():
    assert units.common_time([1e-5, 0.002]) == ("ms", 1e-3)
    assert units.common_size([1, 3e9]) == ("GB", 1e9)
    assert units.common_time([]) == ("µs", 1e-6)
