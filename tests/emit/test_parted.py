"""A backward in two programs: what both need resharded is resharded once, and handed on."""

from dataclasses import replace
from unittest import mock

import jax

import planner
from planner import models
from planner.core.graph import Phase
from planner.emit import parted
from planner.emit.annotated import annotate_program
from planner.emit.parted import second_part, with_shared_fetches
from planner.emit.rewritten import rewritten
from planner.trace import trace_program


def test_the_first_part_hands_on_what_both_fetch() -> None:
    """Megatron's plan with the sequence sharded: both gradients of a product need its whole cotangent. That programs
    then fetch as much as the plan foresees is checked where TPUs' compiler is (`tests/verify/test_targets.py`)."""
    model = models.build("mlp-tiny", dtype="float32", batch_size=1024, hidden=256, layers=4)
    plan = planner.plan(model, planner.cluster("tpu-v5e"), recipe="megatron", mesh_axes=(("data", 2), ("model", 2)),
                        stages=2, schedule="zb-h1", microbatches=2)
    program = trace_program(model, 2)
    given, _ = rewritten(plan.record, program)
    late, ops = second_part(plan.record, given), given.graph.ops
    copies = {op.results[0]: op.operands[0] for n, op in enumerate(ops)
              if op.primitive == "copy" and op.phase is Phase.BACKWARD and n not in late}
    handed = {v for n in late for v in ops[n].inputs} & set(copies)
    assert handed
    for copy in handed:
        source, stage = copies[copy], next(s for n, s in enumerate(given.stage_of) if copy in ops[n].results)
        assert given.specs[stage][copy] != given.specs[stage].get(source)
        assert any(copy in op.inputs for n, op in enumerate(ops) if n not in late)
    before = annotate_program(plan.record, program)
    assert sum(op.primitive == "dot_general" for op in ops) == \
        sum(op.primitive == "dot_general" for op in before.graph.ops)
    assert plan.check(model, jax.devices()).passed


def test_the_forward_keeps_its_own() -> None:
    """A copy that a forward operator makes would wait for the backward from then on."""
    model = models.build("gpt-tiny", dtype="float32", batch_size=8)
    plan = planner.plan(model, planner.cluster("tpu-v5e"), mesh_axes=(("data", 4),), stages=2, schedule="zb-h1",
                        microbatches=2)
    given = annotate_program(plan.record, trace_program(model, 2))
    ops = given.graph.ops
    readers: dict[int, list[tuple[int, int]]] = {}
    for n, op in enumerate(ops):
        for at, v in enumerate(op.operands):
            if isinstance(v, int):
                readers.setdefault(v, []).append((n, at))

    def of(value: int, phase: Phase) -> list[int]:
        return sorted({n for n, _ in readers[value] if ops[n].phase is phase and given.stage_of[n] == 0})

    value = next(v for op in ops for v in op.results
                 if v in readers and of(v, Phase.FORWARD) and len(of(v, Phase.BACKWARD)) > 1)
    rank = len(given.graph.values[value].shape)
    uses = {**given.uses, **dict.fromkeys(readers[value], ((),) * rank)}
    specs = tuple({**s, value: ((0,), *((),) * (rank - 1))} for s in given.specs)
    late = frozenset(of(value, Phase.BACKWARD)[1:])
    with mock.patch.object(parted, "second_part", return_value=late):
        shared = with_shared_fetches(plan.record, replace(given, uses=uses, specs=specs)).graph
    copies = [op.phase for op in shared.ops if op.primitive == "copy" and value in op.inputs]
    assert copies == [Phase.BACKWARD]
    left = [op.phase for op in shared.ops if value in op.inputs and op.primitive != "copy"]
    assert left == [Phase.FORWARD] * len(of(value, Phase.FORWARD))
