import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.sweeps import Sweep, SweepRow
from planner.errors import PlannerError


def row(hours, usd, cluster="a"):
    return SweepRow(cluster, 1, 8, 64, 1.0, 64.0, hours=hours, usd=usd)


def made(*rows, **limits):
    return Sweep("gpt", "1e9 tokens", tuple(rows), **limits)


figures = st.floats(0.1, 1e6) | st.integers(1, 5).map(float)


@given(st.lists(st.tuples(figures, figures), max_size=12))
def test_the_front_is_what_nothing_beats_in_both(points):
    rows = [row(h, u, str(n)) for n, (h, u) in enumerate(points)]
    front = made(*rows, row(None, 3.0), row(2.0, None)).pareto()
    beaten = {a.cluster for a in rows for b in rows if b.hours <= a.hours and b.usd <= a.usd
              and (b.hours, b.usd) != (a.hours, a.usd)}
    assert {(r.hours, r.usd) for r in front} == {(r.hours, r.usd) for r in rows if r.cluster not in beaten}
    assert [r.hours for r in front] == sorted(r.hours for r in front)
    assert len({(r.hours, r.usd) for r in front}) == len(front)


FAST, MIDDLE, CHEAP, POOR = row(1.0, 100.0, "fast"), row(5.0, 50.0, "middle"), row(20.0, 10.0, "cheap"), row(21.0, 99.0)
ALL = made(FAST, MIDDLE, CHEAP, POOR, row(None, None, "none"))


@pytest.mark.parametrize(("budget", "deadline", "picked"), [
    (None, None, CHEAP), (60.0, None, MIDDLE), (1e9, None, FAST), (None, 6.0, MIDDLE), (None, 0.9, None),
    (60.0, 6.0, MIDDLE), (200.0, 6.0, MIDDLE), (40.0, 6.0, None), (5.0, None, None)])
def test_what_to_rent(budget, deadline, picked):
    found = ALL.best(budget, deadline)
    assert found.row == picked
    assert (found.nearest is None) == (picked is not None)
    assert replace(ALL, budget_usd=budget, deadline_h=deadline).best() == found


def test_the_nearest_misses_by_least():
    assert ALL.best(40.0, 6.0).nearest == MIDDLE  # 1.25 times the budget; the cheap one takes 3.3 times the hours
    assert made(row(None, None)).best().row is None


def test_json_and_csv_have_every_row_in_order():
    data = json.loads(json.dumps(ALL.to_data()))
    assert Sweep.from_data(data) == ALL
    assert [r["pareto"] for r in data["rows"]] == [True, True, True, False, False]
    assert data["best"]["cluster"] == "cheap"
    table = list(csv.DictReader(io.StringIO(ALL.to_csv())))
    assert [r["cluster"] for r in table] == ["fast", "middle", "cheap", "a", "none"]
    assert table[0]["usd"] == "100.0" and table[4]["usd"] == "" and table[3]["pareto"] == "False"
    with pytest.raises(PlannerError, match="no saved sweep"):
        Sweep.from_data({"rows": [1]})
