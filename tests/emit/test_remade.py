"""A pipeline's backward makes cheap values of parameters again, and the update keeps nothing from round to round."""

import jax.numpy as jnp
import optax
import pytest

import planner
from planner import models
from planner.core.graph import Phase, Role
from planner.emit.pipeline_code import pipeline_code
from planner.emit.remade import with_remade
from planner.emit.rewritten import rewritten
from planner.emit.rounds import replaced, rounds
from planner.emit.update_specs import update_places
from planner.model import Model
from planner.trace import trace_program
from tests.intraop.programs import struct


@pytest.fixture(scope="module")
def piped():
    """A GPT in bfloat16 over two stages: its record, and its program as it is run."""
    model = models.build("gpt-tiny", dtype="bfloat16", batch_size=8)
    record = planner.plan(model, planner.cluster("cpu-8"), stages=2, microbatches=2, recipe="data").record
    program = trace_program(model, 2)
    return record, program, rewritten(record, program)[0]


def from_parameters(graph):
    """Values made without the batch, by whatever operators."""
    given = {i.value for role in (Role.PARAM, Role.CONST) for i in graph.inputs_of(role)}
    given |= {v for v, _ in graph.constants}
    made = set()
    for op in graph.ops:
        if op.phase is Phase.FORWARD and all(v in given | made for v in op.inputs):
            made.update(op.results)
    return made


def test_no_cast_or_mask_is_kept_for_the_backward(piped):
    record, _, given = piped
    code = pipeline_code(record, given)
    free = from_parameters(given.graph)
    assert free
    for stage in range(2):
        kept = set(code.tasks[stage, Phase.FORWARD].makes) & set(code.tasks[stage, Phase.BACKWARD].reads)
        assert kept and not kept & free


def test_one_stage_is_left_alone(piped):
    record, program, given = piped
    model = models.build("gpt-tiny", dtype="bfloat16", batch_size=8)
    single = planner.plan(model, planner.cluster("cpu-8"), stages=1, microbatches=2, recipe="data").record
    whole = rewritten(single, program)[0]
    assert with_remade(single, whole) is whole
    assert with_remade(record, given) is not given


def test_adam_runs_once_on_each_stage_and_writes_over_what_it_read(piped):
    """The count, and what the step size becomes by it, is stage 0's; all else of the last stage waits for that."""
    record, program, _ = piped
    graph = program.update
    inputs, outputs = update_places(record, graph)
    homes = {i.value: place.home for i, place in zip(graph.inputs, inputs, strict=True)}
    codes = rounds(graph, homes, [place.home for place in outputs])
    assert sorted(c.stage for c in codes) == [0, 1]
    own = [i for i in graph.inputs if i.role in (Role.PARAM, Role.OPT_STATE) and homes[i.value] == 1
           and graph.values[i.value].shape]
    last = next(pairs for c, pairs in zip(codes, replaced(graph, codes), strict=True) if c.stage == 1)
    assert len(last) == len(own)


def test_what_another_stage_waits_for_is_made_first():
    """Clipping by the global norm: squares on both stages, their sum on one, the update on both."""
    def loss(params, batch):
        x = jnp.tanh(batch["x"] @ params[0])
        return jnp.mean((x @ params[1]) ** 2)

    model = Model(loss, [struct(8, 8), struct(8, 8)], {"x": struct(4, 8)},
                  optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), name="clipped")
    graph = trace_program(model, 1).update
    homes = {i.value: int(i.path.startswith("1")) for i in graph.inputs}
    codes = rounds(graph, homes, [int(o.path.startswith("1")) for o in graph.outputs])
    done: set[int] = {i.value for i in graph.inputs} | {v for v, _ in graph.constants}
    for code in codes:
        assert set(code.reads) <= done
        done.update(code.makes)
    assert [c.stage for c in codes].count(1) == 2  # its squares, and its update
