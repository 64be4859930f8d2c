"""Equinox: the floating-point arrays of a module become `Model.params`; everything else in it stays as it is.

The module may be real, or abstract from `equinox.filter_eval_shape`. `Model.params` is the module itself with None in
place of whatever isn't trained, so that paths read as in the module: `layers/0/weight`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from planner.adapters.form import with_state
from planner.errors import ModelError
from planner.model import Model, Optimizer, leaves_with_paths


def from_equinox(module: Any, loss_fn: Callable[..., Any], batch: Any, optimizer: Optimizer | None = None, *,
                 state: Any = None, **settings: Any) -> Model:
    """A `Model` of an Equinox module.

    Args:
      module: real or abstract module, or any pytree of them.
      loss_fn: `loss_fn(module, batch) -> loss` or `(loss, aux)`; without an optimizer, any outputs. With a `state`,
        `loss_fn(module, state, batch) -> (result, state)`, where the result is one of these.
      batch: example batch, real or abstract.
      optimizer: optax gradient transformation, or None for inference.
      state: `equinox.nn.State`, PRNG keys, or any pytree of arrays to carry from step to step.
      settings: further fields of `Model`, e.g. `name`.

    Raises:
      ModelError: the module has no floating-point array, or abstract ones that aren't trained.
    """
    params, static = eqx.partition(module, _is_trained)
    if not jax.tree_util.tree_leaves(params):
        raise ModelError(f"{type(module).__name__} has no floating-point array to train",
                         "give the module itself, not a function of it")
    for path, leaf in leaves_with_paths(static):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ModelError(f"{type(module).__name__}.{path} is abstract, yet no parameter: its dtype is {leaf.dtype}",
                             "make this array for real, or carry it in `state`")

    def stateless(params: Any, batch: Any) -> Any:
        return loss_fn(eqx.combine(params, static), batch)

    def threaded(params: Any, state: Any, batch: Any) -> Any:
        result, state = loss_fn(eqx.combine(params, static), state, batch)
        return with_state(result, state, training=optimizer is not None)

    settings.setdefault("name", type(module).__name__)
    return Model(stateless if state is None else threaded, params, batch, optimizer, state=state, **settings)


def equinox_module(module: Any, params: Any) -> Any:
    """The module with the parameters of a run put in: the way back from `from_equinox`."""
    return eqx.combine(params, eqx.partition(module, _is_trained)[1])


def _is_trained(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
