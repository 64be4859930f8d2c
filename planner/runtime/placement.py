"""Where everything that lives between steps is: parameters, optimizer state, the user's state; and its first filling.

In: a plan, its program, meshes of its stages, the model's arrays. Out: `Placement`, and a `RunState` on the devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from planner.core.graph import Graph, Input, Program, Role
from planner.core.plan import PlanRecord
from planner.core.spec import replicated
from planner.emit.annotated import Annotated
from planner.emit.meshes import sharding
from planner.emit.update_specs import LeafPlace, opt_state_places, update_places, work_specs
from planner.errors import ModelError
from planner.model import Model, leaves_with_paths
from planner.runtime.staged import StagedFunction, StagedGraph
from planner.runtime.state import Layout, RunState
from planner.runtime.transfer import Transfers, spread
from planner.trace import optimizer_init_graph, program_trees, split_leaves
from planner.trace.dtypes import dtype_of


@dataclass(frozen=True)
class Placement:
    """Place of every leaf of a `RunState`, in its order; the meshes that places refer to; the tree layout."""

    meshes: tuple[Mesh, ...]
    params: tuple[LeafPlace, ...]
    opt_state: tuple[LeafPlace, ...]
    state: tuple[LeafPlace, ...]
    layout: Layout

    def shardings(self, places: Sequence[LeafPlace]) -> tuple[NamedSharding, ...]:
        """JAX's shardings of some places."""
        return tuple(sharding(self.meshes[p.home], p.spec, p.memory) for p in places)


def place(record: PlanRecord, model: Model, program: Program, given: Annotated, meshes: Sequence[Mesh]) -> Placement:
    """Decide where everything lives: parameters and moments as planned, state where it is first read."""
    params = tuple(LeafPlace(p.home, p.spec) for p in record.params)
    opt_inputs = tuple(program.update.inputs_of(Role.OPT_STATE)) if program.update is not None else ()
    opt = opt_state_places(record, program.update, opt_inputs) if program.update is not None else ()
    state_inputs = tuple(given.graph.inputs_of(Role.STATE))
    state = tuple(_state_place(given, i) for i in state_inputs)
    trees = program_trees(model, record.microbatches)
    layout = Layout(tuple(program.forward.inputs_of(Role.PARAM)), opt_inputs, state_inputs, trees.params,
                    trees.opt_state,
                    trees.state)
    return Placement(tuple(meshes), params, opt, state, layout)


def _state_place(given: Annotated, leaf: Input) -> LeafPlace:
    readers = [given.stage_of[n] for n, op in enumerate(given.graph.ops) if leaf.value in op.inputs]
    home = min(readers, default=0)
    return LeafPlace(home, given.specs[home].get(leaf.value, replicated(len(given.graph.values[leaf.value].shape))))


def initial_state(record: PlanRecord, model: Model, program: Program, placed: Placement) -> RunState:
    """The model's parameters and state, copied to where they belong, and the first optimizer state made there.

    Raises:
      ModelError: if parameters or state are abstract.
    """
    check_concrete(model)
    params = put(split_leaves(model.params, placed.layout.params), placed.shardings(placed.params))
    state = put(split_leaves(model.state, placed.layout.state), placed.shardings(placed.state))
    opt = () if program.update is None else _first_opt_state(record, model, program, placed, params)
    return RunState(tuple(params), tuple(opt), tuple(state), placed.layout)


def abstract_state(program: Program, placed: Placement) -> RunState:
    """A state of shapes and shardings without numbers, to lower a step with."""
    def leaves(graph: Graph | None, inputs: Sequence[Input], places: Sequence[LeafPlace]) -> tuple[Any, ...]:
        values = graph.values if graph is not None else ()
        return tuple(jax.ShapeDtypeStruct(values[i.value].shape, dtype_of(values[i.value].dtype), sharding=where)
                     for i, where in zip(inputs, placed.shardings(places), strict=True))

    layout = placed.layout
    return RunState(leaves(program.micro, layout.params, placed.params),
                    leaves(program.update, layout.opt_state, placed.opt_state),
                    leaves(program.micro, layout.state, placed.state), layout)


def check_concrete(model: Model) -> None:
    """Raise `ModelError` if a leaf of the parameters or the state has no numbers."""
    for what, tree in (("params", model.params), ("state", model.state)):
        for path, leaf in leaves_with_paths(tree):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ModelError(f"{what} leaf {path!r} of {model.name!r} is abstract: it has a shape but no numbers",
                                 f"give arrays: dataclasses.replace(model, {what}=...), or pass {what}=... here")


def put(leaves: Sequence[Any], shardings: Sequence[NamedSharding]) -> list[Any]:
    """Copies of arrays: a step may donate them.

    `jax.device_put(..., may_alias=False)` is not enough: a replicated copy shares the buffer of the device that the
    array was on already (jax 0.10.2).
    """
    return [jax.device_put(x.copy() if isinstance(x, jax.Array) else np.array(x), where)
            if where.is_fully_addressable else spread(x, where) for x, where in zip(leaves, shardings, strict=True)]


def update_graph(record: PlanRecord, program: Program) -> StagedGraph:
    """The program's weight update with its places: gradients arrive in `update_spec`, operators work in it."""
    assert program.update is not None
    graph = program.update
    return StagedGraph(graph, *update_places(record, graph), work_specs(record, graph), donate=True)


def _first_opt_state(record: PlanRecord, model: Model, program: Program, placed: Placement, params: Sequence[Any]
                     ) -> list[Any]:
    graph = optimizer_init_graph(model, program)
    first = StagedFunction(StagedGraph(graph, placed.params, placed.opt_state, {}, donate=False), placed.meshes,
                           Transfers(placed.meshes))
    return first(params)
