"""A product that settles in fewer shards than it is made in is constrained as it is made first; so is a part of an
array that settles in shards along the dimension that it is cut out of."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

import planner
from planner.core.graph import Phase
from planner.emit.annotated import annotate_program
from planner.emit.settle import with_products_as_made
from planner.model import Model
from planner.runtime import compile_plan
from planner.trace import trace_program
from tests.integration.hlo import collectives
from tests.runtime import models
from tests.runtime.harness import assert_close, reference
from tests.runtime.plans import Design, record_of

WHOLE = ((), ())


def gathered_after_the_first_product():
    """The MLP, data parallel but for the result of its first product, which is whole; that value."""
    record, program = record_of(models.mlp(), Design()), trace_program(models.mlp(), 1)
    value = next(op.results[0] for op in program.micro.ops if op.primitive == "dot_general")
    specs = tuple(sorted((dict(record.stages[0].specs) | {value: WHOLE}).items()))
    return replace(record, stages=(replace(record.stages[0], specs=specs),)), program, value


def test_the_product_is_made_in_shards_and_a_copy_settles():
    record, program, value = gathered_after_the_first_product()
    given = with_products_as_made(record, annotate_program(record, program))
    given.graph.check()
    maker = {v: op for op in given.graph.ops for v in op.results}
    copy = maker[value]
    assert (copy.primitive, copy.phase) == ("copy", Phase.FORWARD)
    (made,) = copy.inputs
    assert maker[made].primitive == "dot_general"
    assert given.specs[0][made] == ((0,), ())
    assert given.specs[0][value] == WHOLE
    assert len(given.graph.ops) == len(program.micro.ops) + 1 == len(given.stage_of)


def test_nothing_changes_where_products_stay_as_they_are_made():
    record, program = record_of(models.mlp(), Design()), trace_program(models.mlp(), 1)
    given = with_products_as_made(record, annotate_program(record, program))
    assert len(given.graph.ops) == len(program.micro.ops)


def test_the_compiled_step_gathers_the_product_and_trains_alike():
    record, _, _ = gathered_after_the_first_product()
    _, batches, right = reference(models.mlp, 1)
    step, state = compile_plan(record, models.mlp(), jax.devices())
    program = collectives(step.lower(state, batches[0]).compile().as_text())
    assert [c.bytes for c in program if c.kind == "all-gather"] == [models.BATCH * models.WIDTH * 4]
    for batch, wanted in zip(batches, right, strict=True):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], wanted.loss, rtol=2e-5)
    assert_close(state.params, right[-1].params, 2e-5)


def halves() -> Model:
    """A product that is cut into halves."""
    def loss(params, batch):
        both = batch["x"] @ params["w"]
        return jnp.mean(jnp.tanh(both[:, :64]) * both[:, 64:])

    return Model(loss, {"w": jnp.full((8, 128), 0.1)}, {"x": jax.ShapeDtypeStruct((16, 8), jnp.float32)},
                 optax.sgd(0.1), name="halves")


def test_parts_are_cut_where_the_dimension_is_whole():
    """Of the data-parallel product, each half settles in shards of its columns: an all-to-all each, no halo."""
    model, devices = halves(), jax.devices()[:4]
    record = planner.plan(model, devices, hardware=planner.cluster("cpu-8", devices_per_node=4), recipe="data",
                          stages=1, microbatches=1, mesh_axes=(("a", 4),), cache=False).record
    program = trace_program(model, 1)
    parts = [op.results[0] for op in program.micro.ops if op.primitive == "slice" and op.phase is Phase.FORWARD]
    assert len(parts) == 2
    specs = tuple(sorted((dict(record.stages[0].specs) | dict.fromkeys(parts, ((), (0,)))).items()))
    record = replace(record, stages=(replace(record.stages[0], specs=specs),))
    given = with_products_as_made(record, annotate_program(record, program))
    maker = {v: op for op in given.graph.ops for v in op.results}
    for part in parts:
        (made,) = maker[part].inputs
        assert (maker[part].primitive, maker[made].primitive) == ("copy", "slice")
        assert (given.specs[0][made], given.specs[0][part]) == (((0,), ()), ((), (0,)))
    step, state = compile_plan(record, model, devices, params={"w": jnp.full((8, 128), 0.1)})
    batch = {"x": jnp.arange(128.0).reshape(16, 8) / 128}
    found = {c.kind for c in collectives(step.lower(state, batch).compile().as_text())}
    assert "all-to-all" in found and "collective-permute" not in found
    wanted = model.fn({"w": jnp.full((8, 128), 0.1)}, batch)
    np.testing.assert_allclose(step(state, batch)[1]["loss"], wanted, rtol=1e-5)
