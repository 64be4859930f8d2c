"""How a tensor lies on a logical mesh, and how an operator may be sharded: `Spec` and `OpRule`.

An operator is described by its *factors*, as an einsum is (GSPMD, arXiv:2105.04663; Shardy's `OpShardingRule`): every
dimension of every operand and result is bound to at most one factor, and a sharding strategy assigns mesh axes to
factors.
"""

from dataclasses import dataclass
from enum import StrEnum

Spec = tuple[tuple[int, ...], ...]
"""Per dimension, the mesh axes (indices, major to minor) that shard it. `((0,), ())` is `PartitionSpec("a0", None)`."""


def replicated(rank: int) -> Spec:
    """The spec of a tensor that every device holds whole."""
    return ((),) * rank


def shard_count(spec: Spec, mesh_shape: tuple[int, ...]) -> int:
    """Into how many different shards a tensor of that spec is cut."""
    n = 1
    for axes in spec:
        for a in axes:
            n *= mesh_shape[a]
    return n


def axes_of(spec: Spec) -> frozenset[int]:
    """The mesh axes that a spec uses."""
    return frozenset(a for axes in spec for a in axes)


def is_legal(spec: Spec, shape: tuple[int, ...], mesh_shape: tuple[int, ...]) -> bool:
    """Whether every dimension divides by its shards and no mesh axis is used twice."""
    used = [a for axes in spec for a in axes]
    if len(used) != len(set(used)) or len(spec) != len(shape):
        return False
    for size, axes in zip(shape, spec, strict=True):
        n = 1
        for a in axes:
            n *= mesh_shape[a]
        if size % n:
            return False
    return True


def to_text(spec: Spec, axis_names: tuple[str, ...]) -> str:
    """A spec as users write it: `P(data, None, (data, model))`."""
    parts = ["None" if not axes else axis_names[axes[0]] if len(axes) == 1 else
             "(" + ", ".join(axis_names[a] for a in axes) + ")" for axes in spec]
    return f"P({', '.join(parts)})"


class FactorKind(StrEnum):
    """What sharding a factor does to the result.

    PASS: results are sharded (or the factor is on no result); no communication.
    REDUCE: every result is a partial value that must be combined over the mesh axes on this factor.
    """

    PASS = "pass"
    REDUCE = "reduce"


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of an operator. `size` is the iteration count used for dividing work; legal shard counts divide the
    sizes of all dimensions bound to it."""

    size: int
    kind: FactorKind = FactorKind.PASS


@dataclass(frozen=True, slots=True)
class Halo:
    """What a window reads across the cuts of an operand's dimension: so many slices of the shards before and after."""

    operand: int
    dimension: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class OpRule:
    """The factors of one operator.

    Attributes:
      factors: the factors.
      operands: per operand, per dimension, the index of its factor, or None where it must not be sharded.
        Operands that are literals have an entry too.
      results: the same for the results.
      combine: how partial results are combined: `"sum"`, `"max"`, `"min"`, `"prod"`, `"or"`, `"and"`; with any REDUCE
        factor.
      halos: slices that shards of an operand exchange where the factor of that dimension is sharded, in the order in
        which they are: a later one sends those of the earlier with it. Legal shards are at least as long.

    A dimension merged or split by reshape is bound by its major-most part only: `[B, S, H*D] -> [B, S, H, D]` binds
    operand dimension 2 and result dimension 2 to one factor, and result dimension 3 to none. The legal shard counts
    then divide both H*D and H.
    """

    factors: tuple[Factor, ...]
    operands: tuple[tuple[int | None, ...], ...]
    results: tuple[tuple[int | None, ...], ...]
    combine: str = "sum"
    halos: tuple[Halo, ...] = ()
