"""Host memory on several types of devices: what does not fit goes to the host of its own type."""

from dataclasses import replace
from typing import Any

import jax
import pytest

import planner
from planner import models
from planner.core.hardware import Cluster, Link
from planner.core.host import HostLink
from planner.core.mixed import mixed
from planner.core.plan import HOST, PlanRecord
from planner.costs.host import update_s
from planner.errors import MemoryLimitError, PinError
from tests.mixing.machines import cpus

FAST, SLOW = HostLink(2e9, 2e9, 1.5e9, 1e-5, 10**10), HostLink(2e8, 2e8, 1e8, 1e-5, 10**10)
TWO: dict[str, Any] = {"stages": 2, "mesh_axes": (("data", 4),), "microbatches": 4, "recipe": "data",
                       "recompute": "none", "schedule": "1f1b"}


def on(fast: HostLink | None = FAST, slow: HostLink | None = SLOW, memory: tuple[float, float] = (4e9, 4e9)) -> Cluster:
    return mixed([replace(cpus("fast", 4, flops=3e9, memory=memory[0]), host=fast),
                  replace(cpus("slow", 4, flops=2e9, memory=memory[1]), host=slow)], Link(1e9, 2e-5))


@pytest.fixture(scope="module")
def model() -> planner.Model:
    built = models.build("gpt-tiny", dtype="float32", batch_size=16, layers=2)
    return replace(built, params=models.init(built))


@pytest.fixture(scope="module")
def plain(model: planner.Model) -> PlanRecord:
    found = planner.plan(model, on(), offload="none", **TWO).record
    assert {found.cluster.part_of(s.devices[0]) for s in found.stages} == {0, 1}
    return found


def tight(plain: PlanRecord) -> tuple[float, float]:
    """Memory with which neither stage fits, if its optimizer state is on the device."""
    need = {plain.cluster.part_of(s.devices[0]): s.memory for s in plain.stages}
    each = [(need[n].total_bytes - 0.6 * need[n].opt_state_bytes) / 0.92 for n in (0, 1)]
    return each[0], each[1]


def test_each_stage_has_the_host_of_its_type(model: planner.Model, plain: PlanRecord) -> None:
    short = tight(plain)
    with pytest.raises(MemoryLimitError):
        planner.plan(model, on(memory=short), offload="none", **TWO)
    plan = planner.plan(model, on(memory=short), **TWO)
    record = plan.record
    assert {p.home for p in record.params if p.opt_memory == HOST} == {0, 1}
    for stage in record.stages:
        kind, host = record.cluster.kind_of(stage.devices[0]), (FAST, SLOW)[record.cluster.part_of(stage.devices[0])]
        assert stage.memory.total_bytes <= kind.device.usable_bytes and stage.memory.host_bytes > 0
        assert stage.time.host_batch_s >= update_s(stage.memory.host_bytes, 0.0, host)
    assert record.step_time_s > plain.step_time_s and record.lower_bound_s <= record.step_time_s
    assert plan.check(model, jax.devices()[:8], steps=2).passed


def test_types_without_a_way_to_a_host_keep_all(model: planner.Model, plain: PlanRecord) -> None:
    roomy, short = 4e9, tight(plain)
    record = planner.plan(model, on(slow=None, memory=(short[0], roomy)), **TWO).record
    for stage in record.stages:
        fast = record.cluster.part_of(stage.devices[0]) == 0
        assert (stage.memory.host_bytes > 0) == (stage.time.host_batch_s > 0)
        assert fast or stage.memory.host_bytes == 0
    with pytest.raises(MemoryLimitError):
        planner.plan(model, on(fast=None, slow=None, memory=short), **TWO)


def test_all_of_it_needs_a_way_from_every_type(model: planner.Model) -> None:
    record = planner.plan(model, on(), offload="optimizer", **TWO).record
    assert {p.opt_memory for p in record.params} == {HOST}
    with pytest.raises(PinError, match="'slow' says nothing of the way to host memory"):
        planner.plan(model, on(slow=None), offload="optimizer", **TWO)
