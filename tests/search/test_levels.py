"""Plans on nodes in racks: as before where racks take nothing, and never faster where they share less."""

from functools import cache
from itertools import pairwise

import planner
from planner import models
from planner.planned import Plan


@cache
def plan(oversubscription: float | None) -> Plan:
    levels = None if oversubscription is None else {"rack": (2, oversubscription)}
    on = planner.cluster("p3.16xlarge", nodes=4, devices_per_node=2, levels=levels)
    return planner.plan(models.build("gpt-tiny", batch_size=16), on, microbatches=4)


def test_racks_that_nothing_shares_change_nothing() -> None:
    flat, before = plan(1.0), plan(None)
    assert (flat.step_time_s, flat.record.stages) == (before.step_time_s, before.record.stages)
    assert flat.record.lower_bound_s == before.record.lower_bound_s
    assert "in racks of 2 nodes" in str(flat) and "rack" not in str(before)


def test_less_between_racks_is_never_faster() -> None:
    times = [plan(factor).step_time_s for factor in (1.0, 8.0, 64.0)]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(times)) and times[0] < times[-1]


def test_the_plan_file_keeps_levels() -> None:
    found = plan(8.0)
    assert planner.core.plan_io.from_json(planner.core.plan_io.to_json(found.record)).cluster == found.record.cluster
