"""Plans with several stages per rank and with split backwards, before the compiler: memory and collectives as foreseen.

The stages are those of a 1F1B plan, moved to the ranks of another schedule, so that nothing depends on the search."""

from dataclasses import replace
from functools import cache

import jax
import pytest

import planner
from planner import models
from planner.core.layout import placed
from planner.core.plan import PlanRecord
from planner.core.plan_io import from_json
from planner.fitting import with_memory
from planner.schedules import SCHEDULES, in_flight, waiting
from planner.search import Found
from planner.trace import trace_program
from planner.verify import VerifyReport, verify_plan

STAGES, MICROBATCHES, EACH = 4, 8, 2


@cache
def mlp() -> planner.Model:
    return models.build("mlp-tiny", batch_size=128, dtype="float32")


@cache
def verified(schedule: str, chunks: int) -> tuple[PlanRecord, VerifyReport]:
    plan = planner.plan(mlp(), planner.cluster("cpu-8"), stages=STAGES, microbatches=MICROBATCHES, schedule="1f1b",
                        recompute=False)
    layout = placed(SCHEDULES[schedule].placement, STAGES // chunks, chunks)
    held, late = (of(schedule, layout, MICROBATCHES) for of in (in_flight, waiting))
    stages = tuple(replace(s, in_flight=held[s.index], waiting=late[s.index],
                           devices=tuple(EACH * layout.rank_of[s.index] + d for d in range(EACH))) for s in plan.stages)
    record = replace(plan.record, schedule=schedule, stages=stages, device_count=EACH * layout.ranks,
                     cluster=replace(plan.record.cluster, devices_per_node=EACH * layout.ranks))
    record = with_memory(Found(record, trace_program(mlp(), MICROBATCHES)))
    return record, verify_plan(record, mlp(), devices=jax.devices()[:record.device_count])


@pytest.mark.parametrize(("schedule", "chunks"), [("1f1b", 1), ("interleaved", 2), ("zb-h1", 1), ("zb-v", 2)])
def test_memory_and_collectives_are_as_foreseen(schedule, chunks):
    record, report = verified(schedule, chunks)
    assert report.passed
    for stage in report.stages:
        assert stage.predicted_bytes == pytest.approx(stage.compiled_bytes, rel=0.10)
        assert stage.predicted_bytes == record.rank_bytes[record.layout.rank_of[stage.index]]


def test_several_stages_add_up_on_their_devices():
    """All parameters on half the devices: each holds two stages' parameters and optimizer state."""
    one, two = verified("1f1b", 1)[0], verified("interleaved", 2)[0]
    fixed = [sum(s.memory.params_bytes + s.memory.opt_state_bytes for s in r.stages) for r in (one, two)]
    assert fixed[0] == fixed[1]
    assert len(two.rank_bytes) == 2 and two.peak_bytes > 1.5 * one.peak_bytes


def test_a_rank_may_hold_nothing_of_one_stage_at_its_peak():
    plan = planner.plan(mlp(), planner.cluster("cpu-8"), stages=4, schedule="zb-v", recipe="data")
    assert 0 in [s.in_flight + s.waiting for s in plan.record.stages]
    assert from_json(plan.to_json()).stages == plan.record.stages
