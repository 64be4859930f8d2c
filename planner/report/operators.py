"""A plan as Unity's parallel computation graph (OSDI'22, §3): operators, and between them those that only move tensors.

*Partition* cuts a tensor along a dimension, *combine* puts the parts together again, *replicate* gives every device the
whole, *reduce* adds up partial results. An all-gather combines, an all-to-all combines and partitions, an all-reduce
reduces and replicates, a reduce-scatter reduces and partitions. What Unity does not have keeps its own name: exchanging
halos, and permuting shards. Cuts that cost nothing (a device drops what it does not need) are no communication, and
only shown of stored parameters. In the backward, what moves is a cotangent.

In: a `PlanRecord`. Out: per stage its distinct layers as `Block`s, each communication of the plan in one place, and how
parameters are stored. Operators with one source line are one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from planner.core.plan import GATHER_OF, GRADIENT_OF, HALO_OF, OPERAND, Collective, OpInfo, PlanRecord, StagePlan
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, BROADCAST, PERMUTE, REDUCE_SCATTER

SHOWN_SHARE = 0.02
"""Operators without communication are shown from this share of their layer's arithmetic. [chosen]"""


class Parallel(StrEnum):
    """A parallel operator; see the module."""

    PARTITION = "partition"
    COMBINE = "combine"
    REPLICATE = "replicate"
    REDUCE = "reduce"
    HALO = "exchange halos"
    PERMUTE = "permute"


MADE_OF: Mapping[str, tuple[Parallel, ...]] = MappingProxyType({
    ALL_GATHER: (Parallel.COMBINE,), ALL_REDUCE: (Parallel.REDUCE, Parallel.REPLICATE),
    REDUCE_SCATTER: (Parallel.REDUCE, Parallel.PARTITION), ALL_TO_ALL: (Parallel.COMBINE, Parallel.PARTITION),
    BROADCAST: (Parallel.REPLICATE,), PERMUTE: (Parallel.PERMUTE,)})
"""The parallel operators that a collective is."""


@dataclass(frozen=True)
class ParallelOperator:
    """A communication as parallel operators, in order, and the names of the mesh axes that it runs over."""

    kinds: tuple[Parallel, ...]
    axes: tuple[str, ...]
    of: Collective


@dataclass(frozen=True)
class Operator:
    """An operator of a layer.

    Attributes:
      name: primitive and source.
      times: how many of a layer have that name.
      flops: theirs in one layer, forward, of one microbatch.
      reads: operators of the layer, by place, whose results it reads, directly or through what is not shown.
      before, after: what moves its operands and its results; in the backward, cotangents.
    """

    name: str
    times: int
    flops: int
    reads: tuple[int, ...]
    before: tuple[ParallelOperator, ...]
    after: tuple[ParallelOperator, ...]


@dataclass(frozen=True)
class Block:
    """The equal layers of a stage, shown once. `count` of a communication is of all of them."""

    stage: int
    layers: tuple[int, ...]
    name: str
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class Stored:
    """Parameters that are stored alike along a mesh axis: cut along a dimension, or (None) replicated."""

    axis: str
    dimension: int | None
    parameters: int


@dataclass(frozen=True)
class StageOperators:
    """One stage. `parameters`: gathers of parameters and sums of their gradients; those whose paths differ in numbers
    alone are together."""

    stage: int
    blocks: tuple[Block, ...]
    stored: tuple[Stored, ...]
    parameters: tuple[tuple[str, tuple[ParallelOperator, ...]], ...]


def operators(record: PlanRecord) -> tuple[StageOperators, ...]:
    """Every stage of a plan; see the module."""
    return tuple(_stage(record, stage) for stage in record.stages)


def parallel(move: Collective, stage: StagePlan) -> ParallelOperator:
    """A communication as parallel operators."""
    kinds = (Parallel.HALO,) if move.where.startswith(HALO_OF) else MADE_OF[move.kind]
    return ParallelOperator(kinds, tuple(stage.mesh_axes[a] for a in move.axes), move)


def _stage(record: PlanRecord, stage: StagePlan) -> StageOperators:
    alike: dict[int, list[int]] = {}
    for n in range(*stage.layers):
        alike.setdefault(record.layers[n].layer_class, []).append(n)
    groups = list(alike.values())
    names = [{_name(op) for op in record.ops[slice(*record.layers[g[0]].ops)]} for g in groups]
    placed: list[list[ParallelOperator]] = [[] for _ in groups]
    grouped: dict[str, list[ParallelOperator]] = {}
    for move in stage.collectives:
        if move.where.startswith((GATHER_OF, GRADIENT_OF)):
            grouped.setdefault(re.sub(r"(?<=[/\[])\d+(?=[/\]]|$)", "*", move.where), []).append(parallel(move, stage))
        else:
            placed[_home(move, groups, names)].append(parallel(move, stage))
    blocks = tuple(_block(record, stage, g, p) for g, p in zip(groups, placed, strict=True))
    return StageOperators(stage.index, blocks, _stored(record, stage),
                          tuple((where, tuple(found)) for where, found in grouped.items()))


def _home(move: Collective, groups: Sequence[Sequence[int]], names: Sequence[set[str]]) -> int:
    """The layers whose communication it is: those that have an operator of that name, and are as many as it counts."""
    where = move.where.removeprefix(HALO_OF)
    able = [n for n, known in enumerate(names) if where in known] or list(range(len(groups)))
    return min(able, key=lambda n: (move.count % len(groups[n]), -len(groups[n]), n))


def _block(record: PlanRecord, stage: StagePlan, layers: Sequence[int], moves: Sequence[ParallelOperator]) -> Block:
    info = record.layers[layers[0]]
    first, last = info.ops
    ops = record.ops[first:last]
    named = {m.of.where.removeprefix(HALO_OF) for m in moves}
    whole = sum(op.flops for op in ops)
    by_name: dict[str, list[int]] = {}
    for n, op in enumerate(ops):
        by_name.setdefault(_name(op), []).append(n)
    shown = {name: at for name, at in by_name.items()
             if name in named or (whole and sum(ops[n].flops for n in at) >= SHOWN_SHARE * whole)}
    for name in sorted(named - shown.keys()):  # of an operator that another layer has
        shown[name] = []
    place = {n: k for k, at in enumerate(shown.values()) for n in at}
    found = [Operator(name, len(at), sum(ops[n].flops for n in at), _reads(ops, first, at, place, k),
                      *_sides([m for m in moves if m.of.where.removeprefix(HALO_OF) == name]))
             for k, (name, at) in enumerate(shown.items())]
    return Block(stage.index, tuple(layers), info.name, tuple(found))


def _sides(moves: Sequence[ParallelOperator]) -> tuple[tuple[ParallelOperator, ...], tuple[ParallelOperator, ...]]:
    before = tuple(m for m in moves if m.of.side == OPERAND or (not m.of.side and Parallel.REDUCE not in m.kinds))
    return before, tuple(m for m in moves if m not in before)


def _reads(ops: Sequence[OpInfo], first: int, at: Sequence[int], place: Mapping[int, int], own: int) -> tuple[int, ...]:
    """Places of the shown operators before it whose results reach these, through operators that are not shown."""
    found: set[int] = set()
    seen: set[int] = set()
    stack = [r - first for n in at for r in ops[n].reads]
    while stack:
        n = stack.pop()
        if n < 0 or n in seen:
            continue
        seen.add(n)
        if n in place and place[n] != own:
            found.add(place[n])
        else:
            stack += [r - first for r in ops[n].reads]
    return tuple(sorted(k for k in found if k < own))


def _stored(record: PlanRecord, stage: StagePlan) -> tuple[Stored, ...]:
    found: dict[tuple[str, int | None], int] = {}
    for param in (p for p in record.params if p.home == stage.index):
        for a, axis in enumerate(stage.mesh_axes):
            dimension = next((d for d, axes in enumerate(param.spec) if a in axes), None)
            found[axis, dimension] = found.get((axis, dimension), 0) + 1
    order = sorted(found.items(), key=lambda item: (stage.mesh_axes.index(item[0][0]), item[0][1] is None,
                                                    item[0][1] or 0))
    return tuple(Stored(axis, dimension, count) for (axis, dimension), count in order)


def _name(op: OpInfo) -> str:
    return f"{op.primitive} {op.source}".strip()
