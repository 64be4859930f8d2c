"""Boundary states: in which shardings activations may cross from one layer to the next.

Usually one activation crosses, and a state is its spec. Where several do (skip connections, encoder outputs), a state
places each mesh axis on one kind of dimension (position, size) and every crossing tensor follows, which keeps the
number of states small. Values that carry no batch and need no gradient (masks, position tables) cross unsharded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from planner.core.spec import Spec, replicated
from planner.program_index import ProgramIndex, crossing
from planner.strategies import DATA, AxisUse

MAX_SLOTS = 5
"""Kinds of dimensions that a mesh axis may shard across a boundary; the ones with most bytes are kept."""


@dataclass(frozen=True)
class Boundary:
    """Tensors that cross (owners), and per state the spec of each."""

    owners: tuple[int, ...]
    states: tuple[tuple[Spec, ...], ...]


def boundary(index: ProgramIndex, position: int, mesh_shape: tuple[int, ...], uses: Sequence[AxisUse],
             pins: Mapping[int, Spec]) -> Boundary:
    """The boundary before forward operator `position`; one empty state where nothing crosses. `pins` fixes specs."""
    owners = crossing(index, position)
    shapes = [index.program.micro.values[v].shape for v in owners]
    slots = _slots(index, owners)
    options: list[list[tuple[int, int] | None]] = []
    for a, use in enumerate(uses):
        allowed = [s for s in slots if s[1] % mesh_shape[a] == 0 and _may(use, batch=s[2])]
        options.append([None, *(s[:2] for s in allowed)])
    found: dict[tuple[Spec, ...], None] = {}
    for row in product(*options):
        specs = tuple(pins.get(v) or _spec(index, v, shape, row, mesh_shape)
                      for v, shape in zip(owners, shapes, strict=True))
        found.setdefault(specs)
    return Boundary(owners, tuple(found))


def _may(use: AxisUse, *, batch: bool) -> bool:
    return use is AxisUse.ANY or (use in DATA and batch) or (use is AxisUse.TENSOR and not batch)


def _moves(index: ProgramIndex, owner: int) -> bool:
    """Whether a crossing value may be sharded: it carries the batch or has a gradient."""
    shape = index.program.micro.values[owner].shape
    return owner in index.differentiable or any((owner, d) in index.batch_dims for d in range(len(shape)))


def _slots(index: ProgramIndex, owners: Sequence[int]) -> list[tuple[int, int, bool]]:
    """(dimension, size, carries the batch), by bytes of the tensors that have it."""
    weight: dict[tuple[int, int, bool], int] = {}
    for v in owners:
        shape = index.program.micro.values[v].shape
        if not _moves(index, v):
            continue
        for d, size in enumerate(shape):
            if size > 1:
                key = (d, size, (v, d) in index.batch_dims)
                total = 1
                for s in shape:
                    total *= s
                weight[key] = weight.get(key, 0) + total
    ranked = sorted(weight, key=lambda k: (not k[2], -weight[k], k))
    return ranked[:MAX_SLOTS]


def _spec(index: ProgramIndex, owner: int, shape: tuple[int, ...], row: Sequence[tuple[int, int] | None],
          mesh_shape: tuple[int, ...]) -> Spec:
    if not _moves(index, owner):
        return replicated(len(shape))
    spec: list[tuple[int, ...]] = []
    for d, size in enumerate(shape):
        axes: list[int] = []
        n = 1
        for a, slot in enumerate(row):
            if slot == (d, size) and size % (n * mesh_shape[a]) == 0:
                axes.append(a)
                n *= mesh_shape[a]
        spec.append(tuple(axes))
    return tuple(spec)
