"""The parallel computation graph of a plan in words: a line an operator, with what moves its operands and results.

In: a `PlanRecord`. Out: lines for `explain`, or what `json.dumps` takes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.operators import Operator, Parallel, ParallelOperator, StageOperators, operators


def lines(record: PlanRecord) -> list[str]:
    """All stages; none that has one device alone."""
    return [line for stage in operators(record) if record.stages[stage.stage].mesh_shape for line in _stage(stage)]


def as_data(record: PlanRecord) -> list[dict[str, Any]]:
    """The same as data: bytes and seconds are of all equal layers, per microbatch or batch."""
    return [asdict(stage) for stage in operators(record)]


def kinds_text(move: ParallelOperator) -> str:
    """What it does: `"reduce, partition dimension 1"`."""
    of = move.of
    dimensions = {Parallel.COMBINE: of.cut, Parallel.PARTITION: of.cuts}
    return ", ".join(" ".join([kind, *_dimensions(dimensions.get(kind, ()))]) for kind in move.kinds)


def cost_text(move: ParallelOperator) -> str:
    """What is sent: `"4 × 262 kB in 216 µs"`, of all equal layers."""
    of = move.of
    times = f"{of.count:,} × " if of.count > 1 else ""
    return f"{times}{units.size(of.bytes / of.count)} in {units.seconds(of.time_s)}"


def _dimensions(which: tuple[int, ...]) -> list[str]:
    return [f"dimension {' and '.join(map(str, which))}"] if which else []


def _stage(stage: StageOperators) -> Iterator[str]:
    for block in stage.blocks:
        alike = f", {len(block.layers)} alike" if len(block.layers) > 1 else ""
        about = f"stage {stage.stage}, layers {units.ranges(block.layers)}{alike}"
        for operator in block.operators:
            if operator.before or operator.after:
                yield f"{about}: {_operator(operator)}."
    for stored in stage.stored:
        what = "replicate" if stored.dimension is None else f"partition dimension {stored.dimension}"
        yield f"stage {stage.stage}: {what} over {stored.axis} {units.plural(stored.parameters, 'stored parameter')}."
    for where, moves in stage.parameters:
        yield f"stage {stage.stage}, {where}: {_moves(_added(moves))}."


def _operator(operator: Operator) -> str:
    parts = [f"{side} it {_moves(moves)}" for side, moves in (("before", operator.before), ("after", operator.after))
             if moves]
    return f"{operator.name}: {'; '.join(parts)}"


def _moves(moves: Iterable[ParallelOperator]) -> str:
    return ", ".join(f"{kinds_text(m)} over {' and '.join(m.axes)} ({m.of.kind} in the {m.of.phase}, {cost_text(m)} a "
                     f"{m.of.per})" for m in moves)


def _added(moves: Iterable[ParallelOperator]) -> list[ParallelOperator]:
    """Those that differ in nothing but their parameter and its bytes, as one."""
    found: dict[tuple[Any, ...], ParallelOperator] = {}
    for m in moves:
        key = (m.kinds, m.axes, m.of.per, m.of.phase, m.of.cut, m.of.cuts)
        known = found.get(key)
        found[key] = m if known is None else replace(known, of=replace(
            known.of, bytes=known.of.bytes + m.of.bytes, time_s=known.of.time_s + m.of.time_s,
            count=known.of.count + m.of.count))
    return list(found.values())
