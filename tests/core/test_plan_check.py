"""Plan files whose types are right and whose content is not: each contradiction is refused and its place named."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core import plan_io
from planner.core.rewriting import AppliedRewrite, Rewriting
from planner.errors import PlanFileError, PlannerError
from planner.report import tables
from planner.report.explain import explain
from planner.simulate import simulate
from tests.report.records import eight_devices, two_devices

GOOD = json.loads(plan_io.to_json(eight_devices()))


def with_checksum(document: dict) -> str:
    """The file as if its writer had meant it."""
    return json.dumps(document | {"checksum": plan_io._checksum(document["plan"])})


def changed(place: str, value) -> str:
    """A file in which one place of the plan holds something else."""
    document = copy.deepcopy(GOOD)
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    at = document["plan"]
    for key in way:
        at = at[key]
    at[last] = value
    return with_checksum(document)


NONSENSE = [
    ("stages.1.devices", [4, 5, 6, 8], r"plan\.stages\[1\]\.devices holds device 8, the plan has 8 \(0 to 7\)"),
    ("stages.1.devices", [3, 5, 6, 7], r"plan\.stages\[1\]\.devices holds device 3, which stage 0 holds"),
    ("stages.1.devices", [3, 2, 1, 0], r"holds device 3, which stage 0 holds, and not all the same devices"),
    ("stages.1.devices", [4, 4, 5, 6], r"plan\.stages\[1\]\.devices holds a device twice"),
    ("stages.0.devices", [0, 1, 2], r"plan\.stages\[0\]\.mesh_shape \[2, 2\] is a mesh of 4 devices, .* has 3"),
    ("stages.0.mesh_shape", [2, 4], r"plan\.stages\[0\]\.mesh_shape"),
    ("stages.0.mesh_axes", ["data"], r"plan\.stages\[0\]\.mesh_axes names 1 axes of a mesh of 2"),
    ("stages.0.mesh_axes", ["data", "data"], r"plan\.stages\[0\]\.mesh_axes names an axis twice"),
    ("stages.0.layers", [1, 6], r"plan\.stages\[0\]\.layers does not start at 0"),
    ("stages.1.layers", [7, 12], r"plan\.stages\[1\]\.layers starts at 7, where the one before ends at 6"),
    ("stages.1.layers", [6, 11], r"plan\.stages\[1\]\.layers ends at 11, there are 12 in plan\.layers"),
    ("stages.1.ops", [60, 110], r"plan\.stages\[1\]\.ops ends at 110, there are 120"),
    ("stages.1.index", 0, r"plan\.stages\[1\]\.index is 0 in place 1"),
    ("stages.0.specs.0.1", [[2], []], r"plan\.stages\[0\]\.specs\[0\] names mesh axis 2, the stage's mesh has 2"),
    ("stages.0.specs.0.1", [[0], [0]], r"plan\.stages\[0\]\.specs\[0\] uses a mesh axis twice"),
    ("stages.0.uses.0.2", [[0, 0], []], r"plan\.stages\[0\]\.uses\[0\] uses a mesh axis twice"),
    ("stages.0.collectives.0.axes", [5], r"plan\.stages\[0\]\.collectives\[0\]\.axes names mesh axis 5"),
    ("stages.0.collectives.0.per", "year", r"plan\.stages\[0\]\.collectives\[0\]\.per is 'year'"),
    ("stages.0.recompute", [6], r"plan\.stages\[0\]\.recompute names a layer that is not of the stage"),
    ("stages.0.selected", [[6, [3]]], r"plan\.stages\[0\]\.selected names a layer that is not of the stage"),
    ("stages.0.selected", [[1, [3]], [1, [4]]], r"plan\.stages\[0\]\.selected names a layer twice"),
    ("stages.0.in_flight", 9, r"plan\.stages\[0\]\.in_flight is 9, of 8 microbatches"),
    ("stages.0.waiting", 9, r"plan\.stages\[0\]\.waiting is 9, of 8 microbatches"),
    ("stages.0.time.compute_s", -0.1, r"plan\.stages\[0\]\.time\.compute_s is -0\.1, which is negative"),
    ("stages.0.memory.params_bytes", -1, r"plan\.stages\[0\]\.memory\.params_bytes is -1, which is negative"),
    ("stages.0.memory.params_bytes", 10**400, r"plan\.stages\[0\]\.memory\.params_bytes is above 1e\+30"),
    ("stages.0.time.compute_s", 10**400, r"plan\.stages\[0\]\.time\.compute_s is an integer that no float holds"),
    ("stages", [], r"plan\.layers|plan\.stages is empty"),
    ("microbatches", 7, r"plan\.microbatches is 7, which does not divide the batch of 64"),
    ("microbatches", 0, r"plan\.microbatches is 0"),
    ("device_count", 16, r"plan\.device_count is 16, its cluster has 8 devices"),
    ("cluster.nodes", 0, r"plan\.cluster\.nodes is 0"),
    ("cluster.intra_node.bandwidth_bytes_per_s", 0.0, r"plan\.cluster\.intra_node\.bandwidth_bytes_per_s is 0"),
    ("cluster.device.peak_flops_per_s", [["float32", 1.0]], r"peak_flops_per_s has no rate 'default'"),
    ("kind", "guess", r"plan\.kind is 'guess', not one of train, inference, step"),
    ("lower_bound_s", 1e9, r"plan\.lower_bound_s is 1e\+09, above plan\.step_time_s"),
    ("params.1.home", 2, r"plan\.params\[1\]\.home is stage 2 of 2"),
    ("params.1.spec", [[9], []], r"plan\.params\[1\]\.spec names mesh axis 9"),
    ("params.1.spec", [[0]], r"plan\.params\[1\]\.spec does not divide the shape \[768, 768\]"),
    ("params.1.update_spec", [[1], [1]], r"plan\.params\[1\]\.update_spec uses a mesh axis twice"),
    ("params.1.shape", [767, 767], r"plan\.params\[1\]\.spec does not divide the shape \[767, 767\]"),
    ("ops.5.layer", 3, r"plan\.ops\[5\]\.layer is 3, which does not hold operator 5"),
    ("ops.5.reads", [6], r"plan\.ops\[5\]\.reads names an operator that comes later"),
    ("layers.1.ops", [11, 20], r"plan\.layers\[1\]\.ops starts at 11, where the one before ends at 10"),
]


@pytest.mark.parametrize(("place", "value", "words"), NONSENSE, ids=lambda x: str(x)[:40])
def test_nonsense_is_refused_and_its_place_named(place, value, words):
    with pytest.raises(PlanFileError, match=words) as fault:
        plan_io.from_json(changed(place, value), "p.json")
    assert fault.value.what.startswith("p.json: plan") and "plan again" in fault.value.mend


def test_the_plans_as_they_are_pass():
    for record in (two_devices(), eight_devices()):
        assert plan_io.from_json(plan_io.to_json(record)) == replace(record, phases_s=())


def _places(value, way=()):
    """Every place in a document, containers included."""
    found = [(way, value)] if way else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += _places(part, (*way, key))
    return found


PLACES = _places(GOOD)
NUMBERS = st.one_of(st.integers(-3, 20), st.integers(), st.floats(allow_nan=True), st.just(10**400))
VALUES = st.one_of(NUMBERS, st.none(), st.booleans(), st.text(max_size=3), st.just([]), st.just({}))


@st.composite
def mutations(draw) -> dict:
    """The document with a few places deleted, doubled or changed; mostly numbers, mostly to numbers."""
    document = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        way, old = draw(st.sampled_from(PLACES))
        at = document
        try:
            for key in way[:-1]:
                at = at[key]
            match draw(st.sampled_from(["change", "change", "change", "delete", "swap"])):
                case "delete":
                    del at[way[-1]]
                case "swap" if isinstance(at, list):
                    at.append(at[way[-1]])
                case _:
                    number = isinstance(old, int | float) and not isinstance(old, bool)
                    at[way[-1]] = draw(NUMBERS if number else VALUES)
        except (LookupError, TypeError):  # an earlier mutation took the place away
            continue
    return document


@settings(max_examples=150, deadline=None)
@given(mutations())
def test_a_mutated_file_is_refused_or_the_plan_it_was(document):
    """The checksum of the file stays: nothing but the original passes."""
    try:
        loaded = plan_io.from_json(json.dumps(document))
    except PlannerError:
        return
    assert loaded == replace(eight_devices(), phases_s=())


@settings(max_examples=150, deadline=None)
@given(mutations())
def test_a_mutated_plan_is_refused_or_can_be_read(document):
    """The checksum is made good: what passes can be printed, explained, simulated and saved."""
    if not isinstance(document.get("plan"), dict):
        return
    try:
        loaded = plan_io.from_json(with_checksum(document))
        tables.render(loaded, 100)
        explain(loaded, 100)
        simulate(loaded)
    except PlannerError:
        return
    assert plan_io.from_json(plan_io.to_json(loaded)) == loaded


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_file_is_refused(data):
    text = plan_io.to_json(two_devices()).rstrip()
    at = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(PlanFileError):
        plan_io.from_json(text[:at])


def test_a_rewrite_may_cost_by_itself_what_a_later_one_gains():
    applied = AppliedRewrite(Rewriting("scale_before_product", "mlp.py:3 (mlp)"), "a·(x·w) -> (a·x)·w", 2, -1e-3, True)
    record = replace(eight_devices(), rewrites=(applied,))
    assert plan_io.from_json(plan_io.to_json(record), "plan").rewrites == (applied,)
