"""Recomputation repeats a layer's forward behind a barrier, and the compiled program holds less between the two."""

import jax

from planner.core.graph import Phase
from planner.emit.annotated import annotate_program
from planner.emit.pipeline_code import pipeline_code
from planner.emit.recompute import with_recompute
from planner.runtime import compile_plan
from planner.trace import trace_program
from tests.runtime import models
from tests.runtime.plans import Design, record_of


def rewritten(model, design):
    record, program = record_of(model, design), trace_program(model, design.microbatches)
    return program, with_recompute(record, annotate_program(record, program))


def test_forward_operators_appear_again_in_the_backward():
    program, given = rewritten(models.mlp(), Design(recompute=True, layers_per_stage=2))
    given.graph.check()
    ops = given.graph.ops
    tanh = [op.phase for op in ops if op.primitive == "tanh"]
    assert tanh.count(Phase.FORWARD) == 4
    assert tanh.count(Phase.BACKWARD) >= 3
    assert sum(op.primitive == "optimization_barrier" for op in ops) == 2
    assert len(given.stage_of) == len(ops) > len(program.micro.ops)


def test_backward_reads_no_forward_value_made_inside_the_layer():
    """Between forward and backward only what enters the layers is held (the loss's own layer included)."""
    model = models.mlp()
    design = Design(recompute=True, layers_per_stage=2)
    _, given = rewritten(model, design)
    half = record_of(model, design).layers[0].ops[1]
    first = {v for op in given.graph.ops if op.phase is Phase.FORWARD and op.origin < half for v in op.results}
    crossing = {v for op in given.graph.ops if op.phase is Phase.FORWARD and op.origin >= half for v in op.inputs}
    read = {v for op in given.graph.ops if op.phase is Phase.BACKWARD for v in op.inputs}
    assert read & first <= crossing


def test_kept_values_are_not_made_again():
    """Of a layer that keeps its matrix products only what is made of them is repeated, and the products are read as
    they were, behind the barrier."""
    _, given = rewritten(models.mlp(), Design(kept=("dot_general",), layers_per_stage=2))
    given.graph.check()
    ops = given.graph.ops
    repeated = [op.primitive for op in ops[len([op for op in ops if op.phase is Phase.FORWARD]):]
                if op.phase is Phase.BACKWARD]
    assert repeated.count("tanh") >= 3
    dots = {v for op in ops if op.primitive == "dot_general" and op.phase is Phase.FORWARD for v in op.results}
    held = {v for op in ops if op.primitive == "optimization_barrier" for v in op.operands}
    assert dots & held
    whole = rewritten(models.mlp(), Design(recompute=True, layers_per_stage=2))[1].graph.ops
    assert sum(op.primitive == "dot_general" for op in ops) < sum(op.primitive == "dot_general" for op in whole)


def test_nothing_changes_without_it():
    program, given = rewritten(models.mlp(), Design())
    assert len(given.graph.ops) == len(program.micro.ops)


def test_the_compiler_is_given_both_runs_and_the_barriers():
    """XLA on CPU drops barriers (`jax.checkpoint` saves nothing there either), so the lowered program is looked at."""
    design = Design(recompute=True, layers_per_stage=2)
    step, state = compile_plan(record_of(models.mlp(), design), models.mlp(), jax.devices())
    text = step.lower(state, models.mlp().batch).as_text()
    assert text.count("optimization_barrier") == 2
    assert text.count("stablehlo.tanh") >= 7


def test_a_stage_hands_less_to_its_own_backward():
    """Between the functions of a stage nothing is held but what enters its layers: residuals really go."""
    held = []
    for recompute in (False, True):
        design = Design(stages=2, mesh_shape=(4,), microbatches=2, recompute=recompute)
        record, (_, given) = record_of(models.mlp(), design), rewritten(models.mlp(), design)
        code = pipeline_code(record, given)
        made = {v for op in given.graph.ops if op.phase is Phase.FORWARD for v in op.results}
        held.append(len(made.intersection(code.tasks[0, Phase.BACKWARD].reads)))
    assert held[1] == 0 < held[0]


def test_a_stage_hands_what_it_keeps_to_its_own_backward():
    design = Design(stages=2, mesh_shape=(4,), microbatches=2, kept=("dot_general",))
    record, (_, given) = record_of(models.mlp(), design), rewritten(models.mlp(), design)
    reads = set(pipeline_code(record, given).tasks[0, Phase.BACKWARD].reads)
    makers = {v: op.primitive for op in given.graph.ops if op.phase is Phase.FORWARD for v in op.results}
    assert {makers[v] for v in reads & set(makers)} == {"dot_general"}
