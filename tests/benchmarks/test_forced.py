"""The forced plans: enough of them, distinct, the same every time. Nothing is compiled."""

from dataclasses import replace

import forced
import pytest

import planner
from planner.core.spec import replicated


def plans_of(name):
    return list(forced.forced_plans(name, forced.model_of(name), planner.cluster("cpu-8")))


@pytest.mark.slow
@pytest.mark.parametrize("name", forced.CASES)
def test_every_model_has_twenty_distinct_plans(name):
    found = plans_of(name)
    assert len(found) >= 20
    assert len({f.fingerprint for f in found}) == len(found)
    assert all(f.plan.record.device_count == 8 for f in found)
    assert {len(f.plan.stages) for f in found} == {1, 2, 4}


def test_all_models_are_planned_under_the_same_names():
    assert len(forced.CASES) == 5
    assert {tuple(forced.table_of(name)) for name in forced.CASES} == {(*forced.TABLE, "pinned parameter")}


def test_the_fingerprint_tells_programs_apart_and_nothing_else():
    model = forced.model_of("gpt-tiny")
    record = planner.plan(model, planner.cluster("cpu-8"), **forced.TABLE["data m1"]).record
    same = planner.plan(model, planner.cluster("cpu-8"), **forced.TABLE["data m1"]).record
    known = forced.emitted(record)
    assert forced.emitted(same) == known
    assert forced.emitted(replace(record, step_time_s=1.0, model_name="other", pins=())) == known
    param = record.params[0]
    other = replace(param, update_spec=((0,), *replicated(len(param.shape) - 1)))
    assert other != param
    assert forced.emitted(replace(record, params=(other, *record.params[1:]))) != known
    assert forced.emitted(replace(record, microbatches=2)) != known
