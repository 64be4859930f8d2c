"""The state of a run: parameters, optimizer state and the user's state as flat arrays that lie where the plan says.

A pytree, so that it can be saved, moved and looked into; the user's own pytrees are rebuilt on demand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from planner.core.graph import Input
from planner.trace import join_leaves


@dataclass(frozen=True)
class GradientStep:
    """What a step has before its update: gradients as the optimizer sees them, one per parameter where the update wants
    them, leaves of the new state, and loss and other outputs."""

    grads: tuple[Any, ...]
    state: tuple[Any, ...]
    outputs: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Places and pytree structures of a state's leaves (hashable: the static part of the pytree)."""

    params: tuple[Input, ...]
    opt_state: tuple[Input, ...]
    state: tuple[Input, ...]
    params_tree: Any
    opt_state_tree: Any
    state_tree: Any


@partial(jax.tree_util.register_dataclass, data_fields=["param_leaves", "opt_leaves", "state_leaves",
                                                               "copies"], meta_fields=["layout"])
@dataclass(frozen=True)
class RunState:
    """What a step takes and gives. Its buffers are donated to the step: keep only the newest.

    Attributes:
      param_leaves, opt_leaves, state_leaves: arrays in the order of the program's inputs; rows of stacked leaves apart.
      layout: how they become the user's pytrees again.
      copies: of other replicas of the pipeline, which are updated in the same way.
    """

    param_leaves: tuple[Any, ...]
    opt_leaves: tuple[Any, ...]
    state_leaves: tuple[Any, ...]
    layout: Layout
    copies: tuple["RunState", ...] = ()

    @property
    def params(self) -> Any:
        """The user's parameter pytree; rows are stacked again."""
        return _joined(self.layout.params_tree, self.layout.params, self.param_leaves)

    @property
    def opt_state(self) -> Any:
        """The optimizer's own pytree."""
        return _joined(self.layout.opt_state_tree, self.layout.opt_state, self.opt_leaves)

    @property
    def state(self) -> Any:
        """The user's state pytree."""
        return _joined(self.layout.state_tree, self.layout.state, self.state_leaves)


def _joined(tree: Any, places: Sequence[Input], leaves: Sequence[Any]) -> Any:
    """The pytree. Rows that lie on different stages or in different memories are brought to the host to be stacked."""
    homes: dict[str, set[tuple[frozenset[Any], str | None]]] = {}
    for place, leaf in zip(places, leaves, strict=True):
        if place.row is not None:
            homes.setdefault(place.path, set()).add((frozenset(leaf.sharding.device_set), leaf.sharding.memory_kind))
    apart = {path for path, found in homes.items() if len(found) > 1}
    return join_leaves(tree, places,
                       [np.asarray(x) if p.path in apart else x for p, x in zip(places, leaves, strict=True)])
