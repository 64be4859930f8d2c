"""Places of the weight update: parameters as stored, gradients and what operators work in as the update is sharded.

Each leaf of the optimizer's state that belongs to a parameter is sharded as the parameter's update.

A leaf belongs to a parameter if its path ends in the parameter's path and it has the same row and shape (Adam's
moments). Anything else (step counters, factored moments) is held whole. In: the plan and the update graph. Out: home
and spec per leaf, the sharding of what the update works in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.core.graph import Graph, Input, Output, Role
from planner.core.plan import ParamPlan, PlanRecord
from planner.core.spec import Spec, replicated


@dataclass(frozen=True, slots=True)
class LeafPlace:
    """The stage that holds a leaf, and its sharding there."""

    home: int
    spec: Spec


def opt_state_places(record: PlanRecord, graph: Graph, leaves: Sequence[Input | Output]) -> tuple[LeafPlace, ...]:
    """Where every leaf of the optimizer state lives.

    Args:
      record: the plan.
      graph: the graph that `leaves` are inputs or outputs of.
      leaves: its OPT_STATE inputs or outputs.
    """
    return tuple(_place(record.params, leaf, _shape(graph, leaf)) for leaf in leaves)


def update_places(record: PlanRecord, graph: Graph) -> tuple[tuple[LeafPlace, ...], tuple[LeafPlace, ...]]:
    """Where every input and every output of the update graph lies: parameters and optimizer state where they are
    stored, gradients as the update is sharded."""
    kept = (*(LeafPlace(p.home, p.spec) for p in record.params),
            *opt_state_places(record, graph, tuple(graph.inputs_of(Role.OPT_STATE))))
    return (*kept, *(LeafPlace(p.home, p.update_spec) for p in record.params)), kept


def work_specs(record: PlanRecord, graph: Graph) -> dict[int, Spec]:
    """Value of the update graph -> the sharding that the update works in: old and new parameters, moments,
    gradients."""
    found: dict[int, Spec] = {}
    planned = {(p.path, p.row): p.update_spec for p in record.params}
    for end in (*graph.inputs, *graph.outputs):
        value = end.value if isinstance(end, Input) else end.operand
        if isinstance(value, int) and end.role in (Role.PARAM, Role.GRAD):
            found[value] = planned[end.path, end.row]
    leaves = tuple(graph.inputs_of(Role.OPT_STATE))
    places = opt_state_places(record, graph, leaves)
    for leaf, where in zip(leaves, places, strict=True):
        found[leaf.value] = where.spec
    for out, where in zip(graph.outputs_of(Role.OPT_STATE), places, strict=True):
        if isinstance(out.operand, int):
            found.setdefault(out.operand, where.spec)
    return found


def owner_of(params: Sequence[ParamPlan], path: str, row: int | None) -> ParamPlan | None:
    """The parameter that a leaf of the optimizer state belongs to by name: the one whose path is its longest ending."""
    found = [p for p in params if p.row == row and (p.path == "" or path == p.path or path.endswith("/" + p.path))]
    return max(found, key=lambda p: len(p.path), default=None)


def _place(params: Sequence[ParamPlan], leaf: Input | Output, shape: tuple[int, ...]) -> LeafPlace:
    owner = owner_of(params, leaf.path, leaf.row)
    if owner is None:
        return LeafPlace(0, replicated(len(shape)))
    return LeafPlace(owner.home, owner.update_spec if owner.shape == shape else replicated(len(shape)))


def _shape(graph: Graph, leaf: Input | Output) -> tuple[int, ...]:
    if isinstance(leaf, Input):
        return graph.values[leaf.value].shape
    return graph.values[leaf.operand].shape if isinstance(leaf.operand, int) else leaf.operand.shape
