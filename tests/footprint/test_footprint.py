"""Curves of a plan's memory: what each part of a plan does to them."""

from dataclasses import replace
from functools import cache

import pytest

import planner
from planner import models
from planner.core.plan import HOST
from planner.footprint import Emitted, compiled, driver, functions, memory_curves, updates
from planner.footprint.compilers import OTHER, XLA_CPU
from planner.footprint.kernels import fuse
from planner.footprint.kinds import Kind
from planner.footprint.nodes import Nodes
from planner.trace import trace_program

SIZES = {"batch_size": 32, "dtype": "float32", "hidden": 64, "layers": 2, "sequence": 64}


@cache
def model():
    return models.build("gpt-tiny", **SIZES)


@cache
def program(microbatches):
    return trace_program(model(), microbatches)


@cache
def planned(**pins):
    return planner.plan(model(), planner.cluster("cpu-8"), **pins).record


@cache
def curves(**pins):
    record = planned(**pins)
    return memory_curves(record, program(record.microbatches))


def test_the_record_holds_the_peak_of_the_curve():
    pins = {"recipe": "data", "stages": 1, "microbatches": 2}
    (curve,) = curves(**pins)
    assert planned(**pins).stages[0].memory == curve.parts
    assert curve.parts.total_bytes == max(curve.totals) + curve.extra_bytes


def test_recomputed_layers_keep_no_activations():
    kept = curves(recipe="data", stages=2, microbatches=4, mesh_axes=(("data", 4),), boundaries=(2,), recompute=False)
    again = curves(recipe="data", stages=2, microbatches=4, mesh_axes=(("data", 4),), boundaries=(2,), recompute=True)
    assert all(b.parts.activations_bytes < 0.5 * a.parts.activations_bytes for a, b in zip(kept, again, strict=True))


def test_sharded_parameters_and_moments_are_an_eighth():
    data = curves(recipe="data", stages=1, microbatches=4)[0].parts
    fsdp = curves(recipe="fsdp", stages=1, microbatches=4)[0].parts
    assert fsdp.params_bytes == pytest.approx(data.params_bytes / 8, rel=0.05)
    assert fsdp.opt_state_bytes == pytest.approx(data.opt_state_bytes / 8, rel=0.05)


def test_all_microbatches_in_flight_take_more_than_two():
    """GPipe holds 8 microbatches on the first stage of two, 1F1B holds 2."""
    one = curves(recipe="data", stages=2, microbatches=8)[0]
    all_of_them = curves(recipe="data", stages=2, microbatches=8, schedule="gpipe")[0]
    assert 3 < (max(all_of_them.activations) - min(all_of_them.activations)) / \
        (max(one.activations) - min(one.activations)) < 5


def test_more_microbatches_hold_less():
    peaks = [curves(recipe="data", stages=1, microbatches=m)[0].parts.total_bytes for m in (1, 2, 4)]
    assert peaks == sorted(peaks, reverse=True)


def test_what_every_reader_takes_in_is_not_written():
    """x -> exp -> two sums reads exp twice: it is written. Through a cheap node alone it is not."""
    nodes = Nodes()
    x = nodes.given(4, 4)
    (dear,) = nodes.add(Kind.DEAR, [x], [(4, 4)], 0)
    (cheap,) = nodes.add(Kind.CHEAP, [dear], [(4, 4)], 1)
    ends = [nodes.add(Kind.HEAVY, [t], [(4, 4)], n)[0] for n, t in ((2, cheap), (3, dear))]
    kernels = fuse(nodes, ends, OTHER).kernels
    assert [k.writes for k in kernels] == [(dear,), (cheap,), *((e,) for e in ends)]
    nodes = Nodes()
    x = nodes.given(4, 4)
    (dear,) = nodes.add(Kind.DEAR, [x], [(4, 4)], 0)
    (cheap,) = nodes.add(Kind.CHEAP, [dear], [(4, 4)], 1)
    fused = fuse(nodes, [cheap], OTHER)
    assert [(k.reads, k.writes) for k in fused.kernels] == [((x,), (cheap,))]


def test_all_reduces_that_do_not_wait_for_each_other_are_one():
    nodes = Nodes()
    given = [nodes.given(4, 4) for _ in range(3)]
    sums = [nodes.add(Kind.ALL_REDUCE, [t], [(4, 4)], n)[0] for n, t in enumerate(given)]
    later = nodes.add(Kind.ALL_REDUCE, [sums[0]], [(4, 4)], 3)[0]
    fused = fuse(nodes, [*sums, later], XLA_CPU)
    assert [set(k.reads) for k in fused.kernels] == [set(given), {sums[0]}]


@pytest.mark.parametrize("pins", [
    {"schedule": "1f1b", "stages": 4}, {"schedule": "1f1b", "stages": 2}, {"schedule": "zb-h1", "stages": 4},
    {"schedule": "interleaved", "stages": 4, "chunks": 2}, {"schedule": "zb-v", "stages": 4},
    {"schedule": "gpipe", "stages": 2}])
def test_repetitions_that_are_left_out_change_no_peak(monkeypatch, pins):
    """Results of the step, one per microbatch, add up meanwhile."""
    record = planned(microbatches=32, **pins)
    short = memory_curves(record, program(32))
    monkeypatch.setattr(driver, "repetition", lambda *_: None)
    whole = memory_curves(record, program(32))
    assert [c.parts for c in short] == [c.parts for c in whole]
    assert [c.ops[c.peak_at] for c in short] == [c.ops[c.peak_at] for c in whole]
    fewer = len(short[0].ops) < 0.8 * len(whole[0].ops)
    assert fewer == (pins["schedule"] != "gpipe")


def test_functions_that_are_alike_but_for_numbers_of_operators_are_laid_out_once(monkeypatch):
    record = planned(stages=4, microbatches=8, boundaries=(1, 2, 3))
    looked_at, lay_out = [], compiled._function
    monkeypatch.setattr(compiled, "_function", lambda *args: looked_at.append(1) or lay_out(*args))
    together = memory_curves(record, program(8))
    some = len(looked_at)
    monkeypatch.setattr(functions, "function", compiled._function)
    monkeypatch.setattr(updates, "function", compiled._function)
    assert memory_curves(record, program(8)) == together
    assert some < len(looked_at) - some


@pytest.mark.parametrize("pins", [{"stages": 1, "microbatches": 4}, {"stages": 1, "microbatches": 1},
                                  {"stages": 2, "microbatches": 8, "boundaries": (2,)}])
def test_what_lies_in_host_memory_is_told_of_a_program_emitted_before(pins):
    record = planned(recipe="data", **pins)
    emitted = Emitted(record, program(record.microbatches))
    moved = replace(record, params=tuple(replace(p, opt_memory=HOST if n % 2 else p.opt_memory)
                                         for n, p in enumerate(record.params)))
    away = replace(moved, stages=tuple(replace(s, offload=tuple(range(*s.layers))) for s in moved.stages))
    for other in (record, moved, away):
        assert memory_curves(other, emitted.program, emitted) == memory_curves(other, emitted.program)
    assert memory_curves(moved, emitted.program, emitted) != memory_curves(record, emitted.program, emitted)
