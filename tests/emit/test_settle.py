"""A product that settles in fewer shards than it is made in is constrained as it is made first."""

from dataclasses import replace

import jax
import numpy as np

from planner.core.graph import Phase
from planner.emit.annotated import annotate_program
from planner.emit.settle import with_products_as_made
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
