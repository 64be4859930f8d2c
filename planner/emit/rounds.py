"""A graph over tensors that live on different stages, cut so that every operator runs where its tensors are.

Operators on tensors run on the stage of the first tensor they read. Operators on scalars that mix stages (a global
norm, a step counter) run once, where most of what they need already is, and the scalar is sent. A task is the operators
of one stage and one round; a value that comes from another stage puts its reader in a later round, and what nobody
waits for runs in its stage's last round, so that nothing is kept from round to round that need not be. Two rounds serve
Adam, three clipping by global norm; no optimizer is known by name. Optimizer state that comes from the host part by
part is cut in the same way: a part of a stage is as good as a stage of its own.

In: a graph, and the stage of every input and output. Out: `TaskCode`s in an order that they can run in.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.core.graph import Graph, Op, Role
from planner.emit.cutting import TaskCode, cut
from planner.emit.update_specs import LeafPlace


def rounds(graph: Graph, homes: Mapping[int, int], out_homes: Sequence[int]) -> tuple[TaskCode, ...]:
    """Cut a graph into rounds per stage.

    Args:
      graph: the graph.
      homes: stage of each input (and constant, if it must be anywhere).
      out_homes: stage per output, where it is wanted.
    """
    stage_of = _stages(graph, homes, out_homes)
    level_of = _late(graph, stage_of, _levels(graph, homes, stage_of))
    names = list(zip(level_of, stage_of, strict=True))
    codes = cut(graph, names, {name: name[1] for name in names})
    return tuple(codes[name] for name in sorted(set(names)))


def placed_rounds(graph: Graph, inputs: Sequence[LeafPlace], outputs: Sequence[LeafPlace]) -> tuple[TaskCode, ...]:
    """Cut a graph into rounds per stage and part of it, given the place of every input and output."""
    stages = 1 + max((p.home for p in (*inputs, *outputs)), default=0)
    homes = {i.value: p.home + stages * p.part for i, p in zip(graph.inputs, inputs, strict=True)}
    codes = rounds(graph, homes, [p.home + stages * p.part for p in outputs])
    return tuple(replace(code, stage=code.stage % stages, part=code.stage // stages) for code in codes)


def replaced(graph: Graph, codes: Sequence[TaskCode]) -> list[tuple[tuple[int, int], ...]]:
    """Per task, (old, new) for old parameters and optimizer state that no other of the tasks reads and whose successor
    this one makes: the new one may take the old one's memory."""
    readers = Counter(v for c in codes for v in c.reads)
    returned = Counter(o.operand for o in graph.outputs if isinstance(o.operand, int))
    new = {(o.role, o.path, o.row): o.operand for o in graph.outputs
           if isinstance(o.operand, int) and returned[o.operand] == 1}
    after = {i.value: new[i.role, i.path, i.row] for i in graph.inputs if i.role in (Role.PARAM, Role.OPT_STATE)
             and readers[i.value] == 1 and i.value not in returned and (i.role, i.path, i.row) in new}
    found: list[tuple[tuple[int, int], ...]] = []
    for code in codes:
        makes = frozenset(code.makes)
        found.append(tuple((old, after[old]) for old in code.reads if old in after and after[old] in makes))
    return found


def _stages(graph: Graph, homes: Mapping[int, int], out_homes: Sequence[int]) -> list[int]:
    at: dict[int, int] = dict(homes)
    chosen: list[int | None] = []
    for op in graph.ops:  # operators on tensors go where the first tensor is
        tensor = next((v for v in op.inputs if v in at and graph.values[v].shape), None)
        stage = None if tensor is None else at[tensor]
        chosen.append(stage)
        if stage is not None:
            at.update(dict.fromkeys(op.results, stage))
    wanted = {o.operand: home for o, home in zip(graph.outputs, out_homes, strict=True) if isinstance(o.operand, int)}
    for n in reversed(range(len(graph.ops))):  # makers of tensors from scalars go where the tensor is wanted
        op, stage = graph.ops[n], chosen[n]
        if stage is None and any(graph.values[v].shape or v in wanted for v in op.results):
            stage = chosen[n] = next((wanted[v] for v in op.results if v in wanted), None)
        if stage is not None:
            for v in op.inputs:
                if v not in at and graph.values[v].shape:
                    wanted.setdefault(v, stage)
    for n, op in enumerate(graph.ops):  # scalars go where their operands are
        stage = chosen[n]
        if stage is None:
            stage = chosen[n] = _scalar_stage(op, at)
        at.update(dict.fromkeys(op.results, stage))
    return [0 if stage is None else stage for stage in chosen]


def _scalar_stage(op: Op, at: Mapping[int, int]) -> int:
    known = [at[v] for v in op.inputs if v in at]
    return max(known, key=known.count) if known else 0


def _levels(graph: Graph, homes: Mapping[int, int], stage_of: Sequence[int]) -> list[int]:
    level: dict[int, int] = {}
    at: dict[int, int] = dict(homes)
    found = []
    for op, stage in zip(graph.ops, stage_of, strict=True):
        mine = max((level.get(v, 0) + (v in level and at[v] != stage) for v in op.inputs), default=0)
        found.append(mine)
        level.update(dict.fromkeys(op.results, mine))
        at.update(dict.fromkeys(op.results, stage))
    return found


def _late(graph: Graph, stage_of: Sequence[int], levels: Sequence[int]) -> list[int]:
    """The last round that each operator may run in, without one more for its stage."""
    last: dict[int, int] = {}
    for stage, level in zip(stage_of, levels, strict=True):
        last[stage] = max(level, last.get(stage, 0))
    latest: dict[int, int] = {}  # value -> the last round that it may be made in
    found = [0] * len(graph.ops)
    made_on = {r: stage for op, stage in zip(graph.ops, stage_of, strict=True) for r in op.results}
    for n in reversed(range(len(graph.ops))):
        op, stage = graph.ops[n], stage_of[n]
        found[n] = min((latest[r] for r in op.results if r in latest), default=last[stage])
        for v in op.inputs:
            if v in made_on:
                latest[v] = min(latest.get(v, last[made_on[v]]), found[n] - (made_on[v] != stage))
    return found
