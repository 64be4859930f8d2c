import pytest

import planner
from planner import models
from planner.core.spec import to_text
from planner.errors import PlanMismatchError, PlannerError, UnknownNameError
from planner.report import breakdown
from planner.report.tables import plain
from planner.whatif.tensor import why
from planner.whatif.words import why_table
from tests.intraop.programs import transformer

V100 = planner.cluster("p3.16xlarge", devices_per_node=4)


@pytest.fixture(scope="module")
def planned():
    model = models.build("gpt-tiny", batch_size=16)
    return model, planner.plan(model, V100, stages=1, microbatches=4)


def test_every_legal_sharding_is_priced_and_the_chosen_one_is_the_best(planned):
    model, plan = planned
    name = "layers/1/mlp/up"
    param = next(p for p in plan.record.params if p.path == name)
    answer = why(plan.record, model, name)
    stage = plan.stages[0]
    assert answer.layers == 4 and answer.stage == 0 and answer.shape == param.shape
    assert answer.ways[0].chosen and answer.ways[0].spec == to_text(param.spec, stage.mesh_axes)
    assert answer.ways[0].step_time_s == plan.step_time_s and answer.ways[0].causes_s == ()
    assert len({w.spec for w in answer.ways}) == len(answer.ways) == 3  # on one axis: rows, columns, whole
    for way in answer.ways[1:]:
        assert way.step_time_s >= plan.step_time_s * (1 - 1e-9)
        added = sum(s for _, s in way.causes_s)
        assert added == pytest.approx(way.step_time_s - plan.step_time_s, abs=3e-6 * plan.step_time_s)


def test_an_alternative_costs_what_a_plan_with_that_pin_does(planned):
    """All layers are alike, so that the pin of all of them is the same question, put to the whole search."""
    model, plan = planned
    answer = why(plan.record, model, "layers/*/mlp/up")
    axes = tuple(zip(plan.stages[0].mesh_axes, plan.stages[0].mesh_shape, strict=True))
    whole = next(w for w in answer.ways if w.spec == "P(None, None)")
    pinned = planner.plan(model, V100, stages=1, microbatches=4, mesh_axes=axes, params=(("layers/*/mlp/up", ()),))
    assert whole.step_time_s == pytest.approx(pinned.step_time_s, rel=1e-6)


def test_the_table_says_what_was_left_open(planned):
    model, plan = planned
    text = plain(why_table(why(plan.record, model, "embedding")), 100)
    assert "chosen" in text and "chosen anew" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_stage_that_is_not_the_slowest_hardly_makes_the_step_longer():
    """Of a pipeline, the tensor's stage alone is priced anew: the plan of that stage pinned whole costs as much."""
    model = models.build("gpt-tiny", batch_size=16)
    plan = planner.plan(model, V100, stages=2, microbatches=8, mesh_axes=(("a", 2),), schedule="1f1b")
    slow = breakdown.bottleneck(plan.record).index
    for param in (next(p for p in plan.record.params if p.home == home and p.path.endswith("mlp/up"))
                  for home in (0, 1)):
        answer = why(plan.record, model, param.path)
        assert answer.stage == param.home and answer.paces == (slow == param.home)
        own = max(abs(sum(s for _, s in w.causes_s)) for w in answer.ways)
        step = max(abs(w.step_time_s - plan.step_time_s) for w in answer.ways if w.step_time_s is not None)
        assert step <= own * (1 + 1e-6) + 1e-6 * plan.step_time_s
        assert answer.ways[0].chosen and len(answer.ways) == 3


def test_unknown_names_and_other_models_are_refused(planned):
    model, plan = planned
    with pytest.raises(UnknownNameError, match="mlp/up"):
        why(plan.record, model, "layers/0/mlp/upp")
    with pytest.raises(PlanMismatchError):
        why(plan.record, models.build("gpt-tiny", batch_size=32), "embedding")


def test_nothing_is_sharded_on_one_device():
    plan = planner.plan(transformer(2), planner.cluster("p3.16xlarge", devices_per_node=1), microbatches=1)
    with pytest.raises(PlannerError, match="one device"):
        why(plan.record, transformer(2), plan.record.params[0].path)
