"""Between the user's pytrees of real arrays and the flat inputs of a graph, rows of stacked leaves included.

Flows in: pytrees, or flat lists in the order of a graph's inputs or outputs. Flows out: the other one.
"""

from collections.abc import Sequence
from typing import Any

import jax

from planner.core.graph import Input, Output
from planner.errors import PlanMismatchError
from planner.model import leaves_with_paths


def split_leaves(tree: Any, places: Sequence[Input | Output]) -> list[Any]:
    """The leaves of a pytree in the order of `places`; where a place has a row, that row of the leaf.

    Args:
      tree: pytree of arrays.
      places: inputs or outputs of one role, with paths relative to the tree.

    Raises:
      PlanMismatchError: if a path is not in the tree.
    """
    leaves = dict(leaves_with_paths(tree))
    missing = [p.path for p in places if p.path not in leaves]
    if missing:
        raise PlanMismatchError(f"the pytree has no leaf {missing[0]!r}", "use the model that was planned")
    return [leaves[p.path] if p.row is None else leaves[p.path][p.row] for p in places]


def join_leaves(treedef: Any, places: Sequence[Input | Output], leaves: Sequence[Any]) -> Any:
    """The inverse of `split_leaves`: rows are stacked, and the pytree of structure `treedef` is rebuilt.

    Args:
      treedef: structure of the tree.
      places: inputs or outputs of one role, in the order of the tree's leaves; rows of a leaf follow one another.
      leaves: one array per place.

    Raises:
      PlanMismatchError: if the number of leaves does not fit the tree.
    """
    grouped: list[list[Any]] = []
    path: str | None = None
    for place, leaf in zip(places, leaves, strict=True):
        if place.row is None:
            grouped.append([leaf])
        elif place.row == 0 or path != place.path:
            grouped.append([[leaf]])
        else:
            grouped[-1][0].append(leaf)
        path = place.path
    if len(grouped) != treedef.num_leaves:
        raise PlanMismatchError(f"{len(grouped)} leaves given for a pytree of {treedef.num_leaves}",
                                "use the model that was planned")
    return jax.tree_util.tree_unflatten(
        treedef, [jax.numpy.stack(g[0]) if isinstance(g[0], list) else g[0] for g in grouped])
