"""Programs foreseen from two that were traced, against the third traced."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest

import planner
from planner import models
from planner.foreseen import Programs
from planner.prepared import prepare, prepared_like
from planner.scaled import Sizes, same, scaled
from planner.trace import trace_program

BATCH = 64
DEVICE = planner.cluster("p3.16xlarge").device


@pytest.mark.parametrize("name", ["gpt-tiny", "moe-tiny", "wresnet-tiny", "t5-tiny", "lstm-tiny", "mlp-tiny"])
def test_foreseen_programs_are_those_that_are_traced(name: str):
    model = models.build(name, batch_size=BATCH)
    first, second, third = (trace_program(model, count) for count in (32, 16, 4))
    found = scaled(first, second, Sizes(2, 4, 16), 4)
    assert found is not None
    assert same(found, third)
    assert found.micro.values == third.micro.values
    like, made = prepared_like(prepare(first, DEVICE), prepare(second, DEVICE), found, DEVICE), prepare(third, DEVICE)
    for part in ("layers", "models", "crossing_bytes", "results", "micro_flops", "dtype"):
        assert getattr(like, part) == getattr(made, part), part
    for part in ("owner", "role", "by_origin", "readers", "maker", "first_reader", "batch_dims", "differentiable"):
        assert getattr(like.index, part) == getattr(made.index, part), part


def test_a_batch_of_one_is_traced_where_its_program_is_another():
    model = models.build("gpt-tiny", batch_size=BATCH)
    one, two = trace_program(model, BATCH), trace_program(model, BATCH // 2)
    assert len(one.micro.ops) != len(two.micro.ops)
    assert scaled(one, two, Sizes(1, 2, 4), BATCH // 4) is None


def test_extents_that_are_not_affine_are_not_made_up():
    def loss(params: dict[str, jax.Array], batch: jax.Array) -> jax.Array:
        return jnp.mean((batch @ params["w"]) @ jnp.ones((8, len(batch) // 3 + 1)))

    model = planner.Model(loss, {"w": jax.ShapeDtypeStruct((8, 8), "float32")},
                          jax.ShapeDtypeStruct((64, 8), "float32"), optimizer=optax.sgd(0.1))
    four, eight, sixteen = (trace_program(model, count) for count in (16, 8, 4))  # columns: 2, 3, 6
    found = scaled(four, eight, Sizes(4, 8, 16), 4)
    assert found is not None and not same(found, sixteen)
    assert scaled(four, sixteen, Sizes(4, 16, 2), 32) is None  # 2 - 4/6 columns


def test_what_becomes_one_is_traced():
    def loss(params: dict[str, jax.Array], batch: jax.Array) -> jax.Array:
        groups = (batch @ params["w"]).reshape(len(batch) // 2, 2, 8)
        return jnp.mean(groups - jnp.mean(groups, axis=0, keepdims=True))

    model = planner.Model(loss, {"w": jax.ShapeDtypeStruct((8, 8), "float32")},
                          jax.ShapeDtypeStruct((64, 8), "float32"), optimizer=optax.sgd(0.1))
    four, eight, sixteen = (trace_program(model, count) for count in (16, 8, 4))
    found = scaled(four, eight, Sizes(4, 8, 16), 4)
    assert found is not None and same(found, sixteen)
    assert scaled(four, eight, Sizes(4, 8, 2), 32) is None


def test_what_was_foreseen_is_confirmed_by_tracing_or_refused():
    model = models.build("gpt-tiny", batch_size=BATCH)
    counts: list[int] = []

    def trace(count: int, update: object) -> object:
        counts.append(count)
        return trace_program(model, count, update)  # type: ignore[arg-type]

    programs = Programs(trace, BATCH, DEVICE)  # type: ignore[arg-type]
    ready = {count: programs.prepared(programs.program(count)) for count in (32, 16, 8, 4)}
    assert counts == [32, 16]
    confirmed = programs.confirmed(ready[4])
    assert counts == [32, 16, 4]
    assert confirmed is not None and confirmed.program.fingerprint == trace_program(model, 4).fingerprint
    again = programs.confirmed(ready[16])
    assert counts == [32, 16, 4] and again is not None
    assert again.program.fingerprint == trace_program(model, 16).fingerprint
    micro = ready[8].program.micro
    other = replace(ready[8].program, micro=replace(micro, ops=micro.ops[:-1]))
    assert programs.confirmed(replace(ready[8], index=replace(ready[8].index, program=other))) is None


def test_programs_too_large_to_keep_are_foreseen_again():
    model = models.build("gpt-tiny", batch_size=BATCH)
    counts: list[int] = []

    def trace(count: int, update: object) -> object:
        counts.append(count)
        return trace_program(model, count, update)  # type: ignore[arg-type]

    programs = Programs(trace, BATCH, DEVICE, most_operators=1)  # type: ignore[arg-type]
    first = {count: programs.prepared(programs.program(count)) for count in (32, 16, 8, 4, 2)}
    assert list(programs.ready) == [4, 2] and programs.prepared(programs.program(4)) is first[4]
    again = programs.prepared(programs.program(8))
    assert counts == [32, 16] and again is not first[8] and list(programs.ready) == [2, 8]
    assert same(again.program, first[8].program) and (again.layers, again.models) == (first[8].layers, first[8].models)


def test_a_search_that_may_not_foresee_finds_the_same_plan(monkeypatch: pytest.MonkeyPatch):
    model, cluster = models.build("gpt-tiny", batch_size=BATCH), planner.cluster("p3.16xlarge", devices_per_node=2)
    found = planner.plan(model, cluster)
    monkeypatch.setattr(Programs, "_foreseen", lambda *_: None)
    traced = planner.plan(model, cluster)
    assert replace(found.record, phases_s=()) == replace(traced.record, phases_s=())


def test_a_search_whose_foresight_fails_is_repeated_on_traced_programs(monkeypatch: pytest.MonkeyPatch):
    model, cluster = models.build("gpt-tiny", batch_size=BATCH), planner.cluster("p3.16xlarge", devices_per_node=2)
    found = planner.plan(model, cluster)
    monkeypatch.setattr("planner.foreseen.same", lambda *_: False)
    again = planner.plan(model, cluster)
    assert replace(found.record, phases_s=()) == replace(again.record, phases_s=())
