"""Recomputation: layers whose forward is run again in the backward, from the values that enter them or are kept.

Before the first backward operator of such a layer, its forward operators are repeated on values behind a barrier, and
the layer's backward operators read the repeated results. Nothing but what enters the layer is then alive between
forward and backward (Chen et al., arXiv:1604.06174; `jax.checkpoint` does the same to a function), or that and the
values that the plan selected (Korthikanti et al., arXiv:2205.05198; `jax.checkpoint` with a policy). Cotangents that
arrive are put behind the same barrier, so that the repetition cannot start before they are there.

In: `Annotated`. Out: `Annotated`.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass

from planner.core.graph import Graph, Phase, Role
from planner.core.plan import PlanRecord
from planner.core.recomputation import run_again
from planner.emit.annotated import Annotated
from planner.emit.contributions import ways_to_gradients
from planner.emit.edit import Edit


@dataclass(frozen=True)
class _Repeat:
    """What one layer needs: the operators to repeat, what they read that they don't make, arriving cotangents, who
    reads."""

    stage: int
    ops: tuple[int, ...]
    entering: tuple[int, ...]
    arriving: tuple[int, ...]
    readers: frozenset[int]
    kept: frozenset[int]


def with_recompute(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with the layers in `StagePlan.recompute` and `selected` run again in the backward."""
    nothing: tuple[int, ...] = ()
    shared = _shared(given.graph)
    wanted = [(stage.index, record.layers[layer].ops, frozenset(kept)) for stage in record.stages
              for layer, kept in (*((layer, nothing) for layer in stage.recompute), *stage.selected)]
    repeats = [r for each in wanted if (r := _repeat(given.graph, shared, *each)) is not None]
    if not repeats:
        return given
    edit = Edit(given)
    before = {min(r.readers): r for r in repeats}
    renames: dict[int, dict[int, int]] = {}
    for n in range(len(given.graph.ops)):
        if n in before:
            renames |= dict.fromkeys(before[n].readers, _again(edit, given, before[n]))
        edit.keep(n, renames.get(n, {}))
    return edit.finish()


def _again(edit: Edit, given: Annotated, what: _Repeat) -> dict[int, int]:
    """Emit barrier and repeated operators; returns old value -> new value."""
    held = (*what.entering, *what.arriving)
    names: dict[int, int] = {}
    if held:
        names = edit.barrier(held, what.stage, Phase.BACKWARD, given.graph.ops[what.ops[0]].origin)
    for n in what.ops:
        made = edit.repeat(n, names, what.stage)
        names |= {old: new for old, new in made.items() if old not in what.kept}
    return names


@dataclass(frozen=True)
class _Shared:
    """What is the same for all layers: operators by origin, values made in the backward, those on the way to gradients,
    constants."""

    by_origin: dict[int, list[int]]
    late: Set[int]
    to_gradients: Set[int]
    constants: Set[int]


def _shared(graph: Graph) -> _Shared:
    by_origin: dict[int, list[int]] = {}
    for n, op in enumerate(graph.ops):
        by_origin.setdefault(op.origin, []).append(n)
    late = {v for op in graph.ops if op.phase is Phase.BACKWARD for v in op.results}
    constants = {v for v, _ in graph.constants} | {i.value for i in graph.inputs_of(Role.CONST)}
    return _Shared(by_origin, late, ways_to_gradients(graph), constants)


def _repeat(graph: Graph, shared: _Shared, stage: int, origins: tuple[int, int], kept: frozenset[int]
            ) -> _Repeat | None:
    mine = sorted(n for origin in range(*origins) for n in shared.by_origin.get(origin, ()))
    backward = [n for n in mine if graph.ops[n].phase is Phase.BACKWARD]
    chosen = run_again(graph, mine, kept)
    if not chosen:
        return None
    again = {v for n in chosen for v in graph.ops[n].results} - kept
    own = {v for n in backward for v in graph.ops[n].results}
    entering = _ordered(v for n in chosen for v in graph.ops[n].inputs
                        if v not in again and v not in shared.constants)
    arriving = _ordered(v for n in backward for v in graph.ops[n].inputs if v in shared.late and v not in own
                        and v not in shared.to_gradients)  # a layer may cast others' gradients: no reason to wait
    return _Repeat(stage, chosen, entering, arriving, frozenset(backward), kept)


def _ordered(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
