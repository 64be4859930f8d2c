"""Flax Linen: the `params` collection becomes `Model.params`; all other collections, and RNG keys, `Model.state`.

The variables may be real, or abstract from `jax.eval_shape(module.init, ...)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen
from flax.core import meta, unfreeze

from planner.adapters.form import with_state
from planner.errors import ModelError
from planner.model import Model, Optimizer


def from_linen(module: linen.Module, variables: Mapping[str, Any], loss_fn: Callable[[Any, Any], Any], batch: Any,
               optimizer: Optimizer | None = None, *, rngs: Mapping[str, Any] | None = None, **settings: Any) -> Model:
    """A `Model` of a Linen module.

    Args:
      module: the module.
      variables: what `module.init` returns, real or abstract.
      loss_fn: `loss_fn(apply, batch) -> loss` or `(loss, aux)`; without an optimizer, any outputs. `apply(*inputs)` is
        `module.apply` on the variables, with every collection but `params` mutable and carried on from call to call.
      batch: example batch, real or abstract.
      optimizer: optax gradient transformation, or None for inference.
      rngs: name -> PRNG key, e.g. `{"dropout": key}`; each call of `apply` draws fresh keys from them.
      settings: further fields of `Model`, e.g. `name`.

    Raises:
      ModelError: there are no parameters, or a collection is named `rngs`.
    """
    plain = meta.unbox(unfreeze(dict(variables)))
    params = plain.pop("params", None)
    if not jax.tree_util.tree_leaves(params):
        raise ModelError(f"the variables of {type(module).__name__} have no `params`", "give what module.init returns")
    if "rngs" in plain:
        raise ModelError("a collection is named 'rngs', which is where PRNG keys are kept", "give it another name")
    initial = plain | ({"rngs": dict(rngs)} if rngs else {})

    def run(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        live = dict(state)

        def apply(*inputs: Any, **options: Any) -> Any:
            keys = {name: jax.random.split(key) for name, key in live.get("rngs", {}).items()}
            if keys:
                live["rngs"] = {name: pair[0] for name, pair in keys.items()}
            collections = [name for name in live if name != "rngs"]
            outputs, changed = module.apply(
                {"params": params, **{name: live[name] for name in collections}}, *inputs,
                rngs={name: pair[1] for name, pair in keys.items()}, mutable=collections, **options)
            live.update(unfreeze(changed))
            return outputs

        return loss_fn(apply, batch), live

    def stateless(params: Any, batch: Any) -> Any:
        return run(params, {}, batch)[0]

    def threaded(params: Any, state: Any, batch: Any) -> Any:
        result, state = run(params, state, batch)
        return with_state(result, state, training=optimizer is not None)

    settings.setdefault("name", type(module).__name__)
    return Model(threaded if initial else stateless, params, batch, optimizer, state=initial or None, **settings)


def linen_variables(params: Any, state: Any = None) -> dict[str, Any]:
    """Variables for `module.apply` from the parameters and state of a run: the way back from `from_linen`."""
    return {"params": params, **{name: tree for name, tree in (state or {}).items() if name != "rngs"}}
