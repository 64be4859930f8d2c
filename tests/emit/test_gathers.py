"""Parameters that are stored sharded are gathered by every layer and phase anew, and the numbers stay."""

from collections import Counter
from dataclasses import replace

import jax
import pytest

from planner.core.graph import Phase, Role
from planner.emit.annotated import annotate_program
from planner.emit.contributions import ways_to_gradients
from planner.emit.gathers import with_gathers_per_layer
from planner.emit.recompute import with_recompute
from planner.emit.rewritten import rewritten as emitted
from planner.runtime import compile_plan
from planner.trace import trace_program
from tests.integration.hlo import collectives
from tests.runtime import models
from tests.runtime.harness import assert_same_training
from tests.runtime.plans import Design, record_of, whole


def sharded(_, shape):
    """The first dimension over all devices; all models here are as wide as there are devices, or twice."""
    return ((0,), *((),) * (len(shape) - 1))


def fsdp(**changed):
    return Design(stored=sharded, used=whole, layers_per_stage=2, **changed)


def matrix_gathers(model, design):
    """Number of gathers of a weight matrix in the loop over microbatches and outside."""
    step, state = compile_plan(record_of(model, design), model, jax.devices())
    size = 4 * models.WIDTH * models.WIDTH
    program = collectives(step.lower(state, model.batch).compile().as_text())
    return Counter("loop" if c.in_loop else "outside" for c in program if (c.kind, c.bytes) == ("all-gather", size))


def rewritten(model, design):
    record, program = record_of(model, design), trace_program(model, design.microbatches)
    return program, with_gathers_per_layer(record, with_recompute(record, annotate_program(record, program)))


def test_every_layer_waits_in_both_phases():
    _, given = rewritten(models.mlp(), fsdp())
    given.graph.check()
    found = [op for op in given.graph.ops if op.primitive == "optimization_barrier"]
    assert [op.phase for op in found] == [Phase.FORWARD] * 2 + [Phase.BACKWARD] * 2
    params = {i.value for i in given.graph.inputs_of(Role.PARAM)}
    for op in found:
        assert params.intersection(op.operands), "no parameter waits"
        assert set(op.operands) - params, "it waits for nothing"
        assert [given.specs[0].get(v) for v in op.operands] == [given.specs[0].get(v) for v in op.results]


def test_nothing_changes_where_nothing_is_gathered():
    for design in (Design(), Design(stored=sharded)):
        program, given = rewritten(models.mlp(), design)
        assert len(given.graph.ops) == len(program.micro.ops)


@pytest.mark.parametrize(("microbatches", "where"), [(1, "outside"), (2, "loop")])
def test_the_compiled_program_gathers_twice(microbatches, where):
    """Four matrices forward; backward, all but the first, whose input needs no gradient."""
    assert matrix_gathers(models.mlp(), fsdp(microbatches=microbatches)) == {where: 4 + 3}


def test_a_layer_that_runs_again_gathers_for_its_backward_too():
    """Four matrices forward and four in the backward: what the second forward has gathered, the backward uses."""
    assert matrix_gathers(models.mlp(), fsdp(recompute=True)) == {"outside": 4 + 4}


def test_tied_weights_are_gathered_where_each_layer_reads_them():
    """The embedding: for the lookup, and for the logits."""
    _, given = rewritten(models.tied(), fsdp())
    embedding = next(i.value for i in given.graph.inputs if i.path == "embed")
    behind = [op.phase for op in given.graph.ops if op.primitive == "optimization_barrier" and embedding in op.operands]
    assert behind == [Phase.FORWARD, Phase.FORWARD]


def mixed():
    """The weights are cast once, at the start: the casts of all gradients belong to the first layer."""
    model = models.mlp()
    return replace(model, fn=lambda params, batch: model.fn(jax.tree.map(lambda w: w.astype("bfloat16"), params),
                                                            batch))


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_wait_for_no_layer(recompute):
    """A barrier on the way of a gradient would have it summed over devices in every microbatch."""
    model, design = mixed(), fsdp(microbatches=2, deferred=True, recompute=recompute)
    record, program = record_of(model, design), trace_program(model, design.microbatches)
    given, warnings = emitted(record, program)
    behind = {v for op in given.graph.ops if op.primitive == "optimization_barrier" for v in op.operands}
    assert not behind & ways_to_gradients(given.graph)
    assert {value for _, value in given.sums} == {p.value for p in record.params} and not warnings


@pytest.mark.parametrize(("stages", "shared"), [(1, True), (2, False)])
def test_forward_and_backward_share_what_both_reshard_alike(stages, shared):
    """An activation that a layer gathers beside its weights, for its product and again for its weight's gradient. The
    backward of a pipeline stage is a program of its own."""
    model, design = models.mlp(), fsdp(stages=stages, mesh_shape=(8 // stages,), microbatches=stages)
    record, program = record_of(model, design), trace_program(model, design.microbatches)
    given = annotate_program(record, program)
    ops, gathered = given.graph.ops, ((), ())
    weights = {i.value for i in given.graph.inputs_of(Role.PARAM)}
    waits = {v for op in with_gathers_per_layer(record, given).graph.ops if op.primitive == "optimization_barrier"
             for v in op.operands} - weights
    products = [op for op in ops if op.primitive == "dot_general" and op.phase is Phase.FORWARD]
    value = next(op.operands[0] for op in products[1:] if op.operands[0] in waits)
    reads = [(n, at) for n, op in enumerate(ops) for at, v in enumerate(op.operands)
             if v == value and op.primitive == "dot_general"]
    assert len(reads) == 2
    new = with_gathers_per_layer(record, replace(given, uses={**given.uses, **dict.fromkeys(reads, gathered)}))
    twins = {r for op in new.graph.ops if op.primitive == "optimization_barrier"
             for v, r in zip(op.operands, op.results, strict=True) if v == value}
    read = [new.graph.ops[n].operands[at] for (n, at), spec in new.uses.items()
            if spec == gathered and new.graph.ops[n].operands[at] in twins | {value}]
    assert len(read) == 2 and (len(set(read)) == 1) == shared


def test_a_barrier_does_not_part_two_that_reshard_alike():
    """A cotangent that is resharded for the gradient of the weights, and then, beside the gathered weights, for that of
    the input: the barrier comes before both."""
    model = models.mlp()
    record, program = record_of(model, fsdp()), trace_program(model, 1)
    given = annotate_program(record, program)
    ops, weights = given.graph.ops, {i.value for i in given.graph.inputs_of(Role.PARAM)}
    late = next(n for n, op in enumerate(ops) if op.phase is Phase.BACKWARD and op.primitive == "dot_general"
                and weights & set(op.inputs))
    value = next(v for v in ops[late].operands if v not in weights)
    reads = [(n, at) for n, op in enumerate(ops) for at, v in enumerate(op.operands)
             if v == value and op.primitive in ("dot_general", "reduce_sum")]
    assert len(reads) == 3
    new = with_gathers_per_layer(record, replace(given, uses={**given.uses, **dict.fromkeys(reads, ((), (0,)))}))
    assert len({new.graph.ops[n].operands[at] for (n, at), spec in new.uses.items() if spec == ((), (0,))}) == 1


@pytest.mark.parametrize("build", [models.tied, models.stateful])
@pytest.mark.parametrize("design", [fsdp(microbatches=2, deferred=True), fsdp(recompute=True),
                                    Design(stages=2, mesh_shape=(4,), microbatches=2, used=whole, layers_per_stage=2,
                                           stored=sharded)])
def test_numbers_stay(build, design):
    assert_same_training(build, design)
