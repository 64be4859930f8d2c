"""What searches of one request share changes none of their answers; that nothing can fit is known early, and true."""

import gc
from dataclasses import replace

import pytest

import planner
from planner import models
from planner.api import request_for
from planner.core.mixed import with_scaled_memory
from planner.core.plan_io import to_json
from planner.errors import MemoryLimitError
from planner.garbage import SELDOM, seldom_collected
from planner.ground import microbatch_counts
from planner.known import Known
from planner.mesh_tables import OneByOne
from planner.phases import Phases
from planner.search import search

CPU = replace(planner.cluster("cpu-8"), devices_per_node=4)


class Counted(OneByOne):
    """Makes tables, and remembers for what."""

    def __init__(self):
        self.made = []

    def __call__(self, prepared, spaces, hardware, pins):
        self.made += [(prepared.program.microbatches, space) for space in spaces]
        return super().__call__(prepared, spaces, hardware, pins)


def asked(memory_bytes: int | None = None):
    """A request for a small model, and the meshes that tables were made for."""
    tables = Counted()
    device = CPU.device if memory_bytes is None else replace(CPU.device, memory_bytes=memory_bytes)
    model = models.build("gpt-tiny", batch_size=16, dtype="float32", layers=2)
    request = request_for(model, replace(CPU, device=device), cache=False)
    return replace(request, tables=tables), tables.made


def told(request, scale: float):
    """The request with so many times the memory."""
    return replace(request, told=with_scaled_memory(request.cluster, scale))


def test_searches_with_other_limits_use_the_same_tables_and_find_what_each_alone_finds():
    plain = search(asked()[0]).record
    request, made = asked(int(1.3 * plain.peak_bytes))
    known = Known(request)
    together = {limit: search(told(request, limit), known).record for limit in (1.0, 1.6, 3.0)}
    assert len(made) == len(set(made)), "every table once"
    for limit, found in together.items():
        alone = search(told(request, limit)).record
        assert to_json(found) == to_json(alone)
    assert together[1.0].cluster == together[3.0].cluster == request.cluster
    assert together[3.0].step_time_s <= together[1.0].step_time_s


def test_a_table_that_left_prices_out_is_made_again_for_a_limit_that_needs_them():
    plain = search(asked()[0]).record
    request, _ = asked()
    known = Known(request)
    assert search(request, known).record.peak_bytes == plain.peak_bytes
    tight = told(request, 0.8 * plain.peak_bytes / request.cluster.device.usable_bytes)
    found = search(tight, known).record
    assert found.peak_bytes <= tight.limits.device.usable_bytes < plain.peak_bytes


def test_what_is_too_large_for_all_devices_together_is_known_after_one_number_of_microbatches():
    plain = search(asked()[0]).record
    fixed = sum((s.memory.params_bytes + s.memory.opt_state_bytes) * len(s.devices) for s in plain.stages)
    small = int(0.3 * fixed / CPU.device_count)
    request, made = asked(small)
    with pytest.raises(MemoryLimitError):
        search(request)
    assert {count for count, _ in made} == {16}
    for count in microbatch_counts(16):
        with pytest.raises(MemoryLimitError):
            search(replace(request, pins=replace(request.pins, microbatches=count)))


def test_phases_add_up_where_one_is_inside_another(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 4.0, 10.0, 11.5])
    monkeypatch.setattr("planner.phases.time.perf_counter", lambda: next(now))
    phases = Phases()
    with phases.phase("outer"), phases.phase("inner"):
        pass
    with phases.phase("inner"):
        pass
    assert phases.seconds == {"outer": 2.0, "inner": 3.5}


def test_phases_of_a_plan_take_most_of_its_time_and_no_more():
    import time

    model = models.build("gpt-tiny", batch_size=16, dtype="float32", layers=2)
    began = time.perf_counter()
    phases = planner.plan(model, CPU, cache=False).phases_s
    assert {"trace", "layers", "shardings", "stages", "recipes", "assemble", "memory of programs"} <= set(phases)
    assert sum(phases.values()) <= time.perf_counter() - began


def test_python_looks_for_cycles_as_before_once_it_is_done():
    def fails():
        with seldom_collected():
            with seldom_collected():
                assert gc.get_threshold() == SELDOM
            assert gc.get_threshold() == SELDOM
            raise ZeroDivisionError

    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert gc.get_threshold() == before
