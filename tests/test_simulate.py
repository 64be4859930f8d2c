"""The simulated timeline against figures worked out by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner import models
from planner.core.hardware import Overlap
from planner.core.layout import Placement, placed
from planner.core.plan import LayerTime, MemoryParts
from planner.costs.overlap import hidden_s
from planner.errors import PlannerError
from planner.pipelines.stages import pipeline_time_s
from planner.schedules import SCHEDULES, Kind, Task, in_flight, predecessors
from planner.simulate import StageWork, Stream, Work, forward_share, run, simulate, uniform
from tests.report.records import eight_devices


def test_a_slow_stage_sets_the_pace():
    """Forward only: 1 + 3 until the slow stage has done its first, then 3 per further microbatch: 1 + 4 · 3 = 13."""
    assert run(SCHEDULES["forward-only"], [uniform(1, 0), uniform(3, 0)], 4).step_time_s == 13


def test_receiving_keeps_the_receiver_busy():
    """One microbatch, two stages: 1 forward, 0.5 receiving, 1 forward, 2 backward, 0.5 sending back, 2 backward."""
    line = run(SCHEDULES["1f1b"], [uniform(1, 2), uniform(1, 2, receive_s=0.5)], 1)
    assert line.step_time_s == 7
    assert line.busy_s(1) == 4


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_transfers_beside_the_arithmetic_do_not_hide_under_1f1b(stages):
    """Stage 0 waits for a round trip every S microbatches: (1 - 1/S) of the two ways per microbatch."""
    times = [uniform(1, 2, link_s=0.25)] * stages
    more, fewer = (run(SCHEDULES["1f1b"], times, n * stages).step_time_s for n in (20, 10))
    assert (more - fewer) / (10 * stages) == pytest.approx(3 + 0.5 * (1 - 1 / stages))


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "forward-only"])
@given(st.integers(1, 6), st.integers(1, 12), st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0, 1), st.floats(0, 2))
def test_equal_stages_take_what_the_search_says(name, stages, microbatches, forward, backward, send, batch):
    """The search's formula is exact here: sum of the stages + (B - 1) times the slowest + the slowest's batch work."""
    trains = SCHEDULES[name].trains
    time = uniform(forward, backward if trains else 0.0, batch_s=batch, receive_s=send)
    per = forward + (backward + 2 * send if trains else send)
    line = run(SCHEDULES[name], [time] * stages, microbatches)
    assert line.step_time_s == pytest.approx(pipeline_time_s([per] * stages, microbatches) + batch, rel=1e-9)


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "forward-only"])
@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=6), st.integers(1, 12), st.floats(0, 0.5))
def test_uneven_stages_of_one_split_take_no_longer_than_the_search_says(name, stages, microbatches, send):
    """Forward, backward and hand-over in the same ratio everywhere: the formula is a bound, the slowest stage's work
    another. (Where the slowest forward and the slowest backward are of different stages, GPipe takes longer.)"""
    trains = SCHEDULES[name].trains
    times = [uniform(t, 2 * t if trains else 0.0, receive_s=send * t) for t in stages]
    per = [t + (2 + 2 * send if trains else send) * t for t in stages]
    line = run(SCHEDULES[name], times, microbatches)
    assert microbatches * max(per) <= line.step_time_s * (1 + 1e-9)
    assert line.step_time_s <= pipeline_time_s(per, microbatches) * (1 + 1e-9)


def test_the_update_comes_last():
    line = run(SCHEDULES["gpipe"], [uniform(1, 2, batch_s=4)], 2)
    assert line.step_time_s == 10
    assert line.intervals[-1].work is Work.UPDATE


def test_bubble_of_equal_stages():
    """(S - 1) / (B + S - 1) of the time is waiting: 3 / 7 for four stages and four microbatches."""
    assert run(SCHEDULES["1f1b"], [uniform(1, 2)] * 4, 4).bubble == pytest.approx(3 / 7)


def test_a_plan_is_simulated_from_its_own_times():
    record = eight_devices()
    line = simulate(record)
    least = max(record.microbatches * s.time.microbatch_s for s in record.stages)
    assert line.step_time_s > least
    assert line.in_flight == (2, 1)
    for s in record.stages:
        busy = record.microbatches * (s.time.microbatch_s + s.send_s) + s.time.batch_s
        assert line.busy_s(s.index) == pytest.approx(busy)


def test_the_forward_share_is_that_of_the_flops():
    record = eight_devices()
    forward = record.microbatches * sum(layer.flops for layer in record.layers)
    three = replace(record, model_flops=3 * forward)
    assert forward_share(three, three.stages[0]) == pytest.approx(1 / 3)
    again = replace(three.stages[0], recompute=tuple(range(*three.stages[0].layers)))
    assert forward_share(three, again) == pytest.approx(1 / 4)
    half = replace(three.stages[0], recompute=(0, 1, 2))
    assert forward_share(three, half) == pytest.approx(2 / 7)


@pytest.mark.parametrize("model", ["gpt-tiny", "mlp-tiny"])
def test_a_pipeline_of_the_zoo_is_simulated_as_it_was_priced(model):
    """Two stages found by the search, their hand-over included: within 2 % of the predicted step.

    Without overlap: the search charges hand-overs in full."""
    machine = replace(planner.cluster("cpu-8"), overlap=None)
    plan = planner.plan(models.build(model, batch_size=64), machine, stages=2, microbatches=16)
    assert simulate(plan.record).step_time_s == pytest.approx(plan.step_time_s, rel=0.02)


def layer(times: tuple[float, ...]) -> LayerTime:
    return LayerTime(*times)


each_time = st.floats(0.0, 2.0)
layers = st.tuples(st.floats(0.1, 2), each_time, each_time, st.floats(0.1, 2), each_time, each_time, each_time,
                   each_time).map(layer)
overlaps = st.builds(Overlap, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
trained = pytest.mark.parametrize("name", ["1f1b", "gpipe"])


def formula_s(pieces: list[LayerTime], overlap: Overlap, stages: int, microbatches: int) -> float:
    """What the search says of equal stages: layers one by one, hidden as `costs/overlap.py` tells."""
    g, s = overlap.parameter_gather, overlap.gradient_sync
    often = once = 0.0
    for p in pieces:
        ahead = hidden_s(g * p.forward_gather_s, p.forward_s)
        back = hidden_s(g * p.backward_gather_s + s * p.sync_s, p.backward_s)
        often += p.forward_s + p.forward_wait_s + p.forward_gather_s + p.backward_s + p.backward_wait_s \
            + p.backward_gather_s + p.sync_s - ahead - back
        once += p.batch_sync_s - hidden_s(s * p.batch_sync_s, p.backward_s - back)
    return pipeline_time_s([often] * stages, microbatches) + once


def short_of_kernels(p: LayerTime, overlap: Overlap) -> bool:
    g, s = overlap.parameter_gather, overlap.gradient_sync
    return g * p.forward_gather_s > p.forward_s or \
        g * p.backward_gather_s + s * (p.sync_s + p.batch_sync_s) > p.backward_s


@trained
@given(layers, overlaps, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_equal_layers_hide_what_the_search_says(name, piece, overlap, count, stages, microbatches):
    """Exact where kernels are long enough; else what is left over runs into the next task, which may hide it."""
    work, plain = StageWork((piece,) * count), replace(overlap, hand_over=0.0)
    line = run(SCHEDULES[name], [work] * stages, microbatches, plain)
    said = formula_s([piece] * count, plain, stages, microbatches)
    if short_of_kernels(piece, plain):
        assert line.step_time_s <= said * (1 + 1e-9)
    else:
        assert line.step_time_s == pytest.approx(said, rel=1e-9)


@trained
@given(st.lists(st.lists(layers, min_size=1, max_size=3), min_size=1, max_size=4), overlaps, st.integers(1, 6))
def test_overlap_makes_no_step_shorter_than_its_kernels_nor_longer(name, stages, overlap, microbatches):
    works = [StageWork(tuple(pieces), update_s=0.5, receive_s=0.1 * n) for n, pieces in enumerate(stages)]
    line, plain = (run(SCHEDULES[name], works, microbatches, o) for o in (replace(overlap, hand_over=0.0), None))
    kernels = max(microbatches * sum(p.forward_s + p.backward_s for p in w.pieces) + w.update_s for w in works)
    assert kernels * (1 - 1e-9) <= line.step_time_s <= plain.step_time_s * (1 + 1e-9)
    assert plain.overlap <= 1e-9
    assert 0 <= line.overlap <= 1 and 0 <= line.bubble < 1


@trained
@given(st.lists(layers, min_size=1, max_size=3), overlaps, st.integers(1, 4), st.integers(1, 5))
def test_a_stream_does_one_thing_at_a_time_and_sums_need_no_intervals(name, pieces, overlap, stages, microbatches):
    works = [StageWork(tuple(pieces), update_s=0.5, receive_s=0.1, link_s=0.2, first_layer=0)] * stages
    line = run(SCHEDULES[name], works, microbatches, overlap)
    for key in {(i.stage, i.stream) for i in line.intervals if i.stream is not Stream.LINK}:
        mine = sorted((i.start_s, i.end_s) for i in line.intervals if (i.stage, i.stream) == key)
        assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(mine))
    sums = run(SCHEDULES[name], works, microbatches, overlap, intervals=False)
    again = run(SCHEDULES[name], works, microbatches, overlap)
    assert list(again.intervals) == list(line.intervals)
    assert sums.step_time_s == pytest.approx(line.step_time_s) and sums.overlap == pytest.approx(line.overlap)
    with pytest.raises(PlannerError, match="intervals=True"):
        _ = sums.intervals


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "forward-only"])
@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=5), st.integers(1, 8), st.floats(0, 1))
def test_no_task_starts_before_what_it_needs(name, times, microbatches, link):
    works = [uniform(t, 2 * t, link_s=link) for t in times]
    line = run(SCHEDULES[name], works, microbatches)
    at = {(i.stage, i.microbatch, str(i.work)): i for i in line.intervals if i.stream is Stream.COMPUTE}
    for (stage, microbatch, phase), interval in at.items():
        for need in predecessors(Task(stage, microbatch, Kind(phase)), len(works)):
            carried = link if need.stage != stage else 0.0
            before = at[need.stage, need.microbatch, str(need.phase)]
            assert interval.start_s >= before.end_s + carried - 1e-9


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "forward-only"])
@given(st.integers(1, 6), st.integers(1, 9))
def test_memory_peaks_with_the_microbatches_in_flight(name, stages, microbatches):
    """What stays, activations of those in flight, the working set: 100 + n · 10 + 7."""
    held = in_flight(name, placed(Placement.LINE, stages), microbatches)
    works = [replace(uniform(1.0, 2.0, batch_s=1.0), memory=MemoryParts(50, 30, 20, 10 * n, 7), in_flight=n)
             for n in held]
    line = run(SCHEDULES[name], works, microbatches)
    for s, n in enumerate(held):
        curve = line.memory_curve(s)
        assert curve.peak_bytes == 107 + 10 * n
        assert curve.held_bytes[-1] == 100
        assert (np.diff(curve.times_s) > 0).all()


def test_what_is_gathered_ahead_hides_behind_the_layer_before():
    """Two layers of 4 s with gathers of 1 s and 6 s, of which all may hide: the second starts with the first, at 1 s,
    when the first gather is done, and ends at 7 s; the second layer's kernels run from 4 to 8 s."""
    works = [StageWork((LayerTime(4.0, 0.0, 1.0), LayerTime(4.0, 0.0, 6.0)))]
    line = run(SCHEDULES["forward-only"], works, 1, Overlap(parameter_gather=1.0))
    assert line.step_time_s == 8.0
    assert line.overlap == 1.0


def test_transfers_that_hide_are_waited_for_only_at_the_start():
    """Forward only: the link's second passes before stage 1 can start, and beside its work from then on."""
    works = [uniform(2.0, 0.0), uniform(2.0, 0.0, link_s=1.0)]
    line = run(SCHEDULES["forward-only"], works, 10)
    assert line.step_time_s == 2.0 * 11 + 1.0
    assert line.overlap == pytest.approx(0.9 / 1.0, abs=0.11)


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("recipe", ["data", "fsdp", None])
def test_gpt_is_simulated_as_it_was_priced_with_overlap(stages, recipe):
    """Four stages of gpt-tiny are uneven (one holds only the head), and of uneven layers one can hide the gathers that
    are too long for its neighbour: there the search's formula is a bound, and the slowest stage's kernels another."""
    cluster = replace(planner.cluster("dgx-a100"), overlap=Overlap(0.8, 0.7))
    plan = planner.plan(models.build("gpt-tiny", batch_size=64), cluster, stages=stages, microbatches=16, recipe=recipe,
                        schedule="1f1b")
    line = plan.simulate(intervals=False)
    if stages == 1 or (stages == 2 and recipe != "fsdp"):
        assert line.step_time_s == pytest.approx(plan.step_time_s, rel=0.02)
    assert line.step_time_s <= plan.step_time_s * (1 + 1e-9)
    assert line.step_time_s >= max(16 * sum(p.forward_s + p.backward_s for p in s.layer_times) for s in plan.stages)
    for stage, found in zip(plan.stages, line.stages, strict=True):
        assert len(stage.layer_times) == stage.layers[1] - stage.layers[0]
        assert found.memory_curve().peak_bytes == pytest.approx(stage.memory.total_bytes, rel=1e-6)
        assert sum(p.sync_s + p.batch_sync_s for p in stage.layer_times) >= stage.time.hidden_batch_s - 1e-12


def test_overlap_makes_the_plan_faster_and_its_bound_lower():
    model, cluster = models.build("gpt-tiny", batch_size=64), planner.cluster("dgx-a100")
    plain, hiding = (planner.plan(model, replace(cluster, overlap=o), microbatches=1, recipe="fsdp")
                     for o in (None, Overlap(0.8, 0.8)))
    assert hiding.step_time_s < plain.step_time_s
    assert hiding.record.lower_bound_s <= hiding.step_time_s
    assert hiding.stages[0].time.hidden_s > 0 and plain.stages[0].time.hidden_s == 0
    assert hiding.simulate().overlap > 0.05


def test_of_a_backward_in_two_the_next_stage_waits_for_the_first_part_only():
    """One microbatch, two stages: forwards 1 + 1, input gradients 1 + 1, then stage 0's weight gradient of 2, beside
    which stage 1 does its own."""
    works = [uniform(1.0, 3.0, 2.0)] * 2
    assert run(SCHEDULES["zb-h1"], works, 1).step_time_s == 6.0
    assert run(SCHEDULES["1f1b"], works, 1).step_time_s == 8.0


def test_stages_of_one_rank_work_in_turn():
    """Two stages on one rank: three microbatches of 1 + 2 s through both are 18 s of one rank's work."""
    layout = placed(Placement.LOOP, 1, 2)
    line = run(SCHEDULES["interleaved"], [uniform(1.0, 2.0, batch_s=0.5)] * 2, 3, layout=layout)
    assert line.step_time_s == 19.0 and line.bubble == 0
    spans = sorted((i.start_s, i.end_s) for i in line.intervals if i.stream is Stream.COMPUTE)
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(spans))


def test_stages_of_one_rank_add_up_their_memory():
    """Interleaved on 2 ranks: rank 0 holds 5 of 2 · 4 microbatches of its stages at most, rank 1 holds 3."""
    layout = placed(Placement.LOOP, 2, 2)
    held = in_flight("interleaved", layout, 4)
    works = [replace(uniform(1.0, 2.0), memory=MemoryParts(100, 0, 0, 10 * n, 0), in_flight=n) for n in held]
    line = run(SCHEDULES["interleaved"], works, 4, layout=layout)
    assert [line.rank_memory_curve(r).peak_bytes for r in (0, 1)] == [200 + 50, 200 + 30]
    assert [line.memory_curve(s).peak_bytes for s in range(4)] == [100 + 10 * n for n in held]


def test_what_a_weight_gradient_waits_for_is_held_until_it_ends():
    """Last of two stages under ZB-H1: one microbatch in flight (10) beside one that waits (4), or two that wait."""
    work = replace(uniform(1.0, 2.0, 1.0), memory=MemoryParts(100, 0, 0, 14, 0), in_flight=1, waiting=1,
                   waiting_bytes=4)
    line = run(SCHEDULES["zb-h1"], [uniform(1.0, 2.0, 1.0), work], 6)
    assert work.microbatch_bytes == 10
    assert line.memory_curve(1).peak_bytes == 114
    assert line.memory_curve(1).held_bytes[-1] == 100


@given(st.lists(layers, min_size=1, max_size=3), overlaps, st.integers(1, 4), st.floats(0, 1))
def test_a_backward_in_two_takes_as_long_as_one(pieces, overlap, microbatches, share):
    """On a single stage nothing waits: the two parts are the whole, communication that hides included or not."""
    works = [StageWork(tuple(replace(p, weight_s=share * p.backward_s) for p in pieces), update_s=0.5)]
    whole, parts = (run(SCHEDULES[name], works, microbatches, None) for name in ("1f1b", "zb-h1"))
    assert parts.step_time_s == pytest.approx(whole.step_time_s, rel=1e-9)
    assert parts.stages[0].kernels_s == pytest.approx(whole.stages[0].kernels_s, rel=1e-9)
    hiding = run(SCHEDULES["zb-h1"], works, microbatches, overlap)
    assert hiding.step_time_s <= parts.step_time_s * (1 + 1e-9)


def test_a_plan_with_several_stages_per_rank_is_simulated_on_shared_cores():
    """Two stages on the same devices, whose cores others leave when they wait: the layout is the plan's both times."""
    record = eight_devices()
    cluster = replace(record.cluster, device=replace(record.cluster.device, alone=2.0), devices_per_node=4, nodes=1)
    first, second = record.stages
    shared = replace(record, cluster=cluster, device_count=4, schedule="interleaved",
                     stages=(first, replace(second, devices=first.devices)))
    line = simulate(shared)
    assert line.layout.ranks == 1 and line.bubble == pytest.approx(0, abs=1e-9)
