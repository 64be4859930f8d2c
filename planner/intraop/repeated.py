"""The communications that a recomputed layer adds: those of the forward operators that its backward runs again.

What both the repeated forward and the backward read is fetched once for the two, so that a gather which the backward
has anyway adds nothing. In: a `PricedLayer` and the choice per variable. Out: `Collective`s.
"""

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph, Phase
from planner.core.plan import GATHER_OF, HALO_OF, OPERAND, RESULT, Collective
from planner.core.recomputation import Recompute, run_again
from planner.core.spec import Spec
from planner.costs.collectives import ALL_REDUCE, PERMUTE
from planner.costs.memory import itemsize
from planner.costs.resharding import moved_bytes, reshard_steps
from planner.intraop.choices import Link
from planner.intraop.group_price import GroupPrice
from planner.intraop.listed import Place, listed
from planner.intraop.price import PricedLayer
from planner.program_index import ProgramIndex
from planner.strategies import axes_in


def repeated(index: ProgramIndex, layer: PricedLayer, choice: NDArray[np.int16], way: Recompute) -> list[Collective]:
    """What the backward communicates beside what is listed, recomputed in that way; see the module."""
    graph, model = index.program.micro, layer.model
    if way is Recompute.NONE:
        return []
    ops = {n for g in model.groups for n in g.ops} | {n for p in model.params for n in p.chain}
    selected = way is Recompute.SELECTED and model.selection is not None
    again = model.selection.again if selected and model.selection else frozenset(run_again(graph, ops))
    found: list[Collective] = []
    for g, price in enumerate(layer.prices):
        found += _inside(graph, price, int(choice[g]), again)
    for link in model.links:
        price, row = layer.prices[link.group], int(choice[link.group])
        pick = int(choice[layer.tensor_variable(link.item)])
        settled, mesh = layer.tensors[link.item][pick], layer.setting.mesh
        for value in _read_again(graph, link, again, with_backward=not layer.setting.apart):
            found += _moves(graph, value, settled, price, row, where(graph, price.group.ops), layer)
        for value, op in link.makes:
            if op in again:
                typed = graph.values[value]
                made = price.strategies.spec(row, price.dims(value))
                steps = reshard_steps(typed.shape, itemsize(typed.dtype), made, settled, mesh,
                                      partial=frozenset(price.pending_axes(value, row)))
                found += listed(steps, Place("microbatch", Phase.BACKWARD.value, where(graph, price.group.ops), RESULT),
                                made, settled)
    for link in model.param_links:
        price, row = layer.prices[link.group], int(choice[link.group])
        param, pick = model.params[link.item], int(choice[layer.param_variable(link.item)])
        name = param.path if param.row is None else f"{param.path}[{param.row}]"
        for value in _read_again(graph, link, again, with_backward=False):
            if index.owner.get(value, value) == value:
                dims = param.classes.dims(value, len(graph.values[value].shape))
                stored = layer.params[link.item].stored.spec(pick, dims)
                found += _moves(graph, value, stored, price, row, f"{GATHER_OF}{name}", layer)
    return found


def where(graph: Graph, ops: Sequence[int]) -> str:
    """The heaviest-looking operator of a group, with its source line."""
    named = [graph.ops[n] for n in ops if graph.ops[n].phase is not Phase.BACKWARD] or [graph.ops[n] for n in ops]
    op = next((o for o in named if o.primitive in ("dot_general", "conv_general_dilated", "gather")), named[-1])
    return f"{op.primitive} {op.source}".strip()


def _read_again(graph: Graph, link: Link, again: Set[int], *, with_backward: bool) -> list[int]:
    """The values that repeated operators read over a link; those that the backward reads as well if asked for."""
    late = {r.value for r in link.reads if graph.ops[r.op].phase is Phase.BACKWARD}
    return sorted({r.value for r in link.reads if r.op in again and (with_backward or r.value not in late)})


def _moves(graph: Graph, value: int, source: Spec, price: GroupPrice, row: int, name: str, layer: PricedLayer
           ) -> list[Collective]:
    typed = graph.values[value]
    wanted = price.strategies.spec(row, price.dims(value))
    steps = reshard_steps(typed.shape, itemsize(typed.dtype), source, wanted, layer.setting.mesh)
    return listed(steps, Place("microbatch", Phase.BACKWARD.value, name, OPERAND), source, wanted)


def _inside(graph: Graph, price: GroupPrice, row: int, again: Set[int]) -> list[Collective]:
    """Sums that a group finishes itself, and halos, once more."""
    made = {v for n in again for v in graph.ops[n].results}
    found = [c for v, c in finished_sums(graph, price, row) if v in made]
    found += [c for n, c in halo_moves(graph, price, row) if n in again]
    return [replace(c, phase=Phase.BACKWARD.value) for c in found]


def finished_sums(graph: Graph, price: GroupPrice, row: int) -> list[tuple[int, Collective]]:
    """The values whose sums a group finishes itself, each with its all-reduce."""
    found: list[tuple[int, Collective]] = []
    for s in price.settled:
        axes = axes_in(int(s.mask[row]))
        if axes:
            size = int(moved_bytes(graph.values[s.value], price.setting.mesh) / price.shards_of(s.value)[row])
            found.append((s.value, Collective(ALL_REDUCE, axes, size, float(s.seconds[row]), "microbatch",
                                              s.phase.value, where(graph, price.group.ops), side=RESULT)))
    return found


def halo_moves(graph: Graph, price: GroupPrice, row: int) -> list[tuple[int, Collective]]:
    """The operators that read slices of neighbouring shards, each with the permutes that bring them."""
    name = f"{HALO_OF}{where(graph, price.group.ops)}"
    return [(e.op, Collective(PERMUTE, axes, size, seconds, "microbatch", e.phase.value, name, side=OPERAND))
            for e in price.exchanged for axes, size, seconds in e.messages(row)]
