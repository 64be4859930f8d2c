"""Prices of recomputing selected tensors of a layer: what runs again, and what is kept, per choice of sharding.

Which values are kept is said by the layer's `Selection`; here the kinds of cost `setting.AGAIN` are filled for them.
Groups price the operators that they repeat themselves (`group_price.py`); what is left is what moves between groups,
and where the kept values lie.

In: a layer's groups, links and `Selection`. Out: `Costs`.
"""

from collections.abc import Sequence

import numpy as np

from planner.core.graph import Graph, Phase
from planner.core.hardware import LogicalMesh
from planner.core.spec import Spec, shard_count
from planner.costs.memory import itemsize, value_bytes
from planner.costs.resharding import reshard_table
from planner.intraop.choices import LayerModel, Link, Selection
from planner.intraop.group_price import GroupPrice
from planner.intraop.setting import AGAIN, Array, Costs


def hold_inside(graph: Graph, model: LayerModel, priced: Sequence[GroupPrice]) -> None:
    """Count what stays for the backward and never leaves its group: all that it reads, and what is selected. Values
    that leave are the tensors'."""
    leaving = {t.owner for t in model.tensors} | {v for p in model.params for v in p.exported}
    selected = frozenset[int]() if model.selection is None else model.selection.kept
    for price in priced:
        ops = [graph.ops[n] for n in price.group.ops]
        made = {r for op in ops if op.phase is Phase.FORWARD for r in op.results} - leaving
        read = {v for op in ops if op.phase is Phase.BACKWARD for v in op.inputs}
        price.hold(made & read if price.setting.training else (), made & selected)


def link_again(graph: Graph, link: Link, owner: int, price: GroupPrice, specs: tuple[Spec, ...],
               selection: Selection) -> Costs:
    """What resharding over a link the repeated operators add (`repeated.py` lists the same), and second copies of kept
    values that they don't read."""
    setting = price.setting
    shape, mesh = graph.values[owner].shape, setting.mesh
    costs = {k: np.zeros((len(price.strategies), len(specs))) for k in AGAIN}
    late = {r.value for r in link.reads if graph.ops[r.op].phase is Phase.BACKWARD}
    early = {r.value for r in link.reads if graph.ops[r.op].phase is Phase.FORWARD}
    repeated = {r.value for r in link.reads if r.op in selection.again}
    for value in sorted(repeated if not setting.apart else repeated - late):
        wanted, row = price.required(value)
        costs["again_s"] += reshard_table(shape, itemsize(graph.values[value].dtype), specs, wanted, mesh).T[row]
    for value, op in link.makes:
        if op in selection.again:
            made, partials, row = price.produced(value)
            costs["again_s"] += reshard_table(shape, itemsize(graph.values[value].dtype), made, specs, mesh,
                                              partials=partials)[row]
    if owner in early & late - repeated and owner in selection.kept and not setting.apart:
        costs["kept_bytes"] += second_copy(graph, owner, price, specs, mesh)
    return costs


def second_copy(graph: Graph, owner: int, price: GroupPrice, specs: tuple[Spec, ...], mesh: LogicalMesh) -> Array:
    """Bytes of the resharded copy that is kept for the backward pass beside the settled one."""
    wanted, row = price.required(owner)
    whole = value_bytes(graph.values[owner])
    table = np.array([[0.0 if w == s else whole / shard_count(w, mesh.shape) for s in specs] for w in wanted])
    return table.reshape(len(wanted), len(specs))[row]
