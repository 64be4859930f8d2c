"""The joint search: prices of the reduced graph are those of the whole, the best of all subsets is found, the plan is
never worse, and what it runs computes what the model computes."""

import time
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import planner
from planner import models
from planner.core.alternative import WITHOUT
from planner.core.pins import Pins
from planner.core.rewriting import Rewriting
from planner.emit.match import matching_program
from planner.errors import PinError, PlanMismatchError, RewriteError, UnknownNameError
from planner.joint.best_first import Found, Search, rules_named
from planner.joint.looking import layers_of
from planner.joint.places import places_of
from planner.joint.pricing import Pricing
from planner.joint.reduced import Reduced, reduced
from planner.layers import Layers
from planner.model import Model
from planner.prepared import Work, prepare
from planner.rewrites import RULES
from planner.rewriting.program import rewritten
from planner.trace import trace_program
from tests.joint.products import chained, positions
from tests.mixing.machines import fast_and_slow

QKV = "layers/*/attention/query, layers/*/attention/key, layers/*/attention/value"


@pytest.fixture(scope="module")
def gpt() -> tuple[Model, planner.Plan]:
    model = models.build("gpt-tiny", batch_size=16, layers=6)
    return model, planner.plan(model, planner.cluster("dgx-h100"), stages=1, cache=False)


def searched(model: Model, plan: planner.Plan, rules: tuple[str, ...] = (), seconds: float = 60.0
             ) -> tuple[Search, Found]:
    record = plan.record
    program = trace_program(model, record.microbatches)
    whole, layers = reduced(program, layers_of(record), lambda p: prepare(p, record.cluster.device).layers)
    pricing = Pricing(record.cluster.device, Pins(), places_of(record, Pins()), Work.of(program))
    search = Search(whole, layers, pricing, rules_named(rules, ()), time.perf_counter() + seconds, lambda _: None)
    return search, search.run()


def test_price_of_distinct_layers_is_that_of_the_whole(gpt: tuple[Model, planner.Plan]) -> None:
    model, plan = gpt
    program = trace_program(model, plan.record.microbatches)
    layers = layers_of(plan.record)
    small, own = reduced(program, layers, lambda p: prepare(p, plan.record.cluster.device).layers)
    assert small.expanded(own.classes) == layers.classes
    assert sum(more for _, more in small.repeats) == 3
    assert len(small.program.forward.ops) < 0.7 * len(program.forward.ops)
    pricing = Pricing(plan.record.cluster.device, Pins(), places_of(plan.record, Pins()), Work.of(program))
    whole = Reduced(program, len(layers.classes), ())
    assert pricing.price(small.program, small).seconds == pytest.approx(
        pricing.price(program, whole).seconds, rel=1e-9)
    fused = [Rewriting("fuse_matmuls", QKV)]
    assert pricing.price(rewritten(small.program, fused), small).seconds == pytest.approx(
        pricing.price(rewritten(program, fused), whole).seconds, rel=1e-9)


def test_runs_of_two_layers_are_not_taken_for_those_that_lack_some() -> None:
    small = Reduced(trace_program(chained(), 1), 10, ((5, 0), (8, 2)))
    assert small.expanded((0, 1, 1, 2, 3, 3, 3, 4, 4, 4)) == (0, 1, 1, 2, 3, 3, 3, 4, 4, 4, 4, 4)
    assert small.expanded((0, 1, 2, 3, 3, 3, 4, 4, 4)) == (0, 1, 2, 3, 3, 3, 4, 4, 4, 4, 4), "runs tell"
    assert small.expanded((0, 1, 1, 2, 3, 3, 3, 4, 4)) is None, "which of three runs lacks two?"


def test_a_program_that_falls_into_other_layers_is_not_made_smaller() -> None:
    program = trace_program(models.build("gpt-tiny", batch_size=8), 1)
    layers = prepare(program, planner.cluster("cpu-8").device).layers
    whole, own = reduced(program, layers, lambda _: Layers((0, 5), (0,)))
    assert whole.program is program and own is layers and whole.expanded(layers.classes) == layers.classes


def test_best_first_finds_the_best_of_all_subsets() -> None:
    model = chained()
    plan = planner.plan(model, planner.cluster("dgx-h100"), stages=1, cache=False)
    search, found = searched(model, plan, ("reassociate_right", "reassociate_left"))
    alone = [r for r, _ in found.alone]
    prices: dict[tuple[Rewriting, ...], float] = {}
    for chosen in chain.from_iterable(combinations(alone, k) for k in range(len(alone) + 1)):
        try:
            program = rewritten(search.whole.program, chosen)
        except RewriteError:  # one takes the other's place away
            continue
        prices[chosen] = search.pricing.price(program, search.whole).seconds
    assert len(prices) > 3
    before_s, after_s = found.before.seconds, found.after.seconds
    assert after_s == pytest.approx(min(prices.values()))
    assert after_s < 0.9 * before_s == 0.9 * prices[()]
    assert sum(r.seconds for r in found.rewrites) == pytest.approx(before_s - after_s)


def test_no_time_is_no_rewrites(gpt: tuple[Model, planner.Plan]) -> None:
    _, found = searched(*gpt, seconds=-1.0)
    assert not found.rewrites and not found.complete and found.after == found.before


def test_plan_is_no_worse_and_computes_the_same() -> None:
    model = chained()
    on: dict[str, Any] = {"mesh": jax.devices(), "hardware": planner.cluster("cpu-8"), "cache": False}
    plain = planner.plan(model, **on)
    joint = planner.plan(model, **on, rewrite="joint", allow=("reassociate_right", "fuse_matmuls"))
    assert joint.record.step_time_s < plain.record.step_time_s
    assert [r.rewriting.rule for r in joint.record.rewrites] == ["reassociate_right"]
    beside = {b.name: b.step_time_s for b in joint.record.baselines}
    assert beside[WITHOUT] == pytest.approx(plain.record.step_time_s)
    assert "reassociate_right" in joint.explain() and joint.check(model, steps=2).passed
    again = planner.plan(model, **on, rewrites=[(r.rewriting.rule, r.rewriting.at) for r in joint.record.rewrites])
    assert again.record.step_time_s == joint.record.step_time_s
    assert again.record.fingerprint == joint.record.fingerprint != plain.record.fingerprint


@pytest.mark.parametrize("step", ["look", "planned_with"])
def test_interrupted_the_plan_without_rewrites_is_returned(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"planner.joint.plan.{step}", stopped)
    said: list[str] = []
    found = planner.plan(chained(), planner.cluster("dgx-h100"), stages=1, cache=False, rewrite="joint",
                         allow=("reassociate_right",), progress=said.append)
    assert not found.record.rewrites and any("keeping the plan so far" in line for line in said)
    told = [a.choice for a in found.record.alternatives if a.about == "rewrite"]
    assert bool(told) == (step == "planned_with")


def test_rules_that_assume_something_have_to_be_allowed() -> None:
    by_default, every = rules_named((), ()), rules_named(("*",), ("fuse_matmuls",))
    assert by_default and not any(r.assumes for r in by_default)
    assert {r.name for r in every} == set(RULES) - {"fuse_matmuls"}
    assert [r.name for r in rules_named(("lookup_as_product",), ())] == ["lookup_as_product"]


def test_forbidden_rules_are_not_used() -> None:
    plan = planner.plan(chained(), planner.cluster("dgx-h100"), stages=1, cache=False, rewrite="joint",
                        allow=("reassociate_right",), forbid=("reassociate_right",))
    assert not plan.record.rewrites


@pytest.mark.parametrize(("pins", "error", "says"), [
    ({"rewrite": "always"}, PinError, "joint, first"), ({"allow": ("fuse",)}, UnknownNameError, "fuse_matmuls"),
    ({"rewrites": (("fuse_matmuls", "nowhere"),)}, RewriteError, "applies at"),
    ({"rewrites": (("fuze", "nowhere"),)}, UnknownNameError, "did you mean")])
def test_bad_wishes_are_refused(pins: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        planner.plan(chained(), planner.cluster("dgx-h100"), stages=1, cache=False, **pins)


def test_microbatches_that_rewrites_do_not_apply_to_are_left_out() -> None:
    model = positions()
    pins: dict[str, Any] = {"stages": 1, "cache": False, "rewrites": (("recompute_for_reader", "positions"),)}
    said: list[str] = []
    plan = planner.plan(model, planner.cluster("cpu-8"), progress=said.append, **pins)
    assert plan.record.microbatches < 16 and [r.places for r in plan.record.rewrites] == [1]
    assert any("16 microbatches" in line and "does not apply" in line for line in said)
    with pytest.raises(RewriteError, match="nowhere"):
        planner.plan(model, planner.cluster("cpu-8"), microbatches=16, **pins)


def test_shares_of_microbatches_that_rewrites_do_not_apply_to_are_left_out() -> None:
    pins: dict[str, Any] = {"stages": 1, "cache": False, "rewrites": (("recompute_for_reader", "positions"),)}
    plan = planner.plan(positions(), fast_and_slow(), **pins)
    assert sum(r.microbatches for r in plan.record.replicas) == 4 and [r.places for r in plan.record.rewrites] == [1]
    alone = planner.plan(positions(4), fast_and_slow(), **pins)  # shares as the speeds are would be of one example
    beside = {b.name: b.note for b in alone.record.baselines}
    assert not alone.record.replicas and "does not apply" in beside["batch shares"]


def test_a_plan_refuses_a_model_that_its_rewrites_are_not_for() -> None:
    model = chained()
    plan = planner.plan(model, planner.cluster("dgx-h100"), stages=1, cache=False,
                        rewrites=(("reassociate_right", "out, back"),))
    other = replace(model, fn=lambda params, batch: jnp.mean((batch["x"] @ params["down"]) ** 2))
    with pytest.raises(PlanMismatchError, match="does not apply"):
        matching_program(plan.record, other)
