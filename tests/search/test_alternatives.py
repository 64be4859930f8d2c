"""What a plan says of the counts and meshes that it was not made with."""

from dataclasses import replace

import pytest

import planner
from planner.core.plan_io import from_json, to_json
from tests.intraop.programs import transformer

V100 = planner.cluster("p3.16xlarge", devices_per_node=4)


@pytest.fixture(scope="module")
def plan():
    return planner.plan(transformer(4), V100)


def test_other_counts_are_those_that_were_tried_and_none_is_faster(plan):
    found = [a for a in plan.record.alternatives if a.about == "microbatches"]
    assert found and f"{plan.microbatches} microbatches" not in {a.choice for a in found}
    assert len({a.choice for a in found}) == len(found)
    for a in plan.record.alternatives:
        assert a.step_time_s is None or a.step_time_s >= plan.step_time_s * (1 - 1e-9), a
    counts = [int(a.choice.split()[0]) for a in found]
    distance = [max(n / plan.microbatches, plan.microbatches / n) for n in counts]
    assert distance == sorted(distance)


def test_recipes_are_remembered_as_other_numbers_of_stages(plan):
    stages = {int(a.choice.split()[0]): a for a in plan.record.alternatives if a.about == "stages"}
    even = next(b for b in plan.baselines if b.name == "even pipeline")
    assert set(stages) == {1, 2, 4} - {len(plan.stages)}
    assert min(a.step_time_s for count, a in stages.items() if count > 1) <= even.step_time_s


def test_another_mesh_costs_what_a_plan_pinned_to_it_does():
    best = planner.plan(transformer(4), V100, stages=1, microbatches=2)
    meshes = [a for a in best.record.alternatives if a.about == "mesh"]
    assert meshes
    for a in meshes:
        axes = tuple((n, int(s)) for n, s in (part.split("=") for part in a.choice.removeprefix("mesh ").split(", ")))
        pinned = planner.plan(transformer(4), V100, stages=1, microbatches=2, mesh_axes=axes)
        assert a.step_time_s == pytest.approx(pinned.step_time_s, rel=1e-6)


def test_they_are_saved_with_the_plan(plan):
    assert from_json(to_json(plan.record)).alternatives == plan.record.alternatives != ()
    assert "What other counts and meshes would cost" in plan.explain()


def test_where_memory_is_short_it_is_said_how_much_fewer_microbatches_lack():
    """Devices so small that stages are built again for what zero-bubble schedules hold, of fewer stages than the bound
    is of, and that only the smallest microbatches fit."""
    device = replace(V100.device, memory_bytes=2_466_951)
    tight = planner.plan(transformer(4), replace(V100, device=device), recompute="none")
    missing = {int(a.choice.split()[0]): a.missing_bytes for a in tight.record.alternatives if a.step_time_s is None}
    assert tight.microbatches == 16 and set(missing) == {1, 4, 8}
    assert missing[1] > missing[4] > missing[8] > 0
    assert "does not fit, by" in tight.explain()
