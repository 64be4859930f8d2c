"""Which schedule is chosen: by simulated time, within memory, with a bound that holds; and what pins say."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

import planner
from planner.candidates import allowed, best_pipeline, line_schedules
from planner.core.layout import Placement, placed
from planner.core.pins import Pins
from planner.errors import PinError, UnknownNameError
from planner.mesh_tables import mesh_table
from planner.pipelines.pipeline import Chosen, Stages, under
from planner.pipelines.price import Pipeline, price
from planner.pipelines.shapes import virtual_pipelines
from planner.pipelines.virtual_bound import floor_s
from planner.pipelines.virtual_stages import Ground, Shape, draft, offer, virtual_stages
from planner.prepared import prepare
from planner.request import Request, check_pins
from planner.schedules import SCHEDULES, TaskTimes, moments
from planner.slice_costs import slice_costs
from planner.spaces import mesh_spaces
from tests.intraop.programs import program, transformer

V100 = planner.cluster("p3.16xlarge")
FOUR = replace(V100, devices_per_node=4)
SEVERAL = [n for n in SCHEDULES if SCHEDULES[n].chunks[0] > 1]


def ground(microbatches, layers=6, memory_bytes=None, **pinned):
    """Slice tables of a small transformer on four V100s, and the spaces they are of."""
    cluster = FOUR if memory_bytes is None else replace(FOUR, device=replace(FOUR.device, memory_bytes=memory_bytes))
    pins = Pins(**pinned)
    prepared = prepare(program(transformer(layers), microbatches))
    spaces = mesh_spaces(cluster, pins)
    tables = {space: mesh_table(prepared, space, cluster, pins) for s in spaces for space in s.meshes}
    return prepared, cluster, spaces, tables, pins


def on(parts, devices):
    """Ground for virtual stages, on submeshes of so many devices."""
    prepared, cluster, spaces, tables, pins = parts
    space = next(s for s in spaces if s.submesh.device_count == devices)
    return Ground(prepared, cluster, space, tables, allowed(prepared, pins))


def test_few_microbatches_are_for_schedules_with_less_bubble():
    prepared, cluster, spaces, tables, pins = ground(4, stages=4)
    found = best_pipeline(prepared, cluster, spaces, tables, pins, line_schedules("train", pins, cluster.device))
    times = {c.schedule: c for c in found.candidates}
    assert found.candidate is times["zb-h1"]
    assert times["zb-h1"].step_time_s < times["1f1b"].step_time_s
    assert times["zb-h1"].bubble < times["1f1b"].bubble
    assert found.lower_bound_s <= times["zb-h1"].step_time_s


def test_where_memory_is_tight_1f1b_fits_and_gpipe_does_not():
    prepared, cluster, spaces, tables, pins = ground(16, stages=4)
    found = best_pipeline(prepared, cluster, spaces, tables, pins, ("1f1b",))
    assert found.choice is not None
    chosen = tuple(Chosen(found.builder.costs.space(e), found.builder.costs.choice(e), 0.0, 0.0, "")
                   for e in found.builder.entries(found.choice))
    stages = Stages(chosen, placed(Placement.LINE, 4))
    one, all_at_once = (under(prepared, cluster, stages, name) for name in ("1f1b", "gpipe"))
    between = int((one.peak_bytes + all_at_once.peak_bytes) / 2 / (1 - cluster.device.memory_margin))
    tight = replace(cluster, device=replace(cluster.device, memory_bytes=between))
    assert under(prepared, tight, stages, "1f1b").fits
    assert not under(prepared, tight, stages, "gpipe").fits
    assert one.step_time_s <= all_at_once.step_time_s * (1 + 1e-9)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_stages_per_rank_cover_the_layers_and_fit_with_a_bound_below(name):
    parts = ground(4, memory_bytes=9_000_000)
    where, shape = on(parts, 2), Shape(name, 2, 2)
    drafted = draft(offer(where, shape))
    assert drafted is not None
    found = virtual_stages(drafted)
    assert found is not None
    assert found.schedule == name and found.fits and found.peak_bytes <= where.hardware.device.usable_bytes
    layers = [step.layer for s in found.stages for step in s.choice.steps]
    assert layers == list(range(len(where.prepared.layers)))
    assert [s.devices for s in found.stages] == [((0, 1), (2, 3))[r] for r in shape.layout.rank_of]
    assert floor_s(where, shape) <= found.step_time_s
    most = moments(name, shape.layout, 4)
    assert all((s.in_flight, s.waiting) in {(m.in_flight[k], m.waiting[k]) for m in most[r] for k in (0, 1)}
               for s, r in zip(found.stages, shape.layout.rank_of, strict=True))


@pytest.mark.parametrize("name", SEVERAL)
def test_moving_cuts_comes_near_the_best_of_all_cuts_and_the_bound_is_below_it(name):
    """Every cut of the layers into four stages on two ranks, priced by running the schedule."""
    where, shape = on(ground(4), 2), Shape(name, 2, 2)
    offered = offer(where, shape)
    drafted = draft(offered)
    assert drafted is not None
    found = virtual_stages(drafted)
    assert found is not None
    count, splits, best = len(where.prepared.layers), SCHEDULES[name].splits_backward, np.inf
    for cuts in combinations(range(1, count), 3):
        ends = [0, *cuts, count]
        entries = [(offered.costs[-1].flights.index(offered.most[s]), 0, ends[s], ends[s + 1] - 1) for s in range(4)]
        times, once = [], []
        for entry in entries:
            choice, send = offered.costs[-1].choice(entry), offered.costs[-1].hand_over_s(entry)
            weight = where.prepared.weights.of(choice).seconds if splits else 0.0
            times.append(TaskTimes(choice.parts[0] + send / 2, choice.parts[1] - weight + send / 2, weight))
            once.append(choice.batch_s)
        best = min(best, price(Pipeline(name, shape.layout, tuple(times), tuple(once), 4)).step_time_s)
    assert floor_s(where, shape) <= found.step_time_s <= 1.1 * best


def test_shapes_that_cannot_win_are_left_out():
    prepared, cluster, spaces, tables, pins = ground(4)
    costs = slice_costs(prepared, cluster, spaces, tables, (1,))
    built = virtual_pipelines(costs, pins, allowed(prepared, pins), to_beat_s=1e-9)
    assert built.candidates == () and built.lower_bound_s == np.inf
    assert built.left_out > 0 and built.estimates


def test_where_devices_share_cores_other_schedules_are_for_those_who_ask():
    shared = planner.cluster("cpu-8").device
    assert line_schedules("train", Pins(), shared) == ("1f1b",)
    assert line_schedules("train", Pins(schedule="zb-h1"), shared) == ("zb-h1",)
    assert line_schedules("train", Pins(), V100.device) == ("1f1b", "zb-h1")
    assert line_schedules("train", Pins(schedule="zb-v"), V100.device) == ()
    assert line_schedules("train", Pins(chunks=2), V100.device) == ()
    assert line_schedules("inference", Pins(), V100.device) == ("forward-only",)


def test_a_weight_part_is_part_of_the_backward():
    parts = ground(4)
    where = on(parts, 2)
    costs = offer(where, Shape("interleaved", 2, 2)).costs[-1]
    for first, last in ((0, 0), (1, 3), (0, 5)):
        choice = costs.choice((0, 0, first, last))
        part = where.prepared.weights.of(choice)
        assert 0 < part.seconds <= choice.parts[1]
    middle = where.prepared.weights.of(costs.choice((0, 0, 2, 2)))
    assert middle.seconds < 0.6 * costs.choice((0, 0, 2, 2)).parts[1]
    assert middle.read_bytes > 0


def refused(cluster=V100, kind="train", **pinned):
    check_pins(Request(lambda *_: None, "m", kind, 16, cluster, Pins(**pinned), "0"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("pinned", "says"), [
    ({"schedule": "1f1b", "chunks": 2}, "2 stages per rank under schedule '1f1b'"),
    ({"schedule": "interleaved", "chunks": 1}, "2 or more"),
    ({"chunks": 0}, "0 stages per rank"),
    ({"schedule": "interleaved", "stages": 3}, "3 stages under schedule 'interleaved'"),
    ({"schedule": "interleaved", "stages": 8, "microbatches": 1}, "rounds of all ranks"),
    ({"schedule": "interleaved", "stages": 8, "chunks": 3}, "8 stages under schedule 'interleaved'"),
    ({"schedule": "forward-only"}, "does not serve train"),
    ({"stages": 16}, "each stage needs a device"),
])
def test_schedules_that_cannot_be_are_refused(pinned, says):
    with pytest.raises(PinError) as caught:
        refused(**pinned)
    assert says in str(caught.value)
    assert caught.value.mend


def test_other_refusals_and_what_is_let_through():
    with pytest.raises(PinError, match="does not serve inference"):
        refused(kind="inference", schedule="zb-h1")
    with pytest.raises(PinError, match="1 device"):
        refused(cluster=replace(V100, devices_per_node=1), schedule="interleaved")
    with pytest.raises(UnknownNameError, match="zb-h1"):
        refused(schedule="zb-h")
    refused(schedule="interleaved", stages=16, chunks=2, microbatches=8)
    refused(chunks=2)


def slicings(count, sizes, devices):
    """Every slicing of layers on submeshes that use all devices: (first, last, submesh) per stage."""
    def assign(n, left):
        if n == 0:
            return [()] if left == 0 else []
        return [(m, *rest) for m, size in enumerate(sizes) if size <= left for rest in assign(n - 1, left - size)]

    for n in range(1, min(count, devices) + 1):
        for cuts in combinations(range(1, count), n - 1):
            ends = [0, *cuts, count]
            for meshes in assign(n, devices):
                yield [(ends[s], ends[s + 1] - 1, m) for s, m in enumerate(meshes)]


@pytest.mark.parametrize("microbatches", [2, 8])
def test_the_bound_is_below_every_pipeline_under_every_schedule_and_the_plan_near_the_best(microbatches):
    prepared, cluster, spaces, tables, pins = ground(microbatches, layers=3)
    found = best_pipeline(prepared, cluster, spaces, tables, pins, line_schedules("train", pins, cluster.device))
    assert found.candidate is not None
    builder, best = found.builder, np.inf
    sizes = [s.submesh.device_count for s in builder.costs.spaces]
    for stages in slicings(len(prepared.layers), sizes, cluster.device_count):
        entries = [(len(builder.costs.flights) - 1, m, first, last) for first, last, m in stages]
        for name in builder.schedules if len(stages) > 1 else ("1f1b",):
            times = []
            for e in entries:
                choice, send = builder.costs.choice(e), builder.costs.hand_over_s(e)
                weight = prepared.weights.of(choice).seconds if name == "zb-h1" else 0.0
                times.append(TaskTimes(choice.parts[0] + send / 2, choice.parts[1] - weight + send / 2, weight))
            once = tuple(builder.costs.choice(e).batch_s for e in entries)
            p = Pipeline(name, placed(Placement.LINE, len(stages)), tuple(times), once, microbatches)
            best = min(best, price(p).step_time_s)
    assert found.lower_bound_s <= best
    assert best <= found.candidate.step_time_s * (1 + 1e-9)
    assert found.candidate.step_time_s <= 1.05 * best
