"""Refining a pipeline whose stages memory limits: no slower, within memory, with a bound that only rises."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import planner
from planner.candidates import Outcome, best_pipeline, refined
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.mesh_tables import mesh_table
from planner.prepared import prepare
from planner.schedules import SCHEDULES
from planner.simulate import run, uniform
from planner.slice_costs import sharpen
from planner.spaces import mesh_spaces
from tests.intraop.programs import program, transformer

MICROBATCHES = 4

LIMITS = (4_200_000, 5_600_000, 8_000_000)


def tight(memory_bytes: int) -> Cluster:
    whole = planner.cluster("p3.16xlarge")
    return replace(whole, devices_per_node=4, device=replace(whole.device, memory_bytes=memory_bytes))


def pipeline(memory_bytes: int, **pinned: int) -> Outcome:
    cluster, pins = tight(memory_bytes), Pins(**pinned)
    prepared = prepare(program(transformer(6), MICROBATCHES))
    spaces = mesh_spaces(cluster, pins)
    tables = {space: mesh_table(prepared, space, cluster, pins) for s in spaces for space in s.meshes}
    return best_pipeline(prepared, cluster, spaces, tables, pins)


@cache
def before_and_after(memory_bytes: int) -> tuple[Outcome, Outcome]:
    before = pipeline(memory_bytes)
    return before, refined(before, float("inf"))


@pytest.mark.parametrize("memory_bytes", LIMITS)
def test_refining_is_no_slower_fits_and_raises_the_bound(memory_bytes):
    before, after = before_and_after(memory_bytes)
    assert before.candidate is not None and after.candidate is not None
    assert after.candidate.step_time_s <= before.candidate.step_time_s
    assert after.candidate.peak_bytes <= tight(memory_bytes).device.usable_bytes
    assert before.lower_bound_s <= after.lower_bound_s <= after.candidate.step_time_s * (1 + 1e-9)


def test_some_pipelines_get_faster_and_others_a_better_bound():
    both = [before_and_after(memory_bytes) for memory_bytes in LIMITS]
    steps = [(b.candidate.step_time_s, a.candidate.step_time_s) for b, a in both if a.candidate and b.candidate]
    assert any(after < before * 0.999 for before, after in steps)
    assert any(a.lower_bound_s > b.lower_bound_s * 1.001 for b, a in both)


def test_nothing_is_refined_where_the_bound_says_it_is_of_no_use():
    before = pipeline(8_000_000, stages=2)
    assert before.builder.costs.known == {}
    assert refined(before, before.lower_bound_s) is before
    assert before.builder.costs.known == {}


def test_a_refined_plan_is_the_same_every_time_and_says_what_its_stages_say():
    model, cluster = transformer(6), tight(8_000_000)
    plan = planner.plan(model, cluster, microbatches=MICROBATCHES, schedule="1f1b")
    assert plan.to_json() == planner.plan(model, cluster, microbatches=MICROBATCHES, schedule="1f1b").to_json()
    stages = plan.record.stages
    works = [uniform(forward + s.send_s / 2, s.time.microbatch_s - forward + s.send_s / 2, batch_s=s.time.batch_s)
             for s in stages for forward in [sum(t.forward_s + t.forward_wait_s for t in s.layer_times)]]
    simulated = run(SCHEDULES[plan.schedule], works, MICROBATCHES)
    assert plan.step_time_s == pytest.approx(simulated.step_time_s, rel=1e-6)
    assert all(s.memory.total_bytes <= cluster.device.usable_bytes for s in stages)
    assert [layer for s in stages for layer in range(*s.layers)] == list(range(len(plan.record.layers)))


def test_no_slice_that_fits_is_faster_than_its_floor():
    """Floors know what some layer works with whatever is chosen; the choices found later need all of their memory."""
    costs = pipeline(LIMITS[0]).builder.costs
    floors, found = costs.floors_s.copy(), 0
    layers = len(costs.prepared.layers)
    for entry in [(0, m, k, j) for m in range(len(costs.spaces)) for k in range(layers) for j in range(k, layers)]:
        sharpen(costs, entry)
        key = costs.key(entry)
        assert floors[key] <= costs.times_s[key] * (1 + 1e-9)
        if np.isfinite(costs.times_s[key]):
            found += 1
            table, (_, _, first, last) = costs.tables[costs.space(entry)], entry
            least = max(table.least_working_bytes[first:last + 1])
            assert 0 < least <= table.useful.of(table.of(first, last)).working_bytes.min()
    assert found
