"""Gather and scatter: tables that are looked up, and written to, by index.

A dimension that is looked up one element at a time may be sharded: each device looks up what it holds, masks the rest
with zero, and the sum over devices is the result. A scatter into such a dimension needs no communication: each device
drops what is not its own. Source: GSPMD's partitioning of gather and scatter with trivial slices.
"""

from dataclasses import dataclass
from types import MappingProxyType

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.labels import Label, elements, from_labels
from planner.rules.table import Values, register

SCATTER_COMBINE = MappingProxyType({"scatter-add": "sum", "scatter-min": "min", "scatter-max": "max",
                                    "scatter-mul": "prod"})


@dataclass(frozen=True, slots=True)
class _Layout:
    """Gather's and scatter's dimension numbers in one vocabulary.

    Attributes:
      table_batch, index_batch: dimensions of the table and of the indices that are looped over together.
      indexed: dimensions of the table that the indices point into.
      hidden: indexed dimensions that are missing from the window (looked up one element at a time).
      window_places: where the window's dimensions stand in the looked-up array, in order of the table's dimensions.
    """

    table_batch: tuple[int, ...]
    index_batch: tuple[int, ...]
    indexed: tuple[int, ...]
    hidden: tuple[int, ...]
    window_places: tuple[int, ...]


def _index_labels(layout: _Layout, rank: int) -> list[Label]:
    """Labels of the indices array; its last dimension holds the coordinates and stays whole."""
    labels: list[Label] = [*(("index", d) for d in range(rank - 1)), None]
    for d, e in zip(layout.table_batch, layout.index_batch, strict=True):
        labels[e] = ("table", d)
    return labels


def _found_labels(layout: _Layout, table: list[Label], indices: list[Label], rank: int) -> list[Label]:
    """Labels of the looked-up array: window dimensions at their places, index dimensions at the others, in order."""
    window = iter([a for d, a in enumerate(table) if d not in layout.hidden and d not in layout.table_batch])
    looped = iter(indices[:-1])
    return [next(window) if d in layout.window_places else next(looped) for d in range(rank)]


@register("gather")
def gather(op: Op, ins: Values, outs: Values) -> OpRule:
    """Table dimensions taken in full pass through, as do index dimensions; one looked up by element is reduced."""
    numbers = op.params["dimension_numbers"]
    sizes, table_shape = op.params["slice_sizes"], ins[0].shape
    layout = _Layout(
        tuple(numbers.operand_batching_dims), tuple(numbers.start_indices_batching_dims),
        tuple(numbers.start_index_map), tuple(numbers.collapsed_slice_dims), tuple(numbers.offset_dims),
    )
    table: list[Label] = [("table", d) for d in range(len(table_shape))]
    for d, size in enumerate(table_shape):
        if d not in layout.table_batch and sizes[d] != size:
            table[d] = None
    indices = _index_labels(layout, len(ins[1].shape))
    found = _found_labels(layout, table, indices, len(outs[0].shape))
    reduced: list[Label] = []
    for d in layout.hidden:
        if d in layout.indexed:
            table[d] = ("table", d)
            reduced.append(table[d])
    return from_labels(ins, outs, [table, indices], [found], reduce=reduced)


def scatter_flops(op: Op, ins: Values, _outs: Values) -> int:
    """One combination per update element; a plain scatter only moves data."""
    return 0 if op.primitive == "scatter" else elements(ins[2])


@register("scatter", "scatter-sub", *SCATTER_COMBINE, flops=scatter_flops)
def scatter(op: Op, ins: Values, outs: Values) -> OpRule:
    """Table dimensions written in full, or by element, pass through; the updates' own reduce if they combine.

    The compiler does not know how to combine partial subtractions: it gathers their updates.
    """
    numbers = op.params["dimension_numbers"]
    layout = _Layout(
        tuple(numbers.operand_batching_dims), tuple(numbers.scatter_indices_batching_dims),
        tuple(numbers.scatter_dims_to_operand_dims), tuple(numbers.inserted_window_dims),
        tuple(numbers.update_window_dims),
    )
    table: list[Label] = [("table", d) for d in range(len(ins[0].shape))]
    windowed = [d for d in range(len(table)) if d not in layout.hidden and d not in layout.table_batch]
    for d, e in zip(windowed, layout.window_places, strict=True):
        if ins[2].shape[e] != ins[0].shape[d]:
            table[d] = None
    combines = op.primitive in SCATTER_COMBINE
    indices = _index_labels(layout, len(ins[1].shape))
    reduced = [a for a in indices if combines and a is not None and a not in table]
    indices = [a if a in reduced or a in table else None for a in indices]
    found = _found_labels(layout, table, indices, len(ins[2].shape))
    combine = SCATTER_COMBINE.get(op.primitive, "sum")
    return from_labels(ins, outs, [table, indices, found], [table], reduce=reduced, combine=combine)
