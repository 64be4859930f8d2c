"""The bubble's plans: whole, equal stages, each task what the closed forms count on. Nothing is compiled."""

from dataclasses import replace

import bubble
import pytest
import waiting

import planner
from planner.core.layout import Placement, placed
from planner.core.plan_check import check_plan_record
from planner.emit.pipeline_code import pipeline_code
from planner.emit.rewritten import rewritten
from planner.emit.task_order import task_order
from planner.schedules import SCHEDULES, Kind, TaskTimes
from planner.trace import trace_program


@pytest.mark.parametrize("name", bubble.NAMES)
def test_a_plan_is_cut_into_equal_stages_on_the_ranks_of_a_schedule(name):
    schedule, ranks, microbatches = SCHEDULES[name], 2, 4
    layout = placed(schedule.placement, ranks, 1 if schedule.placement is Placement.LINE else 2)
    model = waiting.waiting_model(layout.stages, TaskTimes(1e-3, 1e-3, 1e-3), microbatches)
    cluster = replace(planner.cluster("cpu-8"), devices_per_node=1)
    record = bubble.cut(planner.plan(model, cluster, stages=1, microbatches=microbatches).record, name, layout)
    check_plan_record(record)
    assert record.layout == layout
    code = pipeline_code(record, rewritten(record, trace_program(model, microbatches))[0])
    assert len(task_order(record, code)) == layout.stages * microbatches * len(schedule.kinds)
    waits = {key: sum(code.given.graph.ops[n].primitive == "ffi_call" for n in task.ops)
             for key, task in code.tasks.items() if key[0]}
    assert set(waits.values()) == ({1} if schedule.splits_backward else {1, 2})
    assert all(count == (2 if kind is Kind.BACKWARD else 1) for (_, kind), count in waits.items())


def test_ratios_are_to_1f1b_of_the_same_ranks():
    rows = [{"schedule": s, "ranks": 2, "step_s": t, "simulated_s": t} for s, t in (("1f1b", 2.0), ("zb-v", 1.5))]
    assert "step 0.750 of 1F1B's" in bubble.table(rows)
