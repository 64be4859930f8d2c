"""The optimizer as graphs: its update, and the making of its first state.

Flows in: a `Model` with an optimizer, and the PARAM inputs of its forward graph (which leaves are split into rows).
Flows out: graphs over the same leaves and rows. The optimizer is called with the user's own pytree.
"""

from collections.abc import Sequence
from typing import Any

import jax

from planner.core.graph import Graph, Input, Role
from planner.errors import ModelError
from planner.model import Model, leaves_with_paths
from planner.trace.jaxpr import abstract_tree, trace_graph
from planner.trace.stacks import by_rows


def update_graph(model: Model, params: Sequence[Input]) -> Graph:
    """One optimizer step.

    Args:
      model: a model with an optimizer.
      params: the PARAM inputs of the forward graph.

    Returns:
      Inputs PARAM (as `params`), OPT_STATE, GRAD (one per PARAM input, in parameter dtype); outputs PARAM, OPT_STATE in
      the same order. Paths of OPT_STATE are those of the user's optimizer state (`"0/mu/blocks/w"`).
    """
    optimizer, abstract_params = _optimizer(model), abstract_tree(model.params, "parameter")
    opt_state = jax.eval_shape(optimizer.init, abstract_params)

    def update(params: Any, opt_state: Any, grads: Any) -> tuple[Any, Any]:
        updates, opt_state = optimizer.update(grads, opt_state, params)
        new = jax.tree_util.tree_map(lambda p, u: p if u is None else (p + u).astype(p.dtype), params, updates,
                                     is_leaf=lambda x: x is None)
        return new, opt_state

    graph = trace_graph(update, (abstract_params, opt_state, abstract_params), (Role.PARAM, Role.OPT_STATE, Role.GRAD),
                        (Role.PARAM, Role.OPT_STATE), layers_of=frozenset())
    return by_rows(graph, _stacked(model, params, opt_state))


def optimizer_init_graph(model: Model, params: Sequence[Input]) -> Graph:
    """The first optimizer state: inputs PARAM (as `params`), outputs OPT_STATE as `update_graph`'s inputs."""
    optimizer = _optimizer(model)
    abstract_params = abstract_tree(model.params, "parameter")
    graph = trace_graph(lambda p: (optimizer.init(p),), (abstract_params,), (Role.PARAM,), (Role.OPT_STATE,),
                        layers_of=frozenset())
    opt_state = jax.eval_shape(optimizer.init, abstract_params)
    return by_rows(graph, _stacked(model, params, opt_state))


def _optimizer(model: Model) -> Any:
    if model.optimizer is None:
        raise ModelError(f"model {model.name!r} has no optimizer", "give Model(optimizer=optax.adamw(...))")
    return model.optimizer


def _stacked(model: Model, params: Sequence[Input], opt_state: Any) -> dict[tuple[Role, str], int]:
    """(role, path) -> rows, for parameters split into rows and the optimizer's leaves that mirror them."""
    counts = {p.path: p.row + 1 for p in params if p.row is not None}  # rows ascend, so the last one counts
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_with_paths(model.params) if path in counts}
    stacked = {(role, path): count for path, count in counts.items() for role in (Role.PARAM, Role.GRAD)}
    for path, leaf in leaves_with_paths(opt_state):
        for param, shape in shapes.items():
            if (path == param or path.endswith("/" + param) or param == "") and tuple(leaf.shape) == shape:
                stacked[Role.OPT_STATE, path] = counts[param]
    return stacked
