"""The choices of a layer, before any mesh is known: groups of operators, the tensors between them, and the parameters.

A `LayerModel` is made from a program and a range of its forward operators by `structure.layer_model`:

* a *group* is a set of operators sharded together: a forward operator with its backward operators, and the elementwise,
  layout and reduction operators around it that agree on their dimensions (`dims.unify`). Its choice: mesh axes ->
  classes.
* a *tensor* is a value that passes between groups or layers, with its cotangents. Its choice: a `Spec` it settles in.
* a *parameter* has three choices: how it is stored, how its gradient and optimizer state are sharded (ZeRO), and
  whether its gradient is synchronised every microbatch or once per batch. Casts and reshapes of a parameter belong to
  it.
* a *link* says where a group reads and makes a tensor or parameter; resharding is priced on links.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from planner.intraop.dims import Classes


@dataclass(frozen=True, slots=True)
class Read:
    """Operator `op` reads `value` as operand `position`."""

    value: int
    op: int
    position: int


@dataclass(frozen=True, slots=True)
class Link:
    """How group `group` touches tensor or parameter `item`: what it reads of it, and which values of it it makes."""

    item: int
    group: int
    reads: tuple[Read, ...]
    makes: tuple[tuple[int, int], ...]  # (value, op)


@dataclass(frozen=True)
class Group:
    """Operators sharded together (indices into `micro.ops`) and their dimension classes. `asked`: answers about the
    group that depend on no mesh, for those who ask on many."""

    ops: tuple[int, ...]
    classes: Classes

    @cached_property
    def asked(self) -> dict[Hashable, object]:
        return {}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A forward value with its cotangents. `saved`: a backward operator reads it, so that it is kept from forward to
    backward (in a user's train step: it is alive when most bytes are). `place`: "inner", "in" (made by an earlier
    layer), "out" (read by a later layer), "through" (both), "input" (batch, state or constant).
    """

    owner: int
    place: str
    saved: bool
    made_here: bool
    resident: bool = False  # carried state of a user's train step: held all the time


@dataclass(frozen=True)
class Param:
    """A parameter with the casts and reshapes that only it feeds.

    Attributes:
      value: the graph input.
      path, row: its name.
      chain: operators that belong to it.
      classes: dimension classes over the parameter and its chain.
      exported: values that groups read (the parameter itself or results of the chain).
      opt_state_bytes: of all optimizer-state leaves that belong to it, whole.
      home: whether this layer is the first to read it (and so holds its optimizer state).
    """

    value: int
    path: str
    row: int | None
    chain: tuple[int, ...]
    classes: Classes
    exported: tuple[int, ...]
    opt_state_bytes: int
    home: bool


@dataclass(frozen=True)
class Selection:
    """Recomputing selected tensors of a layer: `kept` are the forward values that stay for the backward (what is made
    of parameters alone included, which is no microbatch's own), `again` the forward operators that it repeats."""

    kept: frozenset[int]
    again: frozenset[int]


@dataclass(frozen=True)
class LayerModel:
    """See the module. `selection`: what is kept where selected tensors are recomputed; None where nothing lies between
    keeping all and keeping none."""

    groups: tuple[Group, ...]
    tensors: tuple[Tensor, ...]
    params: tuple[Param, ...]
    links: tuple[Link, ...]
    param_links: tuple[Link, ...]
    selection: Selection | None = None
