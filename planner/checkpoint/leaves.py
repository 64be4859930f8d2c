"""A run's state as named whole arrays, which mean the same under every plan of a model.

In: a `RunState`, of arrays or abstract. Out: name -> array, and back. A name is what the leaf is and its path:
`"params/blocks/0/wq"`, `"opt_state/0/mu/layers/w[3]"` for row 3 of a leaf stacked over layers, which is an array of its
own in a `RunState`. Random keys are stored as their data. Arrays without elements have nothing to store.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from planner.core.graph import Input
from planner.runtime.stage_program import has_part, mesh_of, without_numbers
from planner.runtime.state import RunState
from planner.runtime.transfer import spread
from planner.trace.dtypes import key_implementation


@dataclass(frozen=True, slots=True)
class LeafType:
    """What is known of a stored array without reading it."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def leaf_types(state: RunState) -> tuple[LeafType, ...]:
    """Every leaf of a state, in its order."""
    return tuple(LeafType(name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _named(state))


def stored(state: RunState) -> dict[str, Any]:
    """The arrays to save; of an abstract state, the shapes and shardings to restore to."""
    return {name: _as_data(leaf) for name, leaf in _named(state) if 0 not in leaf.shape}


def restored(template: RunState, arrays: Mapping[str, Any]) -> RunState:
    """The state that `stored` made these arrays of.

    Args:
      template: an abstract state with the shardings wanted.
      arrays: what was restored, by name.
    """
    def leaf(name: str, wanted: Any) -> Any:
        if 0 in wanted.shape:
            return spread(np.zeros(wanted.shape, wanted.dtype), wanted.sharding)
        if not _is_key(wanted):
            return arrays[name]
        if not has_part(mesh_of(wanted.sharding)):
            return without_numbers(wanted.shape, wanted.dtype, wanted.sharding)
        return jax.random.wrap_key_data(arrays[name], impl=key_implementation(str(wanted.dtype)))

    def filled(what: str, places: tuple[Input, ...], leaves: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(leaf(_name(what, p), x) for p, x in zip(places, leaves, strict=True))

    return _mapped(template, filled)


def _named(state: RunState) -> Iterator[tuple[str, Any]]:
    layout = state.layout
    for what, places, leaves in (("params", layout.params, state.param_leaves),
                                 ("opt_state", layout.opt_state, state.opt_leaves),
                                 ("state", layout.state, state.state_leaves)):
        yield from ((_name(what, p), x) for p, x in zip(places, leaves, strict=True))


def _mapped(state: RunState, change: Callable[[str, tuple[Input, ...], tuple[Any, ...]], tuple[Any, ...]]) -> RunState:
    layout = state.layout
    return replace(state, param_leaves=change("params", layout.params, state.param_leaves),
                   opt_leaves=change("opt_state", layout.opt_state, state.opt_leaves),
                   state_leaves=change("state", layout.state, state.state_leaves))


def _name(what: str, place: Input) -> str:
    return f"{what}/{place.path}" + ("" if place.row is None else f"[{place.row}]")


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_data(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    here = has_part(mesh_of(leaf.sharding))
    if here and not isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.random.key_data(leaf)
    data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
    return without_numbers(data.shape, data.dtype, leaf.sharding)
