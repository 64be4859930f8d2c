"""Shardings of the optimizer: each leaf of its state that belongs to a parameter is sharded as the parameter's update.

A leaf belongs to a parameter if its path ends in the parameter's path and it has the same row and shape (Adam's
moments). Anything else (step counters, factored moments) is held whole. In: the plan and the update graph. Out: home
and spec per leaf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.core.graph import Graph, Input, Output
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
