"""Flax NNX: a module's parameters become `Model.params`; all other variables (statistics, RNG counts) `Model.state`.

The module may be real, or abstract from `nnx.eval_shape`. Paths read as in the module: `blocks/0/kernel`.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from planner.adapters.form import with_state
from planner.errors import ModelError
from planner.model import Model, Optimizer


def from_nnx(module: nnx.Module, loss_fn: Callable[[Any, Any], Any], batch: Any, optimizer: Optimizer | None = None, *,
             trainable: Any = nnx.Param, **settings: Any) -> Model:
    """A `Model` of an NNX module; the module itself is left as it is.

    Args:
      module: real or abstract module.
      loss_fn: `loss_fn(module, batch) -> loss` or `(loss, aux)`; without an optimizer, any outputs. It may change the
        module's variables, as batch norm and dropout do.
      batch: example batch, real or abstract.
      optimizer: optax gradient transformation, or None for inference.
      trainable: NNX filter of the variables to train.
      settings: further fields of `Model`, e.g. `name`.

    Raises:
      ModelError: no variable passes the filter.
    """
    graph, params, rest = nnx.split(module, trainable, ...)
    if not jax.tree_util.tree_leaves(params):
        raise ModelError(f"{type(module).__name__} has no variable that passes trainable={trainable}",
                         "give a module with nnx.Param variables, or another filter")
    stateful = bool(jax.tree_util.tree_leaves(rest))

    def run(values: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        live = nnx.merge(graph, _filled(params, values), _filled(rest, state))
        result = loss_fn(live, batch)
        _, _, changed = nnx.split(live, trainable, ...)
        return result, nnx.to_pure_dict(changed)

    def stateless(values: Any, batch: Any) -> Any:
        return run(values, nnx.to_pure_dict(rest), batch)[0]

    def threaded(values: Any, state: Any, batch: Any) -> Any:
        result, state = run(values, state, batch)
        return with_state(result, state, training=optimizer is not None)

    settings.setdefault("name", type(module).__name__)
    return Model(threaded if stateful else stateless, nnx.to_pure_dict(params), batch, optimizer,
                 state=nnx.to_pure_dict(rest) if stateful else None, **settings)


def nnx_module(module: nnx.Module, params: Any, state: Any = None, *, trainable: Any = nnx.Param) -> nnx.Module:
    """A copy of the module with the parameters and state of a run put in: the way back from `from_nnx`."""
    graph, old, rest = nnx.split(module, trainable, ...)
    return nnx.merge(graph, _filled(old, params), rest if state is None else _filled(rest, state))


def _filled(template: Any, values: Any) -> Any:
    """A copy of an `nnx.State` with the leaves of a plain nested dictionary."""
    filled = jax.tree_util.tree_map(lambda leaf: leaf, template)
    nnx.replace_by_pure_dict(filled, values)
    return filled
