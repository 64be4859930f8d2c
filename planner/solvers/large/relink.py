"""The best of two choices, part by part.

The nodes where two choices differ fall into parts that no edge joins; each part may be taken from either choice, and
what that saves doesn't depend on the others (partition crossover; Whitley, Hains and Howe, 2009). Parts that save are
taken while memory allows, those that save most first, then those that free memory for them.

In: a `FlatModel`, a choice that fits and another. Out: a choice that fits and costs no more than the first.
"""

import networkx as nx
import numpy as np

from planner.solvers.large.flat import FlatModel, Ints


def relink(model: FlatModel, best: Ints, other: Ints) -> Ints:
    """`best` with the parts of `other` that make it cheaper and fit."""
    parts = _parts(model, best, other)
    savings = [_saving(model, best, other, part) for part in parts]
    found, usage = best.copy(), model.usage(best)
    for n in sorted((n for n, saving in enumerate(savings) if saving > 0), key=lambda n: -savings[n]):
        tried = found.copy()
        tried[parts[n]] = other[parts[n]]
        then = model.usage(tried)
        if (then <= np.maximum(model.room, usage)).all():
            found, usage = tried, then
    return found


def _parts(model: FlatModel, best: Ints, other: Ints) -> list[Ints]:
    """The nodes where the choices differ, as connected parts."""
    differs = best != other
    joined = differs[model.graph.a] & differs[model.graph.b]
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(np.flatnonzero(differs).tolist())
    graph.add_edges_from(zip(model.graph.a[joined].tolist(), model.graph.b[joined].tolist(), strict=True))
    return [np.array(sorted(part), dtype=np.int64) for part in nx.connected_components(graph)]


def _saving(model: FlatModel, best: Ints, other: Ints, part: Ints) -> float:
    """What taking the part from `other` saves."""
    graph, sizes = model.graph, model.sizes()
    after = best.copy()
    after[part] = other[part]
    edges = np.unique(np.concatenate([graph.around[graph.near[v] : graph.near[v + 1]] for v in part.tolist()]))
    total = float((graph.costs[graph.offset[part] + best[part]] - graph.costs[graph.offset[part] + other[part]]).sum())
    a, b, start = graph.a[edges], graph.b[edges], graph.start[edges]
    for sign, choice in ((1.0, best), (-1.0, after)):
        total += sign * float(graph.tables[start + choice[a] * sizes[b] + choice[b]].sum())
    return total
