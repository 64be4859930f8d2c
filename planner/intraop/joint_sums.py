"""Contributions to one cotangent that are added on each device before they are combined over devices.

Query, key and value read one tensor, and each hands back a gradient of it that is a partial sum over the heads of other
devices. Megatron adds the three and all-reduces once. A compiler that does so (`LogicalMesh.adds_before_all_reduce`)
makes it a choice of the tensor: it settles in a spec, and its cotangent comes either combined from every group, or from
all of them in the same spec with the same axes pending, its *origin*, to be combined as one. That keeps the price
pairwise: a group that would hand over anything else may not be paired with such a choice.

In: a tensor, its specs, the groups that make its cotangents. Out: `TensorChoices` and their prices.
Source: Shoeybi et al. 2019 (Megatron-LM), figure 3; XLA's pass AllReduceReassociate, seen in programs compiled for
eight H100 by jax 0.10.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.core.graph import Graph, Phase
from planner.core.hardware import LogicalMesh
from planner.core.spec import Spec
from planner.costs.resharding import moved_bytes, reshard_cost
from planner.intraop.choices import Link, Tensor
from planner.intraop.group_price import GroupPrice
from planner.intraop.setting import Array

Origin = tuple[Spec, frozenset[int]]
"""The spec in which every contribution is made, and the mesh axes over which it is still to be summed."""

IN_LAYER = ("inner", "in")
"""Places of tensors whose cotangents are added up within the layer before anything else is added to them."""


@dataclass(frozen=True)
class TensorChoices:
    """Per choice, the spec a tensor settles in, and the origin of its cotangent where it is combined as one."""

    specs: tuple[Spec, ...]
    origins: tuple[Origin | None, ...]


def tensor_choices(graph: Graph, tensor: Tensor, specs: tuple[Spec, ...], makers: Sequence[tuple[Link, GroupPrice]],
                   mesh: LogicalMesh) -> TensorChoices:
    """The specs alone, then those that joint sums can settle in without changing dimension."""
    found = TensorChoices(specs, (None,) * len(specs))
    if not mesh.adds_before_all_reduce or tensor.place not in IN_LAYER:
        return found
    made = [_made(price, value) for link, price in makers for value in contributions(graph, link, tensor.owner)]
    if len(made) < 2:
        return found
    common = [o for o in made[0] if o[1] and all(o in others for others in made[1:])]
    joint = [(s, o) for o in common for s in specs if _reaches(o, s)]
    return TensorChoices((*specs, *(s for s, _ in joint)), (*found.origins, *(o for _, o in joint)))


def _made(price: GroupPrice, value: int) -> tuple[Origin, ...]:
    specs, pending, _ = price.produced(value)
    return tuple(zip(specs, pending, strict=True))


def _reaches(origin: Origin, spec: Spec) -> bool:
    """Whether a sum settles in a spec by all-reduce or reduce-scatter: what is more in the spec is pending."""
    return all(mine[:len(given)] == given and set(mine[len(given):]) <= origin[1]
               for given, mine in zip(origin[0], spec, strict=True))


def contributions(graph: Graph, link: Link, owner: int) -> list[int]:
    """Values that a group adds to the cotangent of the tensor it is linked to."""
    return [v for v, op in link.makes if v != owner and graph.ops[op].phase is Phase.BACKWARD]


def joint_cost(graph: Graph, tensor: Tensor, choices: TensorChoices, mesh: LogicalMesh) -> Array:
    """Seconds to combine the sum of all contributions, per choice; zero where each is combined by itself."""
    value = graph.values[tensor.owner]
    whole = moved_bytes(value, mesh)
    return np.array([0.0 if o is None else reshard_cost(o[0], s, mesh, o[1]).at(whole)
                     for s, o in zip(choices.specs, choices.origins, strict=True)])


def joined(price: GroupPrice, value: int, choices: TensorChoices, each: Array) -> Array:
    """Seconds per (strategy, choice) that a contribution costs its group: `each`, as if combined by itself, or where it
    is combined with the others nothing; infinite where the group does not make it as the choice's origin says."""
    row = price.produced(value)[2]
    table = [[0.0 if o is None or o == m else np.inf for o in choices.origins] for m in _made(price, value)]
    alone = np.array([o is None for o in choices.origins])
    return np.where(alone[None, :], each, np.array(table)[row])
