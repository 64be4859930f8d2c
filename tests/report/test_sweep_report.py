from dataclasses import replace

import pytest

from planner.core.sweeps import Sweep, SweepRow
from planner.errors import PlannerError
from planner.report.sweep_plot import plot_sweep
from planner.report.sweep_words import answer, report
from planner.report.tables import plain


def row(cluster, nodes, hours, usd, **more):
    return SweepRow(cluster, nodes, 8 * nodes, 256, 0.5, 512.0, 512.0 * 1024, 0.41, 60 * 10**9, 13 * 10**9, 2, 8,
                    "1f1b", 0.02, 55.0 * nodes, hours, usd, **more)


ROWS = (row("dgx-h100", 1, 40.0, 2200.0), row("dgx-h100", 2, 22.0, 2420.0), row("dgx-a100", 1, 90.0, 2430.0),
        SweepRow("p3.16xlarge", 1, 8, 256, reason="'gpt' needs at least 20 GB per device\nmore"))
SWEEP = Sweep("gpt", "1e+10 tokens", ROWS)


def test_the_table_marks_the_front_and_gives_reasons():
    text = plain(report(SWEEP), 110)
    marked = [line for line in text.splitlines() if line.startswith("●  ")]
    assert len(marked) == 2 and all("× dgx-h100" in line for line in marked)
    assert "no plan" in text and "1 × p3.16xlarge (8 devices), batch 256: 'gpt' needs at least 20 GB" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(("limits", "says"), [
    ({}, "Rent 1 × dgx-h100 (8 devices), batch 256: 1e+10 tokens in 40.0 hours for 2,200 USD, the cheapest of all. "
         "The fastest is 2 × dgx-h100"),
    ({"deadline_h": 30.0}, "Rent 2 × dgx-h100 (16 devices), batch 256: 1e+10 tokens in 22.0 hours for 2,420 USD, the "
                           "cheapest within 30.0 hours."),
    ({"budget_usd": 5000.0}, "Rent 2 × dgx-h100"), ({"budget_usd": 5000.0}, "the fastest within 5,000 USD."),
    ({"budget_usd": 100.0}, "None trains 1e+10 tokens within 100 USD; nearest is 1 × dgx-h100")])
def test_the_answer(limits, says):
    assert says in answer(replace(SWEEP, **limits))


def test_without_prices_or_plans_the_answer_says_so():
    unpriced = replace(SWEEP, rows=tuple(replace(r, usd=None, usd_per_hour=None) for r in ROWS))
    assert "No price is known" in answer(unpriced) and "2 × dgx-h100" in answer(unpriced)
    assert "no price is known of dgx-h100, dgx-a100" in " ".join(plain(report(unpriced), 110).split())
    assert answer(replace(SWEEP, rows=ROWS[3:])) == "None of these clusters can run it."
    assert "interrupted" in plain(report(replace(SWEEP, complete=False)), 110)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_equal_sweeps_are_drawn_as_equal_files(tmp_path, ending):
    one, two = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
    for place in (one, two):
        plot_sweep(replace(SWEEP, budget_usd=2300.0, deadline_h=30.0), place)
    assert one.read_bytes() == two.read_bytes() and one.stat().st_size > 5000


def test_names_of_the_front_are_in_the_picture(tmp_path):
    plot_sweep(SWEEP, tmp_path / "s.svg")
    with pytest.raises(PlannerError, match="nothing to draw"):
        plot_sweep(replace(SWEEP, rows=ROWS[3:]), tmp_path / "t.svg")
    with pytest.raises(PlannerError, match="picture format"):
        plot_sweep(SWEEP, tmp_path / "t.gif")
    assert [p.name for p in tmp_path.iterdir()] == ["s.svg"]
